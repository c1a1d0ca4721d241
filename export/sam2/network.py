"""SAM 2's networks from their checkpoints, built by the package `sam2`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from zerograsp_edge.export.checkpoint import CheckpointError, read_torch
from zerograsp_edge.runtime.extras import require

# (channels of the patch embedding, blocks of the trunk): what the published sizes are told apart by.
_SIZES = {(96, 12): "t", (96, 16): "s", (112, 24): "b+", (144, 48): "l"}
# Only SAM 2.1 has this entry.
_SINCE_2_1 = "no_obj_embed_spatial"
_PATCH, _BLOCKS = "image_encoder.trunk.patch_embed.proj.weight", "image_encoder.trunk.blocks."


def load_sam2(path: Path, config: str | None = None) -> tuple[nn.Module, str]:
    """The network of a checkpoint, in eval mode on the CPU, and the name of its configuration.

    Args:
        path: a published checkpoint, `{"model": state dict}`; no pickled code is executed.
        config: a configuration of the package `sam2`; by default the published one that the weights' shapes fit.

    Raises:
        MissingExtra: no package `sam2`.
        CheckpointError: a file that is not a checkpoint of SAM 2, or not of that configuration.
    """
    state = _read_state(path)
    config = config or published_config(state)
    network = build_network(config)
    try:
        network.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} does not fit the configuration {config}: {reason}") from error
    return network, config


def build_network(config: str, overrides: tuple[str, ...] = ()) -> nn.Module:
    """A network of that configuration with the weights that PyTorch draws, in eval mode on the CPU.

    Args:
        config: name of a YAML file of the package `sam2`, such as `configs/sam2.1/sam2.1_hiera_t.yaml`.
        overrides: of its entries, in Hydra's notation.
    """
    builder = require("sam2.build_sam", "sam2", "read SAM 2's checkpoints")
    exceptions: Any = require("hydra.errors", "sam2", "read SAM 2's configurations")
    try:
        return builder.build_sam2(
            config, None, device="cpu", hydra_overrides_extra=list(overrides), apply_postprocessing=False
        )
    except exceptions.MissingConfigException as error:
        raise CheckpointError(
            f"expected a configuration of the package sam2, such as configs/sam2.1/sam2.1_hiera_t.yaml, got {config}"
        ) from error


def published_config(state: dict[str, torch.Tensor]) -> str:
    """Name of the published configuration that a state dict's shapes fit.

    Raises:
        CheckpointError: none does.
    """
    if _PATCH not in state:
        raise CheckpointError(f"expected a checkpoint of SAM 2; it has no entry {_PATCH}")
    blocks = {name.removeprefix(_BLOCKS).split(".")[0] for name in state if name.startswith(_BLOCKS)}
    size = (len(state[_PATCH]), len(blocks))
    if size not in _SIZES:
        known = ", ".join(f"{channels}/{count}" for channels, count in _SIZES)
        raise CheckpointError(
            f"expected one of SAM 2's published sizes (channels/blocks {known}), got {size[0]}/{size[1]}; "
            "name the configuration with --config"
        )
    family = "sam2.1" if _SINCE_2_1 in state else "sam2"
    return f"configs/{family}/{family}_hiera_{_SIZES[size]}.yaml"


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; expected a published checkpoint such as sam2.1_hiera_tiny.pt")
    content = read_torch(path)
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: expected a checkpoint of SAM 2, {{'model': state dict}}")
    return state
