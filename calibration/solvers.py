"""The five classical solutions of A X = X B, in NumPy.

OpenCV 4 has them as `cv2.calibrateHandEye`; OpenCV 5 no longer has that function, and both versions are allowed
here, so they are written out. `tests/calibration/test_solvers.py` compares them with OpenCV's where it has them.

Every solver takes motions A_k (n, 4, 4) of the hand and B_k (n, 4, 4) of the camera with A_k X = X B_k and returns
X (4, 4). They need at least two motions with rotation axes that are not parallel; otherwise they raise
`numpy.linalg.LinAlgError` or return what noise decides: `pose_set.py` says whether to believe it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zerograsp_edge.calibration.transforms import (
    invert,
    nearest_rotation,
    quaternion,
    rotation_from_quaternion,
    rotation_vector,
    skew,
    transform,
)

Solver = Callable[[np.ndarray, np.ndarray], np.ndarray]


def motions(hand: np.ndarray, board: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs' motions of views.

    Args:
        hand: (n, 4, 4), base <- hand for eye-in-hand, hand <- base for eye-to-hand.
        board: (n, 4, 4), camera <- board.

    Returns:
        A and B, each (n (n - 1) / 2, 4, 4), with A X = X B and X = hand <- camera (eye-in-hand) or
        base <- camera (eye-to-hand).
    """
    i, j = np.triu_indices(len(hand), 1)
    return invert(hand[j]) @ hand[i], board[j] @ invert(board[i])


def tsai(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """R. Tsai, R. Lenz, IEEE Trans. Robotics and Automation 5(3), 1989: modified Rodrigues vectors.

    Singular where X itself turns by 180 degrees, as its authors say.
    """
    pa, pb = 2 * _quaternions(a)[:, 1:], 2 * _quaternions(b)[:, 1:]
    p = _least_squares(skew(pa + pb).reshape(-1, 3), (pb - pa).ravel())
    p = 2 * p / np.sqrt(1 + p @ p)
    rotation = (1 - p @ p / 2) * np.eye(3) + (np.outer(p, p) + np.sqrt(4 - p @ p) * skew(p)) / 2
    return transform(rotation, _translation(a, b, rotation))


def park(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """F. Park, B. Martin, IEEE Trans. Robotics and Automation 10(5), 1994: least squares on rotation vectors."""
    alpha, beta = rotation_vector(a[:, :3, :3]), rotation_vector(b[:, :3, :3])
    rotation = nearest_rotation(alpha.T @ beta)
    return transform(rotation, _translation(a, b, rotation))


def horaud(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """R. Horaud, F. Dornaika, Int. J. Robotics Research 14(3), 1995: unit quaternion of the axes' alignment."""
    qa, qb = _quaternions(a), _quaternions(b)
    difference = _left(qa) - _right(qb)
    _, vectors = np.linalg.eigh(np.einsum("nij,nik->jk", difference, difference))
    rotation = rotation_from_quaternion(vectors[:, 0])
    return transform(rotation, _translation(a, b, rotation))


def andreff(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """N. Andreff, R. Horaud, B. Espiau, 3DIM 1999: rotation linear in its nine entries, by Kronecker products.

    The rotation is the null vector of vec(R_A R - R R_B); the translation follows with the rotation made
    orthogonal, so that a scale between the two cannot leak into it.
    """
    ra, rb = a[:, :3, :3], b[:, :3, :3]
    identity = np.eye(3)
    # Row-major vec: vec(R_A R) = (R_A kron I) vec(R), vec(R R_B) = (I kron R_B^T) vec(R).
    rows = np.concatenate(
        [np.kron(x, identity) - np.kron(identity, y.T) for x, y in zip(ra, rb, strict=True)]
    )
    _, _, vt = np.linalg.svd(rows, full_matrices=False)
    matrix = vt[-1].reshape(3, 3)
    rotation = nearest_rotation(matrix * np.sign(np.linalg.det(matrix)))
    return transform(rotation, _translation(a, b, rotation))


def daniilidis(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """K. Daniilidis, Int. J. Robotics Research 18(3), 1999: rotation and translation at once, by dual quaternions."""
    qa, qb = _quaternions(a), _quaternions(b)
    da, db = _dual(qa, a[:, :3, 3]), _dual(qb, b[:, :3, 3])
    rows = np.zeros((len(a), 6, 8))
    rows[:, :3, 0], rows[:, :3, 1:4] = (qa - qb)[:, 1:], skew((qa + qb)[:, 1:])
    rows[:, 3:, 0], rows[:, 3:, 1:4] = (da - db)[:, 1:], skew((da + db)[:, 1:])
    rows[:, 3:, 4:] = rows[:, :3, :4]
    _, _, vt = np.linalg.svd(rows.reshape(-1, 8), full_matrices=False)
    (u1, v1), (u2, v2) = (vt[-2][:4], vt[-2][4:]), (vt[-1][:4], vt[-1][4:])
    # q = l1 u1 + l2 u2 must be a unit dual quaternion: |q| = 1 and q . q' = 0, a quadratic in s = l1 / l2.
    roots = np.roots([u1 @ v1, u1 @ v2 + u2 @ v1, u2 @ v2]) if abs(u1 @ v1) > 1e-14 else np.zeros(1)
    s = np.real(roots)
    norm = s**2 * (u1 @ u1) + 2 * s * (u1 @ u2) + u2 @ u2
    best = int(np.argmax(norm))
    l2 = 1 / np.sqrt(norm[best])
    real, dual = l2 * (s[best] * u1 + u2), l2 * (s[best] * v1 + v2)
    conjugate = real * [1, -1, -1, -1]
    return transform(rotation_from_quaternion(real), 2 * (_right(conjugate[None])[0] @ dual)[1:])


SOLVERS: dict[str, Solver] = {
    "Tsai": tsai,
    "Park": park,
    "Horaud": horaud,
    "Andreff": andreff,
    "Daniilidis": daniilidis,
}


def _translation(a: np.ndarray, b: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """Least squares of (R_A - I) t = R t_B - t_A."""
    right = b[:, :3, 3] @ rotation.T - a[:, :3, 3]
    return _least_squares((a[:, :3, :3] - np.eye(3)).reshape(-1, 3), right.ravel())


def _least_squares(matrix: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(matrix, right, rcond=None)[0]


def _quaternions(poses: np.ndarray) -> np.ndarray:
    return quaternion(poses[:, :3, :3])


def _left(q: np.ndarray) -> np.ndarray:
    """(n, 4) to (n, 4, 4) with left(q) p = q p."""
    return _product_matrix(q, skew(q[:, 1:]))


def _right(q: np.ndarray) -> np.ndarray:
    """(n, 4) to (n, 4, 4) with right(q) p = p q."""
    return _product_matrix(q, -skew(q[:, 1:]))


def _product_matrix(q: np.ndarray, cross: np.ndarray) -> np.ndarray:
    matrix = np.empty((len(q), 4, 4))
    matrix[:, 0, 0], matrix[:, 0, 1:], matrix[:, 1:, 0] = q[:, 0], -q[:, 1:], q[:, 1:]
    matrix[:, 1:, 1:] = q[:, 0, None, None] * np.eye(3) + cross
    return matrix


def _dual(q: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """The dual part t q / 2 of the dual quaternion of a rigid motion."""
    pure = np.concatenate([np.zeros((len(q), 1)), translation], axis=1)
    return (_right(q) @ pure[..., None])[..., 0] / 2
