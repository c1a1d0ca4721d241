"""From a depth image to the network's input: points, voxel features and mask neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from zerograsp_edge.kernels.checks import check_array, check_range, output
from zerograsp_edge.kernels.workspace import Workspace

__all__ = ["PointSet", "adjacency", "invert_intrinsics", "points_from_depth", "voxel_features"]

MAX_DEPTH = 10  # octree depth: three times ten bits of a Morton key fit 32


@dataclass(frozen=True)
class PointSet:
    """Visible points of all objects of a frame, grouped by object, in raster order within each."""

    points: NDArray[np.float32]  # (P, 3) normalised to the octree's cube, (-1, 1)
    counts: NDArray[np.int32]  # (B,) points of each object
    z_min: float  # mm, near side of the cube; NaN when the frame has no valid masked pixel
    valid_counts: NDArray[np.int32]  # (B,) valid masked pixels of each object, inside the cube or not


def invert_intrinsics(intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
    """K^-1 of a (3, 3) camera matrix: a float64 inverse rounded to float32, the same on every machine."""
    check_array("intrinsics", intrinsics, np.float32, (3, 3))
    try:
        return np.linalg.inv(intrinsics.astype(np.float64)).astype(np.float32)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"intrinsics: expected an invertible camera matrix, got {intrinsics.tolist()}"
        ) from error


def points_from_depth(
    depth: NDArray[np.float32],  # (H, W) mm
    labels: NDArray[np.int32],  # (H, W)
    intrinsics: NDArray[np.float32],  # (3, 3) pixels
    num_objects: int,
    grid_size: float = 80.0,
    min_lod: int = 4,
    *,
    z_margin: int = 5,
    margin: float = 0.01,
    min_depth: float = 10.0,
    out: NDArray[np.float32] | None = None,
    valid_labels: NDArray[np.int32] | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> PointSet:
    """Points of the masked pixels, normalised to the octree's cube and clipped to it.

    The cube's edge is 2^min_lod * grid_size mm, centred on the optical axis; its near side is
    z_min = floor(nearest z / grid_size) * grid_size - z_margin * grid_size, over all masked valid
    pixels.

    Args:
        depth: (H, W) float32, mm. At most `min_depth`, NaN or infinite is invalid.
        labels: (H, W) int32, object index of each pixel, -1 for none.
        intrinsics: (3, 3) float32 camera matrix K.
        num_objects: B; labels reach from 0 to B - 1.
        grid_size: edge of a node at depth min_lod, mm.
        min_lod: depth of the nodes of that edge.
        z_margin: nodes of depth min_lod between the cube's near side and the nearest point.
        margin: points outside (-1 + margin, 1 - margin) in any axis are dropped; `valid_counts` tells of how
            many.
        min_depth: mm.
        out: (capacity, 3) float32 buffer for the points.
        valid_labels: (H, W) int32 to be filled with the labels of valid pixels and -1 elsewhere: the masks
            that the occlusion field means.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's.

    Raises:
        CapacityError: `out` holds fewer points than the frame has.
        ValueError: a label is outside [-1, B), or an argument has the wrong dtype or shape.
    """
    check_array("depth", depth, np.float32, ("H", "W"))
    check_array("labels", labels, np.int32, depth.shape)
    check_range("num_objects", num_objects, 1, 32767)
    check_range("min_lod", min_lod, 1, MAX_DEPTH)
    if valid_labels is not None:
        output("valid_labels", valid_labels, np.int32, depth.shape, axis=None)
    inverse = invert_intrinsics(intrinsics)
    scan = (workspace or Workspace()).points
    half_extent = 0.5 * grid_size * 2**min_lod
    if not scan.scan(
        depth,
        labels,
        num_objects,
        inverse.reshape(9),
        grid_size,
        z_margin,
        half_extent,
        margin,
        min_depth,
        valid_labels,
        threads,
    ):
        raise ValueError(
            f"labels: expected -1 to {num_objects - 1} (num_objects - 1), got {scan.wrong_label}"
        )
    points = output("points", out, np.float32, (scan.points, 3))
    counts, valid_counts = np.empty((2, num_objects), np.int32)
    scan.write(points, counts, valid_counts, threads)
    return PointSet(points, counts, float(scan.z_min), valid_counts)


def voxel_features(
    points: NDArray[np.float32],  # (P, 3) normalised
    voxel: NDArray[np.int32],  # (P,)
    num_voxels: int,
    image_features: NDArray[np.floating] | None,  # (C, Hp, Wp)
    intrinsics: NDArray[np.float32],  # (3, 3) pixels
    z_min: float,
    image_size: tuple[int, int],  # (H, W)
    *,
    grid_size: float = 80.0,
    min_lod: int = 4,
    max_lod: int = 9,
    out: NDArray[np.floating] | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> NDArray[np.floating]:
    """Features of the finest non-empty voxels: local offset of the mean point, then mean image features.

    The local offset is `frac(mean point in voxel units) - 0.5`. An image feature is sampled bilinearly where
    the point projects to (`grid_sample`, align_corners=True, zero padding); C = 0 without `image_features`.

    Args:
        points: (P, 3) float32 of `points_from_depth`.
        voxel: (P,) int32 of `build_octree`, the voxel of each point; every voxel has at least one.
        num_voxels: V.
        image_features: (C, Hp, Wp) float32 or float16, possibly padded on the right and below to Hp >= H, Wp >= W,
            Wp >= 4. What lies beyond (H, W) counts as absent but has to be finite.
        intrinsics: (3, 3) float32 camera matrix K.
        z_min: mm, of `points_from_depth`.
        image_size: (H, W) of the image.
        out: (capacity, 3 + C) buffer, float32 or float16; sums are float32 and rounded once.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's. The result doesn't depend on it.

    Returns:
        (V, 3 + C) float32, or as `out`.

    Raises:
        CapacityError: `out` holds fewer than V rows.
        ValueError: an entry of `voxel` is outside [0, V), a voxel has no point, or a dtype or shape is wrong.
    """
    check_array("points", points, np.float32, ("P", 3))
    check_array("voxel", voxel, np.int32, (len(points),))
    check_array("intrinsics", intrinsics, np.float32, (3, 3))
    check_range("max_lod", max_lod, 1, MAX_DEPTH)
    channels = 0
    height, width = image_size
    if image_features is not None:
        check_array("image_features", image_features, _real(image_features), ("C", "Hp", "Wp"))
        channels, padded_height, padded_width = image_features.shape
        if padded_height < height or padded_width < max(width, 4):
            raise ValueError(
                f"image_features: expected at least {height} rows and {max(width, 4)} columns (the image's), "
                f"got {padded_height} x {padded_width}"
            )
    features = output("voxels", out, _real(out), (num_voxels, 3 + channels))
    run = (workspace or Workspace()).features.run
    half_extent = 0.5 * grid_size * 2**min_lod
    k = intrinsics.reshape(9)
    if not run(
        points,
        voxel,
        num_voxels,
        max_lod,
        image_features,
        k,
        half_extent,
        z_min,
        height,
        width,
        features,
        threads,
    ):
        raise ValueError(
            f"voxel: expected every index from 0 to {num_voxels - 1} (num_voxels - 1) and no other"
        )
    return features


def _real(array: NDArray[Any] | None) -> type[np.floating]:
    """What to expect of an array that may be of either element type."""
    return np.float16 if getattr(array, "dtype", None) == np.float16 else np.float32


def adjacency(
    labels: NDArray[np.int32],  # (H, W)
    num_objects: int,
    *,
    out: NDArray[np.uint8] | None = None,
    workspace: Workspace | None = None,
    threads: int = 0,
) -> NDArray[np.uint8]:
    """Which objects are neighbours in the image: their 5x5-dilated masks overlap.

    Args:
        labels: (H, W) int32, object index of each pixel, -1 for none: the masks as segmented, with their
            pixels of invalid depth. (The neighbour mask itself, as the occlusion field uses it, consists of
            valid pixels.)
        num_objects: B.
        out: (B, B) uint8 buffer.
        workspace: scratch memory to reuse.
        threads: 0 takes all of OpenMP's.

    Returns:
        (B, B) uint8, symmetric, 0 on the diagonal.

    Raises:
        ValueError: a label is outside [-1, B), or an argument has the wrong dtype or shape.
    """
    check_array("labels", labels, np.int32, ("H", "W"))
    check_range("num_objects", num_objects, 1, 32767)
    adjacent = output("out", out, np.uint8, (num_objects, num_objects), axis=None)
    kernel = (workspace or Workspace()).adjacency
    if not kernel.run(labels, adjacent, threads):
        raise ValueError(
            f"labels: expected -1 to {num_objects - 1} (num_objects - 1), got {kernel.wrong_label}"
        )
    return adjacent
