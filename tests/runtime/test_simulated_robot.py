"""The simulated robot: picks what is there, reports what it touches, halts when told, refuses what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulated robot needs MuJoCo (extra 'sim')")

from zerograsp_edge.runtime.robot import MotionRefused, Robot, RobotError
from zerograsp_edge.runtime.robot.base import withdrawn
from zerograsp_edge.runtime.robot.simulated import CameraMount, SimulatedRobot
from zerograsp_edge.runtime.robot.simulated_camera import RobotCamera
from zerograsp_edge.runtime.simulation.render import RenderError
from zerograsp_edge.runtime.simulation.scenes import look_at
from zerograsp_edge.runtime.simulation.sensor import MaskNoise, SensorNoise
from zerograsp_edge.runtime.simulation.shapes import Box, Cylinder
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

TABLE = SupportBox(np.array([0, 0, -20.0]), np.array([500, 400, 20.0]), np.eye(3))
INTRINSICS = np.array([[600, 0, 319.5], [0, 600, 239.5], [0, 0, 1]])
CUBE, CAN = 1, 2


def at(x: float, y: float, z: float) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, 3] = x, y, z
    return pose


@pytest.fixture
def robot() -> SimulatedRobot:
    objects = (
        WorldObject(CUBE, "cube", Box((20, 20, 20)), at(0, 0, 20)),
        WorldObject(CAN, "can", Cylinder(30, 60), at(150, 0, 60)),
    )
    eye = look_at(np.array([300.0, -300.0, 450.0]), np.array([50.0, 0.0, 30.0]))
    eye[:3, 3] /= 1000
    return SimulatedRobot(World("table", (TABLE,), objects, 0), CameraMount(eye))


def down(x: float, y: float, z: float) -> np.ndarray:
    """Tips at a point, m, from above, closing along y."""
    pose = at(x, y, z)
    pose[:3, :3] = np.array([[0, 0, -1], [0, 1, 0], [1, 0, 0]]).T
    return pose


def wait(robot: SimulatedRobot) -> None:
    while robot.state().moving:
        robot.sleep(robot.control_period)


def grasp(robot: SimulatedRobot, tips: np.ndarray, opening: float) -> None:
    robot.grip(opening)
    robot.reach(withdrawn(tips, 0.1))
    wait(robot)
    robot.follow(tips[None])
    wait(robot)
    robot.grip(0.0)
    wait(robot)


def test_picks_an_object_and_takes_it_to_the_drop_zone(robot: SimulatedRobot) -> None:
    assert isinstance(robot, Robot)
    grasp(robot, down(0, 0, 0.01), 0.06)
    assert robot.state().holding and robot.held_object() == CUBE
    assert robot.state().opening == pytest.approx(0.04, abs=0.002)
    robot.reach(robot.drop)
    wait(robot)
    assert robot.held_object() == CUBE and robot.placed == []
    np.testing.assert_allclose(robot.state().tips, robot.drop, atol=2e-3)
    robot.grip(0.08)
    wait(robot)
    assert robot.placed == [CUBE] and robot.lost == []
    assert robot.present().tolist() == [False, True]
    # Nothing but the cube was touched, and the can stands where it stood.
    assert {touch.what for touch in robot.touches} == {"object_1"}
    np.testing.assert_allclose(robot.object_poses()[1, :3, 3], [150, 0, 60], atol=0.1)


def test_empty_fingers_hold_nothing(robot: SimulatedRobot) -> None:
    grasp(robot, down(-0.2, 0.1, 0.02), 0.06)
    state = robot.state()
    assert state.opening < 0.001 and state.holding is False
    assert robot.touches == [] and robot.held_object() is None


def test_the_open_gripper_pushes_what_it_meets_and_says_so(robot: SimulatedRobot) -> None:
    robot.grip(0.08)
    robot.reach(down(0.0, 0.12, 0.03))
    wait(robot)
    began = robot.now()
    robot.follow(down(0.0, 0.03, 0.03)[None], speed=0.3)
    wait(robot)
    assert robot.state().fault == ""
    assert {touch.what for touch in robot.touched(began)} == {"object_1"}
    # The near finger's outer face ends at 30 - 40 - 10 mm.
    assert robot.object_poses()[0, 1, 3] == pytest.approx(-40, abs=3)


def test_pressing_on_the_table_is_a_fault_until_recovered(robot: SimulatedRobot) -> None:
    robot.reach(down(-0.2, 0.1, 0.05))
    wait(robot)
    robot.follow(down(-0.2, 0.1, -0.015)[None])
    wait(robot)
    state = robot.state()
    assert "support_0" in state.fault and not state.moving
    assert state.tips[2, 3] > -0.003
    with pytest.raises(MotionRefused, match="support_0"):
        robot.reach(robot.home)
    robot.recover()
    robot.reach(robot.home)
    wait(robot)
    np.testing.assert_allclose(robot.state().tips, robot.home, atol=2e-3)


def test_stop_halts_within_a_control_period_and_keeps_the_object(robot: SimulatedRobot) -> None:
    grasp(robot, down(0, 0, 0.01), 0.06)
    robot.reach(robot.drop)
    robot.sleep(0.6)
    robot.stop()
    robot.sleep(robot.control_period)
    state = robot.state()
    assert not state.moving and state.fault == "stopped"
    robot.sleep(0.5)
    assert np.linalg.norm(robot.state().tips[:3, 3] - state.tips[:3, 3]) < 0.01
    assert robot.held_object() == CUBE and robot.state().tips[2, 3] > 0.05
    with pytest.raises(MotionRefused, match="stopped"):
        robot.grip(0.08)
    robot.recover()
    robot.reach(robot.drop)
    wait(robot)
    assert robot.held_object() == CUBE


def test_a_stop_that_is_recovered_at_once_still_ends_the_motion(robot: SimulatedRobot) -> None:
    robot.reach(down(0.2, 0.2, 0.3))
    robot.sleep(0.2)
    robot.stop()
    robot.recover()
    assert not robot.state().moving


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (lambda r: r.reach(down(2.0, 0, 0.2)), "outside the workspace"),
        (lambda r: r.follow(2 * np.eye(4)[None]), "rigid"),
        (lambda r: r.follow(np.full((1, 4, 4), np.nan)), "finite"),
        (lambda r: r.follow(np.empty((0, 4, 4))), r"\(n, 4, 4\)"),
        (lambda r: r.reach(down(0, 0, 0.2), speed=0.0), "speed"),
        (lambda r: r.grip(0.2), "opening"),
        (lambda r: r.grip(0.0, force=-1.0), "force"),
    ],
)
def test_refused_motions_move_nothing(robot: SimulatedRobot, order: object, message: str) -> None:
    before = robot.state().tips
    with pytest.raises(MotionRefused, match=message):
        order(robot)  # type: ignore[operator]
    robot.sleep(0.2)
    np.testing.assert_allclose(robot.state().tips, before, atol=1e-4)


def test_a_camera_on_the_hand_is_where_the_hand_was(robot: SimulatedRobot) -> None:
    robot.camera_mount = CameraMount(at(0, 0.05, -0.1), on_hand=True)
    then, tips = robot.now(), robot.state().tips
    robot.reach(down(0.1, 0.1, 0.3))
    wait(robot)
    np.testing.assert_allclose(robot.camera_pose(then), tips @ robot.camera_mount.pose, atol=1e-3)
    with pytest.raises(RobotError, match="not known"):
        robot.camera_pose(robot.now() + 1)
    robot.camera_mount = None
    with pytest.raises(RobotError, match="without a camera"):
        robot.camera_pose(then)


@pytest.fixture
def camera(robot: SimulatedRobot) -> Iterator[RobotCamera]:
    try:
        made = RobotCamera(robot, INTRINSICS, 0, SensorNoise.clean(), MaskNoise())
    except RenderError as error:
        pytest.skip(f"no OpenGL: {error}")
    with made:
        yield made


def test_frames_show_the_world_as_it_is_now(robot: SimulatedRobot, camera: RobotCamera) -> None:
    def centre(object_id: int) -> np.ndarray:
        """Of the visible points, base frame, m."""
        frame = camera.read()
        pose = robot.camera_pose(frame.timestamp)
        points = frame.point_image()[frame.mask == object_id].mean(axis=0) / 1000
        return pose[:3, :3] @ points + pose[:3, 3]

    first = centre(CUBE)
    assert np.linalg.norm(first - [0, 0, 0.02]) < 0.03
    grasp(robot, down(0, 0, 0.01), 0.06)
    lifted = down(0, 0, 0.11)
    robot.follow(lifted[None])
    wait(robot)
    assert camera.read().timestamp == robot.now()
    assert centre(CUBE)[2] - first[2] == pytest.approx(0.1, abs=0.01)
    robot.reach(robot.drop)
    wait(robot)
    robot.grip(0.08)
    wait(robot)
    assert camera.read().object_ids() == (CAN,)


def test_the_picture_moves_with_the_world_and_not_without(robot: SimulatedRobot, camera: RobotCamera) -> None:
    first, again = camera.picture(), camera.picture()
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.depth, again.depth)
    robot.reach(down(0.1, -0.1, 0.3))
    wait(robot)
    hidden = camera.picture()
    changed = first.depth != hidden.depth
    assert 500 < changed.sum() < changed.size / 4  # the gripper is in the picture


def test_an_empty_table_is_a_frame_without_objects(robot: SimulatedRobot, camera: RobotCamera) -> None:
    robot.placed.extend([CUBE, CAN])
    frame = camera.read()
    assert frame.object_ids() == ()
    assert (frame.depth > 0).any()
