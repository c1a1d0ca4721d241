"""How good a reconstructed surface is: distances, F-scores and normals, per object and over many objects.

The measures of OctMAE (Iwase et al., ECCV 2024) and ZeroGrasp (Iwase et al., CVPR 2025), in the form that Mescheder et
al. ("Occupancy Networks", CVPR 2019, section 4 and supplement) and Tatarchenko et al. (CVPR 2019, F-score) give them:

    accuracy      mean distance of a predicted point to its nearest true point
    completeness  mean distance of a true point to its nearest predicted point
    chamfer       (accuracy + completeness) / 2, mm, not squared
    F1 at t       harmonic mean of the share of predicted points within t of the truth (precision) and the share of true
                  points within t of the prediction (recall)
    normal        mean |cos| of the angle between a point's normal and that of its nearest neighbour in the other set,
    consistency   averaged over the two directions

The absolute value is Mescheder et al.'s. It forgives a normal that points inwards, which a gripper does not: the mean
of the signed cosine stands beside it as `normal_agreement`.

Two finite samples of one surface do not score zero: with points 1 mm apart about 0.5 mm are left.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from zerograsp_edge.runtime.extras import require

LEVELS = ("easy", "normal", "hard")
# Neither paper states where its occlusion levels end; here: over 70 %, 40 to 70 %, under 40 % visible.
EASY_ABOVE, HARD_BELOW = 0.7, 0.4
# Points of either side whose nearest neighbours are looked up. Neighbours are searched among all points, so that the
# subset changes a mean's noise (by under 1 %), not its value.
MAX_QUERIES = 10_000


@dataclass(frozen=True, eq=False)
class Surface:
    """Points of a surface with their normals, and a search tree that is built on first use and kept.

    Attributes:
        points: (n, 3) mm, n may be 0.
        normals: (n, 3), any length; None where a method gives none.

    Raises:
        ValueError: shapes do not fit, or a value is not finite.
    """

    points: np.ndarray
    normals: np.ndarray | None = None

    def __post_init__(self) -> None:
        for name, rows in (("points", self.points), ("normals", self.normals)):
            if rows is None:
                continue
            if rows.ndim != 2 or rows.shape[1] != 3 or len(rows) != len(self.points):
                raise ValueError(f"{name}: expected shape ({len(self.points)}, 3), got {rows.shape}")
            if not np.isfinite(rows).all():
                raise ValueError(f"{name}: expected finite values, {(~np.isfinite(rows)).sum()} are not")

    def __len__(self) -> int:
        return len(self.points)

    @cached_property
    def tree(self) -> Any:
        """scipy.spatial.cKDTree of the points."""
        spatial = require("scipy.spatial", "sim", "compare surfaces")
        # An unbalanced tree is built several times faster, and surfaces are searched once or a few times.
        return spatial.cKDTree(self.points, balanced_tree=False, compact_nodes=False)

    def subset(self, count: int, rng: np.random.Generator) -> Surface:
        """At most `count` points, drawn without replacement."""
        if len(self) <= count:
            return self
        rows = rng.choice(len(self), count, replace=False)
        return Surface(self.points[rows], None if self.normals is None else self.normals[rows])

    def moved(self, transform: np.ndarray) -> Surface:
        """The surface in another frame; `transform` is (4, 4), rigid, target <- current, mm."""
        rotation, translation = transform[:3, :3], transform[:3, 3]
        normals = None if self.normals is None else self.normals @ rotation.T
        return Surface(self.points @ rotation.T + translation, normals)


@dataclass(frozen=True)
class ObjectMetrics:
    """How well one object was reconstructed.

    Attributes:
        chamfer, accuracy, completeness: mm, lower is better.
        f1_5, f1_10: percent, F-score at the two thresholds (5 and 10 mm unless others were asked for).
        normal_consistency: percent, mean |cos|; NaN where the method gives no normals.
        normal_agreement: percent, mean cos, -100 when every normal is reversed; NaN without normals.
        missed: nothing was predicted for the object. It then scores the worst there is: F1 and normals 0, and
            the diagonal of the truth's bounding box as each distance (as Occupancy Networks charges the
            diagonal of its unit cube). It counts in every mean.
    """

    chamfer: float
    accuracy: float
    completeness: float
    f1_5: float
    f1_10: float
    normal_consistency: float
    normal_agreement: float
    missed: bool = False


MEASURES = tuple(name for name in ObjectMetrics.__dataclass_fields__ if name != "missed")


def object_metrics(
    points: np.ndarray,
    normals: np.ndarray | None,
    true_points: np.ndarray,
    true_normals: np.ndarray,
    *,
    thresholds: tuple[float, float] = (5.0, 10.0),
    max_queries: int = MAX_QUERIES,
    seed: int = 0,
) -> ObjectMetrics:
    """Compare one reconstructed surface with the truth.

    Args:
        points: (n, 3) mm, predicted; n may be 0.
        normals: (n, 3) or None.
        true_points: (m, 3) mm, in the same frame, m > 0.
        true_normals: (m, 3), outward.
        thresholds: distances of the two F-scores, mm.
        max_queries: points of either side that are looked up.
        seed: of their choice.
    """
    return compare(
        Surface(points, normals),
        Surface(true_points, true_normals),
        thresholds=thresholds,
        max_queries=max_queries,
        seed=seed,
    )


def compare(
    predicted: Surface,
    truth: Surface,
    *,
    thresholds: tuple[float, float] = (5.0, 10.0),
    max_queries: int = MAX_QUERIES,
    seed: int = 0,
) -> ObjectMetrics:
    """As `object_metrics`, for a truth that several predictions are compared with: its tree is built once."""
    if len(truth) == 0:
        raise ValueError("the true surface has no points: expected at least one")
    if len(predicted) == 0:
        diagonal = float(np.linalg.norm(np.ptp(truth.points, axis=0)))
        return ObjectMetrics(diagonal, diagonal, diagonal, 0.0, 0.0, 0.0, 0.0, missed=True)
    rng = np.random.default_rng(seed)
    forth, cos_forth = _nearest(predicted.subset(max_queries, rng), truth)
    back, cos_back = _nearest(truth.subset(max_queries, rng), predicted)
    accuracy, completeness = float(forth.mean()), float(back.mean())
    f1 = [_f_score(float((forth <= t).mean()), float((back <= t).mean())) for t in thresholds]
    return ObjectMetrics(
        chamfer=(accuracy + completeness) / 2,
        accuracy=accuracy,
        completeness=completeness,
        f1_5=f1[0],
        f1_10=f1[1],
        normal_consistency=50 * float(np.abs(cos_forth).mean() + np.abs(cos_back).mean()),
        normal_agreement=50 * float(cos_forth.mean() + cos_back.mean()),
    )


def _nearest(queries: Surface, target: Surface) -> tuple[np.ndarray, np.ndarray]:
    """(q,) distances of the queries to the target's points, mm; (q,) cosines of the normals, NaN without normals."""
    distance, row = target.tree.query(queries.points)
    if queries.normals is None or target.normals is None:
        return distance, np.full(len(distance), np.nan)
    a, b = (_unit(n.astype(np.float64)) for n in (queries.normals, target.normals[row]))
    return distance, np.einsum("ni,ni->n", a, b)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows divided by their length; zero stays zero, and agrees with nothing."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _f_score(precision: float, recall: float) -> float:
    """Percent."""
    total = precision + recall
    return 200 * precision * recall / total if total > 0 else 0.0


def level_of(visible_fraction: float) -> str:
    """Occlusion level by the visible share of an object's pixels: easy over 0.7, hard under 0.4, else normal."""
    if not 0 <= visible_fraction <= 1:
        raise ValueError(f"visible_fraction: expected 0..1, got {visible_fraction}")
    if visible_fraction > EASY_ABOVE:
        return "easy"
    return "hard" if visible_fraction < HARD_BELOW else "normal"


@dataclass(frozen=True)
class Record:
    """One method's score on one object, with what tables are grouped by.

    Attributes:
        method: who reconstructed it, such as `ours` or `convex hull`.
        split: which held-out set the scene belongs to.
        seed: of the scene.
        scene_kind: `table`, `bin` or `shelf`.
        object_id: its value in the scene's masks.
        family: shape family.
        level: one of LEVELS.
    """

    method: str
    split: str
    seed: int
    scene_kind: str
    object_id: int
    family: str
    level: str
    metrics: ObjectMetrics


@dataclass(frozen=True)
class Summary:
    """Means over objects, every object counting the same, missed ones included at their worst.

    Attributes:
        count: objects.
        missed: of these, objects that nothing was predicted for.
        means: by measure, of MEASURES; NaN where no object has a value.
    """

    count: int
    missed: int
    means: dict[str, float]

    def __getitem__(self, measure: str) -> float:
        return self.means[measure]


def summarise(metrics: Iterable[ObjectMetrics]) -> Summary:
    """Means over objects. Raises ValueError without any."""
    metrics = list(metrics)
    if not metrics:
        raise ValueError("nothing to summarise: expected at least one object")
    means = {}
    for name in MEASURES:
        values = np.array([getattr(m, name) for m in metrics], np.float64)
        # Only normals can be absent.
        values = values[~np.isnan(values)]
        means[name] = float(values.mean()) if len(values) else float("nan")
    return Summary(len(metrics), sum(m.missed for m in metrics), means)


Key = TypeVar("Key", bound=Hashable)


def summarise_by(records: Sequence[Record], key: Callable[[Record], Key]) -> dict[Key, Summary]:
    """Summaries by what `key` says of a record, such as `lambda r: (r.split, r.level)`; in order of appearance."""
    groups: dict[Key, list[ObjectMetrics]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record.metrics)
    return {name: summarise(members) for name, members in groups.items()}
