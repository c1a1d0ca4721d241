"""The image encoder: a normalised RGB image to a feature per pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import NetworkConfig


class SmallImageEncoder(nn.Module):
    """Three 3x3 convolutions at a quarter of the resolution, upsampled: (B, 3, H, W) -> (B, C, H, W)."""

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        hidden = max(out_channels // 2, 8)
        self.layers = nn.Sequential(
            nn.Conv2d(3, hidden, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, out_channels, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.GELU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )

    def forward(self, image: Tensor) -> Tensor:
        return F.interpolate(self.layers(image), size=image.shape[-2:], mode="bilinear", align_corners=False)


def build_image_encoder(config: NetworkConfig) -> nn.Module:
    """The image encoder that the configuration names; maps (B, 3, H, W) float32 to (B, image_channels, H, W).

    The published one is a U-Net with a ResNeXt-50 32x4d encoder, for heights and widths in multiples of 32.
    """
    if config.image_encoder == "rgb":
        return nn.Identity()
    if config.image_encoder == "small":
        return SmallImageEncoder(config.image_channels)
    try:
        import segmentation_models_pytorch as smp
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "the image backbone needs segmentation-models-pytorch: pip install 'zerograsp-edge[export]'",
            name=error.name,
        ) from error
    # No pretrained weights: a checkpoint follows, and nothing may be downloaded here.
    return smp.Unet("resnext50_32x4d", encoder_weights=None, in_channels=3, classes=config.image_channels)


def check_image_size(config: NetworkConfig, image: Tensor) -> None:
    """Raise ValueError for a (3, H, W) image whose size the encoder cannot take."""
    height, width = image.shape[-2:]
    if config.image_encoder == "unet_resnext50_32x4d" and (height % 32 or width % 32):
        raise ValueError(
            f"image: the U-Net needs height and width in multiples of 32, got {width}x{height}; "
            f"crop to {width // 32 * 32}x{height // 32 * 32} and shift cx, cy of the intrinsics with it"
        )


def sample_features(features: Tensor, projected: Tensor) -> Tensor:
    """Bilinear samples of a feature map, zero outside the image.

    Args:
        features: (C, H, W) float32.
        projected: (N, 2) float32, pixels (u, v). Mapped to [-1, 1] by 2 * (uv / (W, H) - 0.5), as the
            published model does.
    Returns:
        (N, C) float32.
    """
    height, width = features.shape[-2:]
    size = torch.tensor([width, height], dtype=projected.dtype, device=projected.device)
    grid = 2.0 * (projected / size - 0.5)
    sampled = F.grid_sample(
        features[None], grid[None, None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return sampled[0, :, 0].t()
