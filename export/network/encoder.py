"""The octree encoder: from the finest depth of an octree to the coarsest, one residual stage per depth."""

from __future__ import annotations

from collections.abc import Callable

from ocnn.octree import Octree
from torch import Tensor, nn

from .config import NetworkConfig
from .layers import ConvBnGelu, DownsampleBnGelu, ResidualStage


def encoder_modules(
    config: NetworkConfig, in_channels: int, extra_coarse_channels: int = 0
) -> tuple[ConvBnGelu, nn.ModuleList, nn.ModuleList]:
    """First convolution, residual stages and downsampling of an encoder; index 0 is the finest depth.

    Args:
        in_channels: channels of the input feature at the finest depth.
        extra_coarse_channels: channels concatenated before the residual stage of the coarsest depth.
    """
    at = config.channels_at
    finest_first = range(config.max_lod, config.min_lod - 1, -1)
    conv1 = ConvBnGelu(in_channels, at(config.max_lod))
    stages = nn.ModuleList(
        ResidualStage(
            at(d) + (extra_coarse_channels if d == config.min_lod else 0),
            at(d),
            config.residual_blocks,
            config.bottleneck,
        )
        for d in finest_first
    )
    downsample = nn.ModuleList(DownsampleBnGelu(at(d), at(d - 1)) for d in finest_first[:-1])
    return conv1, stages, downsample


def run_encoder(
    config: NetworkConfig,
    modules: tuple[nn.Module, nn.ModuleList, nn.ModuleList],
    x: Tensor,
    octree: Octree,
    at_coarsest: Callable[[Tensor], Tensor] | None = None,
) -> dict[int, Tensor]:
    """Encode an octree.

    Args:
        modules: as `encoder_modules` gives them.
        x: (N, in_channels) input feature of all nodes at max_lod.
        octree: batch of objects with neighbours at min_lod .. max_lod.
        at_coarsest: changes the feature at min_lod before its residual stage.
    Returns:
        The output of the stage at every depth: (N_d, channels_at(d)).
    """
    conv1, stages, downsample = modules
    outputs: dict[int, Tensor] = {}
    x = conv1(x, octree, config.max_lod)
    for i, depth in enumerate(range(config.max_lod, config.min_lod - 1, -1)):
        if depth == config.min_lod and at_coarsest is not None:
            x = at_coarsest(x)
        x = stages[i](x, octree, depth)
        outputs[depth] = x
        if depth > config.min_lod:
            x = downsample[i](x, octree, depth)
    return outputs
