"""The simulated gripper: grasps that must hold, miss, slip and collide."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("mujoco", reason="the simulated gripper needs MuJoCo (extra 'sim')")

from zerograsp_edge.runtime.simulation.gripper import (
    COLLIDED,
    HELD,
    MISSED,
    SLIPPED,
    GraspTrials,
    try_grasp,
)
from zerograsp_edge.runtime.simulation.shapes import Box, Cylinder, Sphere
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

TABLE = SupportBox(np.array([0, 0, -20.0]), np.array([500, 500, 20.0]), np.eye(3))
DOWN, X, Y = (0, 0, -1), (1, 0, 0), (0, 1, 0)


@pytest.fixture(scope="module")
def world() -> World:
    def at(x: float, y: float, z: float) -> np.ndarray:
        pose = np.eye(4)
        pose[:3, 3] = x, y, z
        return pose

    objects = (
        WorldObject(1, "cube", Box((20, 20, 20)), at(0, 0, 20)),
        WorldObject(2, "cylinder", Cylinder(30, 60), at(150, 0, 60)),
        WorldObject(3, "disc", Cylinder(25, 25), at(-150, 0, 25)),
        WorldObject(4, "lead", Box((20, 20, 60)), at(0, 200, 60), density=40_000.0),
    )
    return World("table", (TABLE,), objects, 0)


@pytest.fixture(scope="module")
def trials(world: World) -> GraspTrials:
    return GraspTrials(world)


def grasp(origin_mm: Sequence[float], approach: Sequence[float], closing: Sequence[float]) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3] = np.stack([approach, closing, np.cross(approach, closing)], axis=1)
    pose[:3, 3] = np.array(origin_mm) / 1000
    return pose


@pytest.mark.parametrize(
    ("origin", "approach", "closing", "width", "depth", "object_id"),
    [
        ((0, 0, 40), DOWN, Y, 0.052, 0.030, 1),
        ((0, 0, 40), DOWN, X, 0.090, 0.038, 1),  # wide open, almost on the table
        ((0, 3, 40), DOWN, Y, 0.060, 0.030, 1),  # three millimetres off the middle
        ((120, 0, 60), X, Y, 0.072, 0.040, 2),  # from the side
        ((150, 0, 120), DOWN, Y, 0.072, 0.030, 2),
        ((-150, 0, 50), DOWN, X, 0.062, 0.035, 3),
    ],
)
def test_good_grasps_hold(
    trials: GraspTrials,
    origin: Sequence[float],
    approach: Sequence[float],
    closing: Sequence[float],
    width: float,
    depth: float,
    object_id: int,
) -> None:
    trial = trials.try_grasp(grasp(origin, approach, closing), width, depth, object_id)
    assert trial.outcome == HELD
    assert trial.lifted_mm == pytest.approx(100, abs=2)
    assert trial.moved_others_mm < 1


def test_beside_the_object_it_misses(trials: GraspTrials) -> None:
    trial = trials.try_grasp(grasp((0, 70, 40), DOWN, Y), 0.052, 0.030, 1)
    assert trial.outcome == MISSED
    assert abs(trial.lifted_mm) < 1


def test_above_the_equator_of_a_ball_it_slips() -> None:
    """6 mm below the top of a ball of radius 25 mm the surface is 50 degrees off the pads: friction 0.9 holds 42."""
    pose = np.eye(4)
    pose[2, 3] = 25
    ball = World("table", (TABLE,), (WorldObject(1, "ball", Sphere(25), pose),), 0)
    trials = GraspTrials(ball)
    above = trials.try_grasp(grasp((0, 0, 50), DOWN, X), 0.062, 0.006, 1)
    assert above.outcome in (SLIPPED, MISSED)
    at_equator = trials.try_grasp(grasp((0, 0, 50), DOWN, X), 0.062, 0.035, 1)
    assert at_equator.outcome == HELD


def test_too_heavy_slips(trials: GraspTrials) -> None:
    """7.7 kg against two pads of 25 N and friction 0.9."""
    trial = trials.try_grasp(grasp((0, 200, 120), DOWN, Y), 0.052, 0.038, 4)
    assert trial.outcome == SLIPPED
    assert trial.lifted_mm < 20


@pytest.mark.parametrize(
    ("origin", "closing", "width", "depth", "met"),
    [
        ((0, 0, 40), Y, 0.030, 0.030, "object_1"),  # fingers onto the cube
        ((0, 0, 38), Y, 0.052, 0.040, "support_0"),  # fingers into the table
        ((0, 0, 12), Y, 0.052, 0.010, "object_1"),  # palm into the cube
        ((95, 0, 60), X, 0.060, 0.030, "object_2"),  # a finger onto the neighbour
    ],
)
def test_collisions_on_the_way_in(
    trials: GraspTrials,
    origin: Sequence[float],
    closing: Sequence[float],
    width: float,
    depth: float,
    met: str,
) -> None:
    trial = trials.try_grasp(grasp(origin, DOWN, closing), width, depth, 1)
    assert trial.outcome == COLLIDED
    assert trial.met.startswith(met)


def test_trials_do_not_see_each_other(trials: GraspTrials, world: World) -> None:
    """The same grasp gives the same result after others, and in a model of its own."""
    good = grasp((0, 0, 40), DOWN, Y)
    first = trials.try_grasp(good, 0.052, 0.030, 1)
    trials.try_grasp(grasp((150, 0, 120), DOWN, Y), 0.072, 0.010, 2)
    assert trials.try_grasp(good, 0.052, 0.030, 1) == first
    assert try_grasp(world, good, 0.052, 0.030, 1) == first


def test_what_the_gripper_cannot_do_is_refused(trials: GraspTrials) -> None:
    good = grasp((0, 0, 40), DOWN, Y)
    with pytest.raises(ValueError, match="rigid"):
        trials.try_grasp(good * 2, 0.05, 0.03, 1)
    with pytest.raises(ValueError, match="width"):
        trials.try_grasp(good, 0.12, 0.03, 1)
    with pytest.raises(ValueError, match="depth"):
        trials.try_grasp(good, 0.05, 0.05, 1)
    with pytest.raises(ValueError, match="object of the world"):
        trials.try_grasp(good, 0.05, 0.03, 9)
