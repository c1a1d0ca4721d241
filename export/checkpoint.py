"""Checkpoints: Lightning files of the published form, plain PyTorch state dicts, and safetensors.

    network = load_network("zerograsp.ckpt", NetworkConfig.published().without_posterior())
    save_network(network, "edge.safetensors")
    network = load_network("edge.safetensors")  # the configuration travels in the file

No pickled code is ever executed: PyTorch files are read with `weights_only=True`. Every entry must be there,
be expected and have its shape; whatever does not fit is named, all of it in one `CheckpointError`.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from zerograsp_edge.runtime.errors import ZeroGraspError

from .network.config import ConfigError, NetworkConfig
from .network.zerograsp import ZeroGrasp

PREFIX = "model."
"""Of the network's entries in a Lightning state dict."""

POSTERIOR = "posterior_"

_FORMAT = "zerograsp-edge network"
_FORMAT_VERSION = "1"
_NAMES_SHOWN = 40


class CheckpointError(ZeroGraspError, ValueError):
    """A file that is no checkpoint of the given network; the message lists what does not fit.

    `problems` has all names behind each kind of misfit, where the message stops after a few dozen.
    """

    def __init__(self, message: str, problems: Mapping[str, list[str]] | None = None) -> None:
        super().__init__(message)
        self.problems = dict(problems or {})


def read_state(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, without the Lightning prefix, and a safetensors file's metadata (else empty).

    Optimizer and loop state are ignored. Entries that do not carry the prefix in a file where others do keep
    their names, so that a comparison with a network names them.

    Raises:
        CheckpointError: no such file, truncated, no checkpoint, or made of pickled objects besides tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(9)
    if len(head) < 9:
        raise CheckpointError(f"{path}: {size} bytes, expected a checkpoint; the file is empty or truncated")
    if head[8:9] == b"{" and not head.startswith(b"PK"):
        return _read_safetensors(path)
    return _strip_prefix(path, _tensors(path, read_torch(path))), {}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return _strip_prefix(path, state), dict(file.metadata() or {})
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); it is truncated or damaged: copy it again"
        ) from error


def read_torch(path: Path) -> Any:
    try:
        with path.open("rb") as file:  # by handle: by name, torch.load would go by the suffix
            is_pickle = file.read(1) in (b"P", b"\x80")  # zip archive of pickles, or a bare pickle
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Raised for objects that weights_only refuses, but also for files that are no pickles at all.
        if not is_pickle:
            raise CheckpointError(f"{path}: not a PyTorch checkpoint or safetensors file") from error
        foreign = re.search(r"Unsupported global: GLOBAL (\S+)", str(error))
        raise CheckpointError(
            f"{path}: holds pickled objects other than tensors{f' ({foreign.group(1)})' if foreign else ''}; "
            "reading them could execute code of the file's author, so they are refused. Where it was "
            "trained, save the weights alone: "
            "torch.save({'state_dict': torch.load(path, weights_only=False)['state_dict']}, 'weights.ckpt')"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: not a readable PyTorch checkpoint ({reason}); it is truncated, damaged, or something "
            "else: copy it again"
        ) from error


def _tensors(path: Path, content: Any) -> dict[str, Tensor]:
    """The state dict of a loaded PyTorch file."""
    if isinstance(content, Mapping) and "state_dict" in content:
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(
            f"{path}: expected a state dict, or a Lightning checkpoint with the entry `state_dict`, "
            f"got {'an empty one' if isinstance(content, Mapping) else type(content).__name__}"
        )
    others = [
        str(name)
        for name, value in content.items()
        if not (isinstance(name, str) and isinstance(value, Tensor))
    ]
    if others:
        raise CheckpointError(
            f"{path}: expected a state dict of tensors; these entries are none: {_listed(others)}"
        )
    return dict(content)


def _strip_prefix(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    stripped: dict[str, Tensor] = {}
    for name, value in state.items():
        short = name.removeprefix(PREFIX)
        if short in stripped:
            raise CheckpointError(
                f"{path}: holds the entry {short!r} twice, with and without the prefix {PREFIX!r}"
            )
        stripped[short] = value
    return stripped


def load_state(network: ZeroGrasp, state: Mapping[str, Tensor], source: str = "state dict") -> None:
    """Copy tensors into a network, strictly.

    Posterior entries are passed over when the network's configuration says `posterior=False`, nothing else.

    Raises:
        CheckpointError: names all missing, unexpected, wrongly shaped or typed, and non-finite entries.
    """
    expected = network.state_dict()
    if not network.config.posterior:
        state = {name: value for name, value in state.items() if not name.startswith(POSTERIOR)}
    common = [name for name in expected if name in state]
    missing = [name for name in expected if name not in state]
    found = {
        "missing": missing,
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} (expected {tuple(expected[name].shape)}, got {tuple(state[name].shape)})"
            for name in common
            if state[name].shape != expected[name].shape
        ],
        "of another type": [
            f"{name} (expected {expected[name].dtype}, got {state[name].dtype})"
            for name in common
            if state[name].is_floating_point() != expected[name].is_floating_point()
            or state[name].is_complex()
        ],
        "not finite": [name for name in common if not torch.isfinite(state[name]).all()],
    }
    problems = {what: names for what, names in found.items() if names}
    if problems:
        lines = [f"{len(names)} {what}: {_listed(names)}" for what, names in problems.items()]
        if missing and all(name.startswith(POSTERIOR) for name in missing):
            lines.append("The posterior is needed for training only: load with config.without_posterior().")
        raise CheckpointError(f"{source} does not fit the network:\n  " + "\n  ".join(lines), problems)
    network.load_state_dict(state, strict=True)


def load_network(
    path: str | os.PathLike[str], config: NetworkConfig | None = None, default: NetworkConfig | None = None
) -> ZeroGrasp:
    """A network with a checkpoint's weights, in evaluation mode.

    Args:
        path: Lightning checkpoint, PyTorch state dict or safetensors file.
        config: the network's sizes; may be left out for a file of `save_network`, which carries them. Its
            `posterior` may be False where the file has a posterior; everything else must agree with what the
            file carries.
        default: the network that a file without a configuration is taken for.
    """
    state, metadata = read_state(path)
    recorded = _recorded_config(path, metadata)
    if config is None:
        if recorded is None and default is None:
            raise CheckpointError(
                f"{path}: carries no network configuration; say which network it is, "
                "for the published checkpoint NetworkConfig.published()"
            )
        config = recorded or default
        assert config is not None
    elif recorded is not None:
        _check_same_config(path, recorded, config)
    network = ZeroGrasp(config)
    load_state(network, state, str(path))
    return network.eval()


def save_network(network: ZeroGrasp, path: str | os.PathLike[str], *, half: bool = False) -> None:
    """Write safetensors with the configuration in their metadata. The file appears whole or not at all.

    Args:
        half: store the weights of layers (two dimensions or more) in half precision; loading makes them float32 again.
    """
    path = Path(path)
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    if half:
        weights = {name for name, value in network.named_parameters() if value.ndim > 1}
        state = {name: value.half() if name in weights else value for name, value in state.items()}
        if too_large := [name for name in weights if not state[name].isfinite().all()]:
            raise CheckpointError(
                f"{path}: weights beyond half precision's 65504 in {_listed(too_large)}; store float32"
            )
    metadata = {
        "format": _FORMAT,
        "format_version": _FORMAT_VERSION,
        "config": json.dumps(network.config.to_dict(), sort_keys=True),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        save_file(state, partial, metadata)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _recorded_config(path: str | os.PathLike[str], metadata: Mapping[str, str]) -> NetworkConfig | None:
    if metadata.get("format") != _FORMAT:
        return None
    version = metadata.get("format_version")
    if version != _FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r}, this package reads {_FORMAT_VERSION!r}: upgrade it"
        )
    try:
        return NetworkConfig.from_dict(json.loads(metadata.get("config", "")))
    except (json.JSONDecodeError, ConfigError, TypeError) as error:
        raise CheckpointError(f"{path}: its network configuration is unreadable: {error}") from error


def _check_same_config(path: str | os.PathLike[str], recorded: NetworkConfig, config: NetworkConfig) -> None:
    file, asked = recorded.to_dict(), config.to_dict()
    if recorded.posterior and not config.posterior:
        file["posterior"] = False
    different = [
        f"{name} (file {file[name]!r}, asked for {asked[name]!r})"
        for name in file
        if file[name] != asked[name]
    ]
    if different:
        raise CheckpointError(f"{path}: was saved with another configuration: {', '.join(different)}")


def _listed(names: list[str]) -> str:
    """All names up to a few dozen, beyond that the first of them and how many more."""
    shown = ", ".join(names[:_NAMES_SHOWN])
    return shown if len(names) <= _NAMES_SHOWN else f"{shown}, and {len(names) - _NAMES_SHOWN} more"
