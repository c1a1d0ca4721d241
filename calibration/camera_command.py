"""`zerograsp-edge calibrate camera`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tyro

from zerograsp_edge.calibration.board import Board, Detection, detect
from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.camera_check import MIN_VIEWS, BoardView, check_camera
from zerograsp_edge.calibration.errors import BoardError, CalibrationError
from zerograsp_edge.runtime.camera import FrameSource
from zerograsp_edge.runtime.errors import EndOfFrames, FrameError
from zerograsp_edge.runtime.frame import Frame

if TYPE_CHECKING:
    from rich.console import Console

# A board is still when no corner moves by more between two frames, px.
_STILL_PX = 0.5
# A view is new when it differs from all others by this: place (share of the picture's width), tilt, distance (ratio).
_NEW_PLACE, _NEW_TILT_DEG, _NEW_DISTANCE = 0.08, 10.0, 1.12
# Of a live camera that shows no board for so long, frames.
_PATIENCE = 9000


@dataclass
class CalibrateCamera:
    """Check a camera's intrinsics and depth against a printed board, and write what corrects them.

    Live, hold the board still for a moment in each pose; lines say what is missing. Show it near and far, at every
    corner of the picture, and tilted to all sides.
    """

    frames: tyro.conf.Positional[str]
    """realsense, realsense:SERIAL, a recording (.db3, .bag), or a folder of frames that each show the board."""
    out: Path = Path("camera_calibration.yaml")
    """The result, .yaml or .json."""
    board: Board = field(default_factory=Board)
    square_error_mm: float = 0.05
    """How well the board's square was measured, one standard deviation: depth is known no better. Measured over ten
    squares, a ruler gives 0.05."""
    baseline_mm: float = 50.0
    """Distance of the two imagers (D415 55, D435 50, D455 95), to state depth noise in pixels of disparity."""
    views: int = 20
    """Of a live camera or a recording: stop after that many views."""
    save_views: Path | None = None
    """Keep the views as a folder of frames, which this command reads again."""
    plot: Path | None = None
    """Draw maps of the depth error into this .png."""
    accept_insufficient: bool = False
    """Write the result although the views do not suffice; the file says so."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.calibration.camera_report import camera_calibration, draw_check, print_check
        from zerograsp_edge.runtime.camera.opening import open_camera

        console = Console()
        self._check()
        console.print(f"board: {self.board}")
        with open_camera(self.frames) as source:
            views, model = self._collect(console, source)
        if len(views) < MIN_VIEWS:
            raise CalibrationError(
                f"the board was found in {len(views)} view(s), at least {MIN_VIEWS} are needed; the lines above say "
                "what to change"
            )
        check = check_camera(
            self.board, views, model, square_sigma_m=self.square_error_mm / 1000, baseline_m=self.baseline_mm / 1000
        )
        print_check(console, check)
        if self.plot is not None:
            console.print(f"drew {draw_check(self.plot, check)}")
        if check.verdict == "problem" or (check.verdict == "more views" and not self.accept_insufficient):
            way = "" if check.verdict == "problem" else "; --accept-insufficient writes it all the same"
            console.print(f"{self.out} is not written{way}")
            return 1
        console.print(f"wrote {camera_calibration(check, model.serial).save(self.out)}")
        return 0

    def _check(self) -> None:
        if not (self.square_error_mm > 0 and self.baseline_mm > 0):
            raise CalibrationError(
                f"expected a positive --square-error-mm and --baseline-mm, got {self.square_error_mm:g} and "
                f"{self.baseline_mm:g}"
            )
        if self.views < MIN_VIEWS:
            raise CalibrationError(f"expected at least {MIN_VIEWS} --views, got {self.views}")
        if self.out.suffix not in (".json", ".yaml", ".yml"):  # before an hour of holding a board
            raise CalibrationError(f"expected a file NAME.yaml or NAME.json, got {self.out}")

    def _collect(self, console: Console, source: FrameSource) -> tuple[list[BoardView], CameraModel]:
        """Views of the board, and the camera that took them."""
        from zerograsp_edge.runtime.camera.files import FrameFolder

        first = source.read()
        serial = str(getattr(source, "serial", "") or "")
        model = CameraModel(
            first.intrinsics.astype(np.float64), size=(first.width, first.height), serial=serial
        )
        frames = _all(source, first, model)
        if not isinstance(source, FrameFolder):
            frames = (frame for frame, _ in still_views(frames, self.board, model, source.live))
        views: list[BoardView] = []
        try:
            for frame in frames:
                if self.save_views is not None:
                    save_frame(self.save_views, frame, serial)
                try:
                    found = detect(self.board, frame.rgb, model, frame.name)
                except BoardError as error:
                    console.print(f"[yellow]{frame.name}: left out[/]: {error}")
                    continue
                views.append(BoardView(frame.name, found, frame.depth))
                console.print(f"[{len(views)}] {frame.name}: {len(found.ids)} of {len(self.board.corners)} corners")
                if isinstance(source, FrameFolder):
                    continue
                if len(views) >= self.views:
                    break
                if source.live:
                    console.print(f"  next: {self._advice(views, model)}")
        except KeyboardInterrupt:  # enough of holding a board: what there is is judged
            console.print("interrupted")
        return views, model

    def _advice(self, views: list[BoardView], model: CameraModel) -> str:
        try:
            missing = check_camera(self.board, views, model).missing if len(views) >= MIN_VIEWS else []
        except CalibrationError as error:
            return str(error)
        starts = ("tilt the board to the left", "tilt it upwards", "go to a corner of the picture", "go farther away")
        if len(views) < MIN_VIEWS:
            return starts[len(views) - 1]
        return missing[0] if missing else "the views suffice; Ctrl-C ends, more views make it more certain"


def _all(source: FrameSource, first: Frame, model: CameraModel) -> Iterator[Frame]:
    """The frames of a source, `first` included, all of one camera."""
    frame = first
    while True:
        if np.abs(frame.intrinsics - model.intrinsics).max() > 1e-3:
            raise FrameError(f"frame '{frame.name}' has other intrinsics than '{first.name}'; give one camera's frames")
        yield frame
        try:
            frame = source.read()
        except EndOfFrames:
            return


def still_views(
    frames: Iterator[Frame], board: Board, model: CameraModel, live: bool = False
) -> Iterator[tuple[Frame, Detection]]:
    """Frames in which the board stands still, each unlike those before.

    Args:
        live: the camera never ends; gives up when the board does not come.

    Raises:
        CalibrationError: a live camera has not seen the board for a long time; says why.
    """
    taken: list[Detection] = []
    before: Detection | None = None
    absent = 0
    for frame in frames:
        try:
            found = detect(board, frame.rgb, model, frame.name)
        except BoardError as error:
            before, absent = None, absent + 1
            if live and absent > _PATIENCE:
                raise CalibrationError(f"no board in the last {absent} frames: {error}") from error
            continue
        absent = 0
        if before is not None and _is_still(before, found) and _is_new(board, found, taken, model):
            taken.append(found)
            yield frame, found
        before = found


def _is_still(before: Detection, now: Detection) -> bool:
    _, a, b = np.intersect1d(before.ids, now.ids, return_indices=True)
    return len(a) > 0 and float(np.linalg.norm(before.pixels[a] - now.pixels[b], axis=1).max()) < _STILL_PX


def _is_new(board: Board, found: Detection, taken: Sequence[Detection], model: CameraModel) -> bool:
    assert model.size is not None
    centre = found.camera_from_board @ np.append(board.centre, 1)
    for other in taken:
        old = other.camera_from_board @ np.append(board.centre, 1)
        place = (centre[:2] / centre[2] - old[:2] / old[2]) * model.intrinsics[0, 0] / model.size[0]
        cosine = float(found.camera_from_board[:3, 2] @ other.camera_from_board[:3, 2])
        tilt = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        ratio = max(centre[2] / old[2], old[2] / centre[2])
        if np.linalg.norm(place) < _NEW_PLACE and tilt < _NEW_TILT_DEG and ratio < _NEW_DISTANCE:
            return False
    return True


def save_frame(folder: Path, frame: Frame, serial: str = "") -> None:
    """Write a frame so that FrameFolder reads it again, depth without loss, and the camera file beside it."""
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    rgb = cv2.imencode(".png", cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2BGR))[1]
    (folder / f"{frame.name}.rgb.png").write_bytes(rgb.tobytes())
    np.save(folder / f"{frame.name}.depth.npy", frame.depth)
    k = frame.intrinsics
    camera = {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2]}
    entries = {**{n: float(value) for n, value in camera.items()}, "width": frame.width, "height": frame.height}
    (folder / "camera.json").write_text(json.dumps({**entries, "serial": serial}, indent=2) + "\n", encoding="utf-8")
