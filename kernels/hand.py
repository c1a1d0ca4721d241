"""The hand that grasps are refined for, and what refinement returns: shared by the kernel and its NumPy twin."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Fit(IntEnum):
    """Whether a grasp is possible; if not, the first test that it fails, in this order."""

    FITS = 0
    EMPTY = 1
    TOO_WIDE = 2
    FINGER = 3
    PALM = 4
    SWEEP = 5


@dataclass(frozen=True)
class Hand:
    """A parallel-jaw hand as boxes in the grasp frame (x approach, y closing, z height), in metres.

    The origin is the grasp point; the fingers reach `depth` beyond it. The default is the hand that the published
    network's post-processing assumes.

    Attributes:
        finger_thickness: of a finger along y; inner faces at +-width / 2.
        finger_height: of a finger along z.
        finger_base: the fingers begin this far behind the grasp point, whatever their depth; unused with
            `finger_length`.
        finger_length: 0, or the fingers' free length: they begin this far behind their own tips.
        palm_thickness: how far the palm reaches back along x from where the fingers begin.
        palm_width: of the palm along y; 0: from one finger's outer face to the other's.
        palm_height: of the palm along z.
        max_opening: the widest the fingers open; infinity: any width.
        min_clearance, max_clearance: between the nearest contact and a finger's inner face, after refinement.
        tip_margin: how far the tips may reach beyond the contacts, as the grasp's depth allows. 0, the published rule:
            the tips end at the contacts. Infinity: the depth stays as it is.
        min_inner_points: a grasp with fewer points between its fingers is empty.
        sweep: the hand comes along x from this far behind the grasp, its path is checked; negative: it is not.
    """

    finger_thickness: float = 0.01
    finger_height: float = 0.02
    finger_base: float = 0.02
    finger_length: float = 0.0
    palm_thickness: float = 0.01
    palm_width: float = 0.0
    palm_height: float = 0.02
    max_opening: float = math.inf
    min_clearance: float = 0.0025
    max_clearance: float = 0.01
    tip_margin: float = 0.0
    min_inner_points: int = 10
    sweep: float = -1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            low = -math.inf if field.name == "sweep" else 0
            limit = math.inf if field.name in ("max_opening", "tip_margin") else 10.0
            if not low <= value <= limit:
                raise ValueError(f"hand: expected {field.name} of 0 to {limit} m, got {value}")
        if self.min_clearance > self.max_clearance:
            raise ValueError(
                f"hand: expected min_clearance <= max_clearance, got {self.min_clearance} > {self.max_clearance}"
            )

    def lengths(self) -> NDArray[np.float32]:
        """(12,) float32: all lengths, in the order of `grasp::Gripper`."""
        names = [f.name for f in fields(self) if f.name not in ("min_inner_points", "sweep")]
        return np.array([*(getattr(self, name) for name in names), self.sweep], np.float32)


@dataclass(frozen=True, eq=False)
class RefinedGrasps:
    """Grasps after refinement, row by row as they were given.

    Attributes:
        width: (G,) float32, m, contact-constrained opening.
        depth: (G,) float32, m, contact-constrained depth.
        inner_points: (G,) int32, points between the fingers as they were given.
        fit: (G,) uint8, values of `Fit`.
    """

    width: NDArray[np.float32]
    depth: NDArray[np.float32]
    inner_points: NDArray[np.int32]
    fit: NDArray[np.uint8]
