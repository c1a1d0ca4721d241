"""The training target as an octree, and the CVAE's posterior branch that encodes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ocnn.nn import octree_depad
from ocnn.octree import Octree, Points, merge_octrees
from torch import Tensor, nn
from torch.nn import functional as F

from . import octree_ops
from .config import NetworkConfig
from .encoder import run_encoder
from .prior import pool_objects


def build_target_octree(
    config: NetworkConfig, points: Sequence[Tensor], normals: Sequence[Tensor], signals: Sequence[Tensor]
) -> Octree:
    """The octree of the complete surfaces, one batch item per object, full at min_lod.

    Args:
        points: per object (N_i, 3) float32, surface points normalised to the frame's cube.
        normals: per object (N_i, 3) float32, unit length.
        signals: per object (N_i, signal_channels - 3) float32: signed distance (mm), graspness, quality,
            closing direction (3), approach (3), standoff depth, width. Averaged per finest voxel.
    """
    for index, (_, _, s) in enumerate(zip(points, normals, signals, strict=True)):
        if s.shape[1] != config.signal_channels - 3:
            raise ValueError(
                f"signals[{index}]: expected {config.signal_channels - 3} channels, got {s.shape[1]}"
            )
    if config.max_lod <= octree_ops.MAX_NATIVE_DEPTH and octree_ops.native(points[0], training=True):
        octree, voxel, count = octree_ops.build_octree(points, config.max_lod, config.min_lod)
        together = torch.cat((torch.cat(tuple(normals)), torch.cat(tuple(signals))), dim=1)
        total = octree_ops.voxel_sum(together, voxel, len(count))
        octree.normals[config.max_lod] = F.normalize(total[:, :3])
        octree.features[config.max_lod] = total[:, 3:] / count
        return octree
    octrees = []
    for p, n, s in zip(points, normals, signals, strict=True):
        octree = Octree(config.max_lod, config.min_lod, device=p.device)
        octree.build_octree(Points(p, normals=n, features=s))
        octrees.append(octree)
    merged = merge_octrees(octrees)
    merged.construct_all_neigh()
    return merged


def check_target(config: NetworkConfig, target: Octree, objects: int) -> None:
    """Raise ValueError when a target octree does not belong to `objects` objects of this configuration."""
    expected = (config.max_lod, config.min_lod, objects)
    got = (target.depth, target.full_depth, target.batch_size)
    if got != expected:
        raise ValueError(f"target octree: expected (depth, full_depth, objects) = {expected}, got {got}")
    if target.normals[target.depth] is None or target.features[target.depth] is None:
        raise ValueError("target octree: has no normals or no features; build it with build_target_octree")


def target_signal(target: Octree) -> Tensor:
    """The target's signal at its non-empty finest nodes: (S, signal_channels), normal first."""
    return torch.cat((target.normals[target.depth], target.features[target.depth]), dim=1)


def run_posterior(
    config: NetworkConfig,
    modules: tuple[nn.Module, nn.ModuleList, nn.ModuleList],
    head: nn.Module,
    target: Octree,
    prior_pooled: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean and log-variance (B, latent) of the latent vector given the target.

    The target's coarsest non-empty nodes are averaged per object; the input's pooled feature (B, C) is
    appended.
    """
    x = target.get_input_feature("NF", nempty=False)
    coarse = run_encoder(config, modules, x, target)[config.min_lod]
    pooled = pool_objects(octree_depad(coarse, target, config.min_lod), target, config.min_lod, nempty=True)
    mean, logvar = head(torch.cat((pooled, prior_pooled), dim=1)).chunk(2, dim=1)
    return mean, logvar
