"""The benchmark's camera that misbehaves: all kinds of faults come, and every one is counted as what it is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("pyrealsense2", reason="needs the extra `camera` and libusb-1.0", exc_type=ImportError)
pytest.importorskip("psutil", reason="needs the extra `dev`")

# The benchmarks are scripts: their folder is where they import from.
BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
from parts import camera_soak  # noqa: E402
from parts.camera_faults import RATES, FaultyFeed  # noqa: E402

sys.path.remove(BENCHMARKS)

from zerograsp_edge.runtime.errors import EndOfFrames  # noqa: E402


@pytest.mark.parametrize("seed", [0, 1])
def test_every_fault_is_counted(seed: int) -> None:
    feed = FaultyFeed(250, seed, rates=dict.fromkeys(RATES, 1 / (len(RATES) + 1)))
    names = []
    with camera_soak.open_camera(feed, keep_all=True) as camera:
        try:
            while True:
                names.append(int(camera.read().name))
        except EndOfFrames:
            pass
        assert camera.counters == feed.injected
    assert names == sorted(set(names)) and len(names) == feed.injected.frames
    injected = feed.injected
    assert min(injected.duplicated, injected.corrupted, injected.reordered, injected.unpaired, injected.stalls) > 0
    assert injected.lost > 0
