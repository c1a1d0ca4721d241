"""Signed distance of a solid looked up in a lattice: for the many queries of collision tests."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.simulation.shapes.base import Shape
from zerograsp_edge.runtime.simulation.shapes.isosurface import sample_near_surface

_BLOCK = 4
_CHUNK = 1 << 14  # points at once: intermediate arrays stay in the cache


class DistanceGrid:
    """Signed distance sampled on a lattice, interpolated trilinearly.

    Nodes of blocks of four voxels that may meet the surface are exact; those further off are interpolated between
    exact ones four voxels apart. Against the exact distance, at 2 mm: within 5 mm of the surface 0.25 mm off on
    average, up to 1.3 mm at sharp edges and in the middle of thin walls; beyond, up to two voxels in the middle of
    a solid or of a hollow, where the distance has a ridge.

    Args:
        voxel_mm: lattice spacing.
        margin_mm: how far the lattice reaches beyond the shape's bounding box, at least.
    """

    def __init__(self, shape: Shape, voxel_mm: float = 2.0, margin_mm: float = 20.0) -> None:
        if not (voxel_mm > 0 and margin_mm >= 0):
            raise ValueError(
                f"voxel_mm {voxel_mm} and margin_mm {margin_mm}: expected a positive spacing and a margin >= 0"
            )
        reach = shape.half_extents + margin_mm
        blocks = np.ceil(2 * reach / (voxel_mm * _BLOCK)).astype(int)
        self._upper = blocks * (_BLOCK * voxel_mm) / 2
        self._voxel = voxel_mm
        values = sample_near_surface(shape, -self._upper, voxel_mm, blocks)
        self._last = np.array(values.shape) - 2  # of the lower corners of cells
        self._strides = np.array([values.shape[1] * values.shape[2], values.shape[2], 1])
        self._values = values.ravel()

    def distance(self, points: np.ndarray) -> np.ndarray:
        """(n,) float32 signed distance of (n, 3) points in the shape's frame, mm.

        Outside the lattice: hypot(distance to the lattice, value at its nearest point). The true distance is no
        smaller, up to the interpolation error, because the lattice's box is convex and contains the shape.
        """
        result = np.empty(len(points), np.float32)
        for first in range(0, len(points), _CHUNK):
            result[first : first + _CHUNK] = self._chunk(points[first : first + _CHUNK])
        return result

    def _chunk(self, points: np.ndarray) -> np.ndarray:
        base = np.zeros(len(points), np.int64)
        fractions, beyond = [], np.zeros(len(points), np.float32)
        for axis in range(3):
            p = np.ascontiguousarray(points[:, axis], np.float32)
            upper = np.float32(self._upper[axis])
            out = np.abs(p) - upper
            np.maximum(out, 0, out=out)
            beyond += out * out
            p = (np.clip(p, -upper, upper) + upper) * np.float32(1 / self._voxel)
            cell = np.minimum(p.astype(np.int32), np.int32(self._last[axis]))
            fractions.append(p - cell)
            base += cell * self._strides[axis]
        x, y, z = fractions
        sx, sy, _ = self._strides
        v = self._values

        def column(at: np.ndarray) -> np.ndarray:
            low = v.take(at)
            return low + z * (v.take(at + 1) - low)

        def slab(at: np.ndarray) -> np.ndarray:
            low = column(at)
            return low + y * (column(at + sy) - low)

        low = slab(base)
        value = low + x * (slab(base + sx) - low)
        if not beyond.any():
            return value
        return np.where(beyond > 0, np.sqrt(beyond + np.square(np.maximum(value, 0))), value)
