"""What the network should say about a view: per object the surface voxels of the finest depth with their signal.

The octree's cube depends on the view (its near face follows the nearest masked point), so targets are made
when a view is loaded, from the dense surface samples of the scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from ocnn.octree import Octree
from torch import Tensor

from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.posterior import build_target_octree
from zerograsp_edge.export.network.preprocess import CLIP, FrameInputs
from zerograsp_edge.runtime.errors import ZeroGraspError

from .sample import APPROACH, CLOSING, WIDTH, ObjectSurface, SceneSample, View

_DISTANCE_BITS = 16


class TargetError(ZeroGraspError, ValueError):
    """A view for which no targets exist: an object of its mask is not in the scene, or lies outside the cube."""

    def __init__(self, message: str, object_ids: Sequence[int]) -> None:
        super().__init__(message)
        self.object_ids = tuple(object_ids)
        """The objects concerned."""


@dataclass(frozen=True, eq=False)
class ObjectTarget:
    """The surface voxels of one object, in the order of their packed coordinates."""

    centres: Tensor
    """(n, 3) float32, voxel centres normalised to the frame's cube."""
    normals: Tensor
    """(n, 3) float32, outward unit normals, camera frame."""
    signal: Tensor
    """(n, 11) float32: signed distance (mm), then the grasp columns of `ObjectSurface.grasps`, camera frame."""
    nodes: int
    """Nodes that the object's target octree has at the finest depth: the voxels and their empty siblings."""


def frame_targets(
    config: NetworkConfig, frame: FrameInputs, scene: SceneSample, view: View, warp: np.ndarray | None = None
) -> tuple[ObjectTarget, ...]:
    """Targets of the objects of a frame, in their order.

    Args:
        frame: the view as prepared for the network.
        warp: (3, 3) camera coordinates of `frame` <- those of `view`, a uniformly scaled orthogonal matrix
            (an augmented view, see `augment`); None is the identity.
    Raises:
        TargetError: the mask names an object that the scene lacks, or an object has no surface inside the cube.
    """
    surfaces = {o.object_id: o for o in scene.objects}
    foreign = [i for i in frame.object_ids if i not in surfaces]
    if foreign:
        raise TargetError(
            f"the mask has the values {foreign}, the scene has the objects {sorted(surfaces)}", foreign
        )
    targets = [
        object_target(config, frame.z_min, *surface_in_camera(surfaces[i], view.camera_pose, warp))
        for i in frame.object_ids
    ]
    outside = [i for i, t in zip(frame.object_ids, targets, strict=True) if len(t.centres) == 0]
    if outside:
        raise TargetError(f"objects {outside} have no surface inside the cube", outside)
    return tuple(targets)


def surface_in_camera(
    surface: ObjectSurface, camera_pose: np.ndarray, warp: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (n, 3) mm, normals (n, 3) and grasps (n, 10), float32, of an object in the camera frame.

    A scaled warp scales the widths, as far as the gripper opens: grasps that would need more are no grasps.
    """
    pose = np.linalg.solve(camera_pose, surface.pose)
    warp = np.eye(3) if warp is None else warp
    scale = float(np.cbrt(abs(np.linalg.det(warp))))
    linear = (warp @ pose[:3, :3]).astype(np.float32)
    rotation = (warp / scale @ pose[:3, :3]).astype(np.float32)
    offset = (warp @ pose[:3, 3]).astype(np.float32)
    points = surface.points @ linear.T + offset
    normals = surface.normals @ rotation.T
    grasps = surface.grasps.copy()
    grasps[:, CLOSING] = surface.grasps[:, CLOSING] @ rotation.T
    grasps[:, APPROACH] = surface.grasps[:, APPROACH] @ rotation.T
    if scale != 1.0:
        grasps[:, WIDTH] *= scale
        grasps[grasps[:, WIDTH] > 1.0] = 0.0
    return points, normals, grasps


def object_target(
    config: NetworkConfig, z_min: float, points: np.ndarray, normals: np.ndarray, grasps: np.ndarray
) -> ObjectTarget:
    """One sample per finest voxel, the one nearest to its centre; the cube cuts off the rest, as it does the input.

    The signed distance is that of the voxel's centre from the sample's tangent plane, (centre - p) . n, so that
    centre - normal * distance lies on the surface.

    Args:
        z_min: near face of the cube, mm.
        points: (n, 3) mm, camera frame, normals (n, 3) and grasps (n, 10) there, all float32.
    """
    depth, edge = config.max_lod, config.cube_size
    origin = np.array([-edge / 2, -edge / 2, z_min], np.float32)
    voxel = np.float32(edge / (1 << depth))
    normalised = (points - origin) * np.float32(2 / edge) - np.float32(1)
    inside = np.flatnonzero((np.abs(normalised) < np.float32(CLIP)).all(axis=1))
    scaled = (normalised[inside] + np.float32(1)) * np.float32(1 << (depth - 1))
    nodes = scaled.astype(np.int64)
    offset = scaled - nodes.astype(np.float32) - np.float32(0.5)
    key = (nodes[:, 0] << 2 * depth) | (nodes[:, 1] << depth) | nodes[:, 2]
    # Squared distance from the centre (at most 0.75 voxels squared) below the key: one sort finds the nearest.
    distance = (np.einsum("ni,ni->n", offset, offset) * np.float32(1 << _DISTANCE_BITS)).astype(np.int64)
    order = np.argsort((key << _DISTANCE_BITS) | np.minimum(distance, (1 << _DISTANCE_BITS) - 1))
    key = key[order]
    first = np.ones(len(key), bool)
    first[1:] = key[1:] != key[:-1]
    order, key = order[first], key[first]

    rows, nodes = inside[order], nodes[order]
    centres = (nodes.astype(np.float32) + np.float32(0.5)) * np.float32(2.0 ** (1 - depth)) - np.float32(1)
    gap = (nodes.astype(np.float32) + np.float32(0.5)) * voxel + origin - points[rows]
    normal = normals[rows]
    signed_distance = np.einsum("ni,ni->n", gap, normal)
    parents = np.unique(
        ((nodes[:, 0] >> 1) << 2 * depth) | ((nodes[:, 1] >> 1) << depth) | (nodes[:, 2] >> 1)
    )
    return ObjectTarget(
        torch.from_numpy(centres),
        torch.from_numpy(normal),
        torch.from_numpy(np.concatenate((signed_distance[:, None], grasps[rows]), axis=1)),
        8 * len(parents),
    )


def target_octree(config: NetworkConfig, targets: Sequence[ObjectTarget]) -> Octree:
    """The target octree of all objects of a batch, in their order."""
    return build_target_octree(
        config, [t.centres for t in targets], [t.normals for t in targets], [t.signal for t in targets]
    )
