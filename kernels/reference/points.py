"""NumPy twins of `zerograsp_edge.kernels.points`: slow, readable, the truth in tests.

Same arguments and results, without buffers and threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class PointSet:
    """See `zerograsp_edge.kernels.points.PointSet`."""

    points: NDArray[np.float32]
    counts: NDArray[np.int32]
    z_min: float
    valid_counts: NDArray[np.int32]


def points_from_depth(
    depth: NDArray[np.float32],
    labels: NDArray[np.int32],
    intrinsics: NDArray[np.float32],
    num_objects: int,
    grid_size: float = 80.0,
    min_lod: int = 4,
    *,
    z_margin: int = 5,
    margin: float = 0.01,
    min_depth: float = 10.0,
) -> PointSet:
    f32 = np.float32
    valid = np.isfinite(depth) & (depth > f32(min_depth)) & (labels >= 0)
    v, u = np.nonzero(valid)
    order = np.argsort(labels[v, u], kind="stable")
    v, u = v[order], u[order]
    label = labels[v, u]
    valid_counts = np.bincount(label, minlength=num_objects).astype(np.int32)
    if len(label) == 0:
        return PointSet(np.empty((0, 3), f32), valid_counts.copy(), float("nan"), valid_counts)

    # Published order of operations: the inverse is float32, rays times depth float64, the points float32.
    inverse = np.linalg.inv(intrinsics.astype(np.float64)).astype(f32).astype(np.float64)
    rays = [(row[0] * u + row[1] * v) + row[2] for row in inverse]
    x, y, z = ((ray * depth[v, u]).astype(f32) for ray in rays)
    g, half = f32(grid_size), f32(grid_size * 2**min_lod / 2)
    z_min = np.floor(z.min() / g) * g - f32(z_margin) * g
    points = np.stack([x / half, y / half, f32(2) * ((z - z_min) / (f32(2) * half) - f32(0.5))], axis=1)
    high = f32(1) - f32(margin)
    kept = ((points > -high) & (points < high)).all(1)
    counts = np.bincount(label[kept], minlength=num_objects).astype(np.int32)
    return PointSet(points[kept], counts, float(z_min), valid_counts)


def project(
    points: NDArray[np.float32],
    intrinsics: NDArray[np.float32],
    z_min: float,
    image_size: tuple[int, int],
    grid_size: float = 80.0,
    min_lod: int = 4,
) -> NDArray[np.float32]:
    """(P, 3) normalised points -> (P, 2) positions (u', v') in [-1, 1] as `grid_sample` takes them."""
    f32 = np.float32
    half = f32(grid_size * 2**min_lod / 2)
    x, y = points[:, 0] * half, points[:, 1] * half
    z = (points[:, 2] * f32(0.5) + f32(0.5)) * (f32(2) * half) + f32(z_min)
    px, py, pz = (k[0] * x + k[1] * y + k[2] * z for k in intrinsics)
    height, width = image_size
    scale = pz + f32(1e-4)
    return np.stack(
        [f32(2) * (px / scale / f32(width) - f32(0.5)), f32(2) * (py / scale / f32(height) - f32(0.5))], 1
    )


def bilinear(
    image: NDArray[np.float32], position: NDArray[np.float32], size: tuple[int, int]
) -> NDArray[np.float32]:
    """(C, Hp, Wp), (P, 2) in [-1, 1] -> (P, C): `grid_sample`, align_corners=True, zero padding beyond
    `size`."""
    height, width = size
    column = (position[:, 0] + np.float32(1)) * np.float32(0.5) * np.float32(width - 1)
    row = (position[:, 1] + np.float32(1)) * np.float32(0.5) * np.float32(height - 1)
    x0, y0 = np.floor(column), np.floor(row)
    result = np.zeros((len(position), len(image)), np.float32)
    for dy in (0, 1):
        for dx in (0, 1):
            x, y = x0 + dx, y0 + dy
            inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
            weight = (1 - np.abs(column - x)) * (1 - np.abs(row - y))
            pixel = image[:, y[inside].astype(int), x[inside].astype(int)].T
            result[inside] += weight[inside, None] * pixel
    return result


def voxel_features(
    points: NDArray[np.float32],
    voxel: NDArray[np.int32],
    num_voxels: int,
    image_features: NDArray[np.float32] | None,
    intrinsics: NDArray[np.float32],
    z_min: float,
    image_size: tuple[int, int],
    *,
    grid_size: float = 80.0,
    min_lod: int = 4,
    max_lod: int = 9,
) -> NDArray[np.float32]:
    count = np.bincount(voxel, minlength=num_voxels).astype(np.float32)[:, None]

    def average(values: NDArray[np.float32]) -> NDArray[np.float32]:
        total = np.zeros((num_voxels, values.shape[1]), np.float32)
        np.add.at(total, voxel, values)
        return total / count

    mean = average((points + np.float32(1)) * np.float32(2 ** (max_lod - 1)))
    local = (mean - np.trunc(mean)) - np.float32(0.5)
    if image_features is None:
        return local
    position = project(points, intrinsics, z_min, image_size, grid_size, min_lod)
    return np.concatenate([local, average(bilinear(image_features, position, image_size))], axis=1)


def adjacency(labels: NDArray[np.int32], num_objects: int) -> NDArray[np.uint8]:
    height, width = labels.shape
    dilated = np.zeros((num_objects, height, width), bool)
    for i in range(num_objects):
        mask = np.pad(labels == i, 2)
        for dy in range(5):
            for dx in range(5):
                dilated[i] |= mask[dy : dy + height, dx : dx + width]
    overlap = np.array([[(a & b).any() for b in dilated] for a in dilated]).reshape(num_objects, num_objects)
    np.fill_diagonal(overlap, False)
    return overlap.astype(np.uint8)
