"""The network configuration: round trip through JSON, and every rejection by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from zerograsp_edge.export.network.config import ConfigError, NetworkConfig

PRESETS = [NetworkConfig.published, NetworkConfig.edge, NetworkConfig.tiny]


@pytest.mark.parametrize("preset", PRESETS)
def test_json_round_trip(preset: Any) -> None:
    config = preset()
    assert NetworkConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_presets_cover_the_cube_they_claim() -> None:
    published, edge = NetworkConfig.published(), NetworkConfig.edge()
    assert published.cube_size == 1280.0 and published.full_depth == 3 and published.input_channels == 35
    assert edge.cube_size == 640.0 and edge.full_depth == 2
    assert published.cube_size / 2**published.max_lod == 2.5 and edge.cube_size / 2**edge.max_lod == 5.0


def test_channels_by_depth() -> None:
    config = NetworkConfig.published()
    assert {d: config.channels_at(d) for d in config.depths} == {4: 192, 5: 192, 6: 96, 7: 96, 8: 48, 9: 48}
    for depth in (3, 10):
        with pytest.raises(ConfigError, match=rf"depth: expected 4 .. 9, got {depth}"):
            config.channels_at(depth)


def test_unknown_and_missing_fields_are_named() -> None:
    values = NetworkConfig.tiny().to_dict()
    with pytest.raises(ConfigError, match=r"unknown fields.*: colour, depth"):
        NetworkConfig.from_dict({**values, "depth": 3, "colour": "red"})
    del values["latent"], values["grid_size"]
    with pytest.raises(ConfigError, match=r"missing fields.*: grid_size, latent"):
        NetworkConfig.from_dict(values)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("min_lod", 9, "min_lod < max_lod"),
        ("max_lod", 16, "48-bit keys"),
        ("min_lod", True, "min_lod: expected a positive integer, got True"),
        ("z_margin", 16, "z_margin: expected 0 .. 15 nodes of the cube's 16, got 16"),
        ("latent", 0, "latent: expected a positive integer, got 0"),
        ("prior_layers", 2.5, "prior_layers: expected a positive integer"),
        ("grid_size", float("nan"), "grid_size: expected a positive number"),
        ("grid_size", -80.0, "grid_size: expected a positive number"),
        ("channels", [192, 96], "channels: expected 6 values, one per depth 4 .. 9, got 2"),
        ("channels", [192, 192, 96, 96, 48, 46], "multiples of bottleneck = 4, got 46"),
        ("channels", 192, "channels: expected a list"),
        ("channels", [192, 192, 96, 96, 48, "48"], "channels: expected positive integers"),
        (
            "image_encoder",
            "vit",
            "image_encoder: expected one of unet_resnext50_32x4d, small, rgb, got 'vit'",
        ),
        ("image_encoder", "rgb", "image_channels: expected 3 with `rgb`, got 32"),
        ("transformer_heads", 5, "5 does not divide the 192 channels of depth 4"),
        ("transformer_heads", 96, "a head needs 6 channels or more"),
        ("occlusion_resolution", 16, "4 levels reduce 8 sub-voxels to one, got 16"),
        ("signal_channels", 12, "signal_channels: expected 14"),
        ("posterior", 1, "posterior: expected true or false, got 1"),
    ],
)
def test_sizes_that_do_not_fit_are_rejected(field: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        NetworkConfig.from_dict({**NetworkConfig.published().to_dict(), field: value})


def test_without_posterior_changes_nothing_else() -> None:
    full = NetworkConfig.published()
    stripped = full.without_posterior().to_dict()
    assert stripped.pop("posterior") is False
    assert stripped.items() <= full.to_dict().items()
