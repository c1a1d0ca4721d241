"""Writes the files of the shipped edge model: its weights for fine-tuning, its bundle for the runtime.

    python -m zerograsp_edge.export.release RUN/best.safetensors [--metrics FILE]

Both are stored in half precision, and the bundle is made from the stored weights: what is shipped is what is measured.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import tyro

from zerograsp_edge.export.bundle import write_bundle
from zerograsp_edge.export.checkpoint import load_network, save_network
from zerograsp_edge.runtime.bundle import Bundle, sha256
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.models import EDGE_MODEL

EDGE_WEIGHTS = Path(__file__).parent / "models" / "edge.safetensors"
MOST_MEGABYTES = 12.0


@dataclass
class Release:
    """Make a trained checkpoint the shipped edge model."""

    checkpoint: tyro.conf.Positional[Path]
    """Trained weights (safetensors with configuration)."""
    weights: Path = EDGE_WEIGHTS
    """Where the weights go."""
    bundle: Path = EDGE_MODEL
    """Where the bundle goes."""
    metrics: Path | None = None
    """Figures (JSON, as the benchmarks write them) to note in the bundle's manifest."""

    def execute(self) -> Bundle:
        save_network(load_network(self.checkpoint), self.weights, half=True)
        size = self.weights.stat().st_size / 1e6
        if size > MOST_MEGABYTES:
            raise ValueError(
                f"{self.weights}: expected at most {MOST_MEGABYTES:g} MB, got {size:.1f} MB; train a smaller network"
            )
        provenance = {
            "model": "ZeroGrasp edge model, trained on synthetic scenes; see export/models/edge.md",
            "checkpoint": self.weights.name,
            "checkpoint_sha256": sha256(self.weights),
        }
        if self.metrics is not None:
            provenance["metrics"] = json.loads(self.metrics.read_text(encoding="utf-8"))
        return write_bundle(
            load_network(self.weights),
            self.bundle,
            trained=True,
            provenance=provenance,
            reference=SimulatedCamera(seed=7, num_objects=3, width=160, height=128).read(),
            overwrite=True,
            half_weights=True,
        )


if __name__ == "__main__":
    written = tyro.cli(Release).execute()
    print(f"wrote {written.path} ({sum(f.stat().st_size for f in written.path.iterdir()) / 1e6:.1f} MB)")
