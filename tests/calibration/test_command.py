"""`calibrate hand-eye` and `calibrate board` as a user runs them; folders, streams and damaged files."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

from zerograsp_edge.calibration.errors import PoseError
from zerograsp_edge.calibration.result import hand_eye_result
from zerograsp_edge.calibration.simulation import Rig, board_views, make_rig
from zerograsp_edge.calibration.sources import FolderPairs, LivePairs, Pair, parse_pose, save_pair
from zerograsp_edge.calibration.transforms import angle_between, quaternion, rotation_vector
from zerograsp_edge.runtime import Frame
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.hand_eye import HandEye

RIG = make_rig("eye-in-hand", seed=5)


class SimulatedWrist:
    """A camera on the rig above that looks at what the robot's next pose shows. `script` is set by the test."""

    script: ClassVar[list[np.ndarray]] = []
    serial = "sim-1"

    def __init__(self) -> None:
        self._reads = 0
        self._rng = np.random.default_rng(1)

    def read(self) -> Frame:
        # One frame for the intrinsics, then two stale ones and the picture for each pose.
        step = min(max((self._reads - 1) // 3, 0), len(self.script) - 1)
        stale = self._reads > 0 and (self._reads - 1) % 3 < 2
        self._reads += 1
        if stale or self._reads == 1:
            image = np.full((480, 640), 40, np.uint8)
        else:
            image = RIG.picture(self.script[step], self._rng)
        rgb = np.repeat(image[..., None], 3, axis=2)
        return Frame(rgb, np.full((480, 640), 500, np.float32), RIG.camera.intrinsics.astype(np.float32))

    def close(self) -> None: ...

    def __enter__(self) -> SimulatedWrist:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def hands() -> np.ndarray:
    return RIG.hand_pose(board_views(RIG, 9, np.random.default_rng(2)))


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, hands: np.ndarray) -> Path:
    folder = tmp_path_factory.mktemp("views")
    rng = np.random.default_rng(3)
    for i, (hand, reported) in enumerate(zip(hands, RIG.reported(hands, rng), strict=True)):
        save_pair(folder, Pair(f"{i:02d}", RIG.picture(hand, rng), reported))
    k = RIG.camera.intrinsics
    camera = {"fx": k[0, 0], "fy": k[1, 1], "cx": k[0, 2], "cy": k[1, 2], "width": 640, "height": 480}
    (folder / "camera.json").write_text(json.dumps({**camera, "serial": "f0012"}))
    return folder


def copy_of(recorded: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in recorded.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_folder_to_file(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "hand_eye.yaml"
    assert main(["calibrate", "hand-eye", str(recorded), "--out", str(out)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    for expected in ("[9/9] 08: 24 of 24 corners", "Daniilidis", "sufficient", "condition number", "wrote"):
        assert expected in text
    found = HandEye.load(out)
    assert found.mode == "eye-in-hand" and found.sufficient and found.camera_serial == "f0012"
    assert np.degrees(angle_between(found.transform, RIG.mounted)) < 0.1
    assert np.linalg.norm(found.transform[:3, 3] - RIG.mounted[:3, 3]) < 1e-3
    assert found.residuals.views_used == 9 and found.residuals.views_rejected == 0
    assert found.check_camera(RIG.camera.intrinsics, None, (640, 480), "f0012") is None
    pose = RIG.hand_pose(board_views(RIG, 1, np.random.default_rng(9)))[0]
    np.testing.assert_allclose(found.camera_in_base(pose), pose @ found.transform)


def test_wrong_mode_is_not_written(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "wrong.yaml"
    assert main(["calibrate", "hand-eye", str(recorded), "--mode", "eye-to-hand", "--out", str(out)]) == 1
    assert not out.exists()
    text = " ".join(capsys.readouterr().out.split())
    assert "insufficient" in text and "robot's pose error over its repeatability" in text


def test_too_few_views(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = copy_of(recorded, tmp_path / "few")
    for i in range(4, 9):
        (folder / f"{i:02d}.png").unlink()
        (folder / f"{i:02d}.pose.json").unlink()
    out = tmp_path / "few.json"
    arguments = ["calibrate", "hand-eye", str(folder), "--out", str(out)]
    assert main(arguments) == 1 and not out.exists()
    text = " ".join(capsys.readouterr().out.split())
    assert "insufficient: poses that agree: 4, needed at least 8" in text and "next: swing the camera" in text
    assert main([*arguments, "--accept-insufficient"]) == 0
    found = HandEye.load(out)
    assert not found.sufficient and any("swing the camera" in line for line in found.advice)
    (folder / "00.png").write_bytes(cv2.imencode(".png", np.full((480, 640), 90, np.uint8))[1].tobytes())
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes())
    assert main(arguments) == 1
    seen = capsys.readouterr()
    assert "00: left out" in seen.out and "found in 2 of the views, at least 3" in seen.err


def test_wrong_board(recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = copy_of(recorded, tmp_path / "two")
    for i in range(2, 9):
        (folder / f"{i:02d}.png").unlink()
        (folder / f"{i:02d}.pose.json").unlink()
    assert main(["calibrate", "hand-eye", str(folder), "--board.dictionary", "DICT_6X6_50"]) == 1
    seen = capsys.readouterr()
    assert "give --board.dictionary DICT_5X5" in " ".join(seen.out.split())
    assert seen.err.startswith("error: the board was found in 0 of the views")


def test_live(hands: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.setattr(SimulatedWrist, "script", list(hands))
    monkeypatch.setitem(sys.modules, "wrist_camera", sys.modules[__name__])
    lines = "\n\n".join(json.dumps({"pose": hand.tolist()}) for hand in hands)
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    out, kept = tmp_path / "live.json", tmp_path / "kept"
    status = main(
        ["calibrate", "hand-eye", "--live", "wrist_camera:SimulatedWrist", "--views", "8", "--out", str(out),
         "--save-views", str(kept)]
    )  # fmt: skip
    text = " ".join(capsys.readouterr().out.split())
    assert status == 0, text
    assert text.count("next: swing the camera 30 deg") == 5  # after views 3 to 7
    found = HandEye.load(out)
    assert found.camera_serial == "sim-1"
    assert np.degrees(angle_between(found.transform, RIG.mounted)) < 0.1
    assert len(FolderPairs(kept)) == 8


def test_stale_frames_are_thrown_away(hands: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedWrist, "script", list(hands[:2]))
    camera = SimulatedWrist()
    camera.read()
    pairs = list(LivePairs(camera, io.StringIO("\n".join(json.dumps(h.tolist()) for h in hands[:2]))))
    assert [p.name for p in pairs] == ["view_001", "view_002"]
    assert all(p.image.std() > 20 for p in pairs)
    np.testing.assert_allclose(pairs[1].hand, hands[1])
    with pytest.raises(PoseError, match="line 1 of the pose stream is not JSON"):
        list(LivePairs(camera, io.StringIO("1 2 3\n")))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nonsense", "expects MODULE:NAME"),
        ("no_such_module:Camera", "cannot be loaded: No module"),
        ("json:JSONDecoder", "made a JSONDecoder, which is no camera"),
    ],
)
def test_live_camera_that_is_none(spec: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["calibrate", "hand-eye", "--live", spec]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "03.png").write_bytes((f / "03.png").read_bytes()[:5000]), r"03.png cannot be read: .*again"),
        (lambda f: (f / "03.png").unlink(), r"03 has no picture"),
        (lambda f: (f / "03.pose.json").unlink(), r"03 has no pose"),
        (lambda f: (f / "03.pose.json").write_text("[[1, 0"), r"03.pose.json cannot be read"),
        (lambda f: (f / "03.pose.json").write_text("[[1, 0], [0, 1]]"), r"robot pose of 03: expected a 4x4 matrix"),
        (lambda f: (f / "03.pose.json").write_text(json.dumps((2 * np.eye(4)).tolist())), r"must start with a 3x3 rot"),
        (lambda f: (f / "camera.json").unlink(), r"holds no camera file"),
        (lambda f: (f / "camera.json").write_text("{"), r"camera file"),
        (lambda f: (f / "03.jpg").write_bytes(b"\xff\xd8"), r"two pictures of 03"),
    ],
)  # fmt: skip
def test_damaged_folders(damage, message: str, recorded: Path, tmp_path: Path, capsys) -> None:
    folder = copy_of(recorded, tmp_path / "damaged")
    damage(folder)
    assert main(["calibrate", "hand-eye", str(folder)]) == 1
    assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_listed_poses_in_millimetres(recorded: Path, tmp_path: Path) -> None:
    folder = copy_of(recorded, tmp_path / "listed")
    lines = []
    for pair in FolderPairs(recorded):
        qw, qx, qy, qz = np.round(quaternion(pair.hand[:3, :3]), 5)
        position = (1000 * pair.hand[:3, 3]).tolist()
        lines.append(
            json.dumps({"image": f"{pair.name}.png", "position": position, "quaternion": [qx, qy, qz, qw]})
        )
    (folder / "poses.jsonl").write_text("\n".join(lines))
    for a, b in zip(FolderPairs(folder, "mm"), FolderPairs(recorded), strict=True):
        np.testing.assert_allclose(a.hand, b.hand, atol=3e-5)
    with pytest.raises(PoseError, match="is it in millimetres\\?; give --pose-unit mm"):
        list(FolderPairs(folder))
    (folder / "poses.jsonl").write_text('{"position": [0, 0, 0]}')
    with pytest.raises(PoseError, match="line 1: expected"):
        FolderPairs(folder)


def test_pose_forms() -> None:
    pose = RIG.mounted
    vector = rotation_vector(pose[:3, :3]).tolist()
    position = pose[:3, 3].tolist()
    forms = (
        pose.tolist(),
        pose.ravel().tolist(),
        {"matrix": pose.tolist()},
        {"position": position, "rotation_vector": vector},
    )
    for form in forms:
        np.testing.assert_allclose(parse_pose(form, "p"), pose, atol=1e-12)
    rounded = parse_pose(np.round(pose, 3).tolist(), "p")  # as a robot's display shows it
    np.testing.assert_allclose(rounded[:3, :3] @ rounded[:3, :3].T, np.eye(3), atol=1e-12)
    for wrong in (
        {"position": [0, 0, 0], "quaternion": [1, 1, 0, 0]},
        {"position": [0, 0]},
        {"quaternion": [0, 0, 0, 1]},
        "pose",
        [float("nan")] * 16,
        np.diag([1.0, 1, -1, 1]).tolist(),
    ):
        with pytest.raises(PoseError, match=r"^p"):
            parse_pose(wrong, "p")


@pytest.mark.parametrize("arguments", [[], ["views", "--live", "json:loads"]])
def test_one_source_is_needed(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["calibrate", "hand-eye", *arguments]) == 1
    assert "expected a folder of views or --live CAMERA" in capsys.readouterr().err


def test_board(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "board.png"
    assert main(["calibrate", "board", str(out), "--board.columns", "5"]) == 0
    assert cv2.imread(str(out), cv2.IMREAD_GRAYSCALE).shape == (3240, 3240)
    assert "5x5 squares of 30 mm" in " ".join(capsys.readouterr().out.split())
    assert main(["calibrate", "board", str(tmp_path / "board.gif")]) == 1


def test_help_lists_the_group_and_its_commands(capsys: pytest.CaptureFixture) -> None:
    for arguments, expected in ((["--help"], "calibrate"), (["calibrate", "--help"], "hand-eye")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert expected in capsys.readouterr().out
    for arguments in (["calibrate"], ["calibrate", "nonsense"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2


def test_other_commands_do_not_load_calibration() -> None:
    program = (
        "import sys\nfrom zerograsp_edge.runtime.cli import parse\nparse(['doctor'])\n"
        "assert not [m for m in sys.modules if '.calibration' in m], 'loaded'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_missing_scipy_names_the_extra(recorded: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert main(["calibrate", "hand-eye", str(recorded)]) == 1
    assert "pip install 'zerograsp-edge[calibration]'" in capsys.readouterr().err


def test_result_of_an_undetermined_calibration_is_refused(rig: Rig, corner_views) -> None:
    from dataclasses import replace

    from zerograsp_edge.calibration.errors import CalibrationError
    from zerograsp_edge.calibration.hand_eye import calibrate

    views = corner_views(rig, board_views(rig, 8, np.random.default_rng(0)))
    result = calibrate(rig.mode, views, rig.board, rig.camera)
    assert hand_eye_result(result, rig.camera).mode == rig.mode
    with pytest.raises(CalibrationError, match="do not determine"):
        hand_eye_result(replace(result, covariance=np.full((6, 6), np.inf)), rig.camera)
