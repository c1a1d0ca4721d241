"""From the grasps of a view to the few that the robot may execute, best first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zerograsp_edge.runtime.loop.blacklist import Blacklist
from zerograsp_edge.runtime.loop.config import LoopConfig
from zerograsp_edge.runtime.result import Grasps, Result
from zerograsp_edge.runtime.robot.base import Robot, tips_of, withdrawn

# Inverse kinematics is asked for this many poses at a time, so that a stop signal is seen in between.
_BLOCK = 8

# Which grasps of a result may be executed, in which order: (grasps in the base frame, result) -> positions.
Order = Callable[[Grasps, Result], np.ndarray]


@dataclass(frozen=True, eq=False)
class Plan:
    """A grasp about to be executed; poses are (4, 4), base <- tips, m.

    Attributes:
        tips, pregrasp, lifted: where the fingers close, where the straight approach begins, where the lift ends.
        opening: of the fingers on the way in, m.
        depth: of the grasp, m, already part of `tips`.
    """

    tips: np.ndarray
    pregrasp: np.ndarray
    lifted: np.ndarray
    opening: float
    depth: float
    score: float
    object_id: int

    def describe(self) -> dict[str, Any]:
        """For the log."""
        return {
            "object_id": self.object_id,
            "score": self.score,
            "width": self.opening,
            "depth": self.depth,
            "tips": self.tips,
        }


@dataclass
class Choice:
    """What was chosen, and what removed the others.

    Attributes:
        plans: best first, at most as many as asked.
        total: grasps of the view.
        removed: how many each reason removed, of those looked at.
        not_looked_at: grasps behind those chosen.
    """

    plans: list[Plan] = field(default_factory=list)
    total: int = 0
    removed: dict[str, int] = field(default_factory=dict)
    not_looked_at: int = 0

    def remove(self, reason: str, count: int | np.integer[Any]) -> None:
        if count:
            self.removed[reason] = self.removed.get(reason, 0) + int(count)

    def explain(self) -> str:
        parts = ", ".join(f"{count} {reason}" for reason, count in self.removed.items())
        return f"none of {self.total} grasps may be executed: {parts}"


def choose(
    grasps: Grasps,
    positions: np.ndarray,
    robot: Robot,
    blacklist: Blacklist,
    config: LoopConfig,
    check: Callable[[], None],
) -> Choice:
    """The best grasps that are allowed and reachable.

    A grasp is removed, in this order, when a number of it is not finite, its score is too low, the gripper does not
    open that far, something like it failed lately, or the robot cannot reach it, the start of its approach, or the end
    of its lift.

    Args:
        grasps: base frame.
        positions: which, in which order.
        check: called between blocks of inverse kinematics; may raise.
    """
    choice = Choice(total=len(grasps))
    choice.remove("not chosen by the order", len(grasps) - len(positions))
    grasps = grasps[positions]
    tips = tips_of(grasps)
    finite = np.isfinite(tips).all(axis=(1, 2)) & np.isfinite(grasps.score) & np.isfinite(grasps.width)
    good = np.ones(len(grasps), bool) if config.min_score is None else grasps.score >= config.min_score
    fits = (grasps.width > 0) & (grasps.width <= robot.gripper.hand.max_opening + 1e-6)
    allowed = np.zeros(len(grasps), bool)
    allowed[finite] = ~blacklist.blocks(tips[finite], robot.now())
    left = np.ones(len(grasps), bool)
    for reason, passed in (
        ("not finite", finite),
        ("too low score", good),
        ("too wide for the gripper", fits),
        ("failed lately", allowed),
    ):
        choice.remove(reason, np.count_nonzero(left & ~passed))
        left &= passed

    rows = np.flatnonzero(left)
    lift = np.array([0.0, 0.0, config.motion.lift_height])
    for start in range(0, len(rows), _BLOCK):
        check()
        block = rows[start : start + _BLOCK]
        pregrasp = withdrawn(tips[block], config.motion.pregrasp_distance)
        lifted = tips[block].copy()
        lifted[:, :3, 3] += lift
        reachable = np.ones(len(block), bool)
        for what, poses in (("grasp", tips[block]), ("pre-grasp", pregrasp), ("lift", lifted)):
            within = np.zeros(len(block), bool)
            if reachable.any():
                within[reachable] = robot.reachable(poses[reachable])
            choice.remove(f"out of reach ({what})", np.count_nonzero(reachable & ~within))
            reachable &= within
        for i in np.flatnonzero(reachable):
            row = block[i]
            choice.plans.append(
                Plan(
                    tips[row], pregrasp[i], lifted[i], float(grasps.width[row]), float(grasps.depth[row]),
                    float(grasps.score[row]), int(grasps.object_id[row]),
                )
            )  # fmt: skip
        if len(choice.plans) >= config.limits.candidates:
            choice.not_looked_at = len(rows) - start - len(block)
            choice.not_looked_at += len(choice.plans) - config.limits.candidates
            del choice.plans[config.limits.candidates :]
            break
    return choice


def checked_order(positions: np.ndarray, count: int) -> np.ndarray:
    """(k,) int64 positions that an `Order` returned.

    Raises:
        ValueError: not distinct positions of `count` grasps.
    """
    positions = np.asarray(positions)
    if positions.size == 0:
        return np.empty(0, np.int64)
    if positions.ndim != 1 or not np.issubdtype(positions.dtype, np.integer):
        raise ValueError(
            f"order: expected a list of positions, got {positions.dtype} of shape {positions.shape}"
        )
    if positions.min() < 0 or positions.max() >= count or len(np.unique(positions)) != len(positions):
        raise ValueError(
            f"order: expected distinct positions of {count} grasps (0 to {count - 1}), got {positions.tolist()}"
        )
    return positions.astype(np.int64)
