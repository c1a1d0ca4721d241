"""The ChArUco board: its definition and its detection in a picture.

Board frame: origin at the outer corner of the first square, x along the rows of the print, y down it, z into the
paper (OpenCV's convention since 4.6); lengths in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.errors import BoardError

# A pose needs four corners; below this a view weighs little and its pose is easily mirrored.
MIN_CORNERS = 8
# Corners of the right board fit a pose to a few tenths of a pixel; of another board, or with other intrinsics,
# to many.
MAX_REPROJECTION_PX = 3.0
# A corner is bad when it is off by this much, and by this many times as much as the median corner.
_BAD_CORNER_PX, _BAD_CORNER_RATIO = 0.5, 5.0
# Corners must span two directions: the thinner spread of the corners over the wider one.
_MIN_SPREAD = 0.1


def dictionary_names() -> tuple[str, ...]:
    """Names of OpenCV's predefined dictionaries, for example `DICT_5X5_100`."""
    return tuple(sorted(n for n in dir(cv2.aruco) if n.startswith("DICT_") and n == n.upper()))


@dataclass(frozen=True)
class Board:
    """A ChArUco board: a chessboard with a marker in every white square.

    Attributes:
        columns, rows: squares along x and y, at least 3 each.
        square_m: edge of a square, m; measure it on the print, a printer may scale.
        marker_m: edge of a marker, m, 50 to 90 % of a square.
        dictionary: name of OpenCV's marker dictionary.
        legacy: the pattern of OpenCV before 4.6, which differs for an even number of rows.

    Raises:
        BoardError: the numbers make no board; the message says which and what is allowed.
    """

    columns: int = 7
    rows: int = 5
    square_m: float = 0.030
    marker_m: float = 0.022
    dictionary: str = "DICT_5X5_100"
    legacy: bool = False

    def __post_init__(self) -> None:
        if self.columns < 3 or self.rows < 3:
            raise BoardError(f"a board needs at least 3x3 squares, got {self.columns}x{self.rows}")
        if not 0.002 <= self.square_m <= 1.0:
            raise BoardError(f"square must be 0.002 to 1 m, got {self.square_m:g} (is it in millimetres?)")
        if not 0.5 * self.square_m <= self.marker_m <= 0.9 * self.square_m:
            raise BoardError(
                f"marker must be 50 to 90 % of the square ({0.5 * self.square_m:g} to "
                f"{0.9 * self.square_m:g} m), got {self.marker_m:g}"
            )
        if self.dictionary not in dictionary_names():
            raise BoardError(
                f"unknown dictionary '{self.dictionary}'; OpenCV has: {', '.join(dictionary_names())}"
            )
        needed, held = self.columns * self.rows // 2, len(self._dictionary.bytesList)
        if needed > held:
            raise BoardError(
                f"a {self.columns}x{self.rows} board needs {needed} markers, {self.dictionary} has {held}; "
                "take a larger dictionary or fewer squares"
            )

    @property
    def size_m(self) -> tuple[float, float]:
        """(width, height), m."""
        return self.columns * self.square_m, self.rows * self.square_m

    @property
    def centre(self) -> np.ndarray:
        """(3,) its middle in the board frame, m."""
        return np.array([*self.size_m, 0.0]) / 2

    @cached_property
    def corners(self) -> np.ndarray:
        """((columns - 1) (rows - 1), 3) float64: inner corners in the board frame, m, row by row."""
        return np.asarray(self._board.getChessboardCorners(), np.float64)

    @cached_property
    def _dictionary(self) -> Any:
        return cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, self.dictionary))

    @cached_property
    def _board(self) -> Any:
        board = cv2.aruco.CharucoBoard(
            (self.columns, self.rows), self.square_m, self.marker_m, self._dictionary
        )
        board.setLegacyPattern(self.legacy)
        return board

    def __str__(self) -> str:
        return (
            f"{self.columns}x{self.rows} squares of {1000 * self.square_m:g} mm, markers {self.dictionary} "
            f"of {1000 * self.marker_m:g} mm" + (", legacy pattern" if self.legacy else "")
        )

    def black_rectangles(self) -> np.ndarray:
        """(n, 4) float64: left, top, width, height (m) of the black parts; they do not overlap except at edges."""
        s = self.square_m
        first = self._first_square_is_white()
        squares = [
            (i * s, j * s, s, s)
            for j in range(self.rows)
            for i in range(self.columns)
            if (i + j) % 2 == first
        ]
        cells = int(self._dictionary.markerSize) + 2  # with the black border
        cell = self.marker_m / cells
        bits = []
        for identity, corners in zip(self._board.getIds().ravel(), self._board.getObjPoints(), strict=True):
            picture = cv2.aruco.generateImageMarker(self._dictionary, int(identity), cells)
            left, top = np.asarray(corners)[0, :2]
            for row in range(cells):
                black = np.flatnonzero(np.diff(np.concatenate([[0], picture[row] == 0, [0]])))
                for start, end in zip(black[::2], black[1::2], strict=True):
                    bits.append((left + start * cell, top + row * cell, (end - start) * cell, cell))
        return np.array(squares + bits, np.float64)

    def _first_square_is_white(self) -> bool:
        """Whether the square at the origin is white, that is, holds a marker."""
        corners = np.asarray(self._board.getObjPoints(), np.float64)
        return bool((corners[:, 0, :2].max(axis=1) < self.square_m).any())


@dataclass(frozen=True, eq=False)
class Detection:
    """A board seen in one picture.

    Attributes:
        ids: (k,) int64, rows of `Board.corners`.
        pixels: (k, 2) float64, sub-pixel corner positions u, v.
        camera_from_board: (4, 4), m, from these corners alone.
        reprojection_px: root mean square distance of the corners to this pose's.
        dropped: corners left out because they do not fit the others (glare, dirt, a finger).
    """

    ids: np.ndarray
    pixels: np.ndarray
    camera_from_board: np.ndarray
    reprojection_px: float
    dropped: int = 0


def detect(board: Board, image: np.ndarray, camera: CameraModel, name: str = "picture") -> Detection:
    """Find a board's corners to a fraction of a pixel, and its pose.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        name: what messages call the picture.

    Raises:
        BoardError: no marker, another board, too few corners, or corners that fit no pose; the message says
            what to change.
        FrameError: the picture does not have the camera's size.
    """
    grey = _grey(image, name)
    camera.check_size(grey, name)
    ids, pixels = _corners(board, grey, name)
    ids, pixels, dropped = without_bad_corners(board, ids, pixels, camera)
    pose, rms = board_pose(board.corners[ids], pixels, camera)
    if rms > MAX_REPROJECTION_PX:
        raise BoardError(
            f"{name}: the corners fit the board only to {rms:.1f} px (expected below {MAX_REPROJECTION_PX:g}); "
            f"check that the board is the one described ({board}) and flat, and that intrinsics and "
            "distortion belong to this camera and resolution"
        )
    return Detection(ids, pixels, pose, rms, dropped)


def without_bad_corners(
    board: Board, ids: np.ndarray, pixels: np.ndarray, camera: CameraModel
) -> tuple[np.ndarray, np.ndarray, int]:
    """Corners (k,), (k, 2) without those that lie off the pose of the others, and how many those are.

    At most a quarter is dropped: a board that fits worse is not the board.
    """
    start = len(ids)
    while 4 * (start - len(ids)) < start and len(ids) > MIN_CORNERS:
        pose, _ = board_pose(board.corners[ids], pixels, camera)
        rotation = cv2.Rodrigues(pose[:3, :3])[0]
        k, d = camera.intrinsics, camera.distortion
        fitted = cv2.projectPoints(board.corners[ids], rotation, pose[:3, 3], k, d)[0].reshape(-1, 2)
        distance = np.linalg.norm(fitted - pixels, axis=1)
        worst = int(np.argmax(distance))
        if distance[worst] <= max(_BAD_CORNER_PX, _BAD_CORNER_RATIO * float(np.median(distance))):
            break
        ids, pixels = np.delete(ids, worst), np.delete(pixels, worst, axis=0)
    return ids, pixels, start - len(ids)


def board_pose(points: np.ndarray, pixels: np.ndarray, camera: CameraModel) -> tuple[np.ndarray, float]:
    """Camera <- board (4, 4) of planar points (k, 3), m, at (k, 2) pixels, and the RMS distance, px.

    A plane seen from afar has a second, mirrored pose; both are refined and the better one is taken.
    """
    points, pixels = np.ascontiguousarray(points), np.ascontiguousarray(pixels)
    k, d = camera.intrinsics, camera.distortion
    _, rotations, translations, _ = cv2.solvePnPGeneric(points, pixels, k, d, flags=cv2.SOLVEPNP_IPPE)
    best: tuple[float, Any, Any] = (np.inf, np.zeros(3), np.zeros(3))
    for r, t in zip(rotations, translations, strict=True):
        r, t = cv2.solvePnPRefineLM(points, pixels, k, d, r.copy(), t.copy())
        difference = cv2.projectPoints(points, r, t, k, d)[0].reshape(-1, 2) - pixels
        rms = float(np.sqrt((difference**2).sum(axis=1).mean()))
        if t[2] > 0 and rms < best[0]:
            best = (rms, r, t)
    rms, r, t = best
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(np.asarray(r, np.float64))[0], np.ravel(t)
    return pose, rms


def _corners(board: Board, grey: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Corner ids and sub-pixel positions, or a BoardError that says why there are none."""
    parameters = cv2.aruco.DetectorParameters()
    parameters.cornerRefinementMethod = cv2.aruco.CORNER_REFINE_SUBPIX
    detector = cv2.aruco.CharucoDetector(board._board, cv2.aruco.CharucoParameters(), parameters)
    pixels, ids, _, marker_ids = detector.detectBoard(grey)
    seen = set() if marker_ids is None else set(map(int, np.ravel(marker_ids)))
    expected = set(map(int, np.ravel(board._board.getIds())))
    if not seen:
        raise BoardError(f"{name}: {_why_no_marker(board, grey)}")
    if strangers := sorted(seen - expected):
        raise BoardError(
            f"{name}: markers {_few(strangers)} are not on a board of {board.columns}x{board.rows} squares, which "
            f"has 0 to {max(expected)}; check columns and rows, and take other boards out of the picture"
        )
    count = 0 if ids is None else len(ids)
    if count < MIN_CORNERS:
        raise BoardError(
            f"{name}: {count} of {len(board.corners)} corners seen (and {len(seen)} of {len(expected)} markers), at "
            f"least {MIN_CORNERS} are needed; bring the board into the picture, flatter to the camera and nearer, "
            "without glare; with no corner at all check columns, rows and --legacy"
        )
    ids, pixels = np.ravel(ids).astype(np.int64), np.asarray(pixels, np.float64).reshape(-1, 2)
    spread = np.linalg.svd(board.corners[ids, :2] - board.corners[ids, :2].mean(axis=0), compute_uv=False)
    if spread[1] < _MIN_SPREAD * spread[0]:
        raise BoardError(f"{name}: the {count} corners seen lie on one line; show more rows of the board")
    return ids, pixels


def _why_no_marker(board: Board, grey: np.ndarray) -> str:
    """Looks for other dictionaries' markers: the most frequent mistake is another board."""
    names = dictionary_names()
    # DICT_4X4_50 is the beginning of DICT_4X4_100, and so on: the largest of a family finds them all.
    largest = [n for n in names if n.endswith("_1000") or not n.rsplit("_", 1)[1].isdigit()]
    for family in largest:
        detector = cv2.aruco.ArucoDetector(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, family)))
        _, ids, _ = detector.detectMarkers(grey)
        # One or two markers of a large dictionary turn up in any texture.
        if ids is None or len(ids) < 4:
            continue
        kind, size = family.rsplit("_", 1)
        other = family
        if size == "1000":
            other = next(f"{kind}_{n}" for n in (50, 100, 250, 1000) if n > int(np.max(ids)))
        if other != board.dictionary:
            return (
                f"no marker of {board.dictionary} found, but {len(ids)} of {other} or a larger one of its kind; "
                f"give --board.dictionary {other}"
            )
    contrast = int(np.percentile(grey, 99)) - int(np.percentile(grey, 1))
    hint = f"the picture is nearly uniform (contrast {contrast} of 255): check exposure" if contrast < 40 else (
        "is the board in the picture, in focus, and not mirrored?"
    )  # fmt: skip
    return f"no marker of {board.dictionary} found; {hint}"


def _grey(image: np.ndarray, name: str) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim not in (2, 3):
        kind = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise BoardError(f"{name}: expected an 8-bit grey or RGB picture, got {kind}")
    if image.ndim == 2:
        return np.ascontiguousarray(image)
    if image.shape[2] != 3:
        raise BoardError(f"{name}: expected 1 or 3 channels, got {image.shape[2]}")
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def _few(values: list[int]) -> str:
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")
