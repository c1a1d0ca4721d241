"""`zerograsp-edge loop`: pick objects with a robot until nothing is left, a limit is reached, or it is stopped."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

if TYPE_CHECKING:
    import numpy as np
    from rich.console import Console

    from zerograsp_edge.runtime.deployment import Deployment
    from zerograsp_edge.runtime.loop import GraspLoop, LoopConfig, LoopReport
    from zerograsp_edge.runtime.loop.machine import Perceive
    from zerograsp_edge.runtime.robot.cell import CellConfig


@dataclass
class Loop:
    """Pick objects with a robot: capture, perceive, choose, approach, close, lift, verify, place, repeat.

    Ctrl-C stops the robot within one control period. Exit status: 0 done or nothing left, 130 stopped, 1 otherwise.
    """

    deployment: tyro.conf.Positional[Path | None] = None
    """YAML file that says what the loop runs with (README, "On a Franka"); needed for a real robot."""
    robot: Literal["sim", "franka"] = "sim"
    """A simulated gripper with a simulated camera, or a Franka arm."""
    picks: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """Stop after N picks; default: what the deployment says, else when nothing is left."""
    seed: int | None = None
    """Seed of the simulated world."""
    out: Path = Path("out/loop")
    """Folder for events.jsonl (one line per event) and report.json."""
    film: bool = False
    """Also write pick.gif (simulated robot only)."""
    quiet: bool = False
    """Print nothing but errors."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.runtime.commands.report import print_loop_report
        from zerograsp_edge.runtime.deployment import Deployment, load_deployment
        from zerograsp_edge.runtime.errors import ConfigError

        console = Console(quiet=self.quiet)
        if self.deployment is None and self.robot != "sim":
            raise ConfigError(
                f"expected a deployment file for --robot {self.robot} (camera, hand_eye, robot.{self.robot}), got none"
            )
        if self.robot != "sim" and (self.film or self.seed is not None):
            raise ConfigError("--film and --seed are for the simulated robot")
        deployment = Deployment() if self.deployment is None else load_deployment(self.deployment, self.robot)
        if self.picks is not None:
            limits = replace(deployment.loop.limits, picks=self.picks)
            deployment = replace(deployment, loop=replace(deployment.loop, limits=limits))
        run = {"sim": self._simulated, "franka": self._franka}[self.robot]
        report = run(deployment, console)
        write_report(self.out, report)
        print_loop_report(console, report)
        console.print(f"events in {self.out / 'events.jsonl'}", highlight=False, markup=False)
        return 0 if report.ending.ok else 130 if report.ending.value == "stopped" else 1

    def _simulated(self, deployment: Deployment, console: Console) -> LoopReport:
        from zerograsp_edge.runtime.configuration import build
        from zerograsp_edge.runtime.robot.cell import CellConfig

        config = build(CellConfig, deployment.robot.get("sim"), "robot.sim")
        config = config if self.seed is None else replace(config, seed=self.seed)
        return run_in_cell(
            deployment, config, console, self.out / "events.jsonl", self.out / "pick.gif" if self.film else None
        )

    def _franka(self, deployment: Deployment, console: Console) -> LoopReport:
        from zerograsp_edge.runtime.bundle import load_bundle
        from zerograsp_edge.runtime.commands.report import print_event
        from zerograsp_edge.runtime.configuration import build
        from zerograsp_edge.runtime.errors import ConfigError
        from zerograsp_edge.runtime.hand_eye import HandEye
        from zerograsp_edge.runtime.loop import GraspLoop
        from zerograsp_edge.runtime.pipeline import Pipeline
        from zerograsp_edge.runtime.robot.franka import Franka
        from zerograsp_edge.runtime.robot.franka_config import FrankaConfig

        if deployment.hand_eye is None:
            raise ConfigError(
                "expected hand_eye in the deployment, the file that 'zerograsp-edge calibrate hand-eye' writes"
            )
        if not deployment.loop.place:
            console.print("[yellow]no loop.place in the deployment[/]: the run ends with the first object held")
        settings = build(FrankaConfig, deployment.robot.get("franka"), "robot.franka")
        hand_eye = HandEye.load(deployment.hand_eye)
        camera = deployment.open_camera()
        try:
            robot = Franka(settings, hand_eye)
            try:
                refine = deployment.refinement(robot.gripper)
                pipeline = Pipeline(load_bundle(deployment.bundle), threads=deployment.threads, refine=refine)
                loop = GraspLoop(
                    robot, camera, pipeline, deployment.loop,
                    log=self.out / "events.jsonl", callback=lambda event: print_event(console, event),
                )  # fmt: skip
                return loop.run()
            finally:
                robot.close()
        finally:
            camera.close()


def run_in_cell(
    deployment: Deployment, cell_config: CellConfig, console: Console, log: Path, film: Path | None
) -> LoopReport:
    """The loop in a simulated work cell, with its events printed as they come.

    Args:
        log: file of JSON lines.
        film: where an animation is written; None: nowhere.

    Raises:
        MissingExtra: no MuJoCo (extra `sim`). RenderError: no offscreen OpenGL.
    """
    from zerograsp_edge.runtime.bundle import load_bundle
    from zerograsp_edge.runtime.commands.report import print_event
    from zerograsp_edge.runtime.loop import GraspLoop, State
    from zerograsp_edge.runtime.pipeline import Pipeline
    from zerograsp_edge.runtime.robot.cell import make_cell
    from zerograsp_edge.runtime.simulation.film import Film, write_gif

    with console.status("letting objects come to rest"):
        cell = make_cell(cell_config)
    robot = cell.robot
    refine = deployment.refinement(robot.gripper)
    pipeline = Pipeline(load_bundle(deployment.bundle), threads=deployment.threads, refine=refine)
    shown: Film | None = None
    perceive: Perceive = pipeline
    if film is not None:
        # The way to the drop zone leads out of the picture and is the longest.
        slow = (State.PLACE, State.RELEASE, State.RETREAT, State.OBSERVE)
        shown = Film(
            robot,
            caption=lambda: _caption(loop),
            rate=lambda: 2.0 if loop.state in slow else 7.0,
            seed=cell_config.seed,
        )
        perceive = shown.watch(perceive)
    with cell.camera as camera:
        loop = GraspLoop(
            robot, camera, perceive, _in_cell(deployment.loop, robot.drop, robot.home),
            log=log, callback=lambda event: print_event(console, event), threaded=False,
        )  # fmt: skip
        report = loop.run()
    if shown is not None and film is not None and len(shown):
        with console.status(f"rendering {len(shown)} pictures"):
            write_gif(film, shown.render())
    return report


def write_report(folder: Path, report: LoopReport) -> Path:
    """`report.json` in the folder."""
    import json

    from zerograsp_edge.runtime.outputs import replacing

    path = folder / "report.json"
    with replacing(path) as file:
        file.write((json.dumps(report.to_dict(), indent=2) + "\n").encode())
    return path


def _in_cell(config: LoopConfig, drop: np.ndarray, home: np.ndarray) -> LoopConfig:
    """With the cell's own drop pose, and out of the camera's view while it looks, where nothing else is configured."""
    from zerograsp_edge.runtime.loop import TipsPose

    if not config.place:
        config = replace(config, place=(TipsPose.of(drop),))
    if config.observe is None:
        config = replace(config, observe=TipsPose.of(home))
    return config


_CAPTIONS = {
    "start": "ready",
    "capture": "looking",
    "perceive": "perceiving shapes and grasps",
    "choose": "choosing a grasp",
    "observe": "out of the camera's view",
    "open": "opening",
    "pregrasp": "to the pre-grasp pose",
    "approach": "approaching",
    "close": "closing",
    "lift": "lifting",
    "verify": "verifying: gripper and a new frame",
    "place": "placing",
    "release": "letting go",
    "retreat": "retreating",
}


def _caption(loop: GraspLoop) -> str:
    picked = f"picked {loop.report.picks}   " if loop.report.picks else ""
    return picked + _CAPTIONS.get(loop.state.value, loop.state.value)
