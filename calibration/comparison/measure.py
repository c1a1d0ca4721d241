"""Runs two pipelines on the same frames and measures what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from zerograsp_edge.calibration.comparison.frames import JudgedFrame
from zerograsp_edge.calibration.comparison.grasps import TOP, admitted, best_grasps, matched
from zerograsp_edge.calibration.comparison.report import (
    Comparison,
    GraspAgreement,
    ObjectShapes,
    OctreeAgreement,
    ShapeChange,
    ShapeScore,
    Side,
)
from zerograsp_edge.calibration.comparison.tensors import TensorComparer
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.export.training import metrics
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.refine import visible_points
from zerograsp_edge.runtime.network import Taps
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.verify import coarsest, key_set_iou


@dataclass
class _Octrees:
    """IoU of a depth, frame by frame, and nodes of all frames."""

    free: list[float] = field(default_factory=list)
    forced: list[float] = field(default_factory=list)
    nodes: tuple[int, int] = (0, 0)


@dataclass
class _Shapes:
    objects: list[ObjectShapes] = field(default_factory=list)
    a: list[metrics.ObjectMetrics] = field(default_factory=list)
    b: list[metrics.ObjectMetrics] = field(default_factory=list)


def check_same_network(a: Bundle, b: Bundle) -> None:
    """Raises CalibrationError when the bundles' stages cannot be compared."""
    own, other = vars(a.geometry), vars(b.geometry)
    if different := [name for name in own if own[name] != other[name]]:
        entries = ", ".join(f"{name} is {own[name]} and {other[name]}" for name in different)
        raise CalibrationError(
            f"expected two bundles of one network, but in {a.path} and {b.path} {entries}: "
            "compare bundles that were exported or converted from one checkpoint"
        )


def compare(
    a: Pipeline, b: Pipeline, frames: Iterable[JudgedFrame], *, source: str = "frames",
    progress: Callable[[str], None] = lambda step: None,
) -> Comparison:  # fmt: skip
    """Compares B with A.

    Every frame runs three times: free on both, and on B with A's splits, so that its tensors' rows belong to A's nodes.

    Args:
        a, b: pipelines of the same network, which predict from the latent's mean and do not refine.
        source: what the report calls the frames.

    Raises:
        CalibrationError: there is no frame, or the two cannot be compared. ZeroGraspError: a frame cannot be processed.
    """
    bundle = a.bundle
    check_same_network(bundle, b.bundle)
    depths = bundle.geometry.depths
    tensors = {
        (stage.name, output): TensorComparer()
        for stage in bundle.stages.values()
        for output in stage.outputs
        if output != "latent_log_variance"  # serves sampling only
    }
    octrees = {d: _Octrees() for d in depths}
    shapes, counts, count = _Shapes(), np.zeros(7, np.int64), 0  # counts: of GraspAgreement
    for judged in frames:
        frame = judged.frame
        progress(f"frame {count + 1}: {frame.name}")
        count += 1
        result_a, taps_a = _run(a, frame)
        result_b, taps_b = _run(b, frame)
        _check_same_objects(frame, result_a, result_b)
        forced = _forced(b, frame, taps_a, depths)
        for (stage, output), comparer in tensors.items():
            comparer.add(taps_a[f"{stage}/{output}"], forced[f"{stage}/{output}"])
        for d, octree in octrees.items():
            keys_a, keys_b = taps_a[f"keys_{d}"], taps_b[f"keys_{d}"]
            octree.free.append(key_set_iou(keys_a, keys_b))
            octree.forced.append(key_set_iou(keys_a[_splits(taps_a, d)], keys_a[_splits(forced, d)]))
            octree.nodes = octree.nodes[0] + len(keys_a), octree.nodes[1] + len(keys_b)
        counts += _compare_grasps(frame, result_a, result_b, a.executor.threads)
        if judged.truth is not None:
            _score(shapes, judged, result_a, result_b)
    if count == 0:
        raise CalibrationError("expected at least one frame to compare on, got none")
    return Comparison(
        a=_side(a), b=_side(b), frames=source, frame_count=count,
        tensors=tuple(comparer.difference(*name) for name, comparer in tensors.items()),
        octrees=tuple(
            OctreeAgreement(
                d, *o.nodes, float(np.mean(o.free)), min(o.free), float(np.mean(o.forced)), min(o.forced)
            )
            for d, o in octrees.items()
        ),
        grasps=GraspAgreement(TOP, *counts.tolist()),
        shapes=_change(shapes),
    )  # fmt: skip


def _run(pipeline: Pipeline, frame: Frame) -> tuple[Result, Taps]:
    taps: Taps = {}
    return pipeline.run(frame, taps=taps), taps


def _forced(b: Pipeline, frame: Frame, taps_a: Taps, depths: range) -> Taps:
    """B's tensors on A's octree."""
    forced: Taps = {}
    try:
        b.run(frame, forced_splits={d: _splits(taps_a, d) for d in depths}, taps=forced)
    except ValueError as error:
        raise CalibrationError(
            f"frame '{frame.name}': A's octree does not fit B: {error}; run `zerograsp-edge verify` on both bundles"
        ) from error
    names = [f"{kind}_{d}" for kind in ("input_keys", "keys") for d in depths]
    if other := [name for name in names if not np.array_equal(taps_a[name], forced[name])]:
        raise CalibrationError(
            f"frame '{frame.name}': {other[0]} of B are not A's although the splits are forced: the octrees of the "
            "measured points differ; run `zerograsp-edge verify` on both"
        )
    return forced


def _splits(taps: Taps, depth: int) -> np.ndarray:
    """(N,) bool: which nodes of a depth the network splits, by its logits."""
    logits = taps.get(f"decoder_{depth}/logits")
    if logits is None:
        logits = taps[f"decoder_{depth}/signal"]  # the finest depth's begins with them
    return logits[:, 1] > logits[:, 0]


def _check_same_objects(frame: Frame, a: Result, b: Result) -> None:
    ids_a, ids_b = ([item.object_id for item in result.objects] for result in (a, b))
    if ids_a != ids_b:
        raise CalibrationError(
            f"frame '{frame.name}': A reconstructs the objects {ids_a}, B {ids_b}: "
            "compare bundles with the same limit min_points"
        )


def _compare_grasps(frame: Frame, a: Result, b: Result, threads: int) -> np.ndarray:
    """(7,): the counts of `GraspAgreement` for one frame, in its order."""
    best_a, best_b = best_grasps(a), best_grasps(b)
    visible = visible_points(frame.depth, frame.intrinsics)
    in_a, in_b = (admitted(a.grasps, result, visible, threads) for result in (a, b))
    return np.array(
        [
            len(best_a), len(best_b), len(matched(best_a, best_b)),
            len(a.grasps), in_a.sum(), in_b.sum(), (in_a & in_b).sum(),
        ]
    )  # fmt: skip


def _score(shapes: _Shapes, judged: JudgedFrame, a: Result, b: Result) -> None:
    nothing = metrics.Surface(np.empty((0, 3)), np.empty((0, 3)))
    found = [
        {item.object_id: metrics.Surface(item.points, item.normals) for item in result.objects}
        for result in (a, b)
    ]
    for i, truth in (judged.truth or {}).items():
        of_a, of_b = (metrics.compare(surfaces.get(i, nothing), truth) for surfaces in found)
        shapes.a.append(of_a)
        shapes.b.append(of_b)
        shapes.objects.append(ObjectShapes(judged.frame.name, i, _of(vars(of_a)), _of(vars(of_b))))


def _change(shapes: _Shapes) -> ShapeChange | None:
    if not shapes.objects:
        return None
    a, b = metrics.summarise(shapes.a), metrics.summarise(shapes.b)
    return ShapeChange(_of(a.means), _of(b.means), a.missed, b.missed, tuple(shapes.objects))


def _of(measures: dict[str, float]) -> ShapeScore:
    return ShapeScore(*(float(measures[name]) for name in ShapeScore.__dataclass_fields__))


def _side(pipeline: Pipeline) -> Side:
    bundle = pipeline.bundle
    size = sum(bundle.stage_path(name).stat().st_size for name in bundle.stages) / 1e6
    return Side(str(bundle.path), coarsest(bundle), pipeline.executor.name, round(size, 3))
