"""A recording through the whole pipeline, twice: the same results, bit by bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pyrealsense2", reason="needs the extra `camera` and the system's libusb-1.0", exc_type=ImportError)

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.camera.playback import Playback
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.camera.software import SoftwareCamera
from zerograsp_edge.runtime.errors import EndOfFrames
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.segmentation.geometric import GeometricSegmenter


@pytest.mark.slow
def test_replay_gives_the_same_results_twice(tmp_path: Path) -> None:
    path = tmp_path / "scene.db3"
    source = SimulatedCamera(seed=5, num_objects=3, width=320, height=240, depth_noise=True, num_frames=3)
    with SoftwareCamera(source, record=path) as camera, pytest.raises(EndOfFrames):
        while True:
            camera.read()

    def replay() -> list[np.ndarray]:
        pipeline = Pipeline(load_bundle(EDGE_MODEL), threads=2, segmenter=GeometricSegmenter())
        arrays: list[np.ndarray] = []
        with Playback(path) as playback:
            for frame in playback:
                result = pipeline(frame)
                assert result.objects
                for item in result.objects:
                    arrays += [item.points.copy(), item.normals.copy()]
                arrays += [result.grasps.poses().copy(), result.grasps.score.copy(), result.grasps.width.copy()]
            assert playback.counters.frames == 3
        return arrays

    first, second = replay(), replay()
    assert len(first) == len(second)
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
