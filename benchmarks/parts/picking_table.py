"""What the records of picking scenes add up to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from harness import Figure, figure
from parts.picking_scene import COLLIDED, KINDS, MISSED, NOTHING, PICKED, REFUSED, SLIPPED, UNSEEN

ASKED = {"single": 88.0, "clutter": 88.0, "pile": 55.0}
_NOT_TRIED = (NOTHING, UNSEEN)
Record = dict[str, Any]


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927), percent."""
    if trials == 0:
        return 0.0, 100.0
    share, square = successes / trials, z * z / trials
    middle = (share + square / 2) / (1 + square)
    half = z / (1 + square) * ((share * (1 - share) + square / 4) / trials) ** 0.5
    return max(100 * (middle - half), 0.0), min(100 * (middle + half), 100.0)


class Tally:
    """Counts over the records of one method and kind."""

    def __init__(self, records: Sequence[Record]) -> None:
        attempts = [a for r in records for a in r["attempts"]]
        self.scenes = len(records)
        self.objects = sum(r["objects"] for r in records)
        self.picked = sum(len(r["picked"]) for r in records)
        tried = [a for a in attempts if a["outcome"] not in _NOT_TRIED]
        self.attempts, self.successes = len(tried), sum(a["outcome"] == PICKED for a in tried)
        self.outcomes = Counter(a["outcome"] for a in attempts)
        self.touched = sum(a["outcome"] == PICKED and bool(a["touched"]) for a in tried)
        self.reasons = Counter(a["reason"] for a in attempts if a["outcome"] == NOTHING)
        frames = sum(r["frames"] for r in records)
        self.perception_s = sum(r["perception_s"] for r in records) / max(frames, 1)
        hours = sum(r["robot_s"] + r["perception_s"] for r in records) / 3600
        self.per_hour = self.picked / hours if hours else 0.0

    @property
    def per_object(self) -> float:
        return 100 * self.picked / max(self.objects, 1)


def tallies(records: Sequence[Record], methods: Sequence[str]) -> Iterator[tuple[str, str, Tally]]:
    for kind in KINDS:
        for method in methods:
            mine = [r for r in records if r["kind"] == kind and r["method"] == method]
            if mine:
                yield kind, method, Tally(mine)


def markdown(records: Sequence[Record], methods: Sequence[str]) -> str:
    """One table of rates, one of failures."""
    rates = [
        "| scenes | method | picked, of objects | 95 % interval | of attempts | attempts per pick | picks per hour "
        "| perception |",
        "|---|---|---|---|---|---|---|---|",
    ]
    failures = [
        "| scenes | method | collided | missed | slipped | out of reach | nothing proposed, mostly because of "
        "| not seen or fell | picked although it touched something on the way in |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, method, t in tallies(records, methods):
        low, high = wilson(t.picked, t.objects)
        each = f"{t.attempts / t.successes:.2f}" if t.successes else "-"
        of_attempts = f"{100 * t.successes / t.attempts:.0f} %" if t.attempts else "-"
        rates.append(
            f"| {kind} ({t.scenes}) | {method} | {t.per_object:.0f} % ({t.picked}/{t.objects}) "
            f"| {low:.0f} to {high:.0f} % | {of_attempts} | {each} | {t.per_hour:.0f} "
            f"| {1000 * t.perception_s:.0f} ms |"
        )
        reasons = ", ".join(f"{reason} {count}" for reason, count in t.reasons.most_common(3))
        nothing = f"{t.outcomes[NOTHING]}" + (f": {reasons}" if reasons else "")
        failures.append(
            f"| {kind} | {method} | {t.outcomes[COLLIDED]} | {t.outcomes[MISSED]} | {t.outcomes[SLIPPED]} "
            f"| {t.outcomes[REFUSED]} | {nothing} | {t.outcomes[UNSEEN]} | {t.touched} |"
        )
    return "\n".join([*rates, "", *failures, ""])


def figures(records: Sequence[Record], ours: str, methods: Sequence[str]) -> list[Figure]:
    """Success per object of ours beside every other method, on the scenes that both have done."""
    results = []
    for kind in KINDS:
        mine = {r["index"]: r for r in records if r["kind"] == kind and r["method"] == ours}
        if mine:
            t = Tally(list(mine.values()))
            results.append(
                figure(
                    f"{kind}: objects picked ({t.scenes} scenes)", t.per_object, "%", "higher", ASKED[kind]
                )
            )
            results.append(figure(f"{kind}: picks per hour", t.per_hour, "", "higher"))
        for method in methods:
            theirs = {r["index"]: r for r in records if r["kind"] == kind and r["method"] == method}
            both = sorted(mine.keys() & theirs.keys())
            if method == ours or not both:
                continue
            a, b = Tally([mine[i] for i in both]), Tally([theirs[i] for i in both])
            results.append(
                figure(
                    f"{kind}: objects picked, same {len(both)} scenes", a.per_object, "%", "higher",
                    peer=method, peer_value=b.per_object,
                )
            )  # fmt: skip
    return results
