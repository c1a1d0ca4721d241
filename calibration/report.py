"""Tables that `calibrate hand-eye` prints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from zerograsp_edge.calibration.hand_eye import Calibration
from zerograsp_edge.calibration.pose_set import Criterion
from zerograsp_edge.calibration.transforms import quaternion


def print_calibration(console: Console, calibration: Calibration) -> None:
    """Result, views, solvers, requirements and what to do next."""
    _print_views(console, calibration)
    _print_solvers(console, calibration)
    print_criteria(console, "set of poses", calibration.assessment.criteria)
    for note in calibration.notes:
        console.print(f"[yellow]note[/]: {note}")
    frame = "hand" if calibration.mode == "eye-in-hand" else "base"
    x, y, z = 1000 * calibration.transform[:3, 3]
    qw, qx, qy, qz = quaternion(calibration.transform[:3, :3])
    console.print(
        f"camera in the {frame}'s frame: x {x:.2f}, y {y:.2f}, z {z:.2f} mm, quaternion xyzw {qx:.5f} {qy:.5f} "
        f"{qz:.5f} {qw:.5f}; 1 sigma {calibration.sigma_translation_mm:.2f} mm, "
        f"{calibration.sigma_rotation_deg:.3f} deg"
    )
    noise = calibration.noise
    console.print(
        f"noise found: corners {noise.pixel:.2f} px, robot {1000 * noise.translation:.2f} mm and "
        f"{np.degrees(noise.rotation):.3f} deg per axis"
    )
    if calibration.assessment.sufficient:
        console.print("[green]sufficient[/]: the poses determine the result as well as asked")
    else:
        console.print("[red]insufficient[/]: " + "; ".join(calibration.assessment.shortfalls))
        console.print(f"next: {calibration.assessment.next_pose.instruction}")


def _print_views(console: Console, calibration: Calibration) -> None:
    table = Table(title="views", title_justify="left")
    for column in ("view", "corners (px)", "robot (mm)", "robot (deg)", "sigmas"):
        table.add_column(column, justify="left" if column == "view" else "right")
    table.add_column("verdict")
    for v in calibration.views:
        table.add_row(
            v.name,
            f"{v.reprojection_px:.2f}" if v.used else "",
            f"{v.translation_mm:.2f}",
            f"{v.rotation_deg:.3f}",
            f"{v.sigmas:.1f}",
            "used" if v.used else f"[red]rejected[/]: {v.reason}",
        )
    console.print(table)


def _print_solvers(console: Console, calibration: Calibration) -> None:
    table = Table(title="classical solvers against the joint refinement", title_justify="left")
    for column in ("solver", "corners (px)", "differs by (mm)", "(deg)"):
        table.add_column(column, justify="left" if column == "solver" else "right")
    for name, c in calibration.classical.items():
        if c.transform is None:
            table.add_row(name, f"failed: {c.failure}", "", "")
        else:
            table.add_row(
                name, f"{c.reprojection_px:.2f}", f"{c.translation_mm:.2f}", f"{c.rotation_deg:.3f}"
            )
    console.print(table)


def print_criteria(console: Console, title: str, criteria: Sequence[Criterion]) -> None:
    """Requirements on the views, what was found, and whether it suffices."""
    table = Table(title=title, title_justify="left")
    for column in ("requirement", "found", "needed", ""):
        table.add_column(column, justify="left" if column in ("requirement", "") else "right")
    for c in criteria:
        verdict = "[green]met[/]" if c.met else ("[red]not met[/]" if c.binding else "[yellow]advised[/]")
        sign = ">=" if c.at_least else "<="
        table.add_row(
            c.name, f"{c.value:.3g} {c.unit}".rstrip(), f"{sign} {c.needed:g} {c.unit}".rstrip(), verdict
        )
    console.print(table)
