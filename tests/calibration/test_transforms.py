from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerograsp_edge.calibration.transforms import (
    angle_between,
    from_vector,
    invert,
    mean_transform,
    quaternion,
    right_jacobian,
    rotation_from_quaternion,
    rotation_matrix,
    rotation_vector,
    to_vector,
)

numbers = st.floats(-1, 1, allow_subnormal=False)
axes = st.tuples(numbers, numbers, numbers).filter(lambda v: np.linalg.norm(v) > 1e-2)


@given(axes, st.sampled_from([0.0, 1e-12, 1e-7, 1e-4, 0.1, 1.0, 3.0, np.pi - 1e-6, np.pi - 1e-9]))
def test_exponential_and_logarithm_are_inverse_at_every_angle(
    axis: tuple[float, float, float], angle: float
) -> None:
    vector = np.array(axis) / np.linalg.norm(axis) * angle
    matrix = rotation_matrix(vector)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(rotation_vector(matrix), vector, atol=1e-12)
    np.testing.assert_allclose(rotation_from_quaternion(quaternion(matrix)), matrix, atol=1e-14)


def test_half_turns_have_an_axis() -> None:
    for axis in np.eye(3):
        found = rotation_vector(rotation_matrix(np.pi * axis))
        np.testing.assert_allclose(np.abs(found), np.pi * axis, atol=1e-12)


@pytest.mark.parametrize("angle", [0.0, 1e-5, 0.5, 2.5])
def test_right_jacobian_is_the_derivative(angle: float) -> None:
    w = angle * np.array([0.6, -0.64, 0.48])
    step = 1e-6
    for k, column in enumerate(np.eye(3)):
        change = rotation_matrix(w).T @ rotation_matrix(w + step * column)
        np.testing.assert_allclose(rotation_vector(change) / step, right_jacobian(w)[:, k], atol=1e-5)


def test_groups_and_means() -> None:
    rng = np.random.default_rng(0)
    poses = from_vector(rng.normal(size=(20, 6)))
    np.testing.assert_allclose(poses @ invert(poses), np.broadcast_to(np.eye(4), (20, 4, 4)), atol=1e-14)
    np.testing.assert_allclose(from_vector(to_vector(poses)), poses, atol=1e-13)
    around = poses[0] @ from_vector(0.01 * np.concatenate([np.eye(6), -np.eye(6)]))
    np.testing.assert_allclose(mean_transform(around), poses[0], atol=1e-12)
    np.testing.assert_allclose(angle_between(around[:3], poses[0]), 0.01, atol=1e-12)
