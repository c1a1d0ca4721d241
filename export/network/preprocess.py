"""From an RGB-D frame with instance masks to the network's inputs: points per object, neighbours, octrees.

Units: mm, camera optical frame (x right, y down, z forward); pixels (u, v) are integer pixel centres.
The order of the float operations is part of the contract: a point one ulp off may fall into another voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from ocnn.octree import Octree, Points, merge_octrees
from torch import Tensor

from . import octree_ops
from .config import NetworkConfig

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)
MIN_DEPTH = 10.0  # mm; a depth not above it is invalid
CLIP = 0.99  # points outside (-CLIP, CLIP) in any axis are dropped: ocnn's Points.clip, default margin


class NoObjectsError(ValueError):
    """A frame in which no object has a valid point inside the octree's cube."""


@dataclass(frozen=True)
class FrameInputs:
    """One frame as the network takes it, with B objects; object i is `object_ids[i]` in the mask."""

    image: Tensor
    """(3, H, W) float32, RGB, ImageNet-normalised."""
    depth: Tensor
    """(H, W) float32, mm."""
    labels: Tensor
    """(H, W) int32: object index 0 .. B-1 at its valid pixels, -1 elsewhere."""
    adjacency: Tensor
    """(B, B) uint8: 1 where two objects' dilated masks overlap; 0 on the diagonal."""
    intrinsics: Tensor
    """(3, 3) float32."""
    z_min: float
    """Near face of the octree's cube, mm."""
    points: tuple[Tensor, ...]
    """Per object (N_i, 3) float32, normalised to (-0.99, 0.99)."""
    object_ids: tuple[int, ...]
    """Mask value of every object, ascending."""
    dropped_ids: tuple[int, ...]
    """Mask values of objects without a valid point inside the cube; they appear nowhere else."""

    def to(self, device: torch.device | str) -> FrameInputs:
        """The same frame on another device."""
        return FrameInputs(
            self.image.to(device), self.depth.to(device), self.labels.to(device), self.adjacency.to(device),
            self.intrinsics.to(device), self.z_min, tuple(p.to(device) for p in self.points), self.object_ids,
            self.dropped_ids,
        )  # fmt: skip


def normalise_image(rgb: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32, ImageNet mean and deviation."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise ValueError(f"rgb: expected (H, W, 3) uint8, got {rgb.shape} {rgb.dtype}")
    image = torch.from_numpy(np.ascontiguousarray(rgb)).permute(2, 0, 1).float() / 255.0
    return (image - torch.tensor(IMAGE_MEAN)[:, None, None]) / torch.tensor(IMAGE_STD)[:, None, None]


def back_project(u: np.ndarray, v: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Pixels with their depth (mm) to points (N, 3) float32, mm: depth * K^-1 (u, v, 1).

    K^-1 is rounded to float32, the rest is float64, rounded once at the end.
    """
    inverse = np.linalg.inv(intrinsics.astype(np.float64)).astype(np.float32).astype(np.float64)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1).astype(np.float64)
    return ((pixels @ inverse.T) * depth.astype(np.float64)[:, None]).astype(np.float32)


def near_plane(config: NetworkConfig, min_z: float) -> float:
    """z of the cube's near face for the nearest point's z, both mm: a multiple of grid_size, maybe < 0."""
    return float(np.floor(min_z / config.grid_size) * config.grid_size - config.z_margin * config.grid_size)


def normalise_points(config: NetworkConfig, points: Tensor, z_min: float) -> Tensor:
    """Points (N, 3) float32 in mm to the cube's [-1, 1]."""
    cube = config.cube_size
    xy = points[:, :2] / (cube / 2)
    z = 2.0 * ((points[:, 2:] - z_min) / cube - 0.5)
    return torch.cat((xy, z), dim=1)


def denormalise_points(config: NetworkConfig, points: Tensor, z_min: float) -> Tensor:
    """The inverse of `normalise_points`: (N, 3) in [-1, 1] to mm."""
    cube = config.cube_size
    xy = points[:, :2] * (cube / 2)
    z = (points[:, 2:] / 2.0 + 0.5) * cube + z_min
    return torch.cat((xy, z), dim=1)


def project(points: Tensor, intrinsics: Tensor) -> Tensor:
    """Points (N, 3) in mm to pixels (N, 2): (K p)_xy / ((K p)_z + 1e-4), as the published model does."""
    homogeneous = points @ intrinsics.t()
    return homogeneous[:, :2] / (homogeneous[:, 2:] + 1e-4)


def object_adjacency(masks: np.ndarray) -> np.ndarray:
    """(B, H, W) bool -> (B, B) uint8: 1 where two masks overlap after a 5x5 dilation; 0 on the diagonal."""
    kernel = np.ones((5, 5), np.uint8)
    # Bits: the overlap of two masks is the AND of their bytes.
    packed = [np.packbits(np.asarray(cv2.dilate(m.astype(np.uint8), kernel), np.uint8).ravel()) for m in masks]
    overlap = np.zeros((len(packed), len(packed)), np.uint8)
    for i, first in enumerate(packed):
        for j in range(i):
            overlap[i, j] = overlap[j, i] = np.bitwise_and(first, packed[j]).any()
    return overlap


def prepare_frame(
    config: NetworkConfig, rgb: np.ndarray, depth: np.ndarray, mask: np.ndarray, intrinsics: np.ndarray
) -> FrameInputs:
    """One RGB-D frame with instance masks as network inputs.

    Args:
        rgb: (H, W, 3) uint8.
        depth: (H, W) uint16 or float, mm; not above 10 mm means invalid.
        mask: (H, W) integer; the smallest value is the background, every other value an object.
        intrinsics: (3, 3), pixels.
    Raises:
        NoObjectsError: no object has a valid point inside the cube.
        ValueError: shapes or dtypes do not fit.
    """
    height, width = rgb.shape[:2]
    for name, array in (("depth", depth), ("mask", mask)):
        if array.shape != (height, width):
            raise ValueError(f"{name}: expected shape {(height, width)} as the RGB image, got {array.shape}")
    if not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"mask: expected integers, got {mask.dtype}")
    if np.shape(intrinsics) != (3, 3):
        raise ValueError(f"intrinsics: expected shape (3, 3), got {np.shape(intrinsics)}")
    image = normalise_image(rgb)
    intrinsics = np.asarray(intrinsics, np.float32)
    depth = np.asarray(depth, np.float32)
    valid = (depth > MIN_DEPTH) & np.isfinite(depth)

    ids = [int(i) for i in np.unique(mask)[1:]]
    masks = {i: mask == i for i in ids}
    metric: dict[int, np.ndarray] = {}
    for i in ids:
        v, u = np.nonzero(masks[i] & valid)
        metric[i] = back_project(u, v, depth[v, u], intrinsics)
    if not any(len(p) for p in metric.values()):
        raise NoObjectsError(
            f"no object with valid depth: mask values {ids or 'none besides the background'}"
        )
    z_min = near_plane(config, min(float(p[:, 2].min()) for p in metric.values() if len(p)))

    points: dict[int, Tensor] = {}
    for i in ids:
        normalised = normalise_points(config, torch.from_numpy(metric[i]), z_min)
        inside = ((normalised > -CLIP) & (normalised < CLIP)).all(dim=1)
        if inside.any():
            points[i] = normalised[inside]
    if not points:
        raise NoObjectsError(
            f"no object has a point inside the cube of {config.cube_size:g} mm from z = {z_min:g} mm: mask "
            f"values {ids}"
        )

    labels = np.full((height, width), -1, np.int32)
    for index, i in enumerate(points):
        labels[masks[i] & valid] = index
    # Neighbourhood is a question of the masks; whether their pixels have depth comes later, through `labels`.
    adjacency = object_adjacency(np.stack([masks[i] for i in points]))
    return FrameInputs(
        image=image,
        depth=torch.from_numpy(depth),
        labels=torch.from_numpy(labels),
        adjacency=torch.from_numpy(adjacency),
        intrinsics=torch.from_numpy(intrinsics),
        z_min=z_min,
        points=tuple(points.values()),
        object_ids=tuple(points),
        dropped_ids=tuple(i for i in ids if i not in points),
    )


def build_input_octree(
    config: NetworkConfig, points: Sequence[Tensor], features: Sequence[Tensor], training: bool = False
) -> Octree:
    """The merged input octree, one batch item per object.

    Its neighbours are there for ocnn to use unless the native core built it, which makes tables on demand.

    Args:
        points: per object (N_i, 3) float32, normalised.
        features: per object (N_i, C) float32, averaged per finest voxel as the positions are.
        training: chooses who builds it, see `octree_ops.native`.
    """
    if config.max_lod <= octree_ops.MAX_NATIVE_DEPTH and octree_ops.native(points[0], training):
        octree, voxel, count = octree_ops.build_octree(points, config.max_lod, config.full_depth)
        octree.features[config.max_lod] = (
            octree_ops.voxel_sum(torch.cat(tuple(features)), voxel, len(count)) / count
        )
        return octree
    octrees = []
    for p, f in zip(points, features, strict=True):
        octree = Octree(config.max_lod, config.full_depth, device=p.device)
        octree.build_octree(Points(p, features=f))
        octrees.append(octree)
    merged = merge_octrees(octrees)
    merged.construct_all_neigh()
    return merged


def node_centres(octree: Octree, depth: int) -> Tensor:
    """Centres of all nodes of a depth, normalised: (ijk + 0.5) * 2^(1-d) - 1, (N, 3) float32."""
    x, y, z, _ = octree.xyzb(depth)
    return (torch.stack((x, y, z), dim=1).float() + 0.5) * 2.0 ** (1 - depth) - 1.0
