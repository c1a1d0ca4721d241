"""`zerograsp-edge build`: the engines of a bundle, on the machine that will run them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


@dataclass
class Build:
    """Build the TensorRT engines of a bundle, for this machine's TensorRT and GPU, and store them in the bundle."""

    bundle: tyro.conf.Positional[Path]
    """The bundle; its manifest gets an entry for every engine."""
    stages: tuple[str, ...] = ()
    """Only these stages."""
    rebuild: bool = False
    """Also build engines that are there."""
    workspace: int = 1024
    """Most memory for the scratch of one layer, MiB; on a Jetson it is taken from everything else."""
    level: int = 3
    """Optimisation level: 0 builds fast, 5 tries most."""
    tf32: bool = False
    """Let float32 layers round the factors of their products to 10 bits of mantissa: faster, less exact."""
    plugins: Path | None = None
    """The plugin library; by default the one in the user's cache, which is built when it is not there."""
    timing_cache: Path | None = None
    """File that keeps measured timings of layers; by default one in the user's cache, per TensorRT and GPU."""
    verbose: bool = False
    """Show everything that TensorRT and the compiler say."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.export.engine_profile import typical_sizes
        from zerograsp_edge.export.tensorrt import BuildOptions, Built, EngineBuilder, build_engines
        from zerograsp_edge.runtime.backends.tensorrt import load_tensorrt
        from zerograsp_edge.runtime.bundle import load_bundle
        from zerograsp_edge.runtime.device import Device
        from zerograsp_edge.runtime.engines import engines_of
        from zerograsp_edge.runtime.plugin_library import machine_folder

        console = Console()
        bundle = load_bundle(self.bundle)
        trt = load_tensorrt()
        device = Device()
        console.print(f"TensorRT {trt.__version__} on {device.name} (compute capability "
                      f"{device.capability[0]}.{device.capability[1]})")  # fmt: skip
        plugins = self._plugin_library(trt.__version__, device.capability, console)
        timings = self.timing_cache or machine_folder(trt.__version__, device.capability) / "timing.cache"
        options = BuildOptions(self.workspace, self.level, self.tf32, timings)
        with console.status("running a typical frame on the CPU: TensorRT tunes for its sizes"):
            sizes = typical_sizes(bundle)
        with device, _bars(console) as progress:
            bars = PhaseBars(progress)

            def report(stage: str, built: Built | None) -> None:
                bars.clear()
                if built is None:
                    progress.console.print(f"{stage}: is there")
                    return
                progress.console.print(f"{stage}: {built.plan.nbytes / 1e6:.1f} MB in {built.seconds:.0f} s")

            def log(severity: int, text: str) -> None:
                if self.verbose:
                    progress.console.print(f"[{severity}] {text}", markup=False, highlight=False)

            builder = EngineBuilder(trt, options, plugins=plugins, log=log)
            bundle = build_engines(
                bundle, builder, device.capability, sizes, stages=self.stages, rebuild=self.rebuild,
                details={"device": device.name}, progress=bars, report=report,
            )  # fmt: skip
        others = sorted(
            {e.key for e in engines_of(bundle) if not _is_of(e.key, trt.__version__, device.capability)}
        )
        for key in others:
            console.print(f"the bundle also has engines that are of no use here: {key}")
        console.print(f"next: zerograsp-edge verify {self.bundle}")
        return 0

    def _plugin_library(self, version: str, capability: tuple[int, int], console: Console) -> Path:
        from zerograsp_edge.runtime.plugin_library import build_library, find_library

        path = self.plugins or find_library(version, capability)
        if path is not None:
            return path
        with console.status("building the plugin library, once for this TensorRT and GPU") as status:

            def line(text: str) -> None:
                if self.verbose:
                    console.print(text, markup=False, highlight=False)
                elif text.strip():
                    status.update(f"building the plugin library: {text.strip()[:90]}")

            path = build_library(version, capability, line)
        console.print(f"built {path}")
        return path


def _is_of(key: Any, version: str, capability: tuple[int, int]) -> bool:
    return (key.tensorrt, key.capability) == (version, capability)


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        console=console, transient=True,
    )  # fmt: skip


class PhaseBars:
    """TensorRT's phases as bars, a phase within another below it. Called from TensorRT's threads."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._bars: dict[str, TaskID] = {}
        self._depths: dict[str, int] = {}

    def phase_start(self, name: str, parent: str | None, steps: int) -> None:
        depth = 0 if parent is None else self._depths.get(parent, 0) + 1
        self._depths[name] = depth
        self.phase_finish(name)  # of the same name, should they ever overlap
        self._bars[name] = self._progress.add_task("  " * depth + name, total=steps)

    def step_complete(self, name: str, step: int) -> None:
        # Counts from 0.
        if name in self._bars:
            self._progress.update(self._bars[name], completed=step + 1)

    def phase_finish(self, name: str) -> None:
        if name in self._bars:
            self._progress.remove_task(self._bars.pop(name))

    def clear(self) -> None:
        """Takes away what a failed or stopped build has left."""
        for bar in self._bars.values():
            self._progress.remove_task(bar)
        self._bars.clear()
