"""Tables that the sub-commands print."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from zerograsp_edge.runtime.loop.events import Event
from zerograsp_edge.runtime.loop.report import LoopReport
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.segmentation import Segmentation

UNTRAINED = (
    "The weights of this bundle are random: shapes and grasps mean nothing. The run shows that the pipeline "
    "works and how long it takes; export a trained checkpoint for real output."
)


def print_timings(console: Console, timings: Mapping[str, float]) -> None:
    """A table of milliseconds per stage with their share and sum."""
    table = Table(title="time per stage", title_justify="left")
    table.add_column("stage")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    total = sum(timings.values())
    for stage, ms in timings.items():
        table.add_row(stage, f"{ms:.1f}", f"{100 * ms / total:.0f} %" if total else "")
    table.add_section()
    table.add_row("total", f"{total:.1f}", "")
    console.print(table)


def print_result(console: Console, result: Result) -> None:
    """A table of the objects of a frame, and what was skipped."""
    table = Table(title=f"objects of frame {result.name}", title_justify="left")
    for column in ("object", "surface points", "size x, y, z (mm)", "distance (mm)", "grasps", "best score"):
        table.add_column(column, justify="right")
    for item in result.objects:
        if len(item.points) == 0:
            table.add_row(str(item.object_id), "0", "", "", "0", "")
            continue
        size = item.points.max(axis=0) - item.points.min(axis=0)
        best = f"{item.grasps.score.max():.3f}" if len(item.grasps) else ""
        table.add_row(
            str(item.object_id),
            str(len(item.points)),
            ", ".join(f"{s:.0f}" for s in size),
            f"{item.points[:, 2].mean():.0f}",
            str(len(item.grasps)),
            best,
        )
    console.print(table)
    for skipped in result.skipped:
        console.print(f"[yellow]skipped object {skipped.object_id}[/]: {skipped.reason}")
    for note in result.notes:
        console.print(f"[yellow]note[/]: {note}")


# Events that a person wants to see as they come; entering and leaving states is for the log.
_TOLD = {
    "chosen", "verified", "picked", "attempt_failed", "motion_refused", "frame_refused", "perception_fault",
    "no_object", "no_grasp", "fault", "recovered", "late_result", "unreachable", "plan_expired",
}  # fmt: skip


def print_event(console: Console, event: Event) -> None:
    """One line for an event that says something; nothing for the others."""
    if event.event not in _TOLD:
        return
    data = event.data
    parts = [event.reason] if event.reason else []
    if event.event in ("chosen", "picked") and "object_id" in data:
        parts.append(
            f"object {data['object_id']}, score {data['score']:.2f}, opening {data['width'] * 1000:.0f} mm"
        )
    if event.event == "chosen" and data.get("candidates"):
        removed = sum(data["removed"].values())
        parts.append(f"{data['grasps']} grasps, {removed} removed")
    line = f"{event.time:8.2f} s  {event.state.value:9s} {event.event.replace('_', ' '):16s} {'; '.join(parts)}"
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def print_loop_report(console: Console, report: LoopReport) -> None:
    """How a run of the loop ended, and where its time went."""
    colour = "green" if report.ending.ok else "yellow"
    failures = ", ".join(f"{count} {kind}" for kind, count in report.failures.items()) or "none"
    console.print(f"[{colour}]{report.ending.value}[/]: {report.explanation}", highlight=False)
    console.print(
        f"{report.picks} picks in {report.attempts} attempts, {report.seconds:.1f} s of the robot's clock; "
        f"failed: {failures}; perception faults: {report.perception_faults}", highlight=False,
    )  # fmt: skip


def describe_segmentation(segmentation: Segmentation) -> str:
    """One line on what was segmented, for a frame that came without a mask."""
    count = len(segmentation.object_ids)
    supports = len(segmentation.planes)
    text = f"no mask given: segmented by {segmentation.source}, {count} object{'s' * (count != 1)}"
    if supports:
        text += f" on {supports} plane{'s' * (supports != 1)}"
    if segmentation.left_out:
        text += "; left out: " + ", ".join(f"{n} {why}" for why, n in segmentation.left_out.items())
    return text + " (masks of your own: --mask, or NAME.mask.png in the folder)"
