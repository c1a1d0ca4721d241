"""The camera check against rendered boards with known truth: intrinsics, depth scale, tilt, noise, bad views."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy", reason="pip install 'zerograsp-edge[calibration]'")

from zerograsp_edge.calibration.board import Board, detect
from zerograsp_edge.calibration.camera import CameraModel, read_camera_model
from zerograsp_edge.calibration.camera_check import BoardView, CameraCheck, check_camera
from zerograsp_edge.calibration.camera_command import save_frame, still_views
from zerograsp_edge.calibration.camera_report import camera_calibration
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.calibration.simulation import Imaging, board_depth, checking_views, render
from zerograsp_edge.runtime import Frame
from zerograsp_edge.runtime.camera.correction import CameraCalibration, DepthCorrection, Pinhole
from zerograsp_edge.runtime.camera.opening import open_camera
from zerograsp_edge.runtime.camera.png import check_png
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.simulation.sensor import stereo_noise

SIZE = (640, 480)
FACTORY = Pinhole(610.0, 610.0, 321.0, 238.0)
# 1 % in the focal lengths, some pixels in the principal point.
TRUE = Pinhole(616.1, 616.1, 325.0, 235.5)
# 0.7 % in scale; at half a metre 0.4 % offset and up to 0.5 % from side to side.
DEPTH = DepthCorrection(1.007, 0.008, 0.012, -0.009)
BOARD = Board()


def depth_seen(exact: np.ndarray, camera: Pinhole, error: DepthCorrection, rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 mm: what a camera measures whose depth needs that correction, with a stereo camera's noise."""
    plane = error.plane(camera, *SIZE)
    measured = error.scale / (1 / exact - plane)
    return stereo_noise(np.float32(measured), camera.fx, rng, disparity_error=0.06, shadows=False)


def take(
    poses: np.ndarray,
    true: Pinhole = TRUE,
    error: DepthCorrection = DEPTH,
    board: Board = BOARD,
    said: Board | None = None,
    seed: int = 0,
) -> list[BoardView]:
    """Pictures and depth of a camera with those true values, detected with the factory's."""
    rng = np.random.default_rng(seed)
    real, model = CameraModel(true.matrix, size=SIZE), CameraModel(FACTORY.matrix, size=SIZE)
    views = []
    for i, pose in enumerate(poses):
        picture = render(board, real, pose, Imaging(), rng)
        depth = depth_seen(board_depth(board, real, pose), true, error, rng)
        views.append(BoardView(f"{i:02d}", detect(said or board, picture, model), depth))
    return views


def check(views: list[BoardView], board: Board = BOARD) -> CameraCheck:
    return check_camera(board, views, CameraModel(FACTORY.matrix, size=SIZE))


def poses(count: int = 14, seed: int = 1, **options: object) -> np.ndarray:
    camera = CameraModel(TRUE.matrix, size=SIZE)
    return checking_views(BOARD, camera, count, np.random.default_rng(seed), **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def off() -> list[BoardView]:
    return take(poses())


@pytest.fixture(scope="module")
def found(off: list[BoardView]) -> CameraCheck:
    return check(off)


def test_truth_is_recovered(found: CameraCheck) -> None:
    assert found.verdict == "apply" and found.corners.real and found.depth.real and not found.distortion_gain.real
    refined = found.refined
    assert refined.fx == pytest.approx(TRUE.fx, rel=0.004) and refined.fy == pytest.approx(TRUE.fy, rel=0.004)
    assert refined.cx == pytest.approx(TRUE.cx, abs=1.5) and refined.cy == pytest.approx(TRUE.cy, abs=1.5)
    truth = [DEPTH.scale, DEPTH.offset, DEPTH.tilt_x, DEPTH.tilt_y]
    np.testing.assert_allclose(found.correction, truth, atol=0.003)
    # Uncertainties cover the errors, and are of use.
    error = np.array([refined.fx, refined.fy, refined.cx, refined.cy]) - [TRUE.fx, TRUE.fy, TRUE.cx, TRUE.cy]
    assert (np.abs(error) < 3 * found.sigma_intrinsics).all()
    assert (np.abs(found.correction - truth) < 3 * found.sigma_correction).all()
    assert found.depth.before > 0.7 and found.depth.after < 0.2
    assert (np.abs(found.raw.bin_bias_mm) > 2).all() and (np.abs(found.corrected.bin_bias_mm) < 0.4).all()
    # 0.06 px of noise was put in; it is smooth over 1.5 px, so that medians of tiles take part of it.
    assert found.raw.bin_disparity_px == pytest.approx(0.06, abs=0.015)
    assert (np.diff(found.raw.bin_noise_mm) > 0).all()


def test_the_file_corrects_new_frames(found: CameraCheck) -> None:
    """Points of a plane nobody has calibrated with: off by millimetres before, by tenths afterwards."""
    calibration = camera_calibration(found, "f0012")
    rng = np.random.default_rng(8)
    exact = np.full(SIZE[::-1], 600.0)
    frame = Frame(np.zeros((*SIZE[::-1], 3), np.uint8), depth_seen(exact, TRUE, DEPTH, rng), FACTORY.matrix)
    corrected = calibration.apply(frame)
    true = Frame(frame.rgb, np.float32(exact), TRUE.matrix).point_image()
    inner = np.s_[60:-60, 60:-60]
    off = [np.linalg.norm(np.median((f.point_image() - true)[inner], axis=(0, 1))) for f in (frame, corrected)]
    far = [np.abs(f.point_image() - true)[inner][..., 2].mean() for f in (frame, corrected)]
    assert off[0] > 5 and off[1] < 1.5 and far[0] > 5 and far[1] < 1.5


def test_a_perfect_camera_is_left_alone() -> None:
    c = check(take(poses(), FACTORY, DepthCorrection(), seed=4))
    assert c.verdict == "fine" and not c.corners.real and not c.depth.real
    assert c.intrinsics == FACTORY and c.depth_correction.is_identity
    assert c.refined.fx == pytest.approx(FACTORY.fx, rel=0.004)
    assert (np.abs(c.correction - [1, 0, 0, 0]) < 3 * c.sigma_correction).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tilt_deg": 3.0}, ("tilt the board left-right", "tilt the board up-down")),
        ({"distances_m": (0.5, 0.52)}, ("show the board nearer or farther",)),
        ({"reach": (0.0, 0.0, 0.5, 0.5), "distances_m": (0.6, 1.0)}, ("show the board at the", "bottom right")),
        ({"count": 5}, ("3 more view(s)",)),
    ],
    ids=["fronto-parallel", "one distance", "one corner", "few"],
)
def test_sets_that_do_not_suffice(options: dict[str, object], words: tuple[str, ...]) -> None:
    c = check(take(poses(**{"count": 9, **options}), seed=5))  # type: ignore[arg-type]
    assert c.verdict == "more views", c.problems
    for word in words:
        assert word in " ".join(c.missing)
    # Held near the factory's values, whatever the views leave open.
    assert c.refined.fx == pytest.approx(FACTORY.fx, rel=0.03)
    assert c.refined.cx == pytest.approx(FACTORY.cx, abs=15)


def test_fronto_parallel_views_say_how_little_they_know() -> None:
    c = check(take(poses(9, tilt_deg=2.0), seed=6))
    assert c.sigma_intrinsics[0] / FACTORY.fx > 0.003 and c.sigma_correction[0] > 0.003


def test_a_board_of_another_size_is_noticed() -> None:
    """Printed at 96 %: corners fit as well as ever, only depth knows."""
    printed = Board(square_m=0.96 * BOARD.square_m, marker_m=0.96 * BOARD.marker_m)
    c = check(take(poses(), FACTORY, DepthCorrection(), printed, BOARD, seed=7))
    assert c.verdict == "problem" and c.depth_correction.is_identity
    (problem,) = c.problems
    assert "by depth a square is 28.8" in problem or "by depth a square is 28.7" in problem
    assert "measure the print" in problem


def test_outlier_views_are_rejected(off: list[BoardView]) -> None:
    views = list(off)
    rng = np.random.default_rng(9)
    shaken = views[2].found.pixels + rng.normal(0, 1.5, views[2].found.pixels.shape)
    views[2] = replace(views[2], found=replace(views[2].found, pixels=shaken))
    views[5] = replace(views[5], depth=views[5].depth * np.float32(1.04))
    covered = views[8].depth.copy()
    covered[:, ::3] = covered[:, 1::3] = 0
    views[8] = replace(views[8], depth=covered)
    c = check(views)
    reasons = {v.name: v.reason for v in c.views if not v.used}
    assert sorted(reasons) == ["02", "05", "08"]
    assert "corners are off" in reasons["02"] and "depth is off the board" in reasons["05"]
    assert "of the board has depth" in reasons["08"]
    assert c.verdict == "apply"
    np.testing.assert_allclose(
        c.correction, [DEPTH.scale, DEPTH.offset, DEPTH.tilt_x, DEPTH.tilt_y], atol=0.004
    )


def test_noisy_depth_is_the_hardware() -> None:
    rng = np.random.default_rng(10)
    views = take(poses(9), FACTORY, DepthCorrection(), seed=11)
    noisy = [
        replace(v, depth=stereo_noise(v.depth, FACTORY.fx, rng, disparity_error=0.6, shadows=False)) for v in views
    ]
    c = check(noisy)
    assert c.verdict == "problem" and any("px of disparity" in problem for problem in c.problems)


def test_three_views_are_refused(off: list[BoardView]) -> None:
    with pytest.raises(CalibrationError, match=r"3 of 3 views .* at least 4"):
        check(off[:3])


def test_distorted_pictures_are_refused(off: list[BoardView]) -> None:
    with pytest.raises(CalibrationError, match="rectified"):
        check_camera(BOARD, off, CameraModel(FACTORY.matrix, np.array([0.1, 0, 0, 0]), SIZE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames as a user records them: 0.7 % in scale."""
    path = tmp_path_factory.mktemp("frames")
    rng = np.random.default_rng(12)
    model = CameraModel(FACTORY.matrix, size=SIZE)
    for i, pose in enumerate(poses(14, seed=3)):
        grey = render(BOARD, model, pose, Imaging(), rng)
        depth = depth_seen(board_depth(BOARD, model, pose), FACTORY, DepthCorrection(1.007), rng)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        save_frame(path, Frame(rgb, depth, FACTORY.matrix, name=f"{i:02d}"), "f0012")
    return path


def test_folder_to_file(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'zerograsp-edge[calibration]'")
    out, plot = tmp_path / "camera.yaml", tmp_path / "map.png"
    assert main(["calibrate", "camera", str(folder), "--out", str(out), "--plot", str(plot)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in ("apply: apply the file", "estimates", "depth on the board", "set of views", "wrote"):
        assert expected in text
    assert check_png(plot.read_bytes()).width > 600
    found = CameraCalibration.load(out)
    assert found.verdict == "apply" and found.serial == "f0012" and found.intrinsics == FACTORY
    assert found.depth_correction.scale == pytest.approx(1.007, abs=0.003)
    with open_camera(folder, calibration=out) as camera:
        corrected = camera.read()
    with open_camera(folder) as camera:
        raw = camera.read()
    seen = raw.depth > 0
    assert np.median(corrected.depth[seen] / raw.depth[seen]) == pytest.approx(1 / 1.007, abs=0.003)
    assert read_camera_model(out).serial == "f0012"


def test_too_few_are_not_written(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for file in (*folder.glob("0[0-4].*"), folder / "camera.json"):
        (few / file.name).write_bytes(file.read_bytes())
    out = tmp_path / "camera.yaml"
    arguments = ["calibrate", "camera", str(few), "--out", str(out)]
    assert main(arguments) == 1 and not out.exists()
    assert "more views: " in " ".join(capsys.readouterr().out.split())
    assert main([*arguments, "--accept-insufficient"]) == 0
    assert CameraCalibration.load(out).verdict == "more views" and CameraCalibration.load(out).advice


def test_still_and_new_views_are_taken() -> None:
    """A board that rests, moves, rests again, and comes back to where it was."""
    model = CameraModel(FACTORY.matrix, size=SIZE)
    a, b = poses(2, seed=4)
    moving = a.copy()
    rng = np.random.default_rng(13)
    frames = []
    for i, pose in enumerate([a, a, a, None, moving, b, b, a, a]):
        if pose is moving:
            pose = a.copy()
            pose[0, 3] += 0.02
        grey = np.full(SIZE[::-1], 90, np.uint8) if pose is None else render(BOARD, model, pose, Imaging(), rng)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        frames.append(Frame(rgb, np.full(SIZE[::-1], 500, np.float32), FACTORY.matrix, name=str(i)))
    assert [frame.name for frame, _ in still_views(iter(frames), BOARD, model)] == ["1", "6"]


class HeldBoard:
    """A live camera before which somebody holds the board, twice as long as it takes to see that it is still."""

    name, clock, live, serial = "bench", "own", True, "f0012"

    def __init__(self) -> None:
        self._poses = np.repeat(poses(8, seed=15), 3, axis=0)
        self._rng, self._count = np.random.default_rng(16), 0

    def read(self) -> Frame:
        pose = self._poses[self._count]
        self._count += 1
        model = CameraModel(FACTORY.matrix, size=SIZE)
        grey = render(BOARD, model, pose, Imaging(), self._rng)
        depth = depth_seen(board_depth(BOARD, model, pose), FACTORY, DepthCorrection(), self._rng)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        return Frame(rgb, depth, FACTORY.matrix, name=f"{self._count:03d}")

    def __enter__(self) -> HeldBoard:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_live_guidance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("zerograsp_edge.runtime.camera.opening.open_camera", lambda _: HeldBoard())
    out, kept = tmp_path / "camera.yaml", tmp_path / "kept"
    arguments = ["calibrate", "camera", "realsense", "--views", "5", "--save-views", str(kept), "--out", str(out)]
    assert main(arguments) == 1 and not out.exists()
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("next: ") == 4 and "next: tilt the board to the left" in text
    assert "more views: " in text and "3 more view(s)" in text
    with open_camera(kept) as folder:
        assert folder.counters.frames == 0 and len(folder.names) == 5 and folder.serial == "f0012"  # type: ignore[attr-defined]
