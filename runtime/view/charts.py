"""The view's plot of times."""

from __future__ import annotations

from collections import deque

import numpy as np

from zerograsp_edge.runtime.live.pipeline import LiveResult

# Name and colour of each line.
LINES = (("latency", "#f06292"), ("perception", "#56b4e9"), ("segmentation", "#e69f00"))


class Times:
    """Milliseconds of the last frames, as columns of a plot.

    Args:
        length: frames that are kept.
    """

    def __init__(self, length: int = 150) -> None:
        self._rows: deque[tuple[float, float, float, float]] = deque(maxlen=length)
        self._began: float | None = None

    def add(self, item: LiveResult) -> None:
        self._began = item.delivered if self._began is None else self._began
        timings = {} if item.result is None else item.result.timings
        self._rows.append(
            (
                item.delivered - self._began,
                item.latency * 1e3,
                (item.finished - item.started) * 1e3,
                timings.get("segmentation", np.nan),
            )
        )

    def columns(self) -> tuple[np.ndarray, ...]:
        """Seconds since the first frame, then one column for each of LINES; (n,) float64 each."""
        rows = np.array(self._rows, np.float64).reshape(-1, 1 + len(LINES))
        return tuple(np.ascontiguousarray(column) for column in rows.T)

    def rate(self) -> float:
        """Frames per second over the last ones."""
        recent = list(self._rows)[-30:]
        span = recent[-1][0] - recent[0][0] if len(recent) > 1 else 0.0
        return (len(recent) - 1) / span if span > 0 else 0.0
