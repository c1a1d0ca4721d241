"""What `calibrate camera` prints, draws and writes."""

from __future__ import annotations

import os
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from zerograsp_edge.calibration.camera_check import CameraCheck, HeldOut
from zerograsp_edge.calibration.report import print_criteria
from zerograsp_edge.runtime.camera.correction import CameraCalibration, CameraResiduals
from zerograsp_edge.runtime.extras import require

_COLOURS = {"fine": "green", "apply": "green", "more views": "yellow", "problem": "red"}


def advice(check: CameraCheck) -> tuple[str, ...]:
    """What to do, in words; the verdict's reasons."""
    if check.verdict == "problem":
        return tuple(check.problems)
    if check.verdict == "more views":
        return tuple(check.missing)
    if check.verdict == "fine":
        return ("the factory's values are right as far as these views can tell; nothing has to be applied",)
    what = [name for name, judged in (("intrinsics", check.corners), ("depth", check.depth)) if judged.real]
    lines = [f"apply the file (--calibration, or camera_calibration of a deployment): it corrects {' and '.join(what)}"]
    if check.corners.real:
        lines.append("calibrate hand-eye again with --camera FILE: it depends on the intrinsics")
    if check.depth.real:
        lines.append(
            f"the depth scale is as right as the board's square, {1000 * check.board.square_m:g} mm: measure it over "
            "many squares"
        )
    return tuple(lines)


def camera_calibration(check: CameraCheck, serial: str, when: datetime | None = None) -> CameraCalibration:
    """What the file holds; values that are not shown to be better are the factory's.

    Args:
        when: time of the calibration, default now; written in UTC.
    """
    sigma, factory = check.sigma_intrinsics, check.factory
    corners, depth = check.corners, check.depth
    residuals = CameraResiduals(
        corners_factory_px=corners.before,
        corners_px=corners.after if corners.real else corners.before,
        depth_raw_percent=depth.before,
        depth_percent=depth.after if depth.real else depth.before,
        sigma_focal_percent=100 * float(max(sigma[0] / factory.fx, sigma[1] / factory.fy)),
        sigma_centre_px=float(sigma[2:].max()),
        sigma_scale_percent=100 * float(check.sigma_correction[0]),
        views_used=sum(v.used for v in check.views),
        views_rejected=sum(not v.used for v in check.views),
    )
    date = (when or datetime.now(timezone.utc)).astimezone(timezone.utc).isoformat(timespec="seconds")
    return CameraCalibration(
        *check.size, serial, check.intrinsics, factory, check.depth_correction, check.verdict, residuals, date,
        advice(check),
    )  # fmt: skip


def print_check(console: Console, check: CameraCheck) -> None:
    """Views, requirements, estimates with their uncertainty, depth errors by distance, verdict."""
    _print_views(console, check)
    print_criteria(console, "set of views", check.criteria)
    _print_estimates(console, check)
    _print_distances(console, check)
    console.print("views left out of the fit, factory and refined: " + _held_out(check.corners, "px of corners"))
    console.print("  " + _held_out(check.depth, "% of depth"))
    k1, k2 = check.distortion
    console.print(
        f"distortion left in the pictures: k1 {k1:+.4f}, k2 {k2:+.4f}, {check.distortion_gain.effect:.1f} px in the "
        "corners, " + ("real" if check.distortion_gain.real else "not distinguishable from none")
    )
    colour = _COLOURS[check.verdict]
    console.print(f"[{colour}]{check.verdict}[/]: " + "\n  ".join(advice(check)))


def _held_out(judged: HeldOut, unit: str) -> str:
    verdict = "real" if judged.real else "not real: the factory's values stay"
    return (
        f"{judged.before:.3f} and {judged.after:.3f} {unit}, gain {judged.gain:+.3f} +- {judged.sigma:.3f}, "
        f"chi-square of the change {judged.chi_square:.0f}, its effect up to {judged.effect:.2g} {unit.split()[0]}: "
        f"{verdict}"
    )


def _print_views(console: Console, check: CameraCheck) -> None:
    table = Table(title="views", title_justify="left")
    for column in ("view", "distance (m)", "tilt (deg)", "corners (px)", "depth off (%)", "with depth (%)"):
        table.add_column(column, justify="left" if column == "view" else "right")
    table.add_column("verdict")
    for v in check.views:
        table.add_row(
            v.name, f"{v.distance_m:.3f}", f"{v.tilt_deg:.0f}", f"{v.corners_px:.2f}", f"{v.depth_percent:+.2f}",
            f"{100 * v.valid:.0f}", "used" if v.used else f"[red]rejected[/]: {v.reason}",
        )  # fmt: skip
    console.print(table)


def _print_estimates(console: Console, check: CameraCheck) -> None:
    table = Table(title="estimates", title_justify="left")
    for column in ("", "factory", "found", "1 sigma", "in the file"):
        table.add_column(column, justify="right" if column else "left")
    for i, name in enumerate(("fx", "fy", "cx", "cy")):
        table.add_row(
            f"{name} (px)", f"{getattr(check.factory, name):.2f}", f"{getattr(check.refined, name):.2f}",
            f"{check.sigma_intrinsics[i]:.2f}", f"{getattr(check.intrinsics, name):.2f}",
        )  # fmt: skip
    for i, (name, unit) in enumerate((("scale", ""), ("offset", " (1/m)"), ("tilt_x", " (1/m)"), ("tilt_y", " (1/m)"))):
        table.add_row(
            f"depth {name}{unit}", "1" if i == 0 else "0", f"{check.correction[i]:.4f}",
            f"{check.sigma_correction[i]:.4f}", f"{getattr(check.depth_correction, name):.4f}",
        )  # fmt: skip
    console.print(table)


def _print_distances(console: Console, check: CameraCheck) -> None:
    table = Table(title="depth on the board", title_justify="left")
    for column in ("distance (m)", "bias (mm)", "corrected (mm)", "noise (mm)", "noise (px of disparity)"):
        table.add_column(column, justify="right")
    raw, corrected = check.raw, check.corrected
    for i in range(len(raw.bin_bias_mm)):
        table.add_row(
            f"{raw.edges[i]:.2f} to {raw.edges[i + 1]:.2f}", f"{raw.bin_bias_mm[i]:+.2f}",
            f"{corrected.bin_bias_mm[i]:+.2f}", f"{raw.bin_noise_mm[i]:.2f}", f"{raw.bin_disparity_px[i]:.3f}",
        )  # fmt: skip
    console.print(table)


def draw_check(path: Path, check: CameraCheck) -> Path:
    """Draw maps of the depth error over the picture: bias before and after, and noise, by distance. Returns `path`.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "calibration", "draw the error map")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    raw, corrected = check.raw, check.corrected
    bins = len(raw.bin_bias_mm)
    largest = float(np.nanmax(np.abs(raw.bias_mm)))
    second = "after the correction" if check.depth.real else "left as it is"
    rows = (
        ("bias as measured, mm", raw.bias_mm, "RdBu_r", -largest, largest),
        (f"bias {second}, mm", corrected.bias_mm, "RdBu_r", -largest, largest),
        ("noise, mm", raw.noise_mm, "viridis", 0.0, float(np.nanmax(raw.noise_mm))),
    )
    figure, axes = pyplot.subplots(
        3, bins, figsize=(4.2 * bins + 1, 9.6), squeeze=False, constrained_layout=True
    )
    width, height = check.size
    for row, (axis_row, (title, values, colours, low, high)) in enumerate(zip(axes, rows, strict=True)):
        image: Any = None
        for b, axis in enumerate(axis_row):
            image = axis.imshow(values[b], cmap=colours, vmin=low, vmax=high, extent=(0, width, height, 0))
            axis.set_facecolor("0.85")
            if row == 0:
                axis.set_title(f"{raw.edges[b]:.2f} to {raw.edges[b + 1]:.2f} m", fontsize=11)
            axis.set_ylabel(title if b == 0 else "")
            axis.set_xticks([0, width // 2, width])
            axis.set_yticks([0, height // 2, height])
            n_rows, n_columns = values[b].shape
            for r, c in zip(*np.nonzero(np.isfinite(values[b])), strict=True):
                value = float(values[b][r, c])
                dark = value < 0.6 * high if colours == "viridis" else abs(value) > 0.65 * high
                axis.text(
                    (c + 0.5) * width / n_columns, (r + 0.5) * height / n_rows, f"{round(value, 1) + 0.0:.1f}",
                    ha="center", va="center", fontsize=7, color="white" if dark else "black",
                )  # fmt: skip
        figure.colorbar(image, ax=list(axis_row), shrink=0.85)
    figure.suptitle(f"depth against the board's plane, by region of the picture (px) and distance: {check.verdict}")
    partial = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(partial, format="png", dpi=80)
    pyplot.close(figure)
    os.replace(partial, path)
    return path
