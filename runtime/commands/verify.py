"""`zerograsp-edge verify`: a bundle on this machine against its reference outputs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro


@dataclass
class Verify:
    """Compare every stage of a bundle, on this machine, with the reference outputs it carries."""

    bundle: tyro.conf.Positional[Path]
    """The bundle to verify."""
    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """What runs the stages; auto: TensorRT where it can be used."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    json: Path | None = None
    """Also write the figures to this file."""

    def execute(self) -> int:
        import json

        from rich.console import Console
        from rich.table import Table

        from zerograsp_edge.runtime.bundle import load_bundle
        from zerograsp_edge.runtime.pipeline import Pipeline
        from zerograsp_edge.runtime.verify import verify

        console = Console()
        bundle = load_bundle(self.bundle)
        with console.status("running the reference frame"):
            pipeline = Pipeline(bundle, self.backend, threads=self.threads)
            report = verify(pipeline)
        if pipeline.fallback is not None:
            console.print(f"on the CPU: {pipeline.fallback}", highlight=False)
        table = Table(title=f"{self.bundle} on {report.backend}", title_justify="left")
        for column in ("tensor", "max error / max", "cosine", "tolerance", "verdict"):
            table.add_column(column, justify="left" if column == "tensor" else "right")
        for check in report.tensors:
            verdict = "[green]ok[/]" if check.ok else "[red]differs[/]"
            table.add_row(
                check.name, f"{check.error:.1e}", f"{check.cosine:.6f}", f"{check.tolerance:.0e}", verdict
            )
        console.print(table)
        table = Table(title="octree of the free run against the reference", title_justify="left")
        for column in ("depth", "nodes", "reference", "key-set IoU"):
            table.add_column(column, justify="right")
        for octree in report.octrees:
            table.add_row(str(octree.depth), str(octree.nodes), str(octree.reference), f"{octree.iou:.4f}")
        console.print(table)
        console.print(
            "[green]verified[/]" if report.ok else "[red]not verified[/]: " + "; ".join(report.failures)
        )
        if self.json is not None:
            self.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        return 0 if report.ok else 1
