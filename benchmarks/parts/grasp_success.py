"""The best grasp of every object, executed by the simulated gripper in the world the frame was taken of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from harness import Figure, figure

from zerograsp_edge.export.training.sample import SceneSample
from zerograsp_edge.runtime.result import Grasps
from zerograsp_edge.runtime.simulation.world import World


@dataclass(frozen=True)
class Trial:
    """One executed grasp.

    Attributes:
        split, scene_kind, family: of the object that was to be grasped.
        held: it was lifted and held.
        reason: where it was not, why.
    """

    split: str
    scene_kind: str
    family: str
    held: bool
    reason: str
