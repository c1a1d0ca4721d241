from __future__ import annotations

import re
import struct
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from zerograsp_edge.calibration.board import Board, detect, without_bad_corners
from zerograsp_edge.calibration.camera import CameraModel, read_camera_model
from zerograsp_edge.calibration.errors import BoardError
from zerograsp_edge.calibration.printing import board_pdf, board_png, draw_board, write_board
from zerograsp_edge.calibration.simulation import Imaging, Rig, board_views, make_rig, render
from zerograsp_edge.runtime.camera.png import check_png
from zerograsp_edge.runtime.errors import FrameError, OutputError

CAMERA = CameraModel(np.array([[615.0, 0, 319.5], [0, 615.0, 239.5], [0, 0, 1]]), size=(640, 480))
BOARDS = [
    Board(),
    Board(6, 4, 0.03, 0.018),
    Board(6, 4, 0.03, 0.018, legacy=True),
    Board(5, 8, 0.02, 0.015, "DICT_4X4_50"),
]


def pose(tilt: float = 0.4, distance: float = 0.4, board: Board | None = None) -> np.ndarray:
    result = np.eye(4)
    result[:3, :3] = cv2.Rodrigues(np.array([tilt, -0.2, 0.3]))[0]
    result[:3, 3] = [0, 0, distance] - result[:3, :3] @ (board or Board()).centre
    return result


def picture(board: Board, imaging: Imaging | None = None, **kwargs: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    return render(board, CAMERA, pose(board=board, **kwargs), imaging or Imaging(), rng)


@pytest.mark.parametrize("board", BOARDS, ids=str)
def test_drawing_is_opencvs_pattern(board: Board) -> None:
    # 20 mm squares of 15 mm markers, 30 of 18: whole pixels at 20 per mm, where both drawings are exact.
    marker_cells = 6 if "4X4" in board.dictionary else 7
    per_metre = marker_cells * 2000
    drawing = draw_board(board, per_metre)
    reference = board._board.generateImage(drawing.shape[::-1])
    assert (
        (drawing != reference).mean() < 1e-3 if board == BOARDS[0] else (drawing != reference).mean() < 0.004
    )


@pytest.mark.parametrize("board", BOARDS, ids=str)
def test_rectangles_do_not_overlap_and_fill_the_black_area(board: Board) -> None:
    scale = 1e3 * 20
    boxes = np.rint(board.black_rectangles() * scale).astype(int)
    covered = np.zeros(np.rint(np.array(board.size_m)[::-1] * scale).astype(int), np.int32)
    for x, y, w, h in boxes:
        covered[y : y + h, x : x + w] += 1
    assert (covered > 1).mean() < 1e-3  # one-pixel rounding at shared edges
    assert covered.any(axis=0).all() and covered.any(axis=1).all()


@pytest.mark.parametrize("board", BOARDS, ids=str)
def test_every_corner_is_found_at_the_right_place(board: Board) -> None:
    found = detect(board, picture(board), CAMERA)
    np.testing.assert_array_equal(found.ids, np.arange(len(board.corners)))
    truth = pose(board=board)
    points = board.corners @ truth[:3, :3].T + truth[:3, 3]
    pixels = (points @ CAMERA.intrinsics.T)[:, :2] / points[:, 2:]
    error = found.pixels - pixels
    assert np.sqrt((error**2).mean()) < 0.12
    assert np.abs(error.mean(axis=0)).max() < 0.06  # half-pixel conventions would show as 0.5
    np.testing.assert_allclose(found.camera_from_board, truth, atol=6e-3)
    assert found.reprojection_px < 0.2


def test_distortion_belongs_to_the_model(rig: Rig) -> None:
    rng = np.random.default_rng(2)
    hand = rig.hand_pose(board_views(rig, 1, rng))[0]
    image = rig.picture(hand, rng)
    right = detect(rig.board, image, rig.camera)
    wrong = detect(rig.board, image, CameraModel(rig.camera.intrinsics, size=(640, 480)))
    assert right.reprojection_px < 0.2 < wrong.reprojection_px


def test_partly_hidden_board_is_still_used() -> None:
    image = picture(Board())
    image[:, 330:] = 110
    found = detect(Board(), image, CAMERA)
    assert 8 <= len(found.ids) < 24
    np.testing.assert_allclose(found.camera_from_board, pose(), atol=0.02)


def test_a_glare_costs_its_corner_only() -> None:
    image = picture(Board())
    whole = detect(Board(), image, CAMERA)
    x, y = np.rint(whole.pixels[13]).astype(int)
    cv2.circle(image, (int(x) + 3, int(y) - 2), 5, 255, -1)
    found = detect(Board(), image, CAMERA)
    assert 13 not in found.ids and found.dropped + len(found.ids) <= 24
    np.testing.assert_allclose(found.camera_from_board, whole.camera_from_board, atol=2e-3)


def test_corners_off_the_others_are_dropped_and_counted() -> None:
    whole = detect(Board(), picture(Board()), CAMERA)
    pixels = whole.pixels.copy()
    pixels[[3, 17]] += [[2.5, -1.5], [-1.0, 1.0]]
    ids, kept, dropped = without_bad_corners(Board(), whole.ids, pixels, CAMERA)
    assert dropped == 2 and sorted(set(range(24)) - set(ids)) == [3, 17] and len(kept) == 22
    # Another board fits nowhere: that is for the caller to report, not to be trimmed into shape.
    scrambled = np.random.default_rng(0).permutation(whole.pixels)
    assert without_bad_corners(Board(), whole.ids, scrambled, CAMERA)[2] <= 6


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (lambda: np.full((480, 640), 90, np.uint8), r"no marker of DICT_5X5_100 found; the picture is nearly"),
        (lambda: picture(BOARDS[3], distance=0.25), r"no marker of DICT_5X5_100 found, but \d+ of DICT_4X4"),
        (lambda: picture(Board(9, 6)), r"markers .* are not on a board of 7x5 squares.*check columns and rows"),
        (lambda: picture(Board())[:, ::-1].copy(), r"no marker .*found; .*not mirrored"),
        (lambda: picture(Board(), distance=2.5), r"(no marker|\d+ of 24 corners)"),
        (lambda: picture(Board(), Imaging(blur_px=9)), r"(no marker|\d+ of 24 corners)"),
        (lambda: picture(Board()).astype(np.float32), r"expected an 8-bit grey or RGB picture, got float32"),
        (lambda: np.zeros((480, 640, 4), np.uint8), r"expected 1 or 3 channels, got 4"),
    ],
    ids=["uniform", "dictionary", "larger", "mirrored", "far", "blurred", "float", "channels"],
)  # fmt: skip
def test_what_is_no_view_of_the_board_says_what_to_do(image: object, message: str) -> None:
    with pytest.raises(BoardError, match=f"picture 7: {message}"):
        detect(Board(), image(), CAMERA, "picture 7")  # type: ignore[operator]


def test_pattern_of_another_version_does_not_pass() -> None:
    with pytest.raises(BoardError, match=r"legacy|intrinsics"):
        detect(BOARDS[1], picture(BOARDS[2]), CAMERA)


def test_wrong_intrinsics_or_size_do_not_pass() -> None:
    image = picture(Board(), tilt=0.9)
    k = CAMERA.intrinsics.copy()
    k[0, 0] *= 1.5
    with pytest.raises(BoardError, match=r"fit the board only to .* px"):
        detect(Board(), image, CameraModel(k, size=(640, 480)))
    with pytest.raises(FrameError, match="640x480 pixels, the camera file is for 1280x720"):
        detect(Board(), image, replace(CAMERA, size=(1280, 720)))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"columns": 2}, "at least 3x3"),
        ({"square_m": 30.0, "marker_m": 22.0}, "millimetres"),
        ({"marker_m": 0.029}, "50 to 90 %"),
        ({"dictionary": "DICT_9X9"}, "unknown dictionary 'DICT_9X9'; OpenCV has: .*DICT_5X5_100"),
        ({"columns": 20, "rows": 12}, "needs 120 markers, DICT_5X5_100 has 100"),
    ],
)
def test_impossible_boards(values: dict, message: str) -> None:
    with pytest.raises(BoardError, match=message):
        Board(**values)


def test_png_prints_at_its_true_size() -> None:
    data = board_png(Board())
    header = check_png(data)  # every checksum
    at = data.index(b"pHYs")
    x, y, unit = struct.unpack(">IIB", data[at + 4 : at + 13])
    assert unit == 1 and x == y
    assert header.width / x == pytest.approx(7 * 0.03 + 0.012, abs=1e-4)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
    found, ids, _, _ = cv2.aruco.CharucoDetector(Board()._board).detectBoard(
        cv2.resize(image, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    )
    corners = found.reshape(-1, 2)[np.argsort(ids.ravel())].reshape(4, 6, 2)
    # Squares on paper, m.
    np.testing.assert_allclose(np.diff(corners[..., 0], axis=1) / (0.2 * x), 0.03, atol=2e-5)


def test_pdf_draws_the_board_at_its_true_size() -> None:
    data = board_pdf(Board())
    assert data.startswith(b"%PDF-1.4") and data.endswith(b"%%EOF\n")
    start = int(re.search(rb"startxref\n(\d+)", data)[1])  # type: ignore[index]
    assert data[start : start + 4] == b"xref"
    for number, offset in enumerate(re.findall(rb"^(\d{10}) 00000 n", data, re.M), 1):
        assert data[int(offset) :].startswith(b"%d 0 obj" % number)
    length = int(re.search(rb"/Length (\d+)", data)[1])  # type: ignore[index]
    stream = data[data.index(b"stream\n") + 7 :]
    assert stream[length : length + 10] == b"\nendstream"
    millimetre = 72 / 25.4
    width, height = (
        float(v) / millimetre
        for v in re.search(rb"MediaBox \[0 0 (\S+) (\S+)\]", data).groups()  # type: ignore[union-attr]
    )
    assert (width, height) == pytest.approx((297, 210), abs=1e-3)
    # Rasterise what it draws, y up, and hold it against the drawing.
    boxes = np.array(re.findall(rb"(\S+) (\S+) (\S+) (\S+) re", stream[:length]), float) / millimetre
    left, top = boxes[:, 0].min(), (boxes[:, 1] + boxes[:, 3]).max()
    assert left == pytest.approx((297 - 210) / 2, abs=1e-3)
    page = np.full((1500, 2100), 255, np.uint8)
    for x, y, w, h in boxes:
        x0, x1, y0, y1 = np.rint(10 * np.array([x - left, x - left + w, top - y - h, top - y])).astype(int)
        page[y0:y1, x0:x1] = 0
    assert (page != draw_board(Board(), 10_000)).mean() < 2e-3
    assert b"7x5 squares of 30 mm" in stream


def test_writing_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match=r"NAME\.png or NAME\.pdf"):
        write_board(tmp_path / "board.svg", Board())
    with pytest.raises(BoardError, match="needs 312x238 mm, a4 is 297x210"):
        write_board(tmp_path / "board.pdf", Board(10, 7))
    with pytest.raises(BoardError, match="unknown paper 'b5'"):
        write_board(tmp_path / "board.pdf", Board(), "b5")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        write_board(tmp_path / "file" / "board.png", Board())
    assert write_board(tmp_path / "new" / "board.pdf", Board(10, 7), "a3").stat().st_size > 1000


ROS = """image_width: 640
image_height: 480
camera_matrix: {rows: 3, cols: 3, data: [615, 0, 320, 0, 615, 240, 0, 0, 1]}
distortion_coefficients: {rows: 1, cols: 5, data: [-0.1, 0.05, 0, 0, 0]}
projection_matrix: {rows: 3, cols: 4, data: [600, 0, 321, 0, 0, 600, 241, 0, 0, 0, 1, 0]}
"""


def test_camera_file_with_two_meanings_is_not_guessed(tmp_path: Path) -> None:
    path = tmp_path / "camera.yaml"
    path.write_text(ROS)
    with pytest.raises(FrameError, match="--pictures raw or --pictures rectified"):
        read_camera_model(path)
    raw, rectified = read_camera_model(path, "raw"), read_camera_model(path, "rectified")
    assert raw.intrinsics[0, 0] == 615 and raw.distortion[0] == -0.1 and raw.size == (640, 480)
    assert rectified.intrinsics[0, 0] == 600 and rectified.distortion.size == 0


def test_plain_camera_file(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    path.write_text('{"fx": 615, "fy": 615, "cx": 320, "cy": 240, "D": [0.1, 0, 0, 0], "serial": "f1"}')
    model = read_camera_model(path)
    assert model.distortion.tolist() == [0.1, 0, 0, 0] and model.serial == "f1"
    path.write_text('{"fx": 615, "fy": 615, "cx": 320, "cy": 240, "D": [0.1, 0, 0]}')
    with pytest.raises(FrameError, match="0, 4, 5, 8, 12 or 14"):
        read_camera_model(path)
    path.write_text("[1, 2]")
    with pytest.raises(FrameError, match="must hold a mapping"):
        read_camera_model(path)
    with pytest.raises(FrameError, match="cannot be read"):
        read_camera_model(tmp_path / "none.json")


def test_the_simulated_rig_closes_its_chain() -> None:
    for mode in ("eye-in-hand", "eye-to-hand"):
        rig = make_rig(mode)  # type: ignore[arg-type]
        poses = board_views(rig, 5, np.random.default_rng(0))
        np.testing.assert_allclose(rig.camera_from_board(rig.hand_pose(poses)), poses, atol=1e-12)
