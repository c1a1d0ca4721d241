"""Parts of the geometric segmentation: reduced depth, planar superpixels, their graph, its contraction, labels."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

# A pixel belongs to one of the nine cells around it, in this order.
NEIGHBOURHOOD = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]


def reduce_depth(
    depth: NDArray[np.float32],
    stride: int,
    min_depth: float,
    max_depth: float,
    tolerance: float,
) -> NDArray[np.float32]:
    """Twin of `kernels.reduce_depth`."""
    height, width = depth.shape[0] // stride, depth.shape[1] // stride
    blocks = depth[: height * stride, : width * stride].reshape(height, stride, width, stride)
    blocks = blocks.transpose(0, 2, 1, 3).reshape(height, width, stride * stride)
    with np.errstate(invalid="ignore"):
        valid = (blocks > np.float32(min_depth)) & (blocks < np.float32(max_depth))
    inverse = np.where(valid, np.float32(1000) / np.where(valid, blocks, np.float32(1)), np.float32(0))
    count = valid.sum(axis=2)
    ordered = -np.sort(-inverse, axis=2)  # nearest first, invalid last
    middle = np.take_along_axis(ordered, np.maximum((count - 1) // 2, 0)[..., None], axis=2)
    with np.errstate(invalid="ignore"):
        near = (inverse > 0) & (np.abs(inverse - middle) <= np.float32(tolerance) * middle)
    total = np.zeros((height, width), np.float32)
    for i in range(stride * stride):
        total = total + np.where(near[:, :, i], inverse[:, :, i], np.float32(0))
    kept = near.sum(axis=2).astype(np.float32)
    enough = 2 * count >= stride * stride
    return np.where(enough & (kept > 0), total / np.maximum(kept, np.float32(1)), np.float32(0))
