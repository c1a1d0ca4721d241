"""A camera by what a command line calls it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from zerograsp_edge.runtime.camera.base import FrameSource
from zerograsp_edge.runtime.errors import CameraError

if TYPE_CHECKING:
    from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig

FORMS = "realsense, realsense:SERIAL, sim, sim:SEED, software:SEED, a recording (.db3, .bag) or a folder of frames"


def open_camera(
    what: str | Path,
    config: RealSenseConfig | None = None,
    *,
    speed: float | None = None,
    loop: bool = False,
    record: Path | None = None,
) -> FrameSource:
    """Open a source of frames.

    Args:
        what: `realsense`, or `realsense:SERIAL` where there are several; a recording (.db3, .bag); a folder of frames
            (see FrameFolder); `sim` or `sim:SEED`, the simulated camera; `software` or `software:SEED`, the simulated
            camera live through librealsense's software device.
        config: of a RealSense camera or the software device; its filters also of a recording.
        speed: of a recording: 1 as fast as it was recorded, None as fast as it is read.
        loop: recordings and folders start again after their last frame.
        record: .db3 file that everything is recorded to: of a camera as it comes, of everything else its frames.

    Raises:
        CameraError: there is no such camera or recording. FrameError: no frames in the folder. MissingExtra.
    """
    kind, _, argument = str(what).partition(":")
    source: FrameSource
    if kind == "realsense":
        from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera
        from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig

        config = config or RealSenseConfig()
        return RealSenseCamera(replace(config, serial=argument or config.serial), record=record)
    if kind in ("sim", "software"):
        if argument and not argument.isdigit():
            raise CameraError(f"expected a number as seed, such as {kind}:3, got '{what}'")
        from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

        source = SimulatedCamera(int(argument or 0))
    elif Path(what).is_dir():
        from zerograsp_edge.runtime.camera.files import FrameFolder

        source = FrameFolder(what, loop=loop)
    elif Path(what).suffix.lower() in (".db3", ".bag"):
        from zerograsp_edge.runtime.camera.playback import Playback

        source = Playback(what, config.filters if config is not None else None, speed=speed, loop=loop)
    else:
        raise CameraError(f"'{what}' is no camera; expected {FORMS}")
    if kind != "software" and record is None:
        return source
    from zerograsp_edge.runtime.camera.software import SoftwareCamera

    return SoftwareCamera(source, config, real_time=kind == "software" and record is None, record=record)
