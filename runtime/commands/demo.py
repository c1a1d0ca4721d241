"""`zerograsp-edge demo`: a simulated camera, the pipeline, and pictures of what it found."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from zerograsp_edge.runtime.models import EDGE_MODEL


@dataclass
class Demo:
    """Show the main job on a simulated scene: RGB-D frame in, shapes and grasps out."""

    out: Path = Path("out/demo")
    """Folder for the results."""
    bundle: Path = EDGE_MODEL
    """The bundle to run; default: the trained edge model that ships with the package."""
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

        from zerograsp_edge.runtime.bundle import load_bundle
        from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
        from zerograsp_edge.runtime.commands.report import UNTRAINED, print_result, print_timings
        from zerograsp_edge.runtime.extras import install_command
        from zerograsp_edge.runtime.outputs import write_outputs
        from zerograsp_edge.runtime.pipeline import Pipeline

        console = Console()
        with console.status(f"loading {self.bundle}"):
            bundle = load_bundle(self.bundle)
        pipeline = Pipeline(bundle, threads=self.threads)
        camera = SimulatedCamera(seed=self.seed, num_objects=self.objects)
        if not bundle.trained:
            console.print(f"[yellow]{UNTRAINED}[/]")
        best: dict[str, float] = {}
        for _ in range(max(self.frames, 1)):
            frame = camera.read()
            result = pipeline(frame)
            best = {part: min(ms, best.get(part, ms)) for part, ms in result.timings.items()}
        mesh = all(find_spec(module) for module in ("skimage", "trimesh"))
        if not mesh:
            console.print(f"no mesh.glb: it needs {install_command('mesh')}", highlight=False, markup=False)
        with console.status("writing results"):
            files = write_outputs(self.out, frame, result, mesh=mesh)
        print_result(console, result)
        print_timings(console, best)
        console.print("wrote " + ", ".join(str(file) for file in files))
        return 0
