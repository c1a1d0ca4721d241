"""Picking with both bundles in the same simulated cells, by the product's own grasp loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console

from zerograsp_edge.calibration.comparison.report import Picking, Picks
from zerograsp_edge.runtime.commands.loop import run_in_cell
from zerograsp_edge.runtime.deployment import Deployment
from zerograsp_edge.runtime.loop import Limits, LoopConfig
from zerograsp_edge.runtime.robot.cell import CellConfig

FIRST_CELL = 700  # seeds of the cells


def compare_picking(
    a: Path, b: Path, picks: int, threads: int, progress: Callable[[str], None] = lambda step: None
) -> Picking:
    """Cells of clutter, each cleared by both as far as the loop goes, until A has tried `picks` times.

    Args:
        a, b: bundles; the loop takes the backend that `auto` finds for them.

    Raises:
        MissingExtra: no MuJoCo (extra `sim`). RenderError: no offscreen OpenGL.
    """
    config = LoopConfig(limits=Limits(robot_faults=100))  # a cell does not end because of one object
    totals = {a: Picks(0, 0), b: Picks(0, 0)} if a != b else {a: Picks(0, 0)}
    cells = 0
    # A cell in which neither finds anything to try is no endless loop.
    while totals[a].attempts < picks and cells < picks:
        for path in totals:
            progress(f"cell {cells + 1}: {path} picks")
            with TemporaryDirectory() as folder:
                deployment, log = Deployment(path, threads, loop=config), Path(folder) / "events.jsonl"
                cell = CellConfig(seed=FIRST_CELL + cells)
                report = run_in_cell(deployment, cell, Console(quiet=True), log, None)
            done = totals[path]
            totals[path] = Picks(done.attempts + report.attempts, done.picks + report.picks)
        cells += 1
    return Picking(cells, totals[a], totals[b])
