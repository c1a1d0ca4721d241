"""The octree decoder: from the full coarsest depth to surface voxels, growing where a split is predicted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from ocnn.modules import Conv1x1
from ocnn.octree import Octree
from torch import Tensor, nn

from . import octree_ops
from .config import NetworkConfig
from .layers import Conv1x1BnGelu, ResidualStage, UpsampleBnGelu, align_index, gather_rows


@dataclass(frozen=True)
class DecoderOutput:
    """What the decoder predicted; `d` runs over min_lod .. max_lod."""

    octree: Octree
    logits: dict[int, Tensor]
    """[d]: (N_d, 2) float32, empty and split."""
    split: dict[int, Tensor]
    """[d]: (N_d,) bool, which nodes have children (at max_lod: carry a surface point)."""
    signal: Tensor
    """(S, signal_channels) float32 at the nodes that split at max_lod."""

    @property
    def keys(self) -> dict[int, Tensor]:
        """[d]: (N_d,) int64."""
        return {d: self.octree.keys[d] for d in self.logits}

    @property
    def signal_keys(self) -> Tensor:
        """(S,) int64, keys of the rows of `signal`."""
        finest = max(self.logits)
        return self.octree.keys[finest][self.split[finest]]


def decoder_modules(config: NetworkConfig) -> tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList]:
    """Upsampling (index 0: min_lod to min_lod + 1), residual stages and heads (index 0: min_lod)."""
    at = config.channels_at
    upsample = nn.ModuleList(UpsampleBnGelu(at(d), at(d + 1)) for d in config.depths[:-1])
    stages = nn.ModuleList(
        ResidualStage(at(d), at(d), config.residual_blocks, config.bottleneck) for d in config.depths
    )
    heads = nn.ModuleList()
    for d in config.depths:
        finest = d == config.max_lod
        hidden = config.head_channels_finest if finest else config.head_channels
        out = 2 + (config.signal_channels if finest else 0)
        heads.append(nn.Sequential(Conv1x1BnGelu(at(d), hidden), Conv1x1(hidden, out, use_bias=True)))
    return upsample, stages, heads


def full_octree(config: NetworkConfig, objects: int, device: torch.device) -> Octree:
    """The output octree before its first growth: all nodes of min_lod, for every object, with neighbours."""
    return Octree.init_octree(config.max_lod, config.min_lod, objects, device)


def grow(octree: Octree, split: Tensor, depth: int, neighbours: bool = True) -> None:
    """Give the nodes of `depth` where `split` (N,) bool is set their 8 children, with ocnn's neighbours or without.

    If none is set, node 0 splits all the same, as in ocnn: no depth is ever without nodes.
    """
    octree.octree_split(split.long(), depth)
    octree.octree_grow(depth + 1, update_neigh=neighbours)


def run_decoder(
    config: NetworkConfig,
    modules: tuple[nn.ModuleList, nn.ModuleList, nn.ModuleList],
    tokens: Tensor,
    skips: Mapping[int, Tensor],
    source: Octree,
    target: Octree | None = None,
    forced_splits: Mapping[int, Tensor] | None = None,
    taps: dict[str, Tensor] | None = None,
) -> DecoderOutput:
    """Decode.

    Args:
        modules: as `decoder_modules` gives them.
        tokens: (N, C) features at min_lod of the input octree.
        skips: [d]: (N_d, channels_at(d)) encoder features at min_lod + 1 .. max_lod of the input octree.
        source: the input octree.
        target: teacher forcing: decode along this octree instead of the predicted occupancy.
        forced_splits: [d]: (N_d,) bool, used in place of the predicted occupancy at these depths.
        taps: receives intermediate tensors by the names of the reference vectors.
    """
    upsample, stages, heads = modules
    if target is not None and forced_splits:
        raise ValueError(
            "target and forced_splits exclude each other: a target octree already says which nodes split"
        )
    coarsest = config.min_lod
    octree = full_octree(config, source.batch_size, tokens.device) if target is None else target
    logits: dict[int, Tensor] = {}
    splits: dict[int, Tensor] = {}

    # With `taps` the intermediate tensors are wanted, which the fused operations don't make.
    fused = taps is None and octree_ops.native(tokens, stages.training)
    if fused:
        x = octree_ops.add_aligned(None, tokens, source.keys[coarsest], octree.keys[coarsest])
    else:
        found = align_index(source.keys[coarsest], octree.keys[coarsest])
        x = gather_rows(tokens, found)
    if taps is not None:
        taps[f"align{coarsest}"] = x
        taps[f"align{coarsest}/found_index"] = (found >= 0).nonzero().flatten()
    signal = x.new_zeros(0, config.signal_channels)
    for i, depth in enumerate(config.depths):
        if depth > coarsest:
            x = upsample[i - 1](x, octree, depth - 1)
            if fused:
                x = octree_ops.add_aligned(x, skips[depth], source.keys[depth], octree.keys[depth])
            else:
                skip = gather_rows(skips[depth], align_index(source.keys[depth], octree.keys[depth]))
                x = x + skip
                if taps is not None:
                    taps[f"skip{depth}"] = skip
        x = stages[i](x, octree, depth)
        prediction = heads[i](x)
        logits[depth] = prediction[:, :2]

        if target is not None:
            split = octree.nempty_mask(depth)
        elif forced_splits is not None and depth in forced_splits:
            split = forced_splits[depth]
            if split.shape != (x.shape[0],) or split.dtype != torch.bool:
                raise ValueError(
                    f"forced_splits[{depth}]: expected ({x.shape[0]},) bool, got {tuple(split.shape)} "
                    f"{split.dtype}"
                )
        else:
            split = prediction[:, 1] > prediction[:, 0]  # a tie means empty

        if depth < config.max_lod:
            if target is None:
                grow(octree, split, depth, neighbours=not fused)
            splits[depth] = octree.nempty_mask(depth)
        else:
            splits[depth] = split
            signal = prediction[split, 2:]
            if target is None:
                rank = split.long().cumsum(0) - 1
                octree.children[depth] = torch.where(split, rank, -1).int()
                octree.nnum_nempty[depth] = signal.shape[0]
    return DecoderOutput(octree, logits, splits, signal)
