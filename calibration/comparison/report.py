"""What a comparison found, as data that is written to JSON and read back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zerograsp_edge.calibration.comparison.tensors import ERROR_EDGES, TensorDifference
from zerograsp_edge.runtime.configuration import build
from zerograsp_edge.runtime.errors import ConfigError


@dataclass(frozen=True)
class Side:
    """One of the two: a bundle on a backend. `precision` is the coarsest of its stages."""

    bundle: str
    precision: str
    backend: str
    megabytes: float


@dataclass(frozen=True)
class OctreeAgreement:
    """The octrees of one depth; by key, IoU = intersection over union, mean and worst of the frames.

    Attributes:
        nodes_a, nodes_b: in all frames, free.
        free_mean, free_worst: the nodes that each grows by its own decisions.
        forced_mean, forced_worst: the nodes that each would split when both are on A's octree: this depth's decisions
            without the consequences of those above. At the finest depth a node that splits is one of the surface.
    """

    depth: int
    nodes_a: int
    nodes_b: int
    free_mean: float
    free_worst: float
    forced_mean: float
    forced_worst: float


@dataclass(frozen=True)
class ShapeScore:
    """Against the true surface (export/training/metrics.py): mm and percent."""

    chamfer: float
    f1_5: float
    f1_10: float
    normal_consistency: float


@dataclass(frozen=True)
class ObjectShapes:
    """One object, reconstructed by both."""

    frame: str
    object_id: int
    a: ShapeScore
    b: ShapeScore


@dataclass(frozen=True)
class ShapeChange:
    """Means over all objects; an object that one side missed counts with the worst score."""

    a: ShapeScore
    b: ShapeScore
    missed_a: int
    missed_b: int
    objects: tuple[ObjectShapes, ...]


@dataclass(frozen=True)
class GraspAgreement:
    """Over all frames.

    Attributes:
        top: how many grasps of a frame are compared at most, the best after suppression.
        best_a, best_b, shared: how many there were, and how many are the same grasp.
        judged: A's grasps, each refined in the scene that A and that B reconstructs.
        admitted_a, admitted_b, admitted_both: of them, how many may be executed in A's scene, in B's, in both.
    """

    top: int
    best_a: int
    best_b: int
    shared: int
    judged: int
    admitted_a: int
    admitted_b: int
    admitted_both: int

    @property
    def overlap(self) -> float:
        """Share of the best grasps that are shared; 1 where neither has any."""
        most = max(self.best_a, self.best_b)
        return self.shared / most if most else 1.0

    @property
    def same_verdict(self) -> float:
        """Share of the grasps that both scenes admit or both refuse; 1 where there are none."""
        different = self.admitted_a + self.admitted_b - 2 * self.admitted_both
        return 1 - different / self.judged if self.judged else 1.0


@dataclass(frozen=True)
class Picks:
    """Simulated cells worked on by the grasp loop: approaches, and objects picked, verified and placed."""

    attempts: int
    picks: int

    @property
    def success(self) -> float:
        """Percent of the attempts; 0 without any."""
        return 100 * self.picks / self.attempts if self.attempts else 0.0


@dataclass(frozen=True)
class Picking:
    """Both in the same seeded cells."""

    cells: int
    a: Picks
    b: Picks


@dataclass(frozen=True)
class Check:
    """One entry of the budget.

    Attributes:
        name: of the budget's entry.
        value, limit: what was found, what is allowed.
        at_least: whether the limit is the least value; else it is the largest.
        detail: where, and what it means; the first stage that fails, if one does.
    """

    name: str
    value: float
    limit: float
    at_least: bool
    detail: str
    ok: bool


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes:
        frames: where they came from.
        frame_count: how many.
        error_edges: of the tensors' histograms.
        tensors: in the stages' order, with A's splits forced on B, so that rows belong to the same nodes.
        octrees: by depth.
        shapes: None where the truth is not known.
        picking: None where it was not asked for.
        budget: whose presets the limits are (fp32, fp16, int8), where no option changed them.
        checks: the verdict's parts.
        notes: what was not compared, and why.
    """

    a: Side
    b: Side
    frames: str
    frame_count: int
    tensors: tuple[TensorDifference, ...]
    octrees: tuple[OctreeAgreement, ...]
    grasps: GraspAgreement
    shapes: ShapeChange | None = None
    picking: Picking | None = None
    budget: str = "fp32"
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    error_edges: tuple[float, ...] = ERROR_EDGES

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    @property
    def failures(self) -> tuple[str, ...]:
        return tuple(f"{check.name}: {check.detail}" for check in self.checks if not check.ok)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def load_comparison(path: str | Path) -> Comparison:
    """The inverse of `Comparison.to_json`.

    Raises:
        ConfigError: the file is no such report.
    """
    try:
        entries = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected the JSON of `zerograsp-edge compare`, cannot read it: {error}"
        ) from error
    if isinstance(entries, dict):
        entries.pop("ok", None)  # follows from the checks
    return build(Comparison, entries, str(path))
