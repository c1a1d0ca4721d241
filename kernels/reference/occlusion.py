"""3D occlusion field in NumPy: triangle by triangle, no shortcut; what the native kernels are tested against.

Float32 throughout, every operation in the order of the published network, because the flags are decisions: a
rounding more or less moves a pixel in or out of a triangle. Beyond plain rasterisation:

- Image coordinates go through normalised device coordinates and end half a pixel left of and above the image.
- The first column is floor(leftmost x), left of the leftmost corner; its rows are those at the corner. With
  extrapolated rows 1 in 340 flags of the reference frames differs from the published ones; so, none does.
- Likewise at the right, where truncation lets a triangle that ends between -1 and 0 reach column 0.
- Triangles without extent in x or without area are skipped, as are samples whose weights all round to zero.
- Sub-voxels that reach nearer than 1 mm to the camera plane get no flags: their projection means nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["occlusion_field"]

Float = NDArray[np.float32]

INVALID_DEPTH = np.float32(10.0)  # mm
NEAR_PLANE = np.float32(1.0)  # mm

# Corner index = 4 * (x high) + 2 * (y high) + (z high). Two triangles a face: x low, x high, y low, ...
# The diagonals, and the order of corners with equal image x, were found from the published flags.
TRIANGLES = (
    (1, 2, 3), (1, 0, 2), (4, 6, 7), (4, 5, 7), (0, 1, 5), (0, 5, 4),
    (3, 7, 6), (3, 6, 2), (4, 6, 2), (4, 0, 2), (7, 1, 5), (1, 7, 3),
)  # fmt: skip

ZERO, HALF, ONE, TWO = np.float32(0), np.float32(0.5), np.float32(1), np.float32(2)


def occlusion_field(
    centres: Float,  # (N, 3) mm
    object_index: NDArray[np.int32],  # (N,)
    depth: Float,  # (H, W) mm
    labels: NDArray[np.int32],  # (H, W)
    adjacency: NDArray[np.uint8],  # (B, B)
    intrinsics: Float,  # (3, 3)
    edge: float = 80.0,
    resolution: int = 8,
) -> Float:
    """The flags (N, 2, r, r, r) of `zerograsp_edge.kernels.occlusion`, which documents the arguments."""
    edge32 = np.float32(edge)
    half = edge32 / np.float32(resolution) / TWO
    steps = (np.arange(resolution) + 0.5) / resolution - 0.5
    offsets = (np.float64(edge32) * steps).astype(np.float32)

    flags = np.zeros((len(centres), 2, resolution, resolution, resolution), np.float32)
    neighbour_of = np.zeros((len(adjacency), len(adjacency) + 1), bool)  # last column: background (label -1)
    neighbour_of[:, :-1] = adjacency != 0
    for node, owner in enumerate(object_index):
        valid = depth > INVALID_DEPTH
        masks = (labels == owner) & valid, neighbour_of[owner][labels] & valid
        for cell in np.ndindex(resolution, resolution, resolution):
            centre = centres[node] + offsets[list(cell)]
            corners = _project(centre - half, centre + half, intrinsics, depth.shape)
            if not corners[0, 2] >= NEAR_PLANE:
                continue
            for triangle in TRIANGLES:
                behind = _pixels_behind(corners[list(triangle)], depth)
                if behind is None:
                    continue
                window, occluded = behind
                for channel, mask in enumerate(masks):
                    if (occluded & mask[window]).any():
                        flags[(node, channel, *cell)] = 1
    return flags


def _project(low: Float, high: Float, intrinsics: Float, shape: tuple[int, ...]) -> Float:
    """The 8 corners (8, 3) of the box [low, high] (mm) as image x, image y and z."""
    height, width = np.float32(shape[0]), np.float32(shape[1])
    corners = np.empty((8, 3), np.float32)
    for index in range(8):
        x = high[0] if index & 4 else low[0]
        y = high[1] if index & 2 else low[1]
        z = high[2] if index & 1 else low[2]
        if not low[2] >= NEAR_PLANE:  # nothing to divide by; the caller skips this box
            corners[index] = 0, 0, low[2]
            continue
        column = (intrinsics[0, 0] * x + intrinsics[0, 2] * z) / z
        row = (intrinsics[1, 1] * y + intrinsics[1, 2] * z) / z
        ndc_x = TWO * (column - width / TWO) / width
        ndc_y = TWO * (row - height / TWO) / height
        corners[index] = HALF * (ndc_x * width + width - ONE), HALF * (ndc_y * height + height - ONE), z
    return corners


def _pixels_behind(corners: Float, depth: Float) -> tuple[tuple[slice, slice], NDArray[np.bool_]] | None:
    """Where a triangle (3, 3) is behind the depth image: a window and its mask; None if it covers nothing."""
    height, width = depth.shape
    a, b, c = corners[np.argsort(corners[:, 0], kind="stable")]
    area = c[0] * (a[1] - b[1]) + a[0] * (b[1] - c[1]) + b[0] * (c[1] - a[1])
    if a[0] == c[0] or area == 0:
        return None
    first_column, last_column = int(max(np.floor(a[0]), 0)), int(min(c[0], width - 1))
    if last_column < first_column or c[0] <= -1:
        return None
    x = np.arange(first_column, last_column + 1, dtype=np.float32)

    # Rows of every column, between the long edge a-c and the short edge a-b or b-c.
    at = np.minimum(np.maximum(x, a[0]), c[0])
    left = (b[1] - a[1]) / (b[0] - a[0]) * (at - a[0]) + a[1] if b[0] != a[0] else np.full_like(at, b[1])
    right = (c[1] - b[1]) / (c[0] - b[0]) * (at - b[0]) + b[1] if c[0] != b[0] else np.full_like(at, b[1])
    shorter = np.where(at <= b[0], left, right)
    longer = (c[1] - a[1]) / (c[0] - a[0]) * (at - a[0]) + a[1]
    first_row = np.maximum(np.floor(np.minimum(shorter, longer)), ZERO)
    last_row = np.trunc(np.minimum(np.maximum(shorter, longer), np.float32(height - 1)))
    last_row[np.maximum(shorter, longer) <= -1] = -1
    top, bottom = int(first_row.min()), int(last_row.max())
    if bottom < top:
        return None
    y = np.arange(top, bottom + 1, dtype=np.float32)[:, None]
    covered = (y >= first_row) & (y <= last_row)

    # Depth of the triangle at every pixel, from clamped and renormalised barycentric weights.
    weights = [
        (b[1] - c[1]) / area * x + (c[0] - b[0]) / area * y + (b[0] * c[1] - c[0] * b[1]) / area,
        (c[1] - a[1]) / area * x + (a[0] - c[0]) / area * y + (c[0] * a[1] - a[0] * c[1]) / area,
        (a[1] - b[1]) / area * x + (b[0] - a[0]) / area * y + (a[0] * b[1] - b[0] * a[1]) / area,
    ]
    weights = [np.minimum(np.maximum(weight, ZERO), ONE) for weight in weights]
    total = weights[0] + weights[1] + weights[2]
    covered &= total > 0
    total[total == 0] = ONE
    inverse = weights[0] / total / a[2] + weights[1] / total / b[2] + weights[2] / total / c[2]
    inverse[~covered] = ONE
    window = slice(top, bottom + 1), slice(first_column, last_column + 1)
    return window, covered & (ONE / inverse > depth[window])
