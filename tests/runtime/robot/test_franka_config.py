"""What can be said about the Franka driver without franky."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.configuration import build
from zerograsp_edge.runtime.deployment import load_deployment
from zerograsp_edge.runtime.errors import ConfigError, MissingExtra
from zerograsp_edge.runtime.grasp.gripper import FRANKA
from zerograsp_edge.runtime.robot.franka import FLANGE_TO_TIPS, Franka
from zerograsp_edge.runtime.robot.franka_config import FrankaConfig

README = Path(__file__).resolve().parents[3] / "README.md"


@pytest.mark.parametrize(
    "values",
    [
        {"host": ""},
        {"arm": "ur5"},
        {"speed": 0.0},
        {"speed": float("nan")},
        {"grip_force": 1000.0},
        {"torque_threshold": (20.0,)},
        {"force_threshold": (20, 20, 20, 25, 25, float("inf"))},
    ],
)
def test_bad_configurations_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        FrankaConfig(**{"host": "172.16.0.2", **values})


def test_the_readmes_deployment_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```yaml\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    path = tmp_path / "deployment.yaml"
    path.write_text(text, encoding="utf-8")
    deployment = load_deployment(path, "franka")
    config = build(FrankaConfig, deployment.robot["franka"], "robot.franka")
    assert config.realtime
    refine = deployment.refinement(FRANKA)
    assert refine.gripper is FRANKA
    assert refine.support is not None
    assert refine.support.offset == pytest.approx(config.workspace.low[2])
    assert deployment.loop.observe is not None
    for pose in (deployment.loop.observe, *deployment.loop.place):
        assert np.all(np.array(pose.position) >= config.workspace.low)
        assert np.all(np.array(pose.position) <= config.workspace.high)


def test_without_franky_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "franky", None)
    with pytest.raises(MissingExtra, match=r"zerograsp-edge\[franka\]"):
        Franka(FrankaConfig("172.16.0.2"))


def test_the_tips_frame_is_rigid_and_turned_as_documented() -> None:
    rotation = FLANGE_TO_TIPS[:3, :3]
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1)
    assert np.allclose(rotation[:, 0], [0, 0, 1])
    hand_y = np.array([np.sin(np.pi / 4), np.cos(np.pi / 4), 0])  # Rz(-45 degrees) applied to y
    assert np.allclose(rotation[:, 1], hand_y)
