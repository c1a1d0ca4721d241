"""With a RealSense camera on the bus: frames flow, a reset is recovered from, a recording plays."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2", reason="needs the extra `camera` and libusb-1.0", exc_type=ImportError)

from zerograsp_edge.runtime.camera.playback import Playback  # noqa: E402
from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera  # noqa: E402
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig, RealSenseConfig  # noqa: E402
from zerograsp_edge.runtime.errors import CameraError  # noqa: E402

pytestmark = [
    pytest.mark.camera,
    pytest.mark.skipif(not len(rs.context().query_devices()), reason="no RealSense camera is connected"),
]


@pytest.mark.parametrize("filters", [FilterConfig(), FilterConfig(decimation=2, spatial=True, temporal=True)])
def test_frames_flow(filters: FilterConfig) -> None:
    with RealSenseCamera(RealSenseConfig(filters=filters)) as camera:
        frames = [camera.read() for _ in range(90)]
        age = time.monotonic() - frames[-1].timestamp
        counters = camera.counters
    assert all(frame.rgb.shape == (480, 640, 3) and frame.depth.shape == (480, 640) for frame in frames)
    assert (np.diff([frame.timestamp for frame in frames]) > 0).all() and 0 <= age < 1
    assert counters.corrupted == counters.stalls == 0
    assert "depth.actual_exposure" in frames[-1].metadata


def test_frames_resume_after_the_device_was_reset() -> None:
    with RealSenseCamera() as camera:
        camera.read()
        for device in rs.context().query_devices():
            device.hardware_reset()
        seen_trouble, deadline = False, time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                camera.read()
                if seen_trouble:
                    break
            except CameraError:
                seen_trouble = True
        assert seen_trouble and camera.trouble == ""


def test_a_recording_plays(tmp_path: Path) -> None:
    path = tmp_path / "live.db3"
    with RealSenseCamera(record=path) as camera:
        names = {camera.read().name for _ in range(30)}
    with Playback(path) as playback:
        assert names <= {frame.name for frame in playback}
