"""`zerograsp-edge calibrate hand-eye` and `zerograsp-edge calibrate board`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tyro

from zerograsp_edge.calibration.board import Board, Detection, detect
from zerograsp_edge.calibration.camera import CameraModel, Pictures, read_camera_model
from zerograsp_edge.calibration.errors import BoardError, CalibrationError
from zerograsp_edge.calibration.sources import FolderPairs, LivePairs, Pair, Unit, save_pair
from zerograsp_edge.runtime.camera import Camera
from zerograsp_edge.runtime.errors import CameraError
from zerograsp_edge.runtime.hand_eye import Mode

if TYPE_CHECKING:
    from rich.console import Console

    from zerograsp_edge.calibration.hand_eye import Calibration, View

_CAMERA_FILES = ("camera.json", "camera.yaml", "camera.yml")
# From this many views on a live calibration says which pose it wants next.
_ADVICE_FROM = 3


@dataclass
class CalibrateHandEye:
    """Find where the camera sits on the robot, or beside it, from pictures of a board and the robot's poses.

    A folder holds NAME.png (or .jpg) with NAME.pose.json (base <- hand) for each view, and camera.json; or --live
    names a camera and poses arrive as JSON lines.
    """

    folder: tyro.conf.Positional[Path | None] = None
    """Folder of pictures and robot poses, instead of --live."""
    mode: Mode = "eye-in-hand"
    """eye-in-hand: the camera moves with the hand, the board lies still. eye-to-hand: the hand holds the board."""
    out: Path = Path("hand_eye.yaml")
    """The result, .yaml or .json."""
    board: Board = field(default_factory=Board)
    camera: Path | None = None
    """Camera file with intrinsics and distortion; default: camera.json|yaml of the folder, or the live camera's."""
    pictures: Pictures = "auto"
    """Whether pictures are raw (K and distortion apply) or rectified, where the camera file leaves it open."""
    pose_unit: Unit = "m"
    """Unit of the lengths in the robot's poses."""
    robot_mm: float = 0.1
    """The robot's repeatability, mm per axis (data sheet)."""
    robot_deg: float = 0.02
    """The robot's repeatability, degrees per axis."""
    live: str | None = None
    """A camera, as MODULE:NAME of anything that makes one without arguments."""
    poses: Path = Path("-")
    """With --live: JSON lines of robot poses, each of which takes a picture; a file, a named pipe, or - for standard
    input."""
    views: int = 15
    """With --live: stop after that many usable views."""
    save_views: Path | None = None
    """With --live: also keep pictures and poses in this folder."""
    accept_insufficient: bool = False
    """Write the result although the poses do not suffice; the file says so."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.calibration.hand_eye import MIN_VIEWS
        from zerograsp_edge.calibration.report import print_calibration
        from zerograsp_edge.calibration.result import hand_eye_result
        from zerograsp_edge.runtime.extras import require

        require("scipy.optimize", "calibration", "refine a hand-eye calibration")
        console = Console()
        console.print(f"board: {self.board}")
        with ExitStack() as stack:
            pairs, camera, total = self._open(stack)
            views = self._collect(console, pairs, camera, total)
        if len(views) < MIN_VIEWS:
            raise CalibrationError(
                f"the board was found in {len(views)} of the views, at least {MIN_VIEWS} are needed; the lines above "
                "say what to change"
            )
        calibration = self._calibrate(views, camera.model)
        print_calibration(console, calibration)
        if not calibration.assessment.sufficient and not self.accept_insufficient:
            console.print(f"{self.out} is not written; --accept-insufficient writes it all the same")
            return 1
        path = hand_eye_result(calibration, camera.model).save(self.out)
        console.print(f"wrote {path}")
        return 0

    def _open(self, stack: ExitStack) -> tuple[FolderPairs | LivePairs, _KnownCamera, int]:
        """The source of pairs, its camera, and how many views to expect."""
        if (self.folder is None) == (self.live is None):
            got = "both" if self.folder is not None else "neither"
            raise CalibrationError(f"expected a folder of views or --live CAMERA, got {got}")
        path = self.camera
        if self.folder is not None:
            pairs = FolderPairs(self.folder, self.pose_unit)
            if path is None:
                path = next((self.folder / n for n in _CAMERA_FILES if (self.folder / n).exists()), None)
            if path is None:
                raise CalibrationError(
                    f"{self.folder} holds no camera file ({', '.join(_CAMERA_FILES)}); give --camera FILE"
                )
            return pairs, _KnownCamera(read_camera_model(path, self.pictures)), len(pairs)
        device = stack.enter_context(_make_camera(str(self.live)))
        if path is None:
            known = _KnownCamera.of_frames(device)
        else:
            known = _KnownCamera(read_camera_model(path, self.pictures))
        if str(self.poses) == "-":
            lines = sys.stdin
        else:
            try:
                lines = stack.enter_context(self.poses.open(encoding="utf-8"))
            except OSError as error:
                raise CalibrationError(f"the pose stream {self.poses} cannot be opened: {error}") from error
        return LivePairs(device, lines, self.pose_unit), known, self.views

    def _collect(
        self, console: Console, pairs: FolderPairs | LivePairs, camera: _KnownCamera, total: int
    ) -> list[View]:
        """Detects the board view by view; a view without it is reported and left out."""
        from zerograsp_edge.calibration.hand_eye import View

        views: list[View] = []
        live = isinstance(pairs, LivePairs)
        for number, pair in enumerate(_until(pairs, views, self.views if live else None), 1):
            where = f"[{len(views) + 1 if live else number}/{total}] {pair.name}"
            if live and self.save_views is not None:
                save_pair(self.save_views, pair)
            try:
                found = detect(self.board, pair.image, camera.model, pair.name)
            except BoardError as error:
                console.print(f"[yellow]{where}: left out[/]: {error}")
                continue
            views.append(View(pair.name, pair.hand, found))
            console.print(f"{where}: {_describe(found, self.board)}")
            if live and _ADVICE_FROM <= len(views) < total:
                advice = self._calibrate(views, camera.model).assessment.next_pose
                console.print(f"  next: {advice.instruction}")
        return views

    def _calibrate(self, views: list[View], model: CameraModel) -> Calibration:
        from zerograsp_edge.calibration.hand_eye import calibrate
        from zerograsp_edge.calibration.refine import Noise

        if not (self.robot_mm > 0 and self.robot_deg > 0):
            raise CalibrationError(
                f"the robot's repeatability must be positive, got {self.robot_mm:g} mm, {self.robot_deg:g} deg"
            )
        stated = Noise(rotation=float(np.radians(self.robot_deg)), translation=self.robot_mm / 1000)
        return calibrate(self.mode, views, self.board, model, stated)


@dataclass
class PrintBoard:
    """Write the board for printing at its exact size. Print at 100 %, glue it on something flat, measure a square."""

    out: tyro.conf.Positional[Path]
    """NAME.pdf (vector, with a ruler to check) or NAME.png (with its resolution)."""
    board: Board = field(default_factory=Board)
    paper: str = "a4"
    """Page of the PDF, landscape: a4, a3 or letter."""

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.calibration.printing import write_board

        path = write_board(self.out, self.board, self.paper)
        width, height = (1000 * length for length in self.board.size_m)
        Console().print(
            f"wrote {path}: {self.board}, {width:g}x{height:g} mm; print at 100 %, then measure a square and "
            "give it as --board.square-m"
        )
        return 0


@dataclass(frozen=True)
class _KnownCamera:
    model: CameraModel

    @staticmethod
    def of_frames(device: Camera) -> _KnownCamera:
        """The model of a camera that delivers rectified frames with their intrinsics."""
        frame = device.read()
        serial = str(getattr(device, "serial", ""))
        return _KnownCamera(
            CameraModel(
                np.asarray(frame.intrinsics, np.float64), size=(frame.width, frame.height), serial=serial
            )
        )


def _until(pairs: FolderPairs | LivePairs, views: list[Any], wanted: int | None) -> Iterator[Pair]:
    """Pairs until enough views are usable; asking for one more would wait for the robot."""
    for pair in pairs:
        yield pair
        if wanted is not None and len(views) >= wanted:
            return


def _make_camera(spec: str) -> Camera:
    module, _, name = spec.partition(":")
    if not module or not name:
        raise CameraError(
            f"--live expects MODULE:NAME, for example my_robot.camera:WristCamera, got '{spec}'"
        )
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CameraError(f"--live {spec} cannot be loaded: {error}") from error
    camera = factory()
    if not callable(getattr(camera, "read", None)) or not hasattr(camera, "__enter__"):
        raise CameraError(
            f"--live {spec} made a {type(camera).__name__}, which is no camera: expected read(), close() and `with`"
        )
    return camera


def _describe(found: Detection, board: Board) -> str:
    distance = float((found.camera_from_board @ np.append(board.centre, 1))[2])
    tilt = float(np.degrees(np.arccos(np.clip(abs(found.camera_from_board[2, 2]), 0, 1))))
    return (
        f"{len(found.ids)} of {len(board.corners)} corners"
        + (f" ({found.dropped} dropped: off the others)" if found.dropped else "")
        + f", fit {found.reprojection_px:.2f} px, "
        f"{distance:.2f} m away, tilted {tilt:.0f} deg"
    )
