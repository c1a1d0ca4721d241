"""The network's output at the finest depth as surface points and grasps (spec, "Output at depth 9")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from zerograsp_edge.runtime.errors import DecodeError
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction

# Columns of the 14-channel signal.
NORMAL, SDF, GRASPNESS, QUALITY = slice(0, 3), 3, 4, 5
CLOSING, APPROACH, DEPTH, WIDTH = slice(6, 9), slice(9, 12), 12, 13
SIGNAL_CHANNELS = 14
# The network predicts widths in units of 0.1 m and standoff depths in units of 0.04 m, its training limits.
MAX_WIDTH_M, MAX_DEPTH_M = 0.1, 0.04
_BATCH_SHIFT = 48


@dataclass(frozen=True)
class OctreeCube:
    """Where the octree lies in the camera frame (spec, "Units and frames").

    Attributes:
        z_min: near face on the optical axis, mm.
        grid_size: edge of a voxel at depth `min_lod`, mm.
        min_lod, max_lod: coarsest and finest depth of the output octree.
    """

    z_min: float
    grid_size: float = 80.0
    min_lod: int = 4
    max_lod: int = 9

    @property
    def edge(self) -> float:
        """Edge of the cube, mm."""
        return self.grid_size * 2**self.min_lod

    @property
    def voxel_size(self) -> float:
        """Edge of a voxel at the finest depth, mm."""
        return self.edge / 2**self.max_lod

    @property
    def origin(self) -> np.ndarray:
        """(3,) float32 corner of the cube, mm: x and y are centred on the optical axis."""
        return np.array([-self.edge / 2, -self.edge / 2, self.z_min], np.float32)

    def node_centres(self, nodes: np.ndarray, depth: int) -> np.ndarray:
        """(n, 3) float32 mm from (n, 3) integer coordinates at a depth.

        Goes through the normalised coordinates, as the reference does, so that float32 rounding agrees.
        """
        normalised = (nodes.astype(np.float32) + np.float32(0.5)) * np.float32(
            2.0 ** (1 - depth)
        ) - np.float32(1)
        half = np.float32(self.edge / 2)
        centres = normalised * half
        centres[:, 2] = (normalised[:, 2] / np.float32(2) + np.float32(0.5)) * np.float32(
            self.edge
        ) + np.float32(self.z_min)
        return centres


def node_coordinates(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Integer coordinates and object index from (n,) int64 Morton keys.

    x is the highest bit of each triple, the object index lies in bits 48 and up.

    Returns:
        (n, 3) int32 coordinates, (n,) int32 object index.
    """
    bits = keys.astype(np.uint64)
    nodes = np.stack([_every_third_bit(bits >> np.uint64(shift)) for shift in (2, 1, 0)], axis=1)
    return nodes.astype(np.int32), (keys >> _BATCH_SHIFT).astype(np.int32)


def _every_third_bit(bits: np.ndarray) -> np.ndarray:
    """The 16 bits at positions 0, 3, 6, ... 45, moved together by halving the gaps."""
    bits = bits & np.uint64(0x249249249249)
    for shift, kept in ((2, 0x0C30C30C30C3), (4, 0x00F00F00F00F), (8, 0x0000FF0000FF), (16, 0x00000000FFFF)):
        bits = (bits | (bits >> np.uint64(shift))) & np.uint64(kept)
    return bits


def decode_grasps(signal: np.ndarray, points: np.ndarray, object_id: np.ndarray) -> Grasps:
    """One grasp at every surface point, in the order of the points.

    Where the predicted closing direction is zero or parallel to the approach, no rotation is defined; the
    closing direction is then any perpendicular one.

    Args:
        signal: (n, 14) float32.
        points: (n, 3) float32 surface points, mm.
        object_id: (n,) int, mask values.
    """
    approach = _unit(-signal[:, APPROACH])
    undefined = np.einsum("ni,ni->n", approach, approach) < 0.5
    approach[undefined] = -_unit(signal[undefined, NORMAL])
    tangent = signal[:, CLOSING]
    residual = tangent - approach * np.einsum("ni,ni->n", approach, tangent)[:, None]
    parallel = _length(residual) <= 1e-6 * _length(tangent)
    if parallel.any():
        smallest_axis = np.eye(3, dtype=np.float32)[np.abs(approach[parallel]).argmin(axis=1)]
        residual[parallel] = np.cross(approach[parallel], smallest_axis)
    closing = _unit(residual)
    rotation = np.stack([approach, closing, np.cross(approach, closing)], axis=2)
    return Grasps(
        score=np.ascontiguousarray(signal[:, GRASPNESS]),
        width=np.clip(signal[:, WIDTH] * np.float32(MAX_WIDTH_M), 0, np.float32(MAX_WIDTH_M)),
        depth=np.clip(signal[:, DEPTH] * np.float32(MAX_DEPTH_M), 0, np.float32(MAX_DEPTH_M)),
        rotation=rotation,
        translation=points / np.float32(1000),
        object_id=object_id.astype(np.int32),
    )


def decode(
    signal: np.ndarray, keys: np.ndarray, cube: OctreeCube, object_ids: Sequence[int]
) -> tuple[ObjectReconstruction, ...]:
    """Reconstructions of all objects of a frame from the occupied nodes of the finest depth.

    Args:
        signal: (n, 14) float32, the rows of the nodes that split there.
        keys: (n,) int64 their Morton keys at depth `cube.max_lod`, ascending.
        cube: where the octree lies.
        object_ids: mask value by object index.

    Returns:
        One reconstruction per object index, in order; an object without occupied nodes has zero points.

    Raises:
        DecodeError: shapes do not fit, an object index has no mask value, or the signal is not finite.
    """
    if signal.ndim != 2 or signal.shape[1] != SIGNAL_CHANNELS or keys.shape != (len(signal),):
        raise DecodeError(
            f"expected signal (n, {SIGNAL_CHANNELS}) and keys (n,), got {signal.shape} and {keys.shape}"
        )
    signal = signal.astype(np.float32, copy=False)
    if not np.isfinite(signal).all():
        bad = np.count_nonzero(~np.isfinite(signal).all(axis=1))
        raise DecodeError(
            f"the network's output is not finite at {bad} of {len(signal)} nodes; "
            "a lower-precision engine may overflow: run `zerograsp-edge verify`, or rebuild in fp32"
        )
    nodes, index = node_coordinates(keys)
    if len(index) and (index.min() < 0 or index.max() >= len(object_ids)):
        raise DecodeError(f"keys name object {int(index.max())}, the frame has {len(object_ids)} objects")
    if np.any(np.diff(keys) <= 0):
        raise DecodeError("keys must be ascending and distinct")
    normals = _unit(signal[:, NORMAL])
    sdf = np.ascontiguousarray(signal[:, SDF])
    points = cube.node_centres(nodes, cube.max_lod) - normals * sdf[:, None]
    grasps = decode_grasps(signal, points, np.asarray(object_ids, np.int32)[index])
    bounds = np.searchsorted(index, np.arange(len(object_ids) + 1))
    return tuple(
        ObjectReconstruction(
            object_id=int(object_id),
            index=i,
            points=points[rows],
            normals=normals[rows],
            sdf=sdf[rows],
            nodes=nodes[rows],
            origin=cube.origin,
            voxel_size=cube.voxel_size,
            grasps=grasps[rows],
        )
        for i, object_id in enumerate(object_ids)
        for rows in [slice(int(bounds[i]), int(bounds[i + 1]))]
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length; zero stays zero (the guard is that of the reference, 1e-12)."""
    return vectors / np.maximum(_length(vectors), np.float32(1e-12))[:, None]


def _length(vectors: np.ndarray) -> np.ndarray:
    """(n,) lengths of (n, 3) rows."""
    return np.sqrt(np.einsum("ni,ni->n", vectors, vectors))
