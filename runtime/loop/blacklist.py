"""Places where grasps failed, in the robot's base frame; forgotten by and by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.runtime.loop.config import BlacklistConfig


@dataclass(frozen=True, eq=False)
class _Failure:
    tips: np.ndarray
    time: float


class Blacklist:
    """Remembers failed grasps.

    A failure weighs 1 when it happens and half as much after every half-life. A grasp is blocked while the weights of
    the failures like it add up to a half or more: once failed, for one half-life; twice, for two; and a place whose
    object has moved meanwhile is open again after that. Failures like it are those whose tips are nearer than the
    radius and turned by less than the angle; turned by 180 degrees about its approach a parallel gripper is the same
    hand.
    """

    def __init__(self, config: BlacklistConfig) -> None:
        self.config = config
        self._failures: list[_Failure] = []

    def __len__(self) -> int:
        return len(self._failures)

    def add(self, tips: np.ndarray, time: float) -> None:
        """A grasp with the tips at (4, 4), base frame, m, failed at that time, s."""
        self._failures.append(_Failure(np.array(tips, np.float64), time))

    def weights(self, tips: np.ndarray, time: float) -> np.ndarray:
        """(n,) of (n, 4, 4) poses at that time."""
        # Below this a failure no longer counts, even ten like it.
        self._failures = [f for f in self._failures if self._weight(f, time) > 0.05]
        total = np.zeros(len(tips))
        for failure in self._failures:
            total += self._weight(failure, time) * self._alike(tips, failure.tips)
        return total

    def blocks(self, tips: np.ndarray, time: float) -> np.ndarray:
        """(n,) bool for (n, 4, 4) poses."""
        return self.weights(tips, time) >= 0.5

    def _weight(self, failure: _Failure, time: float) -> float:
        return float(0.5 ** (max(time - failure.time, 0.0) / self.config.half_life))

    def _alike(self, tips: np.ndarray, failed: np.ndarray) -> np.ndarray:
        near = np.linalg.norm(tips[:, :3, 3] - failed[:3, 3], axis=1) <= self.config.radius
        turned = failed[:3, :3] * np.array([1.0, -1.0, -1.0])  # by 180 degrees about the approach
        traces = [np.einsum("nij,ij->n", tips[:, :3, :3], r) for r in (failed[:3, :3], turned)]
        cosine = (np.maximum(*traces) - 1) / 2
        return near & (cosine >= np.cos(np.radians(self.config.angle)) - 1e-9)
