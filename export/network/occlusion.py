"""The 3D occlusion field: which sub-voxels of a coarsest node are hidden, and by whom, through a 3D CNN."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import octree_ops
from .config import NetworkConfig
from .preprocess import FrameInputs

# centres (N, 3) mm, object (N,), frame, edge mm, resolution -> flags (N, 2, r, r, r) of 0 and 1
OcclusionFunction = Callable[[Tensor, Tensor, FrameInputs, float, int], Tensor]


class OcclusionGeometry(nn.Module):
    """Corners and triangles of a cube.

    The published state dict carries them as buffers, hence their names here; the kernel has its own.
    """

    grid_offset: Tensor
    face_offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        corners = [(x, y, z) for x in (0, 1) for y in (0, 1) for z in (0, 1)]  # corner 4x + 2y + z
        sides = [(0, 1, 3, 2), (4, 5, 7, 6), (0, 1, 5, 4), (2, 3, 7, 6), (0, 2, 6, 4), (1, 3, 7, 5)]
        triangles = [t for a, b, c, d in sides for t in ((a, b, c), (a, c, d))]
        self.register_buffer("grid_offset", torch.tensor(corners, dtype=torch.float32) - 0.5)
        self.register_buffer("face_offset", torch.tensor(triangles, dtype=torch.int64))


def sub_voxel_offsets(resolution: int) -> Tensor:
    """Sub-voxel centres about their node's centre, in node edges: (1, r^3, 3), index order (x, y, z)."""
    axis = (torch.arange(resolution, dtype=torch.float32) + 0.5) / resolution - 0.5
    return torch.cartesian_prod(axis, axis, axis)[None]


def kernel_occlusion(
    centres: Tensor, objects: Tensor, frame: FrameInputs, edge: float, resolution: int
) -> Tensor:
    """The occlusion flags by the native kernel.

    Args:
        centres: (N, 3) float32, node centres in mm, camera frame.
        objects: (N,) int, index of the object within the frame.
        frame: gives depth image, labels, adjacency and intrinsics.
        edge: node edge, mm.
        resolution: sub-voxels per edge, r.
    Returns:
        (N, 2, r, r, r) float32 of 0 and 1: occluded by the object itself, occluded by a neighbour.
    """
    from zerograsp_edge.kernels.occlusion import occlusion_field

    flags = occlusion_field(
        np.ascontiguousarray(centres.detach().cpu().numpy(), np.float32),
        np.ascontiguousarray(objects.cpu().numpy(), np.int32),
        np.ascontiguousarray(frame.depth.cpu().numpy(), np.float32),
        np.ascontiguousarray(frame.labels.cpu().numpy(), np.int32),
        np.ascontiguousarray(frame.adjacency.cpu().numpy(), np.uint8),
        np.ascontiguousarray(frame.intrinsics.cpu().numpy(), np.float32),
        edge=edge,
        resolution=resolution,
    )
    return torch.from_numpy(np.asarray(flags, np.float32)).to(centres.device)


class Conv3dElu(nn.Module):
    """3x3x3 convolution with bias and zero padding, then ELU unless a residual sum comes first."""

    def __init__(self, in_channels: int, out_channels: int, activate: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, out_channels, 3, padding=1)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return F.elu(x) if self.activate else x


class ResidualBlock3d(nn.Module):
    """conv, ELU -> r; conv, ELU; conv; + r; ELU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = Conv3dElu(in_channels, out_channels)
        self.conv2 = Conv3dElu(out_channels, out_channels)
        self.conv3 = Conv3dElu(out_channels, out_channels, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(x)
        return F.elu(self.conv3(self.conv2(residual)) + residual)


class Level3d(nn.Module):
    """A level of the 3D CNN: 2x2x2 average pooling except before the first, then a residual block."""

    def __init__(self, in_channels: int, out_channels: int, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.basic_module = ResidualBlock3d(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.basic_module(F.avg_pool3d(x, 2) if self.pool else x)


class MaskHead(nn.Module):
    """The 3D CNN over a node's flags: (N, 2, r, r, r) -> (N, occlusion_out)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        widths = (2, *config.occlusion_channels)
        self.encoders = nn.ModuleList(
            Level3d(widths[i], widths[i + 1], pool=i > 0) for i in range(len(config.occlusion_channels))
        )
        self.final_conv = nn.Conv3d(widths[-1], config.occlusion_out, 1)

    def forward(self, flags: Tensor) -> Tensor:
        if octree_ops.native(flags, self.training):
            return self._native(flags)
        x = flags
        for level in self.encoders:
            x = level(x)
        return self.final_conv(x).flatten(1)

    def _native(self, flags: Tensor) -> Tensor:
        # More than half of the nodes have no hidden sub-voxel: all of them are one row, the first.
        hidden = flags.flatten(1).any(1)
        row = torch.where(hidden, hidden.cumsum(0), 0)
        x = torch.cat((torch.zeros_like(flags[:1]), flags[hidden])).permute(0, 2, 3, 4, 1)  # channels last
        for i, level in enumerate(self.encoders):
            if i > 0:
                n, r, _, _, channels = x.shape
                x = x.view(n, r // 2, 2, r // 2, 2, r // 2, 2, channels).mean((2, 4, 6))
            assert isinstance(level, Level3d)
            block = level.basic_module
            residual = octree_ops.grid_convolution_elu(x, block.conv1.conv)
            inner = octree_ops.grid_convolution_elu(residual, block.conv2.conv)
            x = octree_ops.grid_convolution_elu(inner, block.conv3.conv, residual)
        x = F.linear(x.flatten(1), self.final_conv.weight.flatten(1), self.final_conv.bias)
        return x.index_select(0, row)
