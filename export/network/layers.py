"""The octree layers: convolution, down- and upsampling, residual block, alignment by key.

Features of a depth are (N, C) float32, one row per node, empty nodes included, in the order of the octree's
keys. The attribute names (`conv`, `deconv`, `bn`, `linear`, `conv1x1a` ...) are those of the published state
dict.
"""

from __future__ import annotations

import torch
from ocnn.modules import Conv1x1, Conv1x1Bn
from ocnn.nn import OctreeConv, OctreeDeconv
from ocnn.octree import Octree
from torch import Tensor, nn
from torch.nn import functional as F

from . import octree_ops

# Two epsilons on purpose: ocnn's own Conv1x1Bn and FcBnRelu keep PyTorch's 1e-5.
BN_EPS = 1e-3
BN_MOMENTUM = 0.01


def batch_norm(channels: int) -> nn.BatchNorm1d:
    """BatchNorm of the blocks that end in GELU."""
    return nn.BatchNorm1d(channels, eps=BN_EPS, momentum=BN_MOMENTUM)


class ConvBnGelu(nn.Module):
    """Octree convolution over 27 neighbours, BatchNorm, exact GELU: (N, in) -> (N, out) at the same depth."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = OctreeConv(in_channels, out_channels, kernel_size=[3])
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor, octree: Octree, depth: int) -> Tensor:
        if octree_ops.native(x, self.training):
            return octree_ops.normalise(
                self.bn, octree_ops.convolution(x, self.conv.weights, octree, depth), "gelu"
            )
        octree_ops.ensure_neighbours(octree, depth)
        return F.gelu(self.bn(self.conv(x, octree, depth)))


class DownsampleBnGelu(nn.Module):
    """8 siblings to their parent: (N_d, in) -> (N_{d-1}, out).

    A node without children gets zeros *before* BatchNorm and GELU, so its feature is GELU(BN(0)).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = OctreeConv(in_channels, out_channels, kernel_size=[2], stride=2)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor, octree: Octree, depth: int) -> Tensor:
        if octree_ops.native(x, self.training):
            return octree_ops.normalise(
                self.bn, octree_ops.downsample(x, self.conv.weights, octree, depth), "gelu"
            )
        octree_ops.ensure_neighbours(octree, depth)
        return F.gelu(self.bn(self.conv(x, octree, depth)))


class UpsampleBnGelu(nn.Module):
    """Every split node to its 8 children: (N_d, in) -> (N_{d+1}, out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.deconv = OctreeDeconv(in_channels, out_channels, kernel_size=[2], stride=2)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor, octree: Octree, depth: int) -> Tensor:
        if octree_ops.native(x, self.training):
            return octree_ops.normalise(
                self.bn, octree_ops.upsample(x, self.deconv.weights, octree, depth), "gelu"
            )
        octree_ops.ensure_neighbours(octree, depth + 1)
        return F.gelu(self.bn(self.deconv(x, octree, depth)))


class Conv1x1BnGelu(nn.Module):
    """Linear without bias, BatchNorm, exact GELU: (N, in) -> (N, out)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = Conv1x1(in_channels, out_channels, use_bias=False)
        self.bn = batch_norm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        if octree_ops.native(x, self.training):
            return octree_ops.normalise(self.bn, octree_ops.linear(x, self.conv.linear), "gelu")
        return F.gelu(self.bn(self.conv(x)))


class ResidualBlock(nn.Module):
    """Bottleneck block: 1x1, 3x3x3, 1x1, plus the shortcut, then ELU: (N, in) -> (N, out)."""

    def __init__(self, in_channels: int, out_channels: int, bottleneck: int) -> None:
        super().__init__()
        hidden = out_channels // bottleneck
        self.conv1x1a = Conv1x1BnGelu(in_channels, hidden)
        self.conv3x3 = ConvBnGelu(hidden, hidden)
        self.conv1x1b = Conv1x1Bn(hidden, out_channels)
        self.conv1x1c = Conv1x1Bn(in_channels, out_channels) if in_channels != out_channels else None

    def forward(self, x: Tensor, octree: Octree, depth: int) -> Tensor:
        if octree_ops.native(x, self.training):
            return self._native(x, octree, depth)
        residual = self.conv1x1b(self.conv3x3(self.conv1x1a(x), octree, depth))
        shortcut = x if self.conv1x1c is None else self.conv1x1c(x)
        return F.elu(residual + shortcut)

    def _native(self, x: Tensor, octree: Octree, depth: int) -> Tensor:
        inner = self.conv3x3(self.conv1x1a(x), octree, depth)
        shortcut = x
        if self.conv1x1c is not None:
            projected = octree_ops.linear(x, self.conv1x1c.conv.linear)
            shortcut = octree_ops.normalise(self.conv1x1c.bn, projected, "none")
        expanded = octree_ops.linear(inner, self.conv1x1b.conv.linear)
        return octree_ops.normalise(self.conv1x1b.bn, expanded, "elu", shortcut)


class ResidualStage(nn.Module):
    """Residual blocks one after the other at one depth; the first one changes the channels."""

    def __init__(self, in_channels: int, out_channels: int, blocks: int, bottleneck: int) -> None:
        super().__init__()
        inputs = [in_channels] + [out_channels] * (blocks - 1)
        self.resblks = nn.ModuleList(ResidualBlock(c, out_channels, bottleneck) for c in inputs)

    def forward(self, x: Tensor, octree: Octree, depth: int) -> Tensor:
        for block in self.resblks:
            x = block(x, octree, depth)
        return x


def align_index(source_keys: Tensor, target_keys: Tensor) -> Tensor:
    """For every target key the row of the equal source key, -1 where there is none.

    Args:
        source_keys: (M,) int64, ascending.
        target_keys: (N,) int64.
    Returns:
        (N,) int64.
    """
    if source_keys.numel() == 0:
        return torch.full_like(target_keys, -1)
    row = torch.searchsorted(source_keys, target_keys).clamp_(max=source_keys.numel() - 1)
    return torch.where(source_keys[row] == target_keys, row, -1)


def gather_rows(x: Tensor, index: Tensor) -> Tensor:
    """Rows `index` of `x` (M, C), zeros where the index is -1: (N, C)."""
    out = x.new_zeros(index.shape[0], x.shape[1])
    found = index >= 0
    out[found] = x[index[found]]
    return out
