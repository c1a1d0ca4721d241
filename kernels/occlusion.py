"""3D occlusion field: which sub-voxels of a node lie hidden behind the visible surfaces of the frame."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels import _core

__all__ = ["occlusion_field"]

MAX_RESOLUTION = 32

_scratch = threading.local()


def occlusion_field(
    centres: NDArray[np.float32],  # (N, 3)
    object_index: NDArray[np.int32],  # (N,)
    depth: NDArray[np.float32],  # (H, W)
    labels: NDArray[np.int32],  # (H, W)
    adjacency: NDArray[np.uint8],  # (B, B)
    intrinsics: NDArray[np.float32],  # (3, 3)
    edge: float = 80.0,
    resolution: int = 8,
    *,
    threads: int = 0,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Occlusion flags of the sub-voxels of every node.

    A node, a cube of `edge` mm, is divided into `resolution`^3 sub-voxels. A sub-voxel is occluded when, at
    any pixel that its 12 triangles cover, it lies behind a valid depth sample (> 10 mm) of a mask: its own
    object's for self-occlusion, the union of its neighbours' for inter-occlusion. Sub-voxels that reach
    nearer than 1 mm to the camera plane, or behind it, have no flags. Every rule is in `reference.occlusion`.

    Args:
        centres: (N, 3) float32, node centres in mm, camera optical frame.
        object_index: (N,) int32, 0 .. B-1.
        depth: (H, W) float32, depth image in mm; 0, NaN and anything else not above 10 mm is invalid.
        labels: (H, W) int32, object index of every pixel, -1 = background.
        adjacency: (B, B) uint8; [i, j] = 1 if j's mask belongs to the neighbour mask of object i; diagonal 0.
        intrinsics: (3, 3) float32 pinhole matrix in pixels, without skew; fx and fy may differ.
        edge: edge of a node in mm.
        resolution: sub-voxels along an edge, 1 .. 32.
        threads: threads to use; 0 takes OpenMP's default. The result does not depend on it.
        out: (N, 2, r, r, r) float32, C-contiguous, written and returned instead of a new array.

    Returns:
        (N, 2, r, r, r) float32, 0 or 1. Channel 0 is self-occlusion, channel 1 inter-occlusion; then the
        sub-voxels along x, y and z.

    Raises:
        TypeError: an argument is no array of the dtype above.
        ValueError: an argument has another shape or layout, or holds a value out of its range.
    """
    _check("centres", centres, np.float32, ("N", 3))
    nodes = centres.shape[0]
    _check("object_index", object_index, np.int32, (nodes,))
    _check("depth", depth, np.float32, ("H", "W"))
    _check("labels", labels, np.int32, depth.shape)
    _check("adjacency", adjacency, np.uint8, ("B", "B"))
    _check("intrinsics", intrinsics, np.float32, (3, 3))
    if depth.size == 0:
        raise ValueError(f"depth: expected an image with pixels, got shape {depth.shape}")
    if adjacency.shape[0] != adjacency.shape[1]:
        raise ValueError(f"adjacency: expected a square (B, B), got shape {adjacency.shape}")
    if adjacency.diagonal().any():
        raise ValueError("adjacency: expected a diagonal of 0: no object is its own neighbour")
    if not np.isfinite(centres).all():
        raise ValueError("centres: expected finite coordinates in mm, got NaN or infinity")
    _check_intrinsics(intrinsics)
    if not (np.isfinite(edge) and edge > 0):
        raise ValueError(f"edge: expected a positive length in mm, got {edge}")
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise ValueError(f"resolution: expected 1 .. {MAX_RESOLUTION} sub-voxels an edge, got {resolution}")
    if threads < 0:
        raise ValueError(f"threads: expected 0 (all) or a positive number, got {threads}")
    shape = (nodes, 2, resolution, resolution, resolution)
    if out is None:
        out = np.empty(shape, np.float32)
    else:
        _check("out", out, np.float32, shape)
        if not out.flags.writeable:
            raise ValueError("out: expected a writeable array, got a read-only one")

    if not hasattr(_scratch, "workspace"):  # one per thread: a workspace serves one call at a time
        _scratch.workspace = _core.OcclusionWorkspace()
    _core.occlusion_field(
        centres,
        object_index,
        depth,
        labels,
        adjacency,
        intrinsics,
        edge,
        resolution,
        threads,
        out,
        _scratch.workspace,
    )
    return out


def _check(name: str, array: object, dtype: type, shape: tuple[int | str, ...]) -> None:
    """Raise unless `array` is C-contiguous with this dtype and shape; a letter stands for any size."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype:
        got = f"{array.dtype} array" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"{name}: expected a {np.dtype(dtype).name} array, got {got}")
    fits = len(array.shape) == len(shape) and all(
        isinstance(want, str) or want == got for want, got in zip(shape, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(f"{name}: expected shape ({', '.join(map(str, shape))}), got {array.shape}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name}: expected a C-contiguous array; pass np.ascontiguousarray({name})")


def _check_intrinsics(intrinsics: NDArray[np.float32]) -> None:
    fx, skew, _, zero, fy = intrinsics.ravel()[:5]
    if not np.isfinite(intrinsics).all() or fx <= 0 or fy <= 0:
        raise ValueError(f"intrinsics: expected finite, fx > 0 and fy > 0, got {intrinsics.tolist()}")
    if skew != 0 or zero != 0 or intrinsics[2].tolist() != [0, 0, 1]:
        raise ValueError(
            f"intrinsics: expected [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got {intrinsics.tolist()}; "
            "rectify the images of a camera with skew"
        )
