"""The whole GPU path, end to end and numerically, on a machine without a GPU: against the CPU's results."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import Gpu

from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Result

# Between the two paths the order of a float32 sum differs (points of a voxel), nothing else.
TOLERANCE = {"points": 2e-2, "normals": 2e-4, "sdf": 2e-2}


def same(gpu: Result, cpu: Result) -> None:
    """Equal octrees, surfaces and grasps within rounding."""
    assert [o.object_id for o in gpu.objects] == [o.object_id for o in cpu.objects]
    assert gpu.skipped == cpu.skipped
    assert gpu.z_min == cpu.z_min
    assert sum(len(o.points) for o in cpu.objects) > 0
    for a, b in zip(gpu.objects, cpu.objects, strict=True):
        np.testing.assert_array_equal(a.nodes, b.nodes)
        for name, tolerance in TOLERANCE.items():
            assert getattr(a, name).dtype == getattr(b, name).dtype
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), atol=tolerance, err_msg=name)
        np.testing.assert_array_equal(a.origin, b.origin)
        np.testing.assert_allclose(a.grasps.to_graspnet(), b.grasps.to_graspnet(), atol=2e-3)


def test_frames_of_several_sizes(gpu: Gpu, tiny_with_engines: Bundle, frame: Frame, other_frame: Frame, pipeline: Pipeline) -> None:
    device = Pipeline(tiny_with_engines, backend="tensorrt")
    assert device.executor.name == "tensorrt" and device.fallback is None
    for item in (frame, other_frame, frame, frame.crop(3, 101, 8, 155), frame, other_frame):
        same(device(item), pipeline(item))
