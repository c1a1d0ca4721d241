"""Kinematics of the Franka arms: forward by the manufacturer's numbers, inverse as its inverse."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.robot.kinematics import (
    ARMS,
    FR3,
    PANDA,
    Arm,
    Inverse,
    candidates,
    forward,
    link_frames,
)

seeds = st.integers(0, 2**32 - 1)


def positions(arm: Arm, count: int, seed: int) -> np.ndarray:
    """(count, 7) joint positions within the arm's limits."""
    return np.random.default_rng(seed).uniform(arm.low, arm.high, (count, 7))


def down(x: float, y: float, z: float) -> np.ndarray:
    """A flange that looks straight down."""
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[:3, 3] = x, y, z
    return pose


def test_forward_at_zero_is_the_stretched_arm() -> None:
    # 333 + 316 + 384 mm up, 88 mm out, the flange 107 mm down from there.
    assert np.allclose(forward(np.zeros(7)), down(0.088, 0, 0.926), atol=1e-12)


def test_forward_of_the_ready_pose() -> None:
    # Joint 4 at a right angle: upper arm up, forearm forward, hand down.
    flange = forward(np.array([0, 0, 0, -np.pi / 2, 0, np.pi / 2, 0]))
    assert np.allclose(flange, down(0.0825 + 0.384 + 0.088, 0, 0.333 + 0.316 + 0.0825 - 0.107), atol=1e-12)


@given(seed=seeds)
@settings(deadline=None, max_examples=20)
def test_every_candidate_reaches_the_pose(seed: int) -> None:
    arm = ARMS["fr3" if seed % 2 else "panda"]
    joints = positions(arm, 20, seed)
    flange = forward(joints)
    found = candidates(flange, joints[:, 6])[np.arange(20), np.arange(20)]
    exists = ~np.isnan(found).any(axis=-1)
    error = np.abs(forward(found) - flange[:, None]).max(axis=(-2, -1))
    assert np.all(error[exists] < 1e-6)
    # The position that the pose was made from is among them.
    away = np.abs(found - joints[:, None]).max(axis=-1)
    assert np.all(np.nanmin(away, axis=1) < 1e-5)


@pytest.mark.parametrize("arm", [FR3, PANDA], ids=lambda arm: arm.name)
def test_what_the_arm_can_do_is_reachable(arm: Arm) -> None:
    flange = forward(positions(arm, 300, 1))
    inverse = Inverse(arm, margin=0.0)
    # A pose at a limit may fall between two steps of joint 7.
    assert inverse.reachable(flange).mean() > 0.99
    assert Inverse(arm, margin=0.0, step=0.01).reachable(flange).mean() > 0.995


def test_solutions_stay_within_the_limits_less_the_margin() -> None:
    inverse = Inverse(FR3, margin=0.2)
    for flange in forward(positions(FR3, 30, 2)):
        found = inverse.solutions(flange)
        assert np.all(found >= np.array(FR3.low) + 0.2 - 1e-12)
        assert np.all(found <= np.array(FR3.high) - 0.2 + 1e-12)
        assert np.abs(forward(found) - flange).max(initial=0) < 1e-6


@pytest.mark.parametrize(
    "flange",
    [down(1.2, 0, 0.3), down(0, 0, 2.0), down(0.05, 0, 0.3), down(0.5, 0, -0.9), np.full((4, 4), np.nan)],
    ids=["too far", "too high", "in the base", "too low", "not finite"],
)
def test_what_is_out_of_reach_is_said_to_be(flange: np.ndarray) -> None:
    inverse = Inverse()
    assert not inverse.reachable(flange[None])[0]
    if np.isfinite(flange).all():
        assert len(inverse.solutions(flange)) == 0
        assert inverse.nearest(flange, np.zeros(7)) is None


def test_reachable_agrees_with_the_solutions_pose_by_pose() -> None:
    rng = np.random.default_rng(3)
    poses = np.tile(np.diag([1.0, -1.0, -1.0, 1.0]), (60, 1, 1))
    poses[:, :3, 3] = rng.uniform([-1.1, -1.1, -0.3], [1.1, 1.1, 1.2], (60, 3))
    inverse = Inverse()
    expected = [len(inverse.solutions(pose)) > 0 for pose in poses]
    assert 10 < sum(expected) < 50
    assert inverse.reachable(poses).tolist() == expected
    assert inverse.reachable(np.empty((0, 4, 4))).tolist() == []


def test_nearest_keeps_the_arm_where_it_is() -> None:
    ready = np.array([0, -0.785, 0, -2.356, 0, 1.571, 0.785])
    found = Inverse().nearest(forward(ready), ready)
    assert found is not None
    assert np.abs(found - ready).max() < 1e-6
    moved = forward(ready)
    moved[:3, 3] += [0.02, -0.01, 0.03]
    found = Inverse().nearest(moved, ready)
    assert found is not None
    assert np.abs(found - ready).max() < 0.3


def test_link_frames_end_at_the_flange() -> None:
    joints = positions(FR3, 5, 4)
    frames = link_frames(joints)
    assert frames.shape == (5, 8, 4, 4)
    assert np.array_equal(frames[:, 7], forward(joints))
    lengths = np.linalg.norm(np.diff(frames[:, :, :3, 3], axis=1), axis=-1)
    expected = [0, 0.316, 0.0825, np.hypot(0.384, 0.0825), 0, 0.088, 0.107]
    assert np.allclose(lengths, expected)


@pytest.mark.parametrize("values", [{"margin": -0.1}, {"margin": 0.6}, {"step": 0.0}, {"step": float("nan")}])
def test_bad_settings_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="expected"):
        Inverse(**values)
