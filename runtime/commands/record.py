"""`zerograsp-edge record`: what a camera delivers, into a file that plays back the same every time."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames


@dataclass
class Record:
    """Record colour and depth of a camera as they come, neither filtered nor aligned; Ctrl-C ends it, too."""

    out: tyro.conf.Positional[Path]
    """The file, NAME.db3."""
    camera: str = "realsense"
    """realsense, realsense:SERIAL, sim, sim:SEED, a recording (.db3, .bag) or a folder of frames."""
    seconds: Annotated[float, tyro.conf.arg(metavar="S")] = 10.0
    """How long, by the camera's clock."""
    overwrite: bool = False
    """Replace the file where it is there already."""
    config: tyro.conf.OmitArgPrefixes[RealSenseConfig] = field(default_factory=RealSenseConfig)

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.runtime.camera.opening import open_camera

        console = Console()
        self._check()
        # Under another name until it is complete: what is there already is lost only to a recording that is.
        partial = self.out.with_suffix(".part.db3")
        partial.unlink(missing_ok=True)
        frames, interrupted = 0, False
        try:
            camera = open_camera(self.camera, self.config, record=partial)
            with camera, console.status(f"recording {camera.name}"):
                first: float | None = None
                while True:
                    frame = camera.read()
                    frames += 1
                    first = frame.timestamp if first is None else first
                    if frame.timestamp - first >= self.seconds:
                        break
        except EndOfFrames:
            pass
        except KeyboardInterrupt:
            interrupted = True
        finally:  # also when the camera fails: what came until then is kept
            if frames:
                partial.replace(self.out)
            else:
                partial.unlink(missing_ok=True)
        if not frames:
            raise CameraError(f"nothing was recorded: {self.camera} has delivered no frame")
        size = self.out.stat().st_size / 2**20
        console.print(
            f"recorded {camera.counters} from {camera.name} into {self.out} ({size:.1f} MiB)"
            + (", interrupted" if interrupted else "")
        )
        return 0

    def _check(self) -> None:
        if self.out.suffix != ".db3":
            raise CameraError(f"recordings are .db3 files, got {self.out}; librealsense writes no other kind")
        if not self.seconds > 0:
            raise CameraError(f"expected a time above 0 s, got {self.seconds:g}")
        if Path(self.camera).resolve() == self.out.resolve():
            raise CameraError(f"{self.out} cannot be played and recorded at once; give another name")
        if self.out.exists() and not self.overwrite:
            raise CameraError(f"{self.out} is there already; choose another name, or --overwrite")
        self.out.parent.mkdir(parents=True, exist_ok=True)
