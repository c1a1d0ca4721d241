"""`zerograsp-edge export`: a checkpoint into a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from zerograsp_edge.runtime.bundle import Limits

if TYPE_CHECKING:
    from zerograsp_edge.export.network.config import NetworkConfig


@dataclass
class Export:
    """Export a trained checkpoint as a deployment bundle (needs the extra `export`)."""

    checkpoint: tyro.conf.Positional[Path]
    """A published Lightning checkpoint (.ckpt), or safetensors."""
    out: tyro.conf.Positional[Path]
    """The bundle to write, usually NAME.zgb."""
    config: Path | None = None
    """Network configuration (JSON); default: the checkpoint's own, else the published network's."""
    max_objects: int = Limits.max_objects
    """Most objects in a frame."""
    max_nodes: int = Limits.max_nodes
    """Most nodes of the finest depth."""
    max_tokens: int = Limits.max_tokens
    """Most nodes of the coarsest depth of what is visible; on a GPU, memory grows with their square."""
    overwrite: bool = False
    """Replace an existing bundle."""
    half_weights: bool = False
    """Store the weights in half precision: half the size; computing stays in float32."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.runtime.extras import require

        console = Console()
        for module in ("torch", "ocnn", "onnx"):
            require(module, "export")
        from zerograsp_edge.export.bundle import write_bundle
        from zerograsp_edge.export.checkpoint import load_network
        from zerograsp_edge.export.network.config import NetworkConfig
        from zerograsp_edge.runtime.bundle import sha256

        with console.status(f"reading {self.checkpoint}") as status:
            config = None if self.config is None else _read_config(self.config)
            # Published checkpoints carry no configuration; their posterior serves training only.
            network = load_network(
                self.checkpoint, config, default=NetworkConfig.published().without_posterior()
            )
            bundle = write_bundle(
                network,
                self.out,
                trained=True,
                limits=Limits(
                    max_objects=self.max_objects, max_nodes=self.max_nodes, max_tokens=self.max_tokens
                ),
                provenance={"checkpoint": self.checkpoint.name, "checkpoint_sha256": sha256(self.checkpoint)},
                progress=lambda step: status.update(f"exporting: {step}"),
                overwrite=self.overwrite,
                half_weights=self.half_weights,
            )
        size = sum(f.stat().st_size for f in bundle.path.iterdir()) / 1e6
        console.print(f"wrote {bundle.path} ({size:.1f} MB, {len(bundle.stages)} stages)")
        console.print(f"next: zerograsp-edge verify {bundle.path}")
        return 0


def _read_config(path: Path) -> NetworkConfig:
    """A network configuration from its JSON file."""
    import json

    from zerograsp_edge.export.network.config import ConfigError, NetworkConfig

    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: expected a network configuration in JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return NetworkConfig.from_dict(values)
