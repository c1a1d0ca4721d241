"""Deployment files: typed, nothing unknown, errors that name file, entry and what is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zerograsp_edge.runtime.deployment import Deployment, load_deployment
from zerograsp_edge.runtime.errors import ConfigError
from zerograsp_edge.runtime.grasp.gripper import FRANKA, ROBOTIQ_2F85, SIMULATED

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str) -> Path:
        path = tmp_path / "cell.yaml"
        path.write_text(text)
        return path

    return make


FULL = """
bundle: models/published.zgb
hand_eye: hand_eye.yaml
camera: my_cell.cameras:wrist
refine:
  workspace: {low: [0.2, -0.4, 0], high: [0.7, 0.4, 0.4]}
  approach: {angle: 45}
  support: {offset: -0.01, clearance: 0.005}
  min_score: 0.1
loop:
  observe: {position: [0.4, 0.0, 0.5]}
  place:
    - {position: [0.4, 0.5, 0.3]}
    - {position: [0.4, 0.6, 0.3], closing: [1, 0, 0]}
  camera_clock: own
  limits: {picks: 10, frame_age: 0.2}
  timeouts: {perceive: 20}
  motion: {grip_force: 30, pregrasp_distance: 0.08}
robot:
  franka: {host: 172.16.0.2}
"""


def test_every_entry_arrives(write: Write, tmp_path: Path) -> None:
    deployment = load_deployment(write(FULL), "franka")
    assert deployment.bundle == tmp_path / "models" / "published.zgb"
    assert deployment.hand_eye == tmp_path / "hand_eye.yaml"
    loop = deployment.loop
    assert [pose.position[1] for pose in loop.place] == [0.5, 0.6]
    assert (loop.limits.picks, loop.limits.frame_age, loop.limits.candidates) == (10, 0.2, 5)
    assert (loop.timeouts.perceive, loop.motion.grip_force) == (20.0, 30.0)
    refine = deployment.refinement(FRANKA)
    assert refine.approach is not None and refine.approach.angle == 45
    assert refine.support is not None and refine.support.offset == -0.01
    assert refine.gripper is FRANKA
    assert deployment.robot == {"franka": {"host": "172.16.0.2"}}


def test_an_empty_file_is_the_defaults(write: Write) -> None:
    assert load_deployment(write(""), "sim") == Deployment()


def test_refinement_keeps_what_is_not_named(write: Write) -> None:
    """A table that a file does not mention is still there."""
    refine = load_deployment(write("refine: {min_score: 0.2}"), "sim").refinement(SIMULATED)
    assert refine.support is not None and refine.approach is not None
    assert (refine.min_score, refine.gripper) == (0.2, SIMULATED)
    refine = load_deployment(write("refine: {gripper: robotiq_2f85, support: null}"), "sim").refinement(SIMULATED)
    assert refine.support is None
    assert refine.gripper is ROBOTIQ_2F85


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lop: {}", r"cell.yaml: deployment: unknown entry lop; known are bundle, .*loop"),
        ("loop: {limits: {pick: 3}}", r"loop.limits: unknown entry pick; known are picks, "),
        ("loop: {limits: {picks: 2.5}}", r"loop.limits.picks: expected a whole number, got 2.5"),
        ("loop: {limits: {picks: true}}", r"picks: expected a whole number, got True"),
        ("loop: {limits: {pause: 1e-3}}", r"expected a number, got '1e-3'; YAML takes 1e-3 as a text"),
        ("loop: {limits: {frame_age: -1}}", r"loop.limits: frame_age: expected 0.001 to 3600, got -1"),
        ("loop: {limits: {frame_age: .nan}}", r"frame_age: expected .* got nan"),
        ("loop: {camera_clock: mine}", r"camera_clock: expected robot or own, got 'mine'"),
        ("loop: {place: [{position: [0, 1]}]}", r"loop.place\[0\].position: expected a list of 3, got 2"),
        ("loop: {place: [{}]}", r"loop.place\[0\]: expected position, missing"),
        ("loop: {place: [{position: [400, 0, 300]}]}", r"are these millimetres"),
        ("loop: {place: [{position: [0, 0, 0], closing: [0, 0, 1]}]}", r"a closing direction across it"),
        ("loop: [1]", r"loop: expected a mapping, got \[1\]"),
        ("refine: {gripper: claw}", r"refine.gripper: gripper: expected one of .*franka.* got 'claw'"),
        ("refine: {approach: {angle: 200}}", r"refine.approach: approach.angle: expected 0 to 180"),
        ("robot: {ur5: {}}", r"robot: unknown entry ur5; known are sim, franka"),
        ("bundle: 3", r"bundle: expected a path, got 3"),
        ("a: [", r"is no YAML"),
        ("- 1", r"expected a mapping, got list"),
    ],
)
def test_mistakes_are_named(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_deployment(write(text), "franka")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml cannot be read"):
        load_deployment(tmp_path / "none.yaml", "sim")


def test_an_approach_longer_than_what_is_checked_is_refused(write: Write) -> None:
    deployment = load_deployment(write("loop: {motion: {pregrasp_distance: 0.15}}"), "sim")
    with pytest.raises(ConfigError, match="shorter than the approach itself"):
        deployment.refinement(SIMULATED)


@pytest.mark.parametrize(
    ("camera", "message"),
    [("", "expected package.module:function"), ("json:nothing", "cannot be found"), ("no_such:make", "cannot be found"),
     ("builtins:dict", "has no read")],
)  # fmt: skip
def test_cameras_that_are_none(camera: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Deployment(camera=camera).open_camera()


def test_a_camera_is_made_by_the_users_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_cell.py").write_text(
        "class C:\n    def read(self): return 3\n\ndef wrist():\n    return C()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert Deployment(camera="my_cell:wrist").open_camera().read() == 3  # type: ignore[comparison-overlap]
