"""How far a stage's tensor is from another run's, over any number of frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Histogram of errors, relative to the tensor's largest magnitude in its frame: two bins to the decade.
ERROR_EDGES = tuple(float(f"{10 ** (e / 2):.6g}") for e in range(-16, 1))


@dataclass(frozen=True)
class TensorDifference:
    """One tensor of one stage, B against A, over all frames.

    Attributes:
        cosine: of all values together; 1 when both are zero.
        max_error: largest |b - a|, relative to the largest |a| of its frame; over finite values.
        values: how many were compared.
        equal: of them, those that are equal.
        not_finite: of them, those that are NaN or infinite in either.
        histogram: relative errors of the values that differ: below the first of ERROR_EDGES, between them, and from the
            last one on.
    """

    stage: str
    tensor: str
    cosine: float
    max_error: float
    values: int
    equal: int
    not_finite: int
    histogram: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.stage}/{self.tensor}"


class TensorComparer:
    """Adds up the differences of one tensor."""

    def __init__(self) -> None:
        self._products = np.zeros(3)  # a.b, a.a, b.b
        self._max_error = 0.0
        self._values = self._equal = self._not_finite = 0
        self._histogram = np.zeros(len(ERROR_EDGES) + 1, np.int64)

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """The tensor of a frame, in both runs; of equal shape."""
        x, y = (array.astype(np.float64).ravel() for array in (a, b))
        finite = np.isfinite(x) & np.isfinite(y)
        self._values += len(x)
        self._not_finite += int((~finite).sum())
        x, y = x[finite], y[finite]
        self._products += x @ y, x @ x, y @ y
        errors = np.abs(y - x) / (float(np.abs(x).max(initial=0.0)) or 1.0)
        self._max_error = max(self._max_error, float(errors.max(initial=0.0)))
        different = errors[errors > 0]
        self._equal += len(errors) - len(different)
        bins = np.searchsorted(ERROR_EDGES, different, side="right")
        self._histogram += np.bincount(bins, minlength=len(self._histogram))

    def difference(self, stage: str, tensor: str) -> TensorDifference:
        ab, aa, bb = self._products
        if aa > 0 and bb > 0:
            cosine = float(ab / np.sqrt(aa * bb))
        else:
            cosine = 1.0 if aa == bb else 0.0
        return TensorDifference(
            stage, tensor, cosine, self._max_error, self._values, self._equal, self._not_finite,
            tuple(self._histogram.tolist()),
        )  # fmt: skip
