"""Forward and inverse kinematics of the Franka arms (Panda/FER and Research 3), for many poses at once.

The two arms share one geometry, the manufacturer's Denavit-Hartenberg parameters in Craig's convention (Franka
Robotics, *Robot and interface specifications*, "Denavit-Hartenberg parameters"), m:

    joint   1      2   3      4       5        6   7      flange
    a       0      0   0      0.0825  -0.0825  0   0.088  0
    d       0.333  0   0.316  0       0.384    0   0      0.107

With seven joints a pose leaves one freedom, here the angle of joint 7, and for each there are up to eight joint
positions in closed form. The decomposition (wrist, elbow triangle, shoulder) is that of He and Liu, *Analytical
Inverse Kinematics for Franka Emika Panda - a Geometrical Solver for 7-DOF Manipulators with Unconventional Design*,
ICCMA 2021; it is worked out for arrays here, and for the elbow on either side of the straight arm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

D1, D3, D5, A4, A7, D_FLANGE = 0.333, 0.316, 0.384, 0.0825, 0.088, 0.107
# Poses at once: keeps the arrays of candidates within some ten MB.
_BATCH = 256


@dataclass(frozen=True)
class Arm:
    """One of the arms.

    Attributes:
        name: as in a deployment file.
        low, high: (7,) joint limits, rad.
    """

    name: str
    low: tuple[float, ...]
    high: tuple[float, ...]


# The manufacturer's specifications, "Limits for Panda" and "Limits for Franka Research 3": joint position limits.
PANDA = Arm(
    "panda",
    (-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973),
    (2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973),
)
FR3 = Arm(
    "fr3",
    (-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159),
    (2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159),
)
ARMS = {arm.name: arm for arm in (PANDA, FR3)}


def link_frames(joints: np.ndarray) -> np.ndarray:
    """(..., 8, 4, 4) float64 base <- frames 1 to 7 and the flange, m, of joint positions (..., 7), rad."""
    joints = np.asarray(joints, np.float64)
    chain = (
        # rotation about x before the joint (quarter turns), a, d
        (0, 0.0, D1),
        (-1, 0.0, 0.0),
        (1, 0.0, D3),
        (1, A4, 0.0),
        (-1, -A4, D5),
        (1, 0.0, 0.0),
        (1, A7, 0.0),
    )
    frames = np.empty((*joints.shape[:-1], 8, 4, 4))
    current = np.broadcast_to(np.eye(4), (*joints.shape[:-1], 4, 4))
    for index, (turn, a, d) in enumerate(chain):
        c, s, step = np.cos(joints[..., index]), np.sin(joints[..., index]), np.zeros((*joints.shape[:-1], 4, 4))
        # Rx(turn) Tx(a) Rz(q) Tz(d), with cos and sin of the quarter turn written out.
        ct, st = (1.0, 0.0) if turn == 0 else (0.0, float(turn))
        step[..., 0, 0], step[..., 0, 1], step[..., 0, 3] = c, -s, a
        step[..., 1, 0], step[..., 1, 1], step[..., 1, 2], step[..., 1, 3] = s * ct, c * ct, -st, -st * d
        step[..., 2, 0], step[..., 2, 1], step[..., 2, 2], step[..., 2, 3] = s * st, c * st, ct, ct * d
        step[..., 3, 3] = 1
        current = current @ step
        frames[..., index, :, :] = current
    frames[..., 7, :, :] = current
    frames[..., 7, :3, 3] += D_FLANGE * current[..., :3, 2]
    return frames


def forward(joints: np.ndarray) -> np.ndarray:
    """(..., 4, 4) float64 base <- flange, m, of joint positions (..., 7), rad."""
    return link_frames(joints)[..., 7, :, :]


def candidates(flange: np.ndarray, last_joint: np.ndarray) -> np.ndarray:
    """Every joint position that puts the flange at the poses, whatever the limits.

    Args:
        flange: (n, 4, 4) base <- flange, rigid, m.
        last_joint: (m,) angles of joint 7 to try, rad.

    Returns:
        (n, m, 8, 7) float64, rad, within -pi to pi (joint 6: within -pi/2 to 3 pi/2); NaN where there is none.
    """
    flange = np.asarray(flange, np.float64)
    x, y, z, position = (flange[:, None, :3, k] for k in range(4))
    c7, s7 = np.cos(last_joint)[:, None], np.sin(last_joint)[:, None]
    # Axes of frame 6, seen from the flange: x6 points from the wrist to the flange's axis, z6 is joint 6's axis.
    x6 = c7 * x - s7 * y
    z6 = s7 * x + c7 * y
    y6 = np.cross(z6, x6)
    wrist = position - D_FLANGE * z - A7 * x6
    to_shoulder = np.array([0, 0, D1]) - wrist
    distance = np.linalg.norm(to_shoulder, axis=-1)
    # Triangle of shoulder, elbow (origin of frame 4) and wrist.
    upper, lower = np.hypot(D3, A4), np.hypot(D5, A4)
    with np.errstate(invalid="ignore", divide="ignore"):
        at_elbow = np.arccos((upper**2 + lower**2 - distance**2) / (2 * upper * lower))
        at_wrist = np.arccos((lower**2 + distance**2 - upper**2) / (2 * lower * distance))
        offsets = np.arctan2(D3, A4) + np.arctan2(D5, A4) - 2 * np.pi
        # The elbow before and beyond the straight line from shoulder to wrist.
        q4 = np.stack([at_elbow + offsets, 2 * np.pi - at_elbow + offsets], axis=-1)
        tilt = np.arctan2(A4, D5) + np.stack([at_wrist, -at_wrist], axis=-1)
        # The forearm's axis -z5 makes that angle with the line to the shoulder: vx sin q6 + vy cos q6 = -L cos(tilt).
        vx, vy = np.sum(to_shoulder * x6, axis=-1), np.sum(to_shoulder * y6, axis=-1)
        radius = np.hypot(vx, vy)
        spread = np.arccos(-distance[..., None] * np.cos(tilt) / radius[..., None])
        q6 = np.arctan2(vx, vy)[..., None, None] + spread[..., None] * np.array([1.0, -1.0])
        q6 = _wrapped(q6 - np.pi / 2) + np.pi / 2
        s6, c6 = np.sin(q6)[..., None], np.cos(q6)[..., None]
        x6, y6, z6, to_shoulder = (v[:, :, None, None, :] for v in (x6, y6, z6, to_shoulder))
        z5 = s6 * x6 + c6 * y6
        # Unit vector from the forearm's axis towards the elbow, in the plane of the triangle.
        across = to_shoulder - np.sum(to_shoulder * z5, axis=-1, keepdims=True) * z5
        x4 = across / np.linalg.norm(across, axis=-1, keepdims=True) * np.sign(tilt)[..., None, None]
        x5, y5 = c6 * x6 - s6 * y6, -z6
        q5 = np.arctan2(-np.sum(x4 * y5, axis=-1), np.sum(x4 * x5, axis=-1))
        z4 = np.cross(x4, z5)
        s4, c4 = np.sin(q4)[..., None, None], np.cos(q4)[..., None, None]
        # Frame 4 is frame 3 turned by a quarter about x, then by q4: its rows back give frame 3.
        x3 = c4 * x4 - s4 * z5
        z3 = s4 * x4 + c4 * z5
        y3 = -z4
        # Joints 1 to 3 are the Euler angles zyz of frame 3.
        q2 = np.arccos(np.clip(z3[..., 2], -1, 1))
        q1, q3 = np.arctan2(z3[..., 1], z3[..., 0]), np.arctan2(y3[..., 2], -x3[..., 2])
    shape = q6.shape
    q7 = np.broadcast_to(last_joint[None, :, None, None], shape)
    q4 = np.broadcast_to(q4[..., None], shape)
    one = np.stack([q1, q2, q3, q4, q5, q6, q7], axis=-1)
    other = np.stack([_wrapped(q1 + np.pi), -q2, _wrapped(q3 + np.pi), q4, q5, q6, q7], axis=-1)
    found = np.concatenate([one, other], axis=-2).reshape(*shape[:2], 8, 7)
    found[np.isnan(found).any(axis=-1)] = np.nan
    return found


@dataclass(frozen=True)
class Inverse:
    """Inverse kinematics of an arm within its limits.

    Joint 7 is tried in steps, so a pose at the very edge of the reach, with a joint 7 that fits only between two
    steps, counts as out of reach.

    Attributes:
        arm: whose limits count.
        margin: distance kept from every limit, rad.
        step: between the angles of joint 7 that are tried, rad.
    """

    arm: Arm = FR3
    margin: float = 0.05
    step: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin: expected 0 to 0.5 rad, got {self.margin}")
        if not 0.005 <= self.step <= 1:
            raise ValueError(f"step: expected 0.005 to 1 rad, got {self.step}")

    @property
    def low(self) -> np.ndarray:
        return np.array(self.arm.low) + self.margin

    @property
    def high(self) -> np.ndarray:
        return np.array(self.arm.high) - self.margin

    def within_limits(self, joints: np.ndarray) -> np.ndarray:
        """(...) bool for joint positions (..., 7); NaN is outside."""
        return np.all((joints >= self.low) & (joints <= self.high), axis=-1)

    def reachable(self, flange: np.ndarray) -> np.ndarray:
        """(n,) bool: whether there is a joint position for poses (n, 4, 4), base <- flange, m; not finite: no."""
        flange = np.asarray(flange, np.float64)
        result = np.zeros(len(flange), bool)
        angles = self._angles()
        # Farther from the shoulder than the stretched arm is long, there is nothing to try; NaN is farther.
        from_shoulder = np.linalg.norm(flange[:, :3, 3] - [0, 0, D1], axis=1)
        near = from_shoulder <= np.hypot(D3, A4) + np.hypot(D5, A4) + np.hypot(A7, D_FLANGE)
        undecided = np.flatnonzero(near & np.isfinite(flange).all(axis=(1, 2)))
        # Most poses within reach have a wide range of angles: a few angles decide them.
        for some in (angles[::6], np.delete(angles, np.s_[::6])):
            for rows in np.array_split(undecided, max(1, -(-len(undecided) // _BATCH))):
                result[rows] = self.within_limits(candidates(flange[rows], some)).any(axis=(1, 2))
            undecided = undecided[~result[undecided]]
        return result

    def solutions(self, flange: np.ndarray, last_joint: float | None = None) -> np.ndarray:
        """(k, 7) float64, rad: joint positions for one pose (4, 4); none if it is out of reach.

        Args:
            last_joint: an angle of joint 7 to try besides the steps.
        """
        return self._solve(flange, self._angles(last_joint))

    def solutions_around(self, flange: np.ndarray, last_joint: float) -> np.ndarray:
        """(k, 7) float64, rad: joint positions for one pose (4, 4) with joint 7 within 0.2 rad of an angle."""
        return self._solve(flange, last_joint + np.linspace(-0.2, 0.2, 41))

    def _solve(self, flange: np.ndarray, angles: np.ndarray) -> np.ndarray:
        found = candidates(np.asarray(flange)[None], angles).reshape(-1, 7)
        return found[self.within_limits(found)]

    def nearest(self, flange: np.ndarray, joints: np.ndarray) -> np.ndarray | None:
        """(7,) joint position for one pose (4, 4), the nearest to `joints` (7,); None if it is out of reach.

        Nearness is the sum of squared differences, and more for each joint that comes within 0.4 rad of a limit, where
        a straight line that follows may end.
        """
        found = self.solutions(flange, float(joints[6]))
        if len(found) == 0:
            return None
        room = np.minimum(found - self.low, self.high - found)
        crowded = np.sum(np.maximum(0, 0.4 - room) ** 2, axis=1)
        return found[np.argmin(np.sum((found - joints) ** 2, axis=1) + 40 * crowded)]

    def _angles(self, extra: float | None = None) -> np.ndarray:
        low, high = float(self.low[6]), float(self.high[6])
        steps = np.linspace(low, high, int(np.ceil((high - low) / self.step)) + 1)
        if extra is None or not low <= extra <= high:
            return steps
        return np.append(steps, extra)


def _wrapped(angle: np.ndarray) -> np.ndarray:
    """The angle within -pi to pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
