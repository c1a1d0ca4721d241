"""Grasps made from surfaces: of known solids, and held by the simulated gripper."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig, antipodal_grasps
from zerograsp_edge.runtime.grasp.constraints import Support
from zerograsp_edge.runtime.grasp.gripper import SIMULATED
from zerograsp_edge.runtime.grasp.refine import RefineConfig, refine_objects
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction

UP = np.array([0.0, 0.0, 1.0])


def box(
    half: tuple[float, float, float], spacing: float = 5.0, centre_z: float | None = None
) -> ObjectReconstruction:
    """A box's surface, mm, standing on z = 0 unless told otherwise, sampled once per `spacing`."""
    points, normals = [], []
    for axis in range(3):
        a, b = (i for i in range(3) if i != axis)
        ramps = [np.arange(-half[i] + spacing / 2, half[i], spacing) for i in (a, b)]
        u, v = (r.ravel() for r in np.meshgrid(*ramps))
        for sign in (-1, 1):
            face = np.zeros((len(u), 3))
            face[:, a], face[:, b], face[:, axis] = u, v, sign * half[axis]
            points.append(face)
            normals.append(np.tile(sign * np.eye(3)[axis], (len(u), 1)))
    surface = np.concatenate(points).astype(np.float32)
    surface[:, 2] += half[2] if centre_z is None else centre_z
    count = len(surface)
    return ObjectReconstruction(
        7, 0, surface, np.concatenate(normals).astype(np.float32), np.zeros(count, np.float32),
        np.zeros((count, 3), np.int32), np.zeros(3, np.float32), spacing, Grasps.empty(),
    )  # fmt: skip


def tips(grasps: Grasps) -> np.ndarray:
    return grasps.translation + grasps.depth[:, None] * grasps.rotation[:, :, 0]


def test_a_box_is_held_across_its_narrow_side() -> None:
    grasps = antipodal_grasps(box((15, 60, 30)), SIMULATED.hand, UP, 0.002)
    best = grasps.top(1)
    assert best.score[0] > 0.5
    assert abs(best.rotation[0, 0, 1]) > 0.99  # closes along x
    assert best.width[0] == pytest.approx(0.030 + 2 * AntipodalConfig().clearance[0], abs=1e-3)
    assert abs(tips(best)[0, 0]) < 1e-3  # in the middle of it
    assert abs(tips(best)[0, 1]) < 0.015  # near the centre of mass
    assert (np.diff(grasps.score) <= 0).all()


def test_the_fingers_stay_above_the_floor() -> None:
    flat = box((20, 20, 6))
    free, above = (antipodal_grasps(flat, SIMULATED.hand, UP, floor) for floor in (None, 0.002))
    assert tips(free)[:, 2].min() < 0.002 < tips(above)[:, 2].min()
    assert len(above) and above.score[0] > 0.05


@pytest.mark.parametrize("half", [(60, 60, 60), (60, 60, 200)])
def test_what_is_too_wide_has_no_grasp(half: tuple[float, float, float]) -> None:
    assert len(antipodal_grasps(box(half), SIMULATED.hand, UP, 0.0)) == 0


def test_without_gravity_hands_come_from_everywhere() -> None:
    cube = box((20, 20, 20), centre_z=0.0)
    for up, steep in ((UP, True), (None, False)):
        level = antipodal_grasps(cube, SIMULATED.hand, up).rotation[:, 2, 0]
        assert (level.max() > 0.5) != steep
    assert (
        len(antipodal_grasps(replace(cube, points=cube.points[:5], normals=cube.normals[:5]), SIMULATED.hand))
        == 0
    )


def test_dense_surfaces_are_judged_like_sparse_ones() -> None:
    sparse, dense = (
        antipodal_grasps(box((15, 60, 30), spacing), SIMULATED.hand, UP, 0.002) for spacing in (5, 2.5)
    )
    assert dense.score[0] == pytest.approx(sparse.score[0], rel=0.25)
    assert dense.width[0] == pytest.approx(sparse.width[0], abs=0.004)


def test_refinement_judges_collisions_of_such_grasps_and_keeps_their_depth() -> None:
    item = box((15, 60, 30))
    wall = box((5, 80, 80)).points + np.array([40, 0, 0], np.float32)
    config = RefineConfig(gripper=SIMULATED, support=Support(clearance=0.002), antipodal=AntipodalConfig())
    free, blocked = (
        refine_objects([item], points / 1000, config, world_from_camera=np.eye(4), threads=1)[0][0].grasps
        for points in (np.zeros((1, 3), np.float32) - 5000, wall)
    )
    assert abs(free.rotation[0, 0, 1]) > 0.99
    # The fingers' outer face and clearance do not fit between box and wall at x = 35 mm unless they open less.
    half = blocked.width / 2 + SIMULATED.hand.finger_thickness
    across = np.abs(blocked.rotation[:, 0, 1])
    assert ((tips(blocked)[:, 0] + half * across < 0.0352) | (tips(blocked)[:, 2] > 0.155)).all()
    assert (free.depth == np.float32(0.02)).all()
    with_points, _ = refine_objects([item], wall / 1000, RefineConfig(gripper=SIMULATED), threads=1)
    assert len(with_points[0].grasps) == 0  # the network gave none, and none are made unless asked


def test_noise_of_the_support_is_left_to_the_plane() -> None:
    item = box((15, 40, 8))
    rng = np.random.default_rng(0)
    table = np.append(rng.uniform(-0.1, 0.1, (8000, 2)), rng.uniform(-0.004, 0.004, (8000, 1)), axis=1)
    kept = {}
    for thickness in (0.0, 0.006):
        support = Support(clearance=0.002, thickness=thickness)
        config = RefineConfig(gripper=SIMULATED, support=support, antipodal=AntipodalConfig())
        objects, _ = refine_objects(
            [item], table.astype(np.float32), config, world_from_camera=np.eye(4), threads=1
        )
        kept[thickness] = objects[0].grasps
    assert len(kept[0.006]) > len(kept[0.0])
    assert Support(thickness=0.006).allows(kept[0.006], SIMULATED.hand).all()


@pytest.mark.parametrize("shape", ["cylinder", "box"])
def test_the_simulated_robot_holds_what_it_is_told_to(shape: str) -> None:
    pytest.importorskip("mujoco", reason="needs MuJoCo (extra 'sim')")
    from zerograsp_edge.runtime.robot.base import tips_of, withdrawn
    from zerograsp_edge.runtime.robot.simulated import SimulatedRobot
    from zerograsp_edge.runtime.simulation.shapes import Box, Cylinder
    from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples
    from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

    solid = Cylinder(25, 45) if shape == "cylinder" else Box((18, 45, 20))
    pose = np.eye(4)
    pose[2, 3] = 45 if shape == "cylinder" else 20
    table = SupportBox(np.array([0, 0, -20.0]), np.array([500, 500, 20.0]), np.eye(3))
    world = World("table", (table,), (WorldObject(1, shape, solid, pose),), 0)
    points, normals = surface_samples(solid, 5.0, np.random.default_rng(0))
    item = replace(
        box((1, 1, 1), 1.0),
        points=(points + pose[:3, 3]).astype(np.float32),
        normals=normals.astype(np.float32),
        voxel_size=5.0,
    )
    config = RefineConfig(gripper=SIMULATED, support=Support(clearance=0.002), antipodal=AntipodalConfig())
    nothing = np.full((1, 3), -5, np.float32)
    objects, _ = refine_objects([item], nothing, config, world_from_camera=np.eye(4), threads=1)
    best = objects[0].grasps.top(3)
    assert len(best) == 3
    for goal, width in zip(tips_of(best), best.width, strict=True):
        robot = SimulatedRobot(world)
        u, _, v = np.linalg.svd(goal[:3, :3])
        goal[:3, :3] = u @ v
        lifted = goal.copy()
        lifted[2, 3] += 0.1
        robot.grip(float(width))
        robot.reach(withdrawn(goal, 0.1))
        wait(robot)
        for path in (goal, None, lifted):
            if path is None:
                assert robot.touches == []  # nothing on the way in
                robot.grip(0.0)
            else:
                robot.follow(path[None])
            wait(robot)
        robot.sleep(0.5)
        assert robot.held_object() == 1 and robot.state().fault == ""
        assert robot.object_poses()[0, 2, 3] > pose[2, 3] + 80


def wait(robot: object) -> None:
    while robot.state().moving:  # type: ignore[attr-defined]
        robot.sleep(robot.control_period)  # type: ignore[attr-defined]
