"""The hand-eye file as `run` and the grasp loop read it; no scipy, no calibration package."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from zerograsp_edge.runtime.errors import OutputError
from zerograsp_edge.runtime.hand_eye import HandEye, HandEyeError, HandEyeResiduals, intrinsics_hash

K = np.array([[615.0, 0, 320], [0, 615, 240], [0, 0, 1]])
POSE = np.array([[0.0, -1, 0, 0.05], [1, 0, 0, -0.02], [0, 0, 1, 0.11], [0, 0, 0, 1]])


def hand_eye(mode: str = "eye-in-hand") -> HandEye:
    residuals = HandEyeResiduals(0.08, 0.17, 0.03, 0.11, 0.02, 14, 1)
    return HandEye(
        mode, POSE, residuals, True, "2026-01-02T03:04:05+00:00", K, intrinsics_hash(K, None, (640, 480)), "f1",
        ("measure the print",),
    )  # type: ignore[arg-type]  # fmt: skip


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".yml"])
def test_round_trip(tmp_path: Path, suffix: str) -> None:
    path = hand_eye().save(tmp_path / "new" / f"camera{suffix}")
    found = HandEye.load(path)
    np.testing.assert_array_equal(found.transform, POSE)
    np.testing.assert_array_equal(found.intrinsics, K)
    assert found.to_dict() == hand_eye().to_dict()
    assert [f.name for f in path.parent.iterdir()] == [path.name]


def test_camera_in_base() -> None:
    robot = np.eye(4)
    robot[:3, 3] = [0.4, 0.1, 0.5]
    np.testing.assert_allclose(hand_eye().camera_in_base(robot), robot @ POSE)
    fixed = hand_eye("eye-to-hand")
    np.testing.assert_array_equal(fixed.camera_in_base(), POSE)
    np.testing.assert_array_equal(fixed.camera_in_base(robot), POSE)
    fixed.camera_in_base()[0, 0] = 7
    np.testing.assert_array_equal(fixed.transform, POSE)


@pytest.mark.parametrize(
    ("pose", "message"),
    [
        (None, "expected the robot's pose"),
        (np.eye(3), "shape \\(3, 3\\)"),
        (np.full((4, 4), np.nan), "not finite"),
        (np.diag([1.0, 1, -1, 1]), "mirrors"),
        (np.diag([1.0, 1, 1.1, 1]), "off by 0.21 from orthonormal"),
        (np.eye(4) + 1e-3 * np.eye(4)[3][:, None], "row 0 0 0 1"),
        (np.array([[1.0, 0, 0, 400], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "millimetres"),
        ("pose", "4x4 matrix of numbers"),
    ],
)
def test_poses_that_are_none(pose: object, message: str) -> None:
    with pytest.raises(HandEyeError, match=message):
        hand_eye().camera_in_base(pose)  # type: ignore[arg-type]


def test_another_camera_is_noticed() -> None:
    found = hand_eye()
    assert found.check_camera(K, None, (640, 480), "f1") is None
    assert found.check_camera(np.float32(K), np.zeros(5), (640, 480)) is None
    assert "is of camera f1, this is f2" in str(found.check_camera(K, None, (640, 480), "f2"))
    assert "fx 615.0" in str(found.check_camera(1.5 * K, None, (960, 720)))
    assert found.check_camera(K, np.array([0.1, 0, 0, 0]), (640, 480)) is not None


def changed(**entries: object) -> str:
    content = hand_eye().to_dict()
    for name, value in entries.items():
        if value is None:
            del content[name]
        else:
            content[name] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no hand-eye calibration"),
        ("{", "is damaged"),
        (changed()[:200], "is damaged"),
        ("[1, 2]", "is no hand-eye calibration"),
        (changed(format="other"), "is no hand-eye calibration"),
        (changed(version=2), "has version 2, expected 1"),
        (changed(unit="mm"), "'unit' must be 'm'"),
        (changed(mode="eye-on-foot"), "mode must be eye-in-hand or eye-to-hand, got 'eye-on-foot'"),
        (changed(mode=None), "'mode' is missing"),
        (changed(transform=[[1, 0], [0, 1]]), "transform must be a finite 4x4"),
        (changed(transform=(2 * POSE).tolist()), "transform must start with a 3x3 rotation"),
        (changed(transform="x"), "'transform' must be a list"),
        (changed(sufficient="yes"), "'sufficient' must be a bool"),
        (changed(residuals={}), "'reprojection_px' is missing"),
        (
            changed(residuals={**hand_eye().to_dict()["residuals"], "views_used": 1.5}),
            "'views_used' must be a int",
        ),
        (changed(intrinsics=[[1, 2]]), "intrinsics must be 3x3"),
        (changed(intrinsics=["a"]), "'intrinsics' must be a 3x3 matrix"),
    ],
)
@pytest.mark.parametrize("suffix", [".json", ".yaml"])
def test_damaged_files(tmp_path: Path, text: str, message: str, suffix: str) -> None:
    path = tmp_path / f"hand_eye{suffix}"
    if suffix == ".yaml" and text.startswith("{") and text.endswith("}"):
        text = yaml.safe_dump(json.loads(text))
    path.write_text(text)
    if suffix == ".json" and text == "":
        message = "is damaged"
    with pytest.raises(HandEyeError, match=message) as caught:
        HandEye.load(path)
    assert str(path) in str(caught.value) and "zerograsp-edge calibrate hand-eye" in str(caught.value)


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(HandEyeError, match="cannot be read"):
        HandEye.load(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(HandEyeError, match="cannot be read"):
        HandEye.load(tmp_path / "binary.yaml")
    with pytest.raises(HandEyeError, match=r"NAME\.yaml or NAME\.json"):
        hand_eye().save(tmp_path / "hand_eye.txt")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        hand_eye().save(tmp_path / "file" / "hand_eye.yaml")


def test_loading_needs_neither_scipy_nor_opencv_nor_calibration() -> None:
    program = (
        "import sys, zerograsp_edge.runtime.hand_eye\n"
        "heavy = [m for m in sys.modules if m in ('scipy', 'cv2') or '.calibration' in m]\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
