"""What a comparison may cost: limits by precision, and the verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

from zerograsp_edge.calibration.comparison.report import Check, Comparison
from zerograsp_edge.calibration.comparison.tensors import TensorDifference
from zerograsp_edge.calibration.errors import CalibrationError


@dataclass(frozen=True)
class Budget:
    """Limits of a comparison; an entry that is None is the preset's of the coarser of the two bundles (PRESETS)."""

    max_error: float | None = None
    """Largest error of a stage's tensor, of its largest magnitude, splits forced."""
    cosine: float | None = None
    """Least cosine similarity of a stage's tensor, splits forced."""
    key_iou: float | None = None
    """Least intersection over union of the octrees' keys at any depth, splits free: mean over the frames."""
    chamfer: float | None = None
    """Most that the mean Chamfer distance may grow, mm."""
    f1: float | None = None
    """Most that the mean F1 at 5 and at 10 mm may fall, percentage points."""
    normals: float | None = None
    """Most that the mean normal consistency may fall, percentage points."""
    grasp_overlap: float | None = None
    """Least share of the best 50 grasps of a frame that both have."""
    same_verdict: float | None = None
    """Least share of grasps that both scenes admit or both refuse."""
    picking: float | None = None
    """Most that picking success may fall, percentage points of the attempts; few picks decide little."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value is not None and not 0 <= value < float("inf"):
                raise CalibrationError(f"budget {entry.name}: expected a number from 0 on, got {value}")

    def over(self, precision: str) -> dict[str, float]:
        """Every limit: what is set here, else the preset's."""
        preset, own = vars(PRESETS[precision]), vars(self)
        return {name: preset[name] if value is None else value for name, value in own.items()}


# The edge model's conversions leave room, in up to 6 frames: float16 errs by 1e-3 and shares 0.9996 of the keys, 99.5 %
# of the best grasps and all verdicts with float32; int8 errs by 0.25 and shares 0.994, 93 % and 99.8 %.
PRESETS = {
    "fp32": Budget(1e-4, 0.99999, 0.999, 0.005, 0.05, 0.05, 0.98, 0.999, 2.0),
    "fp16": Budget(1e-2, 0.9999, 0.99, 0.05, 0.2, 0.2, 0.95, 0.99, 2.0),
    "int8": Budget(0.5, 0.998, 0.97, 0.3, 1.0, 1.0, 0.8, 0.97, 2.0),
}


def judge(found: Comparison, limits: dict[str, float]) -> tuple[Check, ...]:
    """The checks of everything that was compared."""

    def check(
        name: str, value: float, detail: str, at_least: bool, entry: str = "", ok: bool = True
    ) -> Check:
        limit = limits[entry or name]
        within = value >= limit if at_least else value <= limit
        return Check(name, value, limit, at_least, detail, ok and within)

    tensors = found.tensors
    largest, least = max(tensors, key=lambda t: t.max_error), min(tensors, key=lambda t: t.cosine)
    broken = next((t for t in tensors if t.not_finite), None)
    checks = [
        check(
            "max_error", largest.max_error,
            f"{broken.name} has {broken.not_finite} values that are not finite"
            if broken
            else _first(tensors, lambda t: t.max_error > limits["max_error"]) + _where("largest", largest),
            False, ok=broken is None,
        ),
        check(
            "cosine", least.cosine,
            _first(tensors, lambda t: t.cosine < limits["cosine"]) + _where("least", least), True,
        ),
    ]  # fmt: skip
    worst = min(found.octrees, key=lambda o: o.free_mean)
    checks.append(check("key_iou", worst.free_mean, f"depth {worst.depth}, splits free", True))
    if (shapes := found.shapes) is not None:
        a, b, objects = shapes.a, shapes.b, f"{len(shapes.objects)} objects"
        checks += [
            check("chamfer", b.chamfer - a.chamfer, f"mean of A {a.chamfer:.3f} mm, {objects}", False),
            check("f1_5", a.f1_5 - b.f1_5, f"mean of A {a.f1_5:.2f} %, {objects}", False, "f1"),
            check("f1_10", a.f1_10 - b.f1_10, f"mean of A {a.f1_10:.2f} %, {objects}", False, "f1"),
            check(
                "normals", a.normal_consistency - b.normal_consistency,
                f"mean of A {a.normal_consistency:.2f} %, {objects}", False,
            ),
        ]  # fmt: skip
    grasps = found.grasps
    checks += [
        check(
            "grasp_overlap", grasps.overlap,
            f"{grasps.shared} shared of {grasps.best_a} and {grasps.best_b} best grasps", True,
        ),
        check(
            "same_verdict", grasps.same_verdict,
            f"of {grasps.judged} grasps A's scenes admit {grasps.admitted_a}, B's {grasps.admitted_b}, "
            f"both {grasps.admitted_both}", True,
        ),
    ]  # fmt: skip
    if (picking := found.picking) is not None:
        checks.append(
            check(
                "picking", picking.a.success - picking.b.success,
                f"A picked {picking.a.picks} in {picking.a.attempts} attempts, "
                f"B {picking.b.picks} in {picking.b.attempts}", False,
                ok=picking.a.attempts > 0 and picking.b.attempts > 0,
            )
        )  # fmt: skip
    return tuple(checks)


def _first(tensors: tuple[TensorDifference, ...], fails: Callable[[TensorDifference], bool]) -> str:
    """The stage where it begins, as the start of a sentence: later stages are handed its errors."""
    failing = [t for t in tensors if fails(t)]
    return f"begins in stage {failing[0].stage} ({failing[0].tensor}); " if failing else ""


def _where(which: str, tensor: TensorDifference) -> str:
    return f"{which}: {tensor.name}" if tensor.equal < tensor.values else "no value differs"
