"""The camera mode of `zerograsp-edge run`: the live pipeline with a line of figures, and the view."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zerograsp_edge.runtime.live.pipeline import LiveConfig, LivePipeline, LiveResult
from zerograsp_edge.runtime.live.report import Ending, LiveReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from zerograsp_edge.runtime.camera.base import FrameSource
    from zerograsp_edge.runtime.frame import Frame
    from zerograsp_edge.runtime.result import Result

# Seconds between two updates of the line.
REFRESH = 0.25
# The camera is said to be silent after that long.
_SILENT = 1.0


@dataclass(frozen=True)
class LiveOptions:
    """What the command line says about a live run.

    Attributes:
        seconds, frames: limits; None: none.
        newest_wins: see LiveConfig.
        json: file for the final report.
        view: show it in the browser.
        port: of the view.
        mesh: the view shows meshes instead of surface points.
    """

    seconds: float | None = None
    frames: int | None = None
    newest_wins: bool | None = None
    json: Path | None = None
    view: bool = False
    port: int = 8080
    mesh: bool = False


def run_live(
    perceive: Callable[[Frame], Result], source: FrameSource, options: LiveOptions, console: Console
) -> LiveReport:
    """Run until the end, with one line that is kept up to date; the report is printed and, if asked, written.

    Raises:
        MissingExtra: a view is asked for and viser is not installed.
        OutputError: the report cannot be written.
    """
    from rich.live import Live

    with ExitStack() as stack:
        stack.enter_context(source)
        consume: Callable[[LiveResult], object] = _ignore
        watch: Callable[[LiveReport], object] = _ignore
        if options.view:
            from zerograsp_edge.runtime.view import Viewer

            viewer = stack.enter_context(Viewer(port=options.port, mesh=options.mesh))
            console.print(f"view: {viewer.url}", highlight=False)
            consume, watch = viewer, viewer.watch
        config = LiveConfig(options.frames, options.seconds, options.newest_wins, tick=REFRESH)
        line = stack.enter_context(Live(console=console, auto_refresh=False, transient=False))

        def show(report: LiveReport) -> None:
            line.update(live_line(report), refresh=True)
            watch(report)

        report = LivePipeline(source, perceive, consume, config, watch=show).run()
    if not console.is_terminal:  # where rich leaves the line open
        console.print()
    print_live_report(console, report, source.name)
    if options.json is not None:
        write_live_report(options.json, report)
    return report


def live_line(report: LiveReport) -> Text:
    """The figures of the moment in a line or two."""
    from rich.text import Text

    faults = sum(report.faults.values())
    dropped = sum(report.dropped.values())
    parts = [
        f"{report.fps:.1f} fps",
        f"latency {report.latency.p50:.0f} / {report.latency.p95:.0f} ms (p50 / p95, from {report.latency_from})",
        f"dropped {dropped}",
        f"objects {report.objects}",
        f"grasps {report.grasps}",
    ]
    line = Text("   ".join(parts))
    line.append(f"   faults {faults}", style="bold red" if faults else "")
    if report.ending is Ending.RUNNING and report.silence > _SILENT:
        line.append(f"\nno frame for {report.silence:.0f} s", style="yellow")
    if report.last_fault:
        line.append(f"\n{report.last_fault}", style="yellow")
    return line


def print_live_report(console: Console, report: LiveReport, source: str) -> None:
    """How a live run ended, where its frames and where its time went."""
    from rich.table import Table

    colour = "green" if report.ending.ok else "yellow"
    console.print(f"[{colour}]{report.ending.value}[/]: ", end="")
    console.print(report.explanation, highlight=False, markup=False, soft_wrap=True)
    dropped = ", ".join(f"{count} {_DROPPED[stage]}" for stage, count in report.dropped.items() if count) or "none"
    faults = ", ".join(f"{count} of the {stage}" for stage, count in report.faults.items() if count) or "none"
    console.print(
        f"{source}: {report.captured} frames captured, {report.perceived} perceived ({report.empty} without an "
        f"object), {report.consumed} consumed in {report.seconds:.1f} s; dropped: {dropped}; faults: {faults}",
        highlight=False, markup=False, soft_wrap=True,
    )  # fmt: skip
    if report.hanging:
        console.print(f"[red]did not end in time[/]: {', '.join(report.hanging)}", highlight=False)
    if not report.consumed:
        return
    table = Table(title=f"latency of the last frames (from {report.latency_from}), ms", title_justify="left")
    for column in ("part", "p50", "p95", "max"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, spread in (*report.parts.items(), ("in all", report.latency)):
        if part == "consumer":  # comes after the latency
            continue
        if part == "in all":
            table.add_section()
        table.add_row(part, *(f"{value:.1f}" for value in (spread.p50, spread.p95, spread.max)))
    console.print(table)


def write_live_report(path: Path, report: LiveReport) -> None:
    """The report as JSON."""
    from zerograsp_edge.runtime.outputs import replacing

    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write((json.dumps(report.to_dict(), indent=2) + "\n").encode())


_DROPPED = {
    "camera": "in the camera or on its bus",
    "capture": "before perception",
    "consumer": "before the consumer",
}


def _ignore(_: object) -> None:
    """Without a view nobody but the line looks at results and reports."""
