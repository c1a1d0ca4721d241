"""`zerograsp-edge compare`: what differs between two bundles of one network, or between two executors."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from zerograsp_edge.calibration.comparison.budget import Budget

if TYPE_CHECKING:
    from rich.console import Console

    from zerograsp_edge.calibration.comparison.report import Comparison

Backend = Literal["auto", "onnxruntime", "tensorrt"]


@dataclass
class Compare:
    """Compare bundle B with bundle A on the same frames: tensors, octrees, shapes, grasps, and picks if asked for.

    Exit status 0: B is within the budget; 1: it is not, or they could not be compared. One bundle twice, on two
    backends, compares executors. Shapes need the truth: simulated frames, or scenes.
    """

    a: tyro.conf.Positional[Path]
    """The bundle that is compared with."""
    b: tyro.conf.Positional[Path]
    """The bundle that is judged."""
    frames: str = "simulated"
    """simulated, a folder of frames with masks, or a folder of scenes (.npz, `zerograsp-edge scenes`)."""
    count: int = 8
    """Most frames to use."""
    seed: int = 5000
    """Of the first simulated frame."""
    backend_a: Backend = "auto"
    """What runs A's stages; auto: TensorRT where it can be used."""
    backend_b: Backend = "auto"
    """What runs B's stages."""
    picks: Annotated[int, tyro.conf.arg(metavar="N")] = 0
    """Also let both pick in the same simulated cells, until A has tried N times (extra sim); 0 leaves that out."""
    budget: tyro.conf.OmitArgPrefixes[Budget] = field(default_factory=Budget)
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    json: Path | None = None
    """Also write everything to this file."""
    html: Path | None = None
    """Also write a page with tables and plots to this file; it needs no other file."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.calibration.comparison.page import page
        from zerograsp_edge.runtime.outputs import replacing

        console = Console()
        found = self._compare(console)
        print_comparison(console, found)
        for path, content in ((self.json, found.to_json), (self.html, lambda: page(found))):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as file:
                    file.write(content().encode())
                console.print(f"wrote {path}", highlight=False, markup=False)
        return 0 if found.ok else 1

    def _compare(self, console: Console) -> Comparison:
        from dataclasses import replace

        from zerograsp_edge.calibration.comparison.budget import judge
        from zerograsp_edge.calibration.comparison.frames import open_frames
        from zerograsp_edge.calibration.comparison.measure import check_same_network, compare
        from zerograsp_edge.calibration.errors import CalibrationError
        from zerograsp_edge.runtime.bundle import load_bundle
        from zerograsp_edge.runtime.pipeline import Pipeline
        from zerograsp_edge.runtime.verify import TOLERANCES

        if self.picks < 0:
            raise CalibrationError(f"picks: expected 0 or more, got {self.picks}")
        with console.status("loading the bundles") as status:
            bundle_a, bundle_b = load_bundle(self.a), load_bundle(self.b)
            check_same_network(bundle_a, bundle_b)
            frames = open_frames(self.frames, self.count, self.seed, bundle_a.limits)
            a = Pipeline(bundle_a, self.backend_a, threads=self.threads)
            b = Pipeline(bundle_b, self.backend_b, threads=self.threads)
            found = compare(a, b, frames.frames, source=frames.name, progress=status.update)
            picking = None
            if self.picks:
                from zerograsp_edge.calibration.comparison.picking import compare_picking

                picking = compare_picking(self.a, self.b, self.picks, self.threads, status.update)
        notes = [
            f"{side} runs on the CPU: {pipeline.fallback}"
            for side, pipeline in (("A", a), ("B", b))
            if pipeline.fallback is not None
        ]
        if not (bundle_a.trained and bundle_b.trained):
            notes.append("random weights: shapes and grasps mean nothing, only differences do")
        if found.shapes is None:
            notes.append(f"shapes were not compared: {frames.without_truth or 'no object counts'}")
        if picking is None:
            notes.append("picking was not compared (--picks N)")
        elif "tensorrt" in (self.backend_a, self.backend_b) or self.backend_a != self.backend_b:
            notes.append("the picks ran on the backends that auto finds")
        precision = max(found.a.precision, found.b.precision, key=list(TOLERANCES).index)
        found = replace(found, picking=picking, budget=precision, notes=tuple(notes))
        return replace(found, checks=judge(found, self.budget.over(precision)))


def print_comparison(console: Console, found: Comparison) -> None:
    """Tables of what was found, the verdict last."""
    from rich.table import Table

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left")
        for i, column in enumerate(columns):
            made.add_column(column, justify="left" if i == 0 else "right")
        return made

    for name, side in (("A", found.a), ("B", found.b)):
        console.print(
            f"{name}: {side.bundle}, {side.precision} on {side.backend}, {side.megabytes:.1f} MB of stages",
            highlight=False, markup=False,
        )  # fmt: skip
    tensors = table(
        f"tensors, A's splits forced; {found.frames}", "tensor", "max error / max", "cosine", "equal"
    )
    for t in found.tensors:
        equal = f"{100 * t.equal / max(t.values, 1):.1f} %"
        tensors.add_row(t.name, f"{t.max_error:.1e}", f"{t.cosine:.7f}", equal)
    console.print(tensors)
    octrees = table(
        "octree keys, IoU mean (worst frame)",
        "depth",
        "nodes A",
        "nodes B",
        "free",
        "decisions on A's octree",
    )
    for o in found.octrees:
        octrees.add_row(
            str(o.depth), str(o.nodes_a), str(o.nodes_b), f"{o.free_mean:.5f} ({o.free_worst:.4f})",
            f"{o.forced_mean:.5f} ({o.forced_worst:.4f})",
        )  # fmt: skip
    console.print(octrees)
    checks = table(f"budget ({found.budget})", "check", "found", "allowed", "", "verdict")
    checks.columns[3].justify = "left"
    for c in found.checks:
        checks.add_row(
            c.name, f"{c.value:.5g}", f"{'at least' if c.at_least else 'at most'} {c.limit:g}", c.detail,
            "[green]ok[/]" if c.ok else "[red]beyond[/]",
        )  # fmt: skip
    console.print(checks)
    for note in found.notes:
        console.print(f"note: {note}", highlight=False, markup=False)
    if found.ok:
        console.print("[green]within the budget[/]")
    else:
        console.print("[red]beyond the budget[/]")
        for failure in found.failures:
            console.print(f"  {failure}", highlight=False, markup=False)
