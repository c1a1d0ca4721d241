"""`zerograsp-edge calibrate int8`: a float32 bundle into one with int8 layers where a budget allows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from zerograsp_edge.calibration.int8 import Int8Config

if TYPE_CHECKING:
    from collections.abc import Callable

    from zerograsp_edge.calibration.int8 import Int8Calibration
    from zerograsp_edge.runtime.bundle import Bundle
    from zerograsp_edge.runtime.frame import Frame


@dataclass
class CalibrateInt8:
    """Quantise a float32 bundle: int8 layers within a budget of error, the rest in float16.

    The frames should be like those of the deployment. Ranges and sensitivities are kept beside the result, in
    OUT.int8.json; with the same bundle, frames and configuration they are not measured again.
    """

    bundle: tyro.conf.Positional[Path]
    """The float32 bundle."""
    out: tyro.conf.Positional[Path]
    """The bundle to write."""
    frames: Path | None = None
    """Folder of frames with masks, as `run` reads them; default: simulated ones."""
    count: int = 16
    """Most frames to use."""
    config: tyro.conf.OmitArgPrefixes[Int8Config] = field(default_factory=Int8Config)
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    overwrite: bool = False
    """Replace an existing bundle."""

    def execute(self) -> int:
        from rich.console import Console
        from rich.table import Table

        from zerograsp_edge.runtime.extras import require

        require("onnx", "export")
        from zerograsp_edge.calibration.activations import activation_ranges, beyond_half
        from zerograsp_edge.export.convert import convert
        from zerograsp_edge.export.precision import Policy
        from zerograsp_edge.runtime.bundle import load_bundle

        console = Console()
        source = load_bundle(self.bundle)
        frames = self._frames(source)
        with console.status("calibrating") as status:
            result, cached = self._calibrate(source, frames, status.update)
            few = frames[: self.config.sensitivity_frames]
            found = beyond_half(source, activation_ranges(source, few, threads=self.threads))
            converted = convert(
                source,
                self.out,
                Policy(found),
                int8=result.to_convert(),
                provenance={
                    "int8": vars(self.config) | {"frames": len(frames), "key": result.key},
                    "errors": {name: r.error for name, r in result.stages.items()},
                },
                progress=status.update,
                overwrite=self.overwrite,
            )
        table = Table(
            "stage", "int8 layers", "error", "if all were int8", "left in float16, the most sensitive first",
            title=f"{self.out}: {self.config.method}, budget {self.config.budget:.1%}", title_justify="left",
        )  # fmt: skip
        for name, r in result.stages.items():
            kept = ", ".join(f"{layer} ({r.sensitivity[layer]:.1%})" for layer in r.kept[:6])
            more = f" and {len(r.kept) - 6} more" if len(r.kept) > 6 else ""
            count = f"{len(r.layers)} of {len(r.sensitivity)}"
            table.add_row(name, count, f"{r.error:.2%}", f"{r.error_of_all:.2%}", kept + more)
        console.print(table)
        console.print(
            f"{len(frames)} frames{', ranges and sensitivities from ' + str(self.cache) if cached else ''}"
        )
        before, after = (sum(f.stat().st_size for f in b.path.iterdir()) / 1e6 for b in (source, converted))
        console.print(f"wrote {self.out} ({after:.1f} MB, {self.bundle}: {before:.1f} MB)")
        console.print(f"next: zerograsp-edge verify {self.out}")
        return 0

    @property
    def cache(self) -> Path:
        """Where ranges and sensitivities are kept."""
        return self.out.with_name(f"{self.out.stem}.int8.json")

    def _frames(self, bundle: Bundle) -> list[Frame]:
        from itertools import islice

        from zerograsp_edge.calibration.convert_command import check_frames
        from zerograsp_edge.calibration.errors import CalibrationError
        from zerograsp_edge.runtime.camera.files import FrameFolder

        if self.count < 1:
            raise CalibrationError(f"count: expected at least 1 frame, got {self.count}")
        if self.frames is None:
            return list(check_frames(bundle, self.count - 1))
        frames = list(islice(FrameFolder(self.frames), self.count))
        if missing := [frame.name for frame in frames if frame.mask is None]:
            raise CalibrationError(f"{self.frames}: expected frames with masks, {missing[0]} has none")
        return frames

    def _calibrate(
        self, bundle: Bundle, frames: list[Frame], progress: Callable[[str], None]
    ) -> tuple[Int8Calibration, bool]:
        """The calibration, and whether it was there."""
        from zerograsp_edge.calibration.int8 import Int8Calibration, calibrate_int8, calibration_key

        if self.cache.is_file():
            known = Int8Calibration.load(self.cache)
            if known.key == calibration_key(bundle, frames, self.config):
                return known, True
        result = calibrate_int8(bundle, frames, self.config, threads=self.threads, progress=progress)
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        result.save(self.cache)
        return result, False
