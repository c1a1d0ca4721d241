"""Rigid transforms as (..., 4, 4) arrays and rotations as rotation vectors.

`a_from_b` maps points of frame b into frame a: p_a = a_from_b @ p_b. Rotation vectors are axis x angle, rad.
"""

from __future__ import annotations

import numpy as np

# Below this angle (rad) the closed forms lose digits to cancellation and their series are exact to 1e-16.
_SMALL = 1e-4


def skew(v: np.ndarray) -> np.ndarray:
    """(..., 3) vectors to (..., 3, 3) matrices with skew(v) @ w = v x w."""
    matrix = np.zeros((*v.shape, 3))
    matrix[..., 0, 1], matrix[..., 0, 2], matrix[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    return matrix - np.swapaxes(matrix, -1, -2)


def rotation_matrix(rotation_vector: np.ndarray) -> np.ndarray:
    """(..., 3) rotation vectors to (..., 3, 3) matrices (Rodrigues' formula)."""
    w = np.asarray(rotation_vector, np.float64)
    angle = np.linalg.norm(w, axis=-1)[..., None, None]
    square = angle**2
    small = angle < _SMALL
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 1 - square / 6, np.sin(safe) / safe)
    second = np.where(small, 0.5 - square / 24, (1 - np.cos(safe)) / safe**2)
    k = skew(w)
    return np.eye(3) + first * k + second * (k @ k)


def rotation_vector(rotation: np.ndarray) -> np.ndarray:
    """(..., 3, 3) matrices to (..., 3) rotation vectors of angle 0..pi, by way of the unit quaternion."""
    q = quaternion(rotation)
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[..., :1])
    safe = np.where(sine < 1e-12, 1.0, sine)
    return np.where(sine < 1e-12, 2.0, angle / safe) * q[..., 1:]


def quaternion(rotation: np.ndarray) -> np.ndarray:
    """(..., 3, 3) matrices to (..., 4) unit quaternions w, x, y, z with w >= 0.

    The four candidates of Shepperd's method are the columns of 4 q q^T; the one with the largest diagonal
    entry is taken, which is accurate for every angle.
    """
    r = np.asarray(rotation, np.float64)
    m = np.empty((*r.shape[:-2], 4, 4))
    trace = np.trace(r, axis1=-2, axis2=-1)
    m[..., 0, 0] = 1 + trace
    for i in range(3):
        j, k = (i + 1) % 3, (i + 2) % 3
        m[..., i + 1, i + 1] = 1 + 2 * r[..., i, i] - trace
        m[..., 0, i + 1] = m[..., i + 1, 0] = r[..., k, j] - r[..., j, k]
        m[..., j + 1, k + 1] = m[..., k + 1, j + 1] = r[..., k, j] + r[..., j, k]
    largest = np.argmax(np.diagonal(m, axis1=-2, axis2=-1), axis=-1)
    q = np.take_along_axis(m, largest[..., None, None], axis=-1)[..., 0]
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    return np.where(q[..., :1] < 0, -q, q)


def rotation_from_quaternion(q: np.ndarray) -> np.ndarray:
    """(..., 4) quaternions w, x, y, z (normalised here) to (..., 3, 3) matrices."""
    q = np.asarray(q, np.float64)
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    w, k = q[..., :1, None], skew(q[..., 1:])
    return np.eye(3) + 2 * w * k + 2 * k @ k


def right_jacobian(w: np.ndarray) -> np.ndarray:
    """J with R(w + dw) = R(w) R(J dw) to first order; (..., 3) to (..., 3, 3).

    Chirikjian, Stochastic Models, Information Theory, and Lie Groups, vol. 2, (10.86).
    """
    w = np.asarray(w, np.float64)
    angle = np.linalg.norm(w, axis=-1)[..., None, None]
    small = angle < _SMALL
    safe = np.where(small, 1.0, angle)
    first = np.where(small, 0.5, (1 - np.cos(safe)) / safe**2)
    second = np.where(small, 1 / 6, (safe - np.sin(safe)) / safe**3)
    k = skew(w)
    return np.eye(3) - first * k + second * (k @ k)


def transform(rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """(..., 3, 3) and (..., 3) to (..., 4, 4)."""
    translation = np.asarray(translation, np.float64)
    result = np.zeros((*translation.shape[:-1], 4, 4))
    result[..., :3, :3], result[..., :3, 3], result[..., 3, 3] = rotation, translation, 1.0
    return result


def from_vector(vector: np.ndarray) -> np.ndarray:
    """(..., 6) rotation vector and translation to (..., 4, 4)."""
    vector = np.asarray(vector, np.float64)
    return transform(rotation_matrix(vector[..., :3]), vector[..., 3:])


def to_vector(pose: np.ndarray) -> np.ndarray:
    """(..., 4, 4) to (..., 6) rotation vector and translation."""
    return np.concatenate([rotation_vector(pose[..., :3, :3]), pose[..., :3, 3]], axis=-1)


def invert(pose: np.ndarray) -> np.ndarray:
    """Inverse of (..., 4, 4) rigid transforms."""
    rotation = np.swapaxes(pose[..., :3, :3], -1, -2)
    return transform(rotation, -(rotation @ pose[..., :3, 3:])[..., 0])


def nearest_rotation(matrix: np.ndarray) -> np.ndarray:
    """The rotation closest to (..., 3, 3) matrices in the Frobenius norm."""
    u, _, vt = np.linalg.svd(matrix)
    sign = np.ones(matrix.shape[:-1])
    sign[..., 2] = np.linalg.det(u @ vt)
    return (u * sign[..., None, :]) @ vt


def angle_between(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle (rad) of the rotation between (..., 4, 4) or (..., 3, 3) transforms."""
    relative = np.swapaxes(a[..., :3, :3], -1, -2) @ b[..., :3, :3]
    return np.linalg.norm(rotation_vector(relative), axis=-1)


def mean_transform(poses: np.ndarray) -> np.ndarray:
    """(n, 4, 4) to (4, 4): chordal mean of the rotations, mean of the translations."""
    return transform(nearest_rotation(poses[:, :3, :3].mean(axis=0)), poses[:, :3, 3].mean(axis=0))
