"""What a run has done: one JSON object per line in `log.jsonl`, and `curves.png` drawn from it."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zerograsp_edge.runtime.extras import require

LOG, CURVES = "log.jsonl", "curves.png"


class ProgressLog:
    """Appends records to a run's log. Every record has `event` (`start`, `train`, `validation`, ...) and `step`."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a record. Values that JSON lacks (NaN, infinity) become null."""
        record = {"event": event, "step": step, **{k: _plain(v) for k, v in values.items()}}
        line = json.dumps(record, allow_nan=False) + "\n"
        with self.path.open("ab+") as file:
            # A process that was killed while writing may have left half a line.
            if file.tell() and not _ends_line(file):
                line = "\n" + line
            file.write(line.encode())


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The records of a run as if it had never been interrupted.

    A `start` record of a resumed run takes back what had been logged after the step it resumed from;
    half-written lines are passed over.
    """
    path = folder / LOG
    records: list[dict[str, Any]] = []
    if not path.exists():
        return records
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or "step" not in record:
            continue
        if record.get("event") == "start":
            records = [r for r in records if r["step"] <= record["step"]]
        records.append(record)
    return records


_PANELS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("loss", "train", ("loss",)),
    ("occupancy by depth", "train", ("loss/occupancy_*",)),
    ("surface", "train", ("loss/normal", "loss/sdf")),
    ("grasps", "train", tuple(f"loss/{t}" for t in ("graspness", "quality", "closing", "approach", "depth", "width"))),
    ("KL, nats", "train", ("loss/kl",)),
    ("learning rate", "train", ("learning_rate",)),
    ("validation: chamfer, mm", "validation", ("chamfer", "accuracy", "completeness")),
    ("validation: percent", "validation", ("f1_5", "f1_10", "normal_consistency")),
    ("validation: loss", "validation", ("loss/*",)),
)  # fmt: skip


def draw_curves(folder: Path) -> Path:
    """Draw `curves.png` of a run from its log; returns its path.

    Raises:
        MissingExtra: matplotlib is not installed.
    """
    matplotlib = require("matplotlib", "train", "draw training curves")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_log(folder)
    figure, axes = pyplot.subplots(3, 3, figsize=(15, 11), constrained_layout=True)
    for axis, (title, event, patterns) in zip(axes.flat, _PANELS, strict=True):
        rows = [r for r in records if r.get("event") == event]
        for name in _matching(rows, patterns):
            points = [(r["step"], r[name]) for r in rows if r.get(name) is not None]
            x, y = [p[0] for p in points], _smoothed([p[1] for p in points])
            axis.plot(x, y, label=name.removeprefix("loss/"), marker="." if len(x) < 30 else None)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if event == "train" or "loss" in title:
            axis.set_yscale("log" if axis.lines and title != "learning rate" else "linear")
        if axis.lines:
            axis.legend(fontsize=7)
    partial = folder / (CURVES + ".part")
    figure.savefig(partial, format="png", dpi=70)
    pyplot.close(figure)
    os.replace(partial, folder / CURVES)
    return folder / CURVES


def _matching(rows: Sequence[Mapping[str, Any]], patterns: Sequence[str]) -> list[str]:
    """Names of the rows' values that fit a pattern: a name, or a prefix and `*`."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [
        n for n in names
        for p in patterns
        if n == p or (p.endswith("*") and n.startswith(p[:-1]))
    ]  # fmt: skip


def _smoothed(values: Sequence[float]) -> list[float]:
    """Running mean over about a fiftieth of the curve."""
    window = max(1, len(values) // 50)
    return [sum(values[max(0, i - window + 1) : i + 1]) / min(i + 1, window) for i in range(len(values))]
