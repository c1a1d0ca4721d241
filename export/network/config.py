"""Every size of a ZeroGrasp network, in one frozen dataclass that travels with its weights as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from zerograsp_edge.runtime.errors import ZeroGraspError

IMAGE_ENCODERS = ("unet_resnext50_32x4d", "small", "rgb")

# normal 3, signed distance, graspness, quality, closing direction 3, approach 3, standoff depth, width
SIGNAL_CHANNELS = 14


class ConfigError(ZeroGraspError, ValueError):
    """A network configuration that names unknown fields or whose sizes do not fit together."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a network. The defaults are the published model.

    Depths count from the root: a node of depth d has 2^-d of the cube's edge, `2^min_lod * grid_size` mm.
    """

    min_lod: int = 4
    """Coarsest depth of the decoder: its output octree is full there."""
    max_lod: int = 9
    """Finest depth: surface points are predicted at its nodes."""
    grid_size: float = 80.0
    """Edge of a node at depth `min_lod`, mm."""
    z_margin: int = 5
    """Nodes of depth `min_lod` between the cube's near face and the node of the frame's nearest point."""
    channels: tuple[int, ...] = (192, 192, 96, 96, 48, 48)
    """Feature channels at depths min_lod .. max_lod, in this order."""
    image_encoder: str = "unet_resnext50_32x4d"
    """`unet_resnext50_32x4d` (U-Net of segmentation_models_pytorch), `small` (three convolutions at a quarter
    of the resolution), or `rgb` (no weights: the normalised colours themselves are the feature)."""
    image_channels: int = 32
    """Channels of the image feature; 3 for `rgb`."""
    latent: int = 16
    """Size of the CVAE's latent vector, one per object."""
    prior_hidden: int = 512
    prior_layers: int = 4
    multi_object: bool = True
    """Attention over the coarsest nodes of all objects of a frame."""
    transformer_layers: int = 3
    transformer_heads: int = 3
    transformer_mlp_ratio: int = 4
    rope_max_freq: float = 32.0
    occlusion: bool = True
    """3D occlusion field, concatenated to the coarsest features."""
    occlusion_resolution: int = 8
    """Sub-voxels per edge of a coarsest node."""
    occlusion_channels: tuple[int, ...] = (8, 16, 32, 64)
    """Channels of the 3D CNN's levels; each level halves the resolution, the last one is a single voxel."""
    occlusion_out: int = 64
    residual_blocks: int = 2
    bottleneck: int = 4
    head_channels: int = 64
    """Hidden width of the occupancy heads at min_lod .. max_lod - 1."""
    head_channels_finest: int = 256
    signal_channels: int = SIGNAL_CHANNELS
    """Channels predicted at the finest depth besides the two occupancy logits."""
    posterior: bool = True
    """The CVAE's posterior branch, needed for training only."""

    def __post_init__(self) -> None:
        # JSON has lists only.
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "occlusion_channels", tuple(self.occlusion_channels))
        self._check()

    def _check(self) -> None:
        def require(condition: bool, message: str) -> None:
            if not condition:
                raise ConfigError(message)

        for name in (
            "min_lod", "max_lod", "image_channels", "latent", "prior_hidden", "prior_layers",
            "transformer_layers", "transformer_heads", "transformer_mlp_ratio", "occlusion_resolution",
            "occlusion_out", "residual_blocks", "bottleneck", "head_channels", "head_channels_finest",
        ):  # fmt: skip
            value = getattr(self, name)
            require(type(value) is int and value > 0, f"{name}: expected a positive integer, got {value!r}")
        for name in ("channels", "occlusion_channels"):
            values = getattr(self, name)
            require(
                len(values) > 0 and all(type(c) is int and c > 0 for c in values),
                f"{name}: expected positive integers, got {values!r}",
            )
        for name in ("multi_object", "occlusion", "posterior"):
            require(
                type(getattr(self, name)) is bool,
                f"{name}: expected true or false, got {getattr(self, name)!r}",
            )
        for name in ("grid_size", "rope_max_freq"):
            value = getattr(self, name)
            require(
                isinstance(value, (int, float)) and type(value) is not bool and 0 < value < float("inf"),
                f"{name}: expected a positive number, got {value!r}",
            )
        require(
            1 <= self.min_lod < self.max_lod <= 15,
            f"min_lod, max_lod: expected 1 <= min_lod < max_lod <= 15 (48-bit keys), got {self.min_lod}, "
            f"{self.max_lod}",
        )
        require(
            type(self.z_margin) is int and 0 <= self.z_margin < 1 << self.min_lod,
            f"z_margin: expected 0 .. {(1 << self.min_lod) - 1} nodes of the cube's {1 << self.min_lod}, got "
            f"{self.z_margin!r}",
        )
        depths = self.max_lod - self.min_lod + 1
        require(
            len(self.channels) == depths,
            f"channels: expected {depths} values, one per depth {self.min_lod} .. {self.max_lod}, got "
            f"{len(self.channels)}",
        )
        for c in self.channels:
            require(
                c % self.bottleneck == 0,
                f"channels: expected multiples of bottleneck = {self.bottleneck}, got {c}",
            )
        require(
            self.image_encoder in IMAGE_ENCODERS,
            f"image_encoder: expected one of {', '.join(IMAGE_ENCODERS)}, got {self.image_encoder!r}",
        )
        if self.image_encoder == "rgb":
            require(
                self.image_channels == 3, f"image_channels: expected 3 with `rgb`, got {self.image_channels}"
            )
        require(
            self.signal_channels == SIGNAL_CHANNELS,
            f"signal_channels: expected {SIGNAL_CHANNELS}, the layout that grasp decoding reads, got "
            f"{self.signal_channels}",
        )
        if self.multi_object:
            head = self.coarse_channels // self.transformer_heads
            require(
                self.coarse_channels % self.transformer_heads == 0,
                f"transformer_heads: {self.transformer_heads} does not divide the {self.coarse_channels} "
                f"channels of depth {self.min_lod}",
            )
            require(
                head >= 6, f"transformer_heads: a head needs 6 channels or more for its 3 axes, got {head}"
            )
        if self.occlusion:
            expected = 1 << (len(self.occlusion_channels) - 1)
            require(
                self.occlusion_resolution == expected,
                f"occlusion_resolution: {len(self.occlusion_channels)} levels reduce {expected} sub-voxels "
                "to one, "
                f"got {self.occlusion_resolution}",
            )

    @property
    def full_depth(self) -> int:
        """Depth down to which the input octree is full."""
        return self.min_lod - 1

    @property
    def depths(self) -> range:
        """The decoder's depths, min_lod .. max_lod."""
        return range(self.min_lod, self.max_lod + 1)

    @property
    def cube_size(self) -> float:
        """Edge of the octree's cube, mm."""
        return (1 << self.min_lod) * self.grid_size

    @property
    def coarse_channels(self) -> int:
        """Channels at depth min_lod."""
        return self.channels[0]

    @property
    def input_channels(self) -> int:
        """Channels at the finest depth of the input octree: local offset (3), then image feature."""
        return 3 + self.image_channels

    def channels_at(self, depth: int) -> int:
        """Feature channels at `depth`, which lies in min_lod .. max_lod."""
        if depth not in self.depths:
            raise ConfigError(f"depth: expected {self.min_lod} .. {self.max_lod}, got {depth}")
        return self.channels[depth - self.min_lod]

    def without_posterior(self) -> NetworkConfig:
        """The same network, for inference only."""
        return replace(self, posterior=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, one per field."""
        values = asdict(self)
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> NetworkConfig:
        """The inverse of `to_dict`. Every field must be there: a missing one is never filled in silently."""
        known = {f.name for f in fields(cls)}
        unknown, missing = sorted(set(values) - known), sorted(known - set(values))
        if unknown:
            raise ConfigError(f"unknown fields of the network configuration: {', '.join(unknown)}")
        if missing:
            raise ConfigError(f"missing fields of the network configuration: {', '.join(missing)}")
        for name in ("channels", "occlusion_channels"):
            if not isinstance(values[name], (list, tuple)):
                raise ConfigError(f"{name}: expected a list of integers, got {values[name]!r}")
        return cls(**values)

    @classmethod
    def published(cls) -> NetworkConfig:
        """The checkpoint published with the paper: 39.9 M parameters, a cube of 1.28 m, voxels of 2.5 mm."""
        return cls()

    @classmethod
    def edge(cls) -> NetworkConfig:
        """A network for an embedded computer: a cube of 0.64 m, voxels of 5 mm, and no image backbone.

        The backbone is 222 of the published network's 239 GMAC. Here the colour of each point, which costs
        nothing, is its image feature. Half the cube means one depth fewer and an eighth of the dense nodes;
        the voxels are twice the published size because they cost little accuracy and a factor of four in
        nodes: the true signed distances on 5 mm voxels miss the surface by 1.1 mm (chamfer distance), on
        2.5 mm voxels by 0.7 mm, on 10 mm voxels by 2.0 mm. The near margin shrinks with the cube to one
        node, 80 of its 640 mm: a complete surface never lies nearer than its visible points, and behind
        them 480 mm or more are left, the depth of a table scene seen at a low angle. (The published
        network has 400 of 1280.)
        """
        return cls(
            min_lod=3, max_lod=7, grid_size=80.0, z_margin=1, channels=(128, 112, 96, 64, 48),
            image_encoder="rgb", image_channels=3, prior_hidden=256, transformer_heads=2,
            head_channels_finest=128,
        )  # fmt: skip

    @classmethod
    def tiny(cls) -> NetworkConfig:
        """Some 40,000 parameters, every part present: for tests."""
        return cls(
            min_lod=3, max_lod=6, grid_size=80.0, z_margin=2, channels=(16, 16, 8, 8), image_encoder="rgb",
            image_channels=3, latent=4, prior_hidden=16, prior_layers=2, transformer_layers=2,
            transformer_heads=2, transformer_mlp_ratio=2, occlusion_resolution=4,
            occlusion_channels=(2, 4, 8), occlusion_out=8, residual_blocks=1, head_channels=8,
            head_channels_finest=16,
        )  # fmt: skip
