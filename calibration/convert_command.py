"""`zerograsp-edge convert`: a float32 bundle into one of lower precision."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zerograsp_edge.runtime.bundle import Bundle
    from zerograsp_edge.runtime.frame import Frame


@dataclass
class Convert:
    """Convert a float32 bundle to float16: half the bytes on a device (needs onnx, no PyTorch)."""

    bundle: tyro.conf.Positional[Path]
    """The float32 bundle."""
    out: tyro.conf.Positional[Path]
    """The bundle to write."""
    precision: Literal["fp16"] = "fp16"
    """What the layers compute in."""
    keep: tuple[str, ...] = ()
    """Layers that stay in float32, as STAGE/LAYER; * and ? stand for anything."""
    frames: int = 4
    """Simulated frames to run, beside the bundle's reference frame, to see what float16 cannot hold."""
    overwrite: bool = False
    """Replace an existing bundle."""

    def execute(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from zerograsp_edge.runtime.extras import require

        require("onnx", "export")
        from zerograsp_edge.calibration.activations import activation_ranges, beyond_half, flushed_most
        from zerograsp_edge.export.convert import convert, precision_table
        from zerograsp_edge.export.precision import Policy
        from zerograsp_edge.runtime.bundle import load_bundle

        console = Console()
        source = load_bundle(self.bundle)
        with console.status("reading the bundle") as status:
            ranges = activation_ranges(source, check_frames(source, self.frames), progress=status.update)
            found = beyond_half(source, ranges)
            policy = Policy({**found, **dict.fromkeys(self.keep, "asked for")})
            converted = convert(
                source,
                self.out,
                policy,
                provenance={"frames": self.frames + 1, "beyond_half": found},
                progress=status.update,
                overwrite=self.overwrite,
            )
        table = Table("stage", "precision", "layers", "why", title=str(self.out), title_justify="left")
        for line in precision_table(converted):
            table.add_row(*line)
        console.print(table)
        largest, extent = max(ranges.items(), key=lambda item: item[1].largest)
        console.print(
            f"largest value in {self.frames + 1} frames: {extent.largest:.4g} ({largest}); 65504 fit"
        )
        for name, extent in flushed_most(ranges):
            console.print(f"{name}: {extent.flushed:.2%} become zero, the largest is {extent.largest:.3g}")
        before, after = (sum(f.stat().st_size for f in b.path.iterdir()) / 1e6 for b in (source, converted))
        console.print(f"wrote {self.out} ({after:.1f} MB, {self.bundle}: {before:.1f} MB)")
        console.print(f"next: zerograsp-edge verify {self.out}")
        return 0


def check_frames(bundle: Bundle, simulated: int, seed: int = 1000) -> Iterator[Frame]:
    """The bundle's reference frame, then simulated ones within its limits."""
    from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
    from zerograsp_edge.runtime.verify import reference_frame

    yield reference_frame(bundle)
    limits = bundle.limits
    width, height = (
        max(min(size, most // 32 * 32), 32)
        for size, most in ((640, limits.max_width), (480, limits.max_height))
    )
    for i in range(simulated):
        objects = min(3 + 2 * i, 12, limits.max_objects)
        yield SimulatedCamera(seed + i, objects, width, height).read()
