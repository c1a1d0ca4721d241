"""Frames hand contiguous arrays to the native core, whatever they were made from."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.frame import Frame


def test_arrays_are_contiguous_after_cropping_and_slicing() -> None:
    projection = np.array([[500, 0, 40, 0], [0, 500, 30, 0], [0, 0, 1, 0]], np.float32)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:60] = 1
    rgb = np.zeros((60, 80, 6), np.uint8)[..., ::2]
    frame = Frame(rgb, np.full((60, 80), 500, np.float32), projection[:, :3], mask).crop(10, 50, 10, 70)
    for array in (frame.rgb, frame.depth, frame.intrinsics, frame.mask):
        assert array is not None
        assert array.flags.c_contiguous
