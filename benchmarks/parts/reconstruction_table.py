"""Scores of all scenes as figures with what was asked, as tables, and object by object."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from harness import Figure, figure
from parts.reconstruction import HULL, OURS, REFERENCES, TRUTH, SceneScore

from zerograsp_edge.export.training.metrics import LEVELS, MEASURES, Record, Summary, summarise_by

ALL = "all"
# measure, heading, unit, better
COLUMNS = (
    ("chamfer", "chamfer", "mm", "lower"),
    ("f1_5", "F1 at 5 mm", "%", "higher"),
    ("f1_10", "F1 at 10 mm", "%", "higher"),
    ("normal_consistency", "normal consistency", "%", "higher"),
)
SPLITS = {"test_trained": "trained families", "test_unseen": "unseen families"}
# Set before the work began.
ASKED = {
    "test_trained": {"chamfer": 3.0, "f1_10": 95.0, "normal_consistency": 88.0},
    "test_unseen": {"chamfer": 4.0, "f1_10": 90.0, "normal_consistency": 88.0},
}

Cell = tuple[str, str, str]  # split, level or ALL, method


def cells(records: Sequence[Record]) -> dict[Cell, Summary]:
    """Summaries by split, level (and all levels together) and method."""
    by_level = summarise_by(records, lambda r: (r.split, r.level, r.method))
    return summarise_by(records, lambda r: (r.split, ALL, r.method)) | by_level


def best_reference(summaries: dict[Cell, Summary], split: str, level: str, measure: str) -> tuple[str, float]:
    """The reference that does best in a column, and its value."""
    values = {m: summaries[split, level, m][measure] for m in REFERENCES}
    sign = -1 if measure == "chamfer" else 1
    name = max(values, key=lambda m: sign * values[m])
    return name, values[name]


def figures(scores: Sequence[SceneScore]) -> Iterator[Figure]:
    """The figures of the benchmark, ours beside the best reference of each column."""
    records = [r for score in scores for r in score.records]
    summaries = cells(records)
    splits = list(dict.fromkeys(r.split for r in records))
    for split in splits:
        name = SPLITS[split]
        worse = 0
        for level in (ALL, *LEVELS):
            if (split, level, OURS) not in summaries:
                continue
            ours = summaries[split, level, OURS]
            for measure, heading, unit, better in COLUMNS:
                peer, value = best_reference(summaries, split, level, measure)
                worse += ours[measure] >= value if better == "lower" else ours[measure] <= value
                asked = ASKED[split].get(measure) if level == ALL else None
                yield figure(
                    f"{name}, {level} ({ours.count}): {heading}",
                    ours[measure],
                    unit,
                    better,
                    asked,
                    peer,
                    value,
                )
        yield figure(f"{name}: columns in which a reference is as good or better", worse, "", asked=0)
        ours = summaries[split, ALL, OURS]
        yield figure(f"{name}: objects without reconstruction, of {ours.count}", ours.missed, "")
    for split in splits:
        mine = [s for s in scores if any(r.split == split for r in s.records)]
        for method in (m for m in mine[0].penetration if m not in (HULL, TRUTH)):
            label = "" if method == OURS else f", {method}"
            mean, hull, floor = (
                float(np.mean([s.penetration[m] for s in mine])) for m in (method, HULL, TRUTH)
            )
            yield figure(
                f"{SPLITS[split]}: penetration per scene{label} (of the truth: {floor:.2g})", mean, "cm^3", peer=HULL,
                peer_value=hull,
            )  # fmt: skip
    for reason, count in Counter(why for s in scores for why in s.not_asked.values()).items():
        yield figure(f"objects asked of no method: {reason}", count, "")


def markdown(records: Sequence[Record]) -> str:
    """A table per split: methods by level; the best value of each column in bold."""
    summaries = cells(records)
    lines = []
    for split in dict.fromkeys(r.split for r in records):
        lines += [
            f"### {SPLITS[split]}\n",
            "| visible | objects | method | "
            + " | ".join(f"{h}, {u}" for _, h, u, _ in COLUMNS)
            + " | missed |",
            "|---|---|---|" + "---|" * (len(COLUMNS) + 1),
        ]
        methods = list(dict.fromkeys(r.method for r in records if r.split == split))
        for level in (ALL, *LEVELS):
            rows = {m: summaries[split, level, m] for m in methods if (split, level, m) in summaries}
            for method, summary in rows.items():
                values = []
                for measure, _, _, better in COLUMNS:
                    column = [s[measure] for s in rows.values()]
                    best = min(column) if better == "lower" else max(column)
                    text = f"{summary[measure]:.2f}" if measure == "chamfer" else f"{summary[measure]:.1f}"
                    values.append(f"**{text}**" if summary[measure] == best else text)
                lines.append(
                    f"| {level} | {summary.count} | {method} | {' | '.join(values)} | {summary.missed} |"
                )
        lines.append("")
    return "\n".join(lines)


def breakdown(records: Sequence[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """Ours by shape family and by kind of scene: measure by name, for the JSON file."""
    ours = [r for r in records if r.method == OURS]
    return {
        "family": {
            name: {"objects": s.count, "missed": s.missed, **s.means}
            for name, s in summarise_by(ours, lambda r: f"{SPLITS[r.split]}: {r.family}").items()
        },
        "scene kind": {
            name: {"objects": s.count, "missed": s.missed, **s.means}
            for name, s in summarise_by(ours, lambda r: f"{SPLITS[r.split]}: {r.scene_kind}").items()
        },
    }


def write_records(records: Sequence[Record], path: Path) -> None:
    """Every object's score by every method, as comma-separated values."""
    names = ("method", "split", "seed", "scene_kind", "object_id", "family", "level")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*names, *MEASURES, "missed"])
        for r in records:
            measures = [f"{getattr(r.metrics, m):.4f}" for m in MEASURES]
            writer.writerow([*(getattr(r, n) for n in names), *measures, int(r.metrics.missed)])
