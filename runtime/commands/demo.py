"""`zerograsp-edge demo`: a simulated camera, the pipeline, and pictures of what it found."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path

# Module and function, named and not imported: the lean side never depends on `export`, which needs PyTorch.
EXPORTER = ("zerograsp_edge.export.demo", "write_demo_bundle")


@dataclass
class Demo:
    """Show the main job on a simulated scene: RGB-D frame in, shapes and grasps out."""

    out: Path = Path("out/demo")
    """Folder for the results."""
    bundle: Path | None = None
    """The bundle to run; default: a small network with fixed random weights, exported on the first run."""
    seed: int = 0
    """Seed of the scene."""
    objects: int = 5
    """Objects on the table."""
    frames: int = 5
    """Frames to process; the last one is written."""
    threads: int = 0
    """Threads of the CPU executor; 0 takes all cores."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.runtime.bundle import BundleError, load_bundle
        from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
        from zerograsp_edge.runtime.commands.report import UNTRAINED, print_result, print_timings
        from zerograsp_edge.runtime.extras import require
        from zerograsp_edge.runtime.outputs import write_outputs
        from zerograsp_edge.runtime.pipeline import Pipeline

        console = Console()
        path = self.bundle or self.out / "demo.zgb"
        try:
            with console.status(f"loading {path}"):
                bundle = load_bundle(path)
        except BundleError:
            # The demo's own bundle is made on the first run, and again when it is of another version.
            if self.bundle is not None:
                raise
            for module in ("torch", "ocnn", "onnx"):
                require(module, "export", "make the demo's bundle; --bundle runs an exported one without it")
            with console.status("exporting a network with random weights") as status:
                make = getattr(importlib.import_module(EXPORTER[0]), EXPORTER[1])
                bundle = make(
                    path,
                    progress=lambda step: status.update(f"exporting a network with random weights: {step}"),
                )
        pipeline = Pipeline(bundle, threads=self.threads)
        camera = SimulatedCamera(seed=self.seed, num_objects=self.objects)
        if not bundle.trained:
            console.print(f"[yellow]{UNTRAINED}[/]")
        best: dict[str, float] = {}
        for _ in range(max(self.frames, 1)):
            frame = camera.read()
            result = pipeline(frame)
            best = {part: min(ms, best.get(part, ms)) for part, ms in result.timings.items()}
        with console.status("extracting meshes, writing results"):
            files = write_outputs(self.out, frame, result)
        print_result(console, result)
        print_timings(console, best)
        console.print("wrote " + ", ".join(str(file) for file in files))
        return 0
