"""`zerograsp-edge demo`: a simulated camera, the pipeline, pictures of what it found, and a pick."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from zerograsp_edge.runtime.models import EDGE_MODEL

if TYPE_CHECKING:
    from rich.console import Console

    from zerograsp_edge.runtime.bundle import Bundle
    from zerograsp_edge.runtime.camera.simulated import SimulatedCamera


@dataclass
class Demo:
    """Show the main job on simulated scenes: RGB-D frame in, shapes and grasps out; then a gripper picks objects."""

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
    picks: int = 2
    """Objects that a simulated gripper then picks in another scene, with an animation pick.gif; 0 leaves that out."""
    threads: int = 0
    """Threads of the CPU executor; 0 takes all cores."""
    view: bool = False
    """Show the simulated camera's frames in the browser instead, until Ctrl-C (needs the extra `view`)."""

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
        camera = SimulatedCamera(seed=self.seed, num_objects=self.objects)
        if not bundle.trained:
            console.print(f"[yellow]{UNTRAINED}[/]")
        if self.view:
            return self._show(bundle, camera, console)
        pipeline = Pipeline(bundle, threads=self.threads)
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
        if self.picks > 0:
            self._pick(console)
        return 0

    def _show(self, bundle: Bundle, camera: SimulatedCamera, console: Console) -> int:
        """The live pipeline with its view, on the demo's scene."""
        from zerograsp_edge.runtime.commands.live import LiveOptions, run_live
        from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig
        from zerograsp_edge.runtime.grasp.refine import RefineConfig
        from zerograsp_edge.runtime.live.report import Ending
        from zerograsp_edge.runtime.pipeline import Pipeline

        pipeline = Pipeline(bundle, threads=self.threads, refine=RefineConfig(antipodal=AntipodalConfig()))
        report = run_live(pipeline, camera, LiveOptions(view=True, mesh=True), console)
        return 0 if report.ending in (Ending.STOPPED, Ending.DONE) else 1

    def _pick(self, console: Console) -> None:
        """The grasp loop in a simulated work cell; where that cannot run, says why and what is missing."""
        from zerograsp_edge.runtime.commands.loop import run_in_cell, write_report
        from zerograsp_edge.runtime.commands.report import print_loop_report
        from zerograsp_edge.runtime.deployment import Deployment
        from zerograsp_edge.runtime.errors import MissingExtra
        from zerograsp_edge.runtime.loop import Limits, LoopConfig
        from zerograsp_edge.runtime.robot.cell import CellConfig
        from zerograsp_edge.runtime.simulation.physics import RenderError, load_mujoco

        # Enough tries to come to an end within a minute, whatever the seed.
        limits = Limits(picks=self.picks, failed_attempts=4, robot_faults=4, no_grasp_views=2)
        deployment = Deployment(bundle=self.bundle, threads=self.threads, loop=LoopConfig(limits=limits))
        log, film = self.out / "pick.jsonl", self.out / "pick.gif"
        console.print("\na simulated gripper picks objects:", highlight=False)
        try:
            load_mujoco()
            report = run_in_cell(deployment, CellConfig(seed=self.seed, objects=(5, 6)), console, log, film)
        except (MissingExtra, RenderError) as error:
            console.print(f"no pick: {error}", highlight=False, markup=False)
            return
        print_loop_report(console, report)
        console.print(f"wrote {film}, {log}, {write_report(self.out, report)}")
