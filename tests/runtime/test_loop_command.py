"""`zerograsp-edge loop` and the pick of the demo: in a simulated cell, with the model that ships."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulated cell needs MuJoCo (extra 'sim')")

from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.loop import Ending, GraspLoop, LoopConfig, TipsPose
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction, Result
from zerograsp_edge.runtime.robot.cell import Cell
from zerograsp_edge.runtime.robot.simulated import CameraMount, SimulatedRobot
from zerograsp_edge.runtime.robot.simulated_camera import RobotCamera
from zerograsp_edge.runtime.simulation.film import HEIGHT, WIDTH, Film, write_gif
from zerograsp_edge.runtime.simulation.render import RenderError
from zerograsp_edge.runtime.simulation.scenes import look_at
from zerograsp_edge.runtime.simulation.sensor import MaskNoise, SensorNoise
from zerograsp_edge.runtime.simulation.shapes import Box
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

INTRINSICS = np.array([[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]], np.float32)


@pytest.fixture
def cell() -> Cell:
    """Two cubes of 40 mm."""
    poses = [np.eye(4), np.eye(4)]
    poses[0][:3, 3], poses[1][:3, 3] = (0, 0, 20), (150, 40, 20)
    objects = tuple(WorldObject(i + 1, "cube", Box((20, 20, 20)), pose) for i, pose in enumerate(poses))
    table = SupportBox(np.array([0, 0, -20.0]), np.array([500, 400, 20.0]), np.eye(3))
    eye = look_at(np.array([-250.0, -380.0, 520.0]), np.array([0.0, 0.0, 20.0]))
    eye[:3, 3] /= 1000
    world = World("table", (table,), objects, 0)
    robot = SimulatedRobot(world, CameraMount(eye))
    try:
        return Cell(world, robot, RobotCamera(robot, INTRINSICS, 0, SensorNoise(), MaskNoise()))
    except RenderError as error:
        pytest.skip(str(error))


def from_above(frame: Frame, base_from_camera: np.ndarray) -> Result:
    """One grasp on the middle of every mask, from above."""
    objects = []
    camera_from_base = np.linalg.inv(base_from_camera)
    for index, number in enumerate(frame.object_ids()):
        points = frame.point_image()[(frame.mask == number) & (frame.depth > 0)]
        tips = TipsPose((0, 0, 0)).matrix()
        seen = points / 1000 @ base_from_camera[:3, :3].T + base_from_camera[:3, 3]
        low, high = np.percentile(seen, (2, 98), axis=0)
        tips[:3, 3] = [*(low + high)[:2] / 2, 0.015]
        pose = (camera_from_base @ tips).astype(np.float32)
        grasps = Grasps(
            np.ones(1, np.float32), np.full(1, 0.07, np.float32), np.zeros(1, np.float32), pose[None, :3, :3],
            pose[None, :3, 3], np.array([number], np.int32),
        )  # fmt: skip
        empty = np.zeros((0, 3), np.float32)
        objects.append(
            ObjectReconstruction(
                number, index, points, np.zeros_like(points), empty[:, 0], empty.astype(np.int32), empty[:1], 5.0,
                grasps,
            )
        )  # fmt: skip
    return Result(objects=tuple(objects), name=frame.name, timestamp=frame.timestamp)


def test_the_loop_clears_a_simulated_table(cell: Cell, tmp_path: Path) -> None:
    config = LoopConfig(place=(TipsPose.of(cell.robot.drop),), observe=TipsPose.of(cell.robot.home))
    events = []
    with cell.camera as camera:
        loop = GraspLoop(cell.robot, camera, from_above, config, callback=events.append, threaded=False)
        report = loop.run()
    assert (report.ending, report.picks, report.attempts) == (Ending.EMPTY, 2, 2), report
    assert sorted(cell.robot.placed) == [1, 2], "the simulator agrees"
    verified = [event for event in events if event.event == "verified"]
    assert all(event.reason == "by the gripper and a new frame" for event in verified)
    assert len(verified) == 2


def test_a_film_shows_the_pick(cell: Cell, tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="animations need Pillow (extra 'sim')")
    film = Film(cell.robot, caption=lambda: "test", rate=lambda: 1.0)
    with cell.camera as camera:
        loop = GraspLoop(cell.robot, camera, film.watch(from_above), threaded=False)
        assert loop.run().picks == 1
    pictures = film.render()
    assert len(pictures) == len(film) >= 3
    assert {p.shape for p in pictures} == {(HEIGHT, WIDTH, 3)}
    changed = [np.abs(a.astype(int) - b).max(axis=2) > 40 for a, b in pairwise(pictures)]
    assert all(c[:400, :500].sum() > 50 for c in changed), "something moves from picture to picture"
    path = write_gif(tmp_path / "pick.gif", pictures)
    with image.open(path) as gif:
        assert gif.n_frames == len(pictures)
        assert gif.size == (WIDTH, HEIGHT)
        assert np.abs(np.asarray(gif.convert("RGB")).astype(int) - pictures[0]).mean() < 6, "colours are kept"


@pytest.mark.skipif(not EDGE_MODEL.is_dir(), reason="the edge model is not there")
def test_the_command_writes_what_happened(tmp_path: Path, capsys: pytest.CaptureFixture[str], cell: Cell) -> None:
    deployment = tmp_path / "cell.yaml"
    deployment.write_text(
        "threads: 1\n"
        "loop: {limits: {failed_attempts: 1, no_grasp_views: 1}}\n"
        "robot: {sim: {scene: single, objects: [1, 1], seed: 3}}\n"
    )
    out = tmp_path / "out"
    status = main(["loop", str(deployment), "--picks", "1", "--out", str(out)])
    printed = capsys.readouterr().out
    report = json.loads((out / "report.json").read_text())
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert status == (0 if report["ending"] in ("done", "empty") else 1)
    assert lines[-1]["state"] == "end"
    assert lines[-1]["picks"] == report["picks"] <= 1
    assert report["explanation"] in " ".join(printed.split())
    perceived = next(line for line in lines if line["event"] == "perceived")
    assert perceived["timings_ms"]["refine"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--robot", "franka"], "expected a deployment file for --robot franka"),
        (["none.yaml"], "none.yaml cannot be read"),
        (["--robot", "franka", "{}", "--seed", "3"], "--film and --seed are for the simulated robot"),
        (["--robot", "franka", "{}"], "expected hand_eye in the deployment"),
    ],
)
def test_mistakes_are_one_line(
    failing_command: Callable[[list[str]], str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty.yaml").write_text("")
    named = [str(tmp_path / "empty.yaml") if a == "{}" else a for a in arguments]
    assert message in failing_command(["loop", *named])


@pytest.mark.skipif(not EDGE_MODEL.is_dir(), reason="the edge model is not there")
def test_the_demo_does_without_the_pick_where_there_is_no_opengl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(config: object) -> Cell:
        raise RenderError("no offscreen OpenGL (egl: none); install libegl1")

    monkeypatch.setattr("zerograsp_edge.runtime.robot.cell.make_cell", fail)
    assert main(["demo", "--out", str(tmp_path), "--frames", "1", "--threads", "1"]) == 0
    assert "no pick: no offscreen OpenGL (egl: none); install libegl1" in capsys.readouterr().out
    assert (tmp_path / "overlay.png").is_file()
    assert not (tmp_path / "pick.gif").exists()
