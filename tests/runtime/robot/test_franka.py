"""The Franka driver, against franky-sim over libfranka's protocol. One world serves all tests; each begins at rest.

The simulated time may run slower than the clock: what must happen soon is measured in steps of the world (1 ms each).
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.grasp.constraints import ApproachCone, Support, Workspace
from zerograsp_edge.runtime.grasp.gripper import FRANKA
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import ObjectReconstruction
from zerograsp_edge.runtime.robot.base import MotionRefused, Robot, RobotError, withdrawn
from zerograsp_edge.runtime.robot.franka import Franka
from zerograsp_edge.runtime.robot.franka_config import FrankaConfig
from zerograsp_edge.runtime.robot.kinematics import link_frames

franky = pytest.importorskip("franky", reason="franky-control is not installed (extra franka)")
pytest.importorskip("franky_sim", reason="franky-sim is not installed (extra franka-sim)")
pytest.importorskip("mujoco", reason="MuJoCo is not installed (extra sim)")

from zerograsp_edge.runtime.simulation.franka_world import (  # noqa: E402
    TABLE_TOP_M,
    FrankaCamera,
    FrankaWorld,
)
from zerograsp_edge.runtime.simulation.render import RenderError  # noqa: E402
from zerograsp_edge.runtime.simulation.scenes import look_at  # noqa: E402
from zerograsp_edge.runtime.simulation.shapes import Box, Cylinder  # noqa: E402
from zerograsp_edge.runtime.simulation.world import WorldObject  # noqa: E402

BOX, CYLINDER = 1, 2
SPACE = Workspace((0.2, -0.5, TABLE_TOP_M), (0.8, 0.5, 0.8))


def standing(x: float, y: float, half_height: float, turn: float = 0.0) -> np.ndarray:
    """An object's pose on the table, mm."""
    c, s = np.cos(turn), np.sin(turn)
    return np.array([[c, -s, 0, x], [s, c, 0, y], [0, 0, 1, half_height], [0, 0, 0, 1]])


OBJECTS = (
    WorldObject(BOX, "box", Box((22.0, 16.0, 40.0)), standing(20, -80, 40, 0.4), colour=(0.6, 0.1, 0.1)),
    WorldObject(CYLINDER, "cylinder", Cylinder(20.0, 40.0), standing(-30, 90, 40), colour=(0.1, 0.2, 0.5)),
)


def down(x: float, y: float, z: float, turn: float = 0.0) -> np.ndarray:
    """Tips that point straight down, closing along y turned by `turn` about z."""
    c, s = np.cos(turn), np.sin(turn)
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, -s, c], [0, c, s], [-1, 0, 0]])
    pose[:3, 3] = x, y, z
    return pose


HOME = down(0.35, 0.0, 0.45)


@pytest.fixture(scope="module")
def world() -> Iterator[FrankaWorld]:
    try:
        world = FrankaWorld(OBJECTS)
    except RobotError as error:
        pytest.skip(f"franky-sim does not start here: {error}")
    with world:
        yield world


@pytest.fixture(scope="module")
def camera(world: FrankaWorld) -> Iterator[FrankaCamera]:
    try:
        camera = FrankaCamera(world, look_at(np.array([0.95, 0.0, 0.5]), np.array([0.5, 0.0, 0.12])))
    except RenderError as error:
        pytest.skip(f"no pictures of the simulated world: {error}")
    with camera:
        yield camera


@pytest.fixture(scope="module")
def connected(world: FrankaWorld) -> Iterator[Franka]:
    with Franka(FrankaConfig(world.host, realtime=False, speed=0.6, workspace=SPACE)) as robot:
        yield robot


@pytest.fixture
def robot(connected: Franka) -> Iterator[Franka]:
    """At home, open, able to move."""
    yield connected
    connected.stop()
    wait(connected, any_fault=True)
    connected.recover()
    if connected.state().opening < 0.07:
        connected.grip(0.08)
        wait(connected)
    tips = connected.state().tips
    if np.linalg.norm(tips[:3, 3] - HOME[:3, 3]) > 1e-3:
        connected.reach(HOME)
        wait(connected)


def wait(robot: Franka, any_fault: bool = False) -> None:
    while True:
        state = robot.state()
        assert any_fault or not state.fault, state.fault
        if not state.moving:
            return
        robot.sleep(robot.control_period)


def run_for(robot: Franka, world: FrankaWorld, steps: int) -> None:
    """Let the world live so many milliseconds."""
    end = world.steps() + steps
    while world.steps() < end:
        robot.sleep(0.005)


def position(robot: Franka) -> np.ndarray:
    return robot.state().tips[:3, 3]


def top_down_grasp(item: ObjectReconstruction, base_from_camera: np.ndarray) -> np.ndarray:
    """(4, 4) tips in the base frame, from the reconstruction alone: down over the smallest rectangle around it, closing
    on its shorter side, 25 mm below its top. Not a grasp that the network predicted.
    """
    import cv2

    points = item.points / 1000 @ base_from_camera[:3, :3].T + base_from_camera[:3, 3]
    (x, y), (width, depth), degrees = cv2.minAreaRect(points[:, :2].astype(np.float32))
    along_width = np.radians(degrees)
    # Of a pose made by `down`, the closing direction is y turned.
    turn = along_width - np.pi / 2 if width < depth else along_width
    turn = (turn + np.pi / 2) % np.pi - np.pi / 2  # a parallel gripper looks the same from behind
    return down(x, y, np.quantile(points[:, 2], 0.98) - 0.025, turn)


# -- What it is ------------------------------------------------------------------------------------------------------


def test_it_is_a_robot(robot: Franka) -> None:
    assert isinstance(robot, Robot)
    assert robot.gripper is FRANKA


def test_the_tips_are_where_the_world_has_the_ends_of_the_fingers(robot: Franka, world: FrankaWorld) -> None:
    run_for(robot, world, 300)
    tips = robot.state().tips
    _, data = world.state()
    ends = []
    for side in ("left", "right"):
        finger = world.model.body(f"robot0_{side}_finger").id
        rotation = data.xmat[finger].reshape(3, 3)
        # The finger's mesh: 53.9 mm from the joint to its end.
        ends.append(data.xpos[finger] + rotation @ [0, 0, 0.0539])
    assert np.allclose(tips[:3, 3], np.mean(ends, axis=0), atol=5e-4)
    apart = ends[0] - ends[1]
    assert np.allclose(np.abs(tips[:3, 1] @ apart), 0.08, atol=1e-3)
    hand = data.xmat[world.model.body("robot0_hand").id].reshape(3, 3)
    assert np.allclose(tips[:3, 0], hand[:, 2], atol=1e-3)


def test_kinematics_agree_with_the_worlds(robot: Franka, world: FrankaWorld) -> None:
    run_for(robot, world, 300)
    time, data = world.state()
    frames = link_frames(robot.joints())
    for number in range(1, 8):
        place = data.xpos[world.model.body(f"robot0_fr3_link{number}").id]
        assert np.allclose(frames[number - 1, :3, 3], place, atol=5e-4), number
    assert robot.now() >= time


def test_camera_on_the_hand_follows_the_hand(
    robot: Franka, world: FrankaWorld, camera: FrankaCamera
) -> None:
    in_hand = np.eye(4)
    in_hand[:3, 3] = 0.05, 0.0, -0.06
    robot._hand_eye = dataclasses.replace(camera.hand_eye, mode="eye-in-hand", transform=in_hand)
    try:
        run_for(robot, world, 300)
        state = robot.state()
        # The simulated end effector is the TCP: 8.9 mm before the tips, axes x = -height, y = closing, z = approach.
        tips = state.tips
        tcp = tips[:3, 3] - 0.0089 * tips[:3, 0]
        expected = tcp + 0.05 * -tips[:3, 2] - 0.06 * tips[:3, 0]
        assert np.allclose(robot.camera_pose(state.time)[:3, 3], expected, atol=5e-4)
        with pytest.raises(RobotError, match=r"not known.*last"):
            robot.camera_pose(state.time - 60)
        with pytest.raises(RobotError, match="not known"):
            robot.camera_pose(state.time + 60)
    finally:
        robot._hand_eye = None
    with pytest.raises(RobotError, match="calibrate hand-eye"):
        robot.camera_pose(state.time)


# -- Motions -----------------------------------------------------------------------------------------------------


def test_reach_and_follow_arrive(robot: Franka) -> None:
    goal = down(0.45, 0.1, 0.3, 0.5)
    robot.reach(goal)
    assert robot.state().moving
    wait(robot)
    assert np.allclose(robot.state().tips, goal, atol=2e-3)
    path = np.stack([down(0.5, 0.05, 0.25, 0.5), down(0.45, -0.1, 0.3)])
    start = position(robot)
    robot.follow(path, speed=0.3)
    off = []
    while robot.state().moving:
        here = position(robot)
        off.append(min(distance_to_line(here, a, b) for a, b in pairwise([start, *path[:, :3, 3]])))
        robot.sleep(robot.control_period)
    assert np.allclose(robot.state().tips, path[-1], atol=2e-3)
    assert len(off) > 5
    assert max(off) < 5e-3


def distance_to_line(point: np.ndarray, start: np.ndarray, end: np.ndarray) -> float:
    along = end - start
    share = np.clip((point - start) @ along / (along @ along), 0, 1)
    return float(np.linalg.norm(point - start - share * along))


def refused_pose(name: str) -> np.ndarray:
    pose = down(0.5, 0.0, 0.3)
    if name == "not finite":
        pose[0, 3] = np.nan
    elif name == "sheared":
        pose[0, 1] += 0.1
    elif name == "mirrored":
        pose[:3, 1] *= -1
    elif name == "millimetres":
        pose[:3, 3] *= 1000
    elif name == "wrong shape":
        return pose[:3]
    elif name == "below the table":
        pose[2, 3] = TABLE_TOP_M - 0.01
    elif name == "out of reach":
        # Inside the workspace, but with the hand upside down at its far end.
        pose[:3, :3] = pose[:3, :3] @ np.diag([-1.0, 1.0, -1.0])
        pose[:3, 3] = 0.78, 0.45, 0.12
    return pose


@pytest.mark.parametrize(
    "name",
    ["not finite", "sheared", "mirrored", "millimetres", "wrong shape", "below the table", "out of reach"],
)
def test_bad_poses_are_refused_and_nothing_moves(robot: Franka, name: str) -> None:
    pose, before = refused_pose(name), robot.joints()
    with pytest.raises(MotionRefused, match="nothing has moved"):
        robot.reach(pose)
    with pytest.raises(MotionRefused, match="nothing has moved"):
        robot.follow(np.stack([down(0.4, 0.0, 0.4), pose]) if pose.shape == (4, 4) else pose[None])
    state = robot.state()
    assert not state.moving
    assert not state.fault
    assert np.abs(robot.joints() - before).max() < 1e-3


@pytest.mark.parametrize(
    "command",
    [
        lambda robot: robot.reach(HOME, speed=0.0),
        lambda robot: robot.reach(HOME, speed=1.5),
        lambda robot: robot.follow(HOME[None], speed=float("nan")),
        lambda robot: robot.follow(HOME),
        lambda robot: robot.follow(np.empty((0, 4, 4))),
        lambda robot: robot.grip(0.09),
        lambda robot: robot.grip(-0.01),
        lambda robot: robot.grip(float("nan")),
        lambda robot: robot.grip(0.02, force=0.0),
        lambda robot: robot.grip(0.02, force=500.0),
    ],
)
def test_bad_commands_are_refused(robot: Franka, command: Callable[[Any], None]) -> None:
    with pytest.raises(MotionRefused, match=r"expected|must be"):
        command(robot)
    assert not robot.state().moving


def test_reachable_says_what_reach_refuses(robot: Franka) -> None:
    poses = np.stack([down(0.5, 0.0, 0.3), refused_pose("out of reach"), refused_pose("below the table")])
    assert robot.reachable(poses).tolist() == [True, False, False]
    assert robot.reachable(np.empty((0, 4, 4))).tolist() == []


def test_one_motion_at_a_time(robot: Franka) -> None:
    robot.reach(down(0.5, 0.2, 0.3))
    with pytest.raises(MotionRefused, match="still moving"):
        robot.reach(HOME)
    with pytest.raises(RobotError, match="under way"):
        robot.recover()
    wait(robot)


# -- Stop, reflex, recovery --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reach", "follow"])
def test_stop_in_the_middle_of_a_motion(robot: Franka, world: FrankaWorld, kind: str) -> None:
    goal = down(0.55, 0.3, 0.3) if kind == "reach" else down(0.35, 0.3, 0.45)
    start = position(robot)
    if kind == "reach":
        robot.reach(goal, speed=0.4)
    else:
        robot.follow(goal[None], speed=0.2)
    while np.linalg.norm(position(robot) - start) < 0.03:
        assert robot.state().moving
        robot.sleep(0.005)
    stopper = threading.Thread(target=robot.stop)
    began = world.steps()
    stopper.start()
    stopper.join()
    wait(robot, any_fault=True)
    # The robot brakes at once; finding out that it is at rest takes some samples more.
    assert world.steps() - began < 500
    rest = position(robot)
    assert np.linalg.norm(goal[:3, 3] - rest) > 0.05
    run_for(robot, world, 300)
    assert np.linalg.norm(position(robot) - rest) < 1e-3
    state = robot.state()
    assert state.fault == "stopped"
    assert not state.moving
    for command in (lambda: robot.reach(goal), lambda: robot.follow(goal[None]), lambda: robot.grip(0.02)):
        with pytest.raises(MotionRefused, match=r"stopped.*recover"):
            command()
    robot.recover()
    assert robot.state().fault == ""
    robot.reach(HOME)
    wait(robot)
    assert np.allclose(position(robot), HOME[:3, 3], atol=2e-3)


def test_stop_at_rest_and_twice(robot: Franka) -> None:
    robot.stop()
    robot.stop()
    assert robot.state().fault == "stopped"
    robot.recover()
    robot.recover()
    assert robot.state().fault == ""


def test_stop_halts_the_fingers(robot: Franka, world: FrankaWorld) -> None:
    robot.grip(0.0)
    wait(robot)
    plain = robot.config
    robot.config = dataclasses.replace(plain, finger_speed=0.01)
    try:
        robot.grip(0.08)
        while robot.state().opening < 0.01:
            robot.sleep(0.005)
        robot.stop()
        wait(robot, any_fault=True)
        assert 0.01 <= robot.state().opening < 0.07
        rest = robot.state().opening
        run_for(robot, world, 300)
        assert abs(robot.state().opening - rest) < 2e-3
    finally:
        robot.config = plain


def test_a_reflex_ends_the_motion_until_the_recovery(robot: Franka, world: FrankaWorld) -> None:
    goal = down(0.55, 0.3, 0.3)
    robot.reach(goal, speed=0.4)
    run_for(robot, world, 150)
    world.reflex()
    while robot.state().moving:
        robot.sleep(robot.control_period)
    assert "cartesian_reflex" in robot.state().fault
    before = robot.joints()
    with pytest.raises(MotionRefused, match=r"stopped itself.*recover"):
        robot.reach(HOME)
    assert np.abs(robot.joints() - before).max() < 1e-3
    robot.recover()
    assert robot.state().fault == ""
    robot.reach(goal)
    wait(robot)
    assert np.allclose(position(robot), goal[:3, 3], atol=2e-3)


# -- Fingers -----------------------------------------------------------------------------------------------------


def test_closing_on_nothing_holds_nothing(robot: Franka) -> None:
    assert robot.state().holding is False
    robot.grip(0.0)
    wait(robot)
    state = robot.state()
    assert state.opening < 3e-3
    assert state.holding is False
    robot.grip(0.05)
    wait(robot)
    assert robot.state().opening == pytest.approx(0.05, abs=3e-3)


def test_it_sees_picks_holds_and_puts_back(robot: Franka, world: FrankaWorld, camera: FrankaCamera) -> None:
    """Reconstruction by the shipped model, a top-down grasp over it, and the real driver."""
    result = Pipeline(load_bundle(EDGE_MODEL), threads=1)(camera.read())
    (item,) = (o for o in result.objects if o.object_id == BOX)
    tips = top_down_grasp(item, camera.pose)
    before = world.object_pose(BOX)[:3, 3]
    above = withdrawn(tips, 0.1)
    assert robot.reachable(np.stack([tips, above])).all()
    robot.reach(above)
    wait(robot)
    robot.follow(tips[None], speed=0.4)
    wait(robot)
    robot.grip(0.0, force=20.0)
    wait(robot)
    assert robot.state().holding
    robot.follow(above[None], speed=0.4)
    wait(robot)
    state = robot.state()
    assert state.holding
    assert 0.02 < state.opening < 0.06
    assert world.object_pose(BOX)[2, 3] - before[2] > 0.08

    # A stop does not let it fall.
    robot.stop()
    run_for(robot, world, 300)
    assert robot.state().holding
    assert world.object_pose(BOX)[2, 3] - before[2] > 0.08
    robot.recover()

    robot.follow(tips[None], speed=0.4)
    wait(robot)
    robot.grip(0.08)
    wait(robot)
    assert not robot.state().holding
    robot.follow(above[None], speed=0.4)
    wait(robot)
    assert np.linalg.norm(world.object_pose(BOX)[:3, 3] - before) < 0.03


@pytest.mark.slow
def test_the_grasp_loop_picks_and_places(robot: Franka, world: FrankaWorld, camera: FrankaCamera) -> None:
    """The whole cycle with the shipped model's own grasps, refined; the loop may try a few."""
    from zerograsp_edge.runtime.loop import Ending, GraspLoop, Limits, LoopConfig, Timeouts, TipsPose

    refine = RefineConfig(
        gripper=FRANKA,
        approach=ApproachCone(angle=40),
        support=Support(offset=TABLE_TOP_M, clearance=0.003),
    )
    pipeline = Pipeline(load_bundle(EDGE_MODEL), threads=1, refine=refine)
    # The world may run many times slower than the clock that the loop measures with.
    patient = Timeouts(**{field.name: 600.0 for field in dataclasses.fields(Timeouts)})
    config = LoopConfig(
        observe=TipsPose((0.35, 0.0, 0.45)),
        place=(TipsPose((0.4, -0.35, 0.3)),),
        limits=Limits(picks=1, frame_age=60.0, plan_age=600.0),
        timeouts=patient,
        identical_frames="allow",
    )
    before = {item.object_id: world.object_pose(item.object_id)[:3, 3] for item in OBJECTS}
    report = GraspLoop(robot, camera, pipeline, config, hand_eye=camera.hand_eye, threaded=False).run()
    assert report.ending is Ending.DONE, report
    assert report.picks == 1
    moved = {k: np.linalg.norm(world.object_pose(k)[:2, 3] - [0.4, -0.35]) for k in before}
    assert min(moved.values()) < 0.1, (report, moved)


# -- Connection --------------------------------------------------------------------------------------------------


def test_no_robot_at_the_address() -> None:
    with pytest.raises(RobotError, match=r"127\.9\.9\.9.*FCI"):
        Franka(FrankaConfig("127.9.9.9", realtime=False))


def test_a_second_program_is_told_that_the_robot_is_taken(robot: Franka, world: FrankaWorld) -> None:
    with pytest.raises(RobotError, match="no other program"):
        Franka(FrankaConfig(world.host, realtime=False, connect_timeout=1.0))
    assert robot.state().fault == ""


def test_without_a_real_time_kernel_the_error_says_so(world: FrankaWorld) -> None:
    import pathlib

    if pathlib.Path("/sys/kernel/realtime").exists():
        pytest.skip("this kernel is real-time")
    with pytest.raises(RobotError, match="PREEMPT_RT"):
        Franka(FrankaConfig(world.host))


def test_losing_the_robot_is_an_error_and_closing_still_works() -> None:
    """The simulated robot dies under a driver of its own."""
    world = FrankaWorld(())
    robot = Franka(FrankaConfig(world.host, realtime=False))
    world.close()
    with pytest.raises(RobotError, match="close"):
        for _ in range(1000):
            robot.state()
            robot.sleep(0.02)
    robot.stop()
    robot.close()
    robot.close()
    with pytest.raises(RobotError, match="has been closed"):
        robot.state()
