"""One held-out scene, reconstructed by every method and compared with the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from zerograsp_edge.export.training.metrics import Record, Surface, compare, level_of
from zerograsp_edge.export.training.penetration import penetration_volume
from zerograsp_edge.export.training.references import (
    Observation,
    convex_hull,
    mirror_completion,
    visible_points,
)
from zerograsp_edge.export.training.sample import SceneSample, View
from zerograsp_edge.export.training.truth import asked_objects, true_surfaces, visible_shares
from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Grasps

OURS = "ours"
VISIBLE, HULL, MIRROR = REFERENCES = ("visible points", "convex hull", "mirror completion")
TRUTH = "truth"


@dataclass(frozen=True, eq=False)
class Prediction:
    """What one method made of a frame, by mask value.

    Attributes:
        surfaces: camera frame, mm. An object that is absent, or has no points, is a missed one.
        reasons: why objects are absent, where the method says so.
        grasps: where the method gives any, camera frame, m.
    """

    surfaces: dict[int, Surface]
    reasons: dict[int, str] = field(default_factory=dict)
    grasps: dict[int, Grasps] = field(default_factory=dict)


Predictor = Callable[[View, list[int]], Prediction]


@dataclass(frozen=True, eq=False)
class SceneScore:
    """A scene's results.

    Attributes:
        asked: mask values of the objects that every method was asked for.
        records: one per method and asked object.
        penetration: cm^3 claimed by two objects, by method that gives closed surfaces; `truth` is what the
            measurement itself makes of objects that touch.
        not_asked: why objects were asked of no method, by mask value.
        reasons: method, mask value, why there is no reconstruction.
        grasps: of ours, by mask value of the asked objects, camera frame, m.
    """

    asked: list[int]
    records: list[Record]
    penetration: dict[str, float]
    not_asked: dict[int, str]
    reasons: list[tuple[str, int, str]]
    grasps: dict[int, Grasps]


def frame_of(view: View) -> Frame:
    return Frame(view.rgb, view.depth, view.intrinsics, mask=view.mask, background=0)


def run_pipeline(pipeline: Pipeline) -> Predictor:
    """The runtime as a predictor. A frame that it refuses has all objects missed, with its message as the reason."""

    def predict(view: View, asked: list[int]) -> Prediction:
        try:
            result = pipeline(frame_of(view))
        except ZeroGraspError as error:
            return Prediction({}, dict.fromkeys(asked, str(error)))
        reasons = {s.object_id: s.reason for s in result.skipped}
        reasons |= {o.object_id: "no occupied voxels" for o in result.objects if len(o.points) == 0}
        return Prediction(
            {o.object_id: Surface(o.points, o.normals) for o in result.objects},
            reasons,
            {o.object_id: o.grasps for o in result.objects},
        )

    return predict


def references(view: View, asked: list[int]) -> dict[str, Prediction]:
    """The three references on the same measurements."""
    seen = Observation(view.depth, view.mask, view.intrinsics, view.camera_pose)
    visible = {i: visible_points(seen, i) for i in asked}
    return {
        VISIBLE: Prediction(visible),
        HULL: Prediction({i: convex_hull(surface) for i, surface in visible.items()}),
        MIRROR: Prediction({i: mirror_completion(surface, seen) for i, surface in visible.items()}),
    }


def score_scene(sample: SceneSample, split: str, networks: Mapping[str, Predictor]) -> SceneScore:
    """Scores the networks and the references on the first view of a scene."""
    view = sample.views[0]
    truth = true_surfaces(sample, view)
    shares = visible_shares(sample, view, truth)
    asked, not_asked = asked_objects(view.mask, shares)
    if not asked:
        return SceneScore([], [], {}, not_asked, [], {})
    predictions = {name: predict(view, asked) for name, predict in networks.items()} | references(view, asked)
    empty = Surface(np.empty((0, 3)), np.empty((0, 3)))
    families = {o.object_id: o.family for o in sample.objects}
    records = [
        Record(
            method, split, sample.seed, sample.support_kind, i, families[i], level_of(shares[i]),
            compare(prediction.surfaces.get(i, empty), truth[i]),
        )
        for method, prediction in predictions.items()
        for i in asked
    ]  # fmt: skip
    # Visible points and their mirror image are open: they have no inside.
    closed = {name: predictions[name] for name in [*networks, HULL]} | {TRUTH: Prediction(truth)}
    return SceneScore(
        asked,
        records,
        {
            name: penetration_volume([p.surfaces[i] for i in asked if i in p.surfaces])
            for name, p in closed.items()
        },
        not_asked,
        [
            (name, i, predictions[name].reasons.get(i, "no reason given"))
            for name in networks
            for i in asked
            if len(predictions[name].surfaces.get(i, empty)) == 0
        ],
        {i: predictions[OURS].grasps[i] for i in asked if i in predictions[OURS].grasps},
    )
