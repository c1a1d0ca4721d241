"""`zerograsp-edge profile`: where the time of a frame goes, on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from zerograsp_edge.runtime.models import EDGE_MODEL

if TYPE_CHECKING:
    from rich.console import Console

    from zerograsp_edge.runtime.bundle import Bundle
    from zerograsp_edge.runtime.frame import Frame
    from zerograsp_edge.runtime.profile import Profile as Measured

SCENES = 16  # different ones of the simulated camera


@dataclass
class Profile:
    """Measure the time of every stage of a bundle on this machine: p50, p95 and p99 over many frames."""

    bundle: tyro.conf.Positional[Path] = EDGE_MODEL
    """The bundle to run; default: the trained edge model that ships with the package."""
    frames: int = 100
    """Frames to measure, after the warm-up."""
    warmup: int = 5
    """Frames before, which are not counted."""
    source: Literal["simulated", "reference"] = "simulated"
    """Which frames: scenes of the simulated camera, 640x480 unless the bundle's limits are smaller, or the bundle's
    reference frame."""
    folder: Path | None = None
    """Frames from a folder (as `run` takes it) instead, again from the beginning when they end."""
    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """What runs the stages; auto: TensorRT where it can be used."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    json: Path | None = None
    """Also write the figures, and the machine's state before and after, to this file."""

    def execute(self) -> int:
        import json
        from itertools import cycle, islice

        from rich.console import Console
        from rich.progress import track

        from zerograsp_edge.runtime.bundle import load_bundle
        from zerograsp_edge.runtime.errors import ConfigError
        from zerograsp_edge.runtime.pipeline import Pipeline
        from zerograsp_edge.runtime.profile import profile

        if self.frames < 1 or self.warmup < 0:
            raise ConfigError(
                f"expected --frames of 1 or more and --warmup of 0 or more, got {self.frames}, {self.warmup}"
            )
        console = Console()
        bundle = load_bundle(self.bundle)
        with console.status(f"loading {self.bundle}"):
            pipeline = Pipeline(bundle, self.backend, threads=self.threads)
        if pipeline.fallback is not None:
            console.print(f"on the CPU: {pipeline.fallback}", highlight=False)
        count = self.frames + self.warmup
        with console.status("preparing frames"):
            frames = self._frames(bundle, count)
        repeated = islice(cycle(frames), count)
        report = profile(
            pipeline, track(repeated, "frames", count, console=console, transient=True), self.warmup
        )
        _print(console, report, self.bundle.name)
        if self.json is not None:
            self.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n", encoding="utf-8")
        return 0

    def _frames(self, bundle: Bundle, count: int) -> list[Frame]:
        """Frames to repeat, made beforehand: nothing else is to run between two measurements."""
        if self.folder is not None:
            from zerograsp_edge.runtime.camera.files import FrameFolder

            folder = FrameFolder(self.folder)
            return [folder[i] for i in range(min(len(folder), count))]
        if self.source == "reference":
            from zerograsp_edge.runtime.verify import reference_frame

            return [reference_frame(bundle)]
        from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

        limits = bundle.limits
        size = min(640, limits.max_width), min(480, limits.max_height)
        objects = min(5, limits.max_objects)
        return [SimulatedCamera(seed, objects, *size).read() for seed in range(min(count, SCENES))]


def _print(console: Console, report: Measured, name: str) -> None:
    from rich.table import Table

    sizes = report.sizes
    table = Table(
        title=f"{name} ({report.precision}) on {report.backend}: ms a frame of {sizes['width']}x{sizes['height']}, "
        f"{sizes['objects']} objects",
        title_justify="left",
    )
    table.add_column("part")
    for column in ("p50", "p95", "p99", "mean", "max"):
        table.add_column(column, justify="right")
    for part, figures in report.parts.items():
        if part == list(report.parts)[-1]:
            table.add_section()
        values = (figures.p50, figures.p95, figures.p99, figures.mean, figures.most)
        table.add_row(part, *(f"{value:.2f}" for value in values))
    console.print(table)
    console.print(f"{report.parts[list(report.parts)[-1]].frames} frames, parts measured by {report.clock}")
    for what, state in {**report.device, **report.machine}.items():
        console.print(f"{what}: {_short(state)}", highlight=False)


def _short(state: Any) -> str:
    if isinstance(state, dict):
        return "; ".join(f"{name} {_short(value)}" for name, value in state.items()) or "unknown"
    return " | ".join(str(state).split("\n"))
