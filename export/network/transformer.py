"""The multi-object encoder: attention over the coarsest nodes of a frame, with 3D rotary embedding."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .config import NetworkConfig

# What the published GPU code runs (fused kernel); PyTorch's default 1e-5 moves the output by 2e-3 of 14.
LAYER_NORM_EPS = 1e-6


class RotaryEmbedding3d(nn.Module):
    """Rotates interleaved channel pairs of q and k by frequencies of the node centre's x, y and z.

    The "pixel" frequencies of rotary-embedding-torch for dim = head_dim // 3:
    linspace(1, max_freq / 2, dim // 2) * pi. They are part of the published state dict.
    """

    def __init__(self, head_dim: int, max_freq: float) -> None:
        super().__init__()
        count = head_dim // 3 // 2
        self.freqs = nn.Parameter(torch.linspace(1.0, max_freq / 2.0, count) * math.pi, requires_grad=False)

    def angles(self, positions: Tensor) -> Tensor:
        """Centres (N, 3) in [-1, 1] to angles (N, 3 * count), x first."""
        return (positions[:, :, None] * self.freqs).flatten(1)

    def forward(self, x: Tensor, angles: Tensor) -> Tensor:
        """x (N, heads, head_dim) rotated; the channels beyond the pairs that `angles` covers pass through."""
        rotated = 2 * angles.shape[1]
        pairs = x[..., :rotated].unflatten(-1, (-1, 2))
        a, b = pairs.unbind(-1)
        cos, sin = angles.cos()[:, None], angles.sin()[:, None]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
        return torch.cat((turned, x[..., rotated:]), dim=-1)


class SelfAttention(nn.Module):
    """Multi-head attention within one frame: (N, C) -> (N, C)."""

    def __init__(self, channels: int, heads: int, max_freq: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv_proj = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.rotary_embeddings = RotaryEmbedding3d(channels // heads, max_freq)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        # Heads first, then q, k, v inside a head.
        q, k, v = self.qkv_proj(x).unflatten(1, (self.heads, -1)).chunk(3, dim=-1)
        angles = self.rotary_embeddings.angles(positions)
        q, k = self.rotary_embeddings(q, angles), self.rotary_embeddings(k, angles)
        scores = torch.einsum("nhc,mhc->hnm", q * q.shape[-1] ** -0.5, k)
        return self.proj(torch.einsum("hnm,mhc->nhc", scores.softmax(-1), v).flatten(1))


class Mlp(nn.Module):
    """(N, C) -> (N, C) through one hidden layer with exact GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        # Index 2 is the place of a dropout: the published names are mlp.0 and mlp.3.
        self.mlp = nn.Sequential(
            nn.Linear(channels, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(x)


class PreNorm(nn.Module):
    """LayerNorm, then the sublayer."""

    def __init__(self, channels: int, sublayer: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.sublayer = sublayer

    def forward(self, x: Tensor, *args: Tensor) -> Tensor:
        return self.sublayer(self.norm(x), *args)


class Residual(nn.Module):
    """x + layer(x)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, *args: Tensor) -> Tensor:
        return x + self.layer(x, *args)


class TransformerBlock(nn.Module):
    """x + MHA(LN(x)), then x + MLP(LN(x)), attention within each frame."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        c = config.coarse_channels
        attention = SelfAttention(c, config.transformer_heads, config.rope_max_freq)
        self.wrap_att = Residual(PreNorm(c, attention))
        self.wrap_ff = Residual(PreNorm(c, Mlp(c, config.transformer_mlp_ratio * c)))

    def forward(self, x: Tensor, positions: Tensor, frame_sizes: list[int]) -> Tensor:
        frames = zip(x.split(frame_sizes), positions.split(frame_sizes), strict=True)
        x = torch.cat([self.wrap_att(tokens, centres) for tokens, centres in frames])
        return self.wrap_ff(x)


class MultiObjectEncoder(nn.Module):
    """Transformer over node tokens.

    Forward: x (N, C) float32; positions (N, 3) float32, node centres in [-1, 1]; frame_sizes: the tokens of
    each frame of the batch, in order: attention does not cross frames. Returns (N, C).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(TransformerBlock(config) for _ in range(config.transformer_layers))

    def forward(self, x: Tensor, positions: Tensor, frame_sizes: list[int]) -> Tensor:
        for block in self.encoders:
            x = block(x, positions, frame_sizes)
        return x
