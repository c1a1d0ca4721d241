"""The CVAE's heads: a pooled feature per object to mean and log-variance of its latent vector."""

from __future__ import annotations

from itertools import pairwise

from ocnn.modules import FcBnRelu
from ocnn.nn import octree_global_pool
from ocnn.octree import Octree
from torch import Tensor, nn

from .config import NetworkConfig


def latent_head(in_channels: int, config: NetworkConfig) -> nn.Sequential:
    """(B, in) -> (B, 2 * latent): `prior_layers` x [Linear, BatchNorm, ReLU], then Linear."""
    widths = [in_channels] + [config.prior_hidden] * config.prior_layers
    layers: list[nn.Module] = [FcBnRelu(a, b) for a, b in pairwise(widths)]
    return nn.Sequential(*layers, nn.Linear(config.prior_hidden, 2 * config.latent))


def pool_objects(x: Tensor, octree: Octree, depth: int, nempty: bool = False) -> Tensor:
    """Mean feature per object, (N, C) -> (B, C), over all nodes of `depth`, or over the non-empty ones."""
    return octree_global_pool(x, octree, depth, nempty)


def sample_latent(mean: Tensor, logvar: Tensor, noise: Tensor | None) -> Tensor:
    """mean + exp(logvar / 2) * noise, all (B, latent); without noise the mean."""
    if noise is None:
        return mean
    if noise.shape != mean.shape:
        raise ValueError(
            f"noise: expected shape {tuple(mean.shape)} (objects, latent), got {tuple(noise.shape)}"
        )
    return mean + (0.5 * logvar).exp() * noise
