"""A bundle on this machine against the reference outputs it carries (what PyTorch computed at export).

First with the reference's splits forced, so that every stage sees the same octree and its tensors can be compared
row by row; then free, where the octrees themselves are compared.
"""

from __future__ import annotations

import zipfile
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zerograsp_edge.runtime.bundle import Bundle, BundleError
from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline

# Largest error of a tensor, relative to its largest magnitude; the finest precision first.
TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8": 1e-1}
# Nodes whose two logits nearly tie may split differently; below this share of common keys something is wrong.
MIN_IOU = {"fp32": 0.99, "fp16": 0.95, "int8": 0.85}


@dataclass(frozen=True)
class TensorCheck:
    """One stage tensor: largest error relative to the reference's largest magnitude, and cosine similarity."""

    name: str
    error: float
    cosine: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.error <= self.tolerance  # False for NaN


@dataclass(frozen=True)
class OctreeCheck:
    """The nodes of a depth in the free run: how many, and the intersection over union of the key sets."""

    depth: int
    nodes: int
    reference: int
    iou: float
    minimum: float

    @property
    def ok(self) -> bool:
        return self.iou >= self.minimum


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` found."""

    backend: str
    tensors: tuple[TensorCheck, ...]
    octrees: tuple[OctreeCheck, ...]

    @property
    def failures(self) -> tuple[str, ...]:
        worst = [
            f"{t.name} differs by {t.error:.1e} of its maximum (tolerance {t.tolerance:.0e})"
            for t in self.tensors
            if not t.ok
        ]
        return (
            *worst,
            *(
                f"depth {o.depth} has key-set IoU {o.iou:.3f} (at least {o.minimum})"
                for o in self.octrees
                if not o.ok
            ),
        )

    @property
    def ok(self) -> bool:
        return not self.failures

    def to_dict(self) -> dict[str, Any]:
        return {
            "backend": self.backend,
            "ok": self.ok,
            "tensors": [{**asdict(t), "ok": t.ok} for t in self.tensors],
            "octrees": [{**asdict(o), "ok": o.ok} for o in self.octrees],
        }


def verify(pipeline: Pipeline) -> VerifyReport:
    """Runs the bundle's reference frame twice and compares.

    Raises:
        BundleError: the bundle carries no usable reference outputs.
    """
    bundle = pipeline.bundle
    reference = _load(bundle)
    frame = _frame(reference)
    depths = bundle.geometry.depths
    forced = {
        d: np.unpackbits(reference[f"split_{d}"])[: len(reference[f"keys_{d}"])].astype(bool) for d in depths
    }
    taps: dict[str, np.ndarray] = {}
    try:
        result = pipeline.run(frame, forced_splits=forced, taps=taps)
    except ValueError as error:
        # The forced splits did not fit the octree: something upstream of the first decoder is already wrong.
        if isinstance(error, ZeroGraspError):
            raise
        raise BundleError(
            f"the octree of the reference frame differs from the reference's: {error}"
        ) from error
    ids = [item.object_id for item in result.objects]
    if ids != reference["object_ids"].tolist():
        raise BundleError(
            f"expected the objects {reference['object_ids'].tolist()} in the reference frame, got {ids}"
        )
    tensors = []
    precision = coarsest_before(bundle)
    for entry in reference:
        if entry.endswith("/values"):
            name = entry.removesuffix("/values")
            tolerance = TOLERANCES[precision[name.split("/")[0]]]
            tensors.append(_compare(name, taps[name], reference, tolerance))
    free: dict[str, np.ndarray] = {}
    pipeline.run(frame, taps=free)
    octrees = []
    for d in depths:
        minimum = MIN_IOU[precision[f"decoder_{d}"]]
        octrees.append(_compare_keys(d, free[f"keys_{d}"], reference[f"keys_{d}"], minimum))
    order = list(bundle.stages)
    tensors.sort(key=lambda check: order.index(check.name.split("/")[0]))
    return VerifyReport(pipeline.executor.name, tuple(tensors), tuple(octrees))


def coarsest(bundle: Bundle) -> str:
    """The coarsest precision of its stages."""
    return max((stage.precision for stage in bundle.stages.values()), key=list(TOLERANCES).index)


def coarsest_before(bundle: Bundle) -> dict[str, str]:
    """Per stage the coarsest precision of it and the stages before it: errors are handed on."""
    order = list(TOLERANCES)
    worst, found = order[0], {}
    for name, stage in bundle.stages.items():
        worst = max(worst, stage.precision, key=order.index)
        found[name] = worst
    return found


def reference_frame(bundle: Bundle) -> Frame:
    """The frame whose outputs the bundle carries.

    Raises:
        BundleError: the bundle carries no usable reference outputs.
    """
    return _frame(_load(bundle))


def _frame(reference: dict[str, np.ndarray]) -> Frame:
    rgb, depth, intrinsics, mask = (reference[f"frame/{part}"] for part in ("rgb", "depth", "intrinsics", "mask"))
    return Frame(rgb, depth, intrinsics, mask, name="reference")


def _load(bundle: Bundle) -> dict[str, np.ndarray]:
    """The reference outputs; complete, for what is missing would count as verified."""
    path = bundle.reference_path
    try:
        with np.load(path, allow_pickle=False) as file:
            reference = dict(file)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{path}: no usable reference outputs ({error}); export the bundle again"
        ) from error
    needed = [f"frame/{part}" for part in ("rgb", "depth", "intrinsics", "mask")] + ["object_ids"]
    needed += [f"{entry}_{d}" for d in bundle.geometry.depths for entry in ("keys", "split")]
    for stage in bundle.stages.values():
        outputs = [name for name in stage.outputs if name != "latent_log_variance"]  # serves sampling only
        needed += [f"{stage.name}/{name}/{part}" for name in outputs for part in ("rows", "values", "scale")]
    if missing := [name for name in needed if name not in reference]:
        raise BundleError(f"{path}: reference outputs lack {', '.join(missing[:5])}; export the bundle again")
    return reference


def _compare(
    name: str, actual: np.ndarray, reference: dict[str, np.ndarray], tolerance: float
) -> TensorCheck:
    expected = reference[f"{name}/values"].astype(np.float64)
    rows = reference[f"{name}/rows"]
    if len(rows) and rows[-1] >= len(actual):
        return TensorCheck(name, float("inf"), 0.0, tolerance)
    got = actual[rows].astype(np.float64)
    scale = float(reference[f"{name}/scale"]) or 1.0
    norm = float(np.linalg.norm(got) * np.linalg.norm(expected))
    cosine = float((got * expected).sum() / norm) if norm > 0 else 1.0
    return TensorCheck(name, float(np.abs(got - expected).max(initial=0.0)) / scale, cosine, tolerance)


def _compare_keys(depth: int, actual: np.ndarray, expected: np.ndarray, minimum: float) -> OctreeCheck:
    return OctreeCheck(depth, len(actual), len(expected), key_set_iou(actual, expected), minimum)


def key_set_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two sets of keys, each (n,) int64 without repetition; 1 when both are empty."""
    common = len(np.intersect1d(a, b, assume_unique=True))
    union = len(a) + len(b) - common
    return common / union if union else 1.0
