"""`zerograsp-edge export-sam2`: a checkpoint of SAM 2 into a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass
class ExportSam2:
    """Export a checkpoint of SAM 2 as a bundle for `run --segment sam2:BUNDLE` (needs the extra `sam2`)."""

    checkpoint: tyro.conf.Positional[Path]
    """A published checkpoint (.pt) of SAM 2 or 2.1, of any size."""
    out: tyro.conf.Positional[Path]
    """The bundle to write, usually NAME.zgb."""
    config: str | None = None
    """Configuration in the package `sam2`, such as configs/sam2.1/sam2.1_hiera_t.yaml; default: the published one
    that the weights' shapes fit."""
    overwrite: bool = False
    """Replace an existing bundle of SAM 2."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.runtime.extras import require

        console = Console()
        for module in ("torch", "onnx", "sam2"):
            require(module, "sam2", "export SAM 2")
        from zerograsp_edge.export.sam2.bundle import write_sam2_bundle
        from zerograsp_edge.export.sam2.network import load_sam2
        from zerograsp_edge.runtime.bundle import sha256

        with console.status(f"reading {self.checkpoint}") as status:
            network, config = load_sam2(self.checkpoint, self.config)
            bundle = write_sam2_bundle(
                network,
                self.out,
                config=config,
                trained=True,
                provenance={"checkpoint": self.checkpoint.name, "checkpoint_sha256": sha256(self.checkpoint)},
                progress=lambda step: status.update(f"exporting: {step}"),
                overwrite=self.overwrite,
            )
        size = sum(f.stat().st_size for f in bundle.path.iterdir()) / 1e6
        largest = max(bundle.manifest["differences"].values())
        console.print(f"wrote {bundle.path} ({config}, {size:.1f} MB), within {largest:.1e} of PyTorch")
        console.print(f"next: zerograsp-edge run FOLDER --segment sam2:{bundle.path}")
        return 0
