"""A long run neither grows nor keeps what it made."""

from __future__ import annotations

import gc
import resource
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import zerograsp_edge.kernels
import zerograsp_edge.runtime
from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline

FRAMES = 30
OWN = [
    str(Path(str(module.__file__)).parent / "*")
    for module in (zerograsp_edge.runtime, zerograsp_edge.kernels)
]


@pytest.fixture(scope="module")
def scenes() -> list[Frame]:
    """Changing numbers of objects, picture sizes and octrees; the largest comes first."""
    sizes = [(200, 150), (160, 120), (120, 160)]
    scenes = [SimulatedCamera(20 + i, 1 + i % 6, *sizes[i % 3]).read() for i in range(9)]
    return sorted(scenes, key=lambda frame: -len(frame.object_ids()) * frame.width * frame.height)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux's /proc")
def test_resident_memory_stays(tiny_path: Path, scenes: list[Frame]) -> None:
    pipeline = Pipeline(load_bundle(tiny_path), threads=2)
    for frame in scenes * 2:
        pipeline(frame)
    gc.collect()
    before = resident_bytes()
    for i in range(FRAMES):
        pipeline(scenes[i % len(scenes)])
    gc.collect()
    grown = resident_bytes() - before
    # A leak of one point image per frame alone would be 30 * 0.3 MB.
    assert grown < 4e6, f"{grown / 1e6:.1f} MB more after {FRAMES} frames"


def test_python_keeps_nothing(pipeline: Pipeline, scenes: list[Frame]) -> None:
    for frame in scenes:
        pipeline(frame)
    gc.collect()
    only_own = [tracemalloc.Filter(True, pattern) for pattern in OWN]
    tracemalloc.start()
    try:
        for frame in scenes:
            pipeline(frame)
        gc.collect()
        before = tracemalloc.take_snapshot().filter_traces(only_own)
        for i in range(FRAMES):
            pipeline(scenes[i % len(scenes)])
        gc.collect()
        after = tracemalloc.take_snapshot().filter_traces(only_own)
    finally:
        tracemalloc.stop()
    growth = [line for line in after.compare_to(before, "lineno") if line.size_diff > 0]
    total = sum(line.size_diff for line in growth)
    assert total < 20_000, "\n".join(map(str, growth[:5]))


def test_a_kept_result_holds_its_own_arrays_only(pipeline: Pipeline, scenes: list[Frame]) -> None:
    """A consumer that keeps results keeps points and grasps, not the buffers of the pipeline."""
    result = pipeline(scenes[0])
    points = sum(len(item.points) for item in result.objects)
    held: dict[int, int] = {}
    for item in result.objects:
        arrays = [item.points, item.normals, item.sdf, item.nodes]
        arrays += [getattr(item.grasps, name) for name in item.grasps.__dataclass_fields__]
        for array in arrays:
            owner = array
            while isinstance(owner.base, np.ndarray):
                owner = owner.base
            held[id(owner)] = owner.nbytes
    # Per point 3 + 3 + 1 + 3 numbers of the surface and 1 + 1 + 1 + 9 + 3 + 1 of its grasp, 4 bytes each.
    assert points > 100
    assert sum(held.values()) == 4 * 26 * points
