"""What the picking benchmark counts, from records made by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("mujoco", reason="the picking benchmark needs the extra `sim`")
# The benchmarks are scripts: their folder is where they import from.
BENCHMARKS = str(Path(__file__).resolve().parents[1] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
from parts.picking_table import Tally, figures, markdown, wilson  # noqa: E402

sys.path.remove(BENCHMARKS)


def attempt(
    object_id: int, outcome: str, touched: tuple[str, ...] = (), reason: str = ""
) -> dict[str, object]:
    return {"object_id": object_id, "outcome": outcome, "touched": list(touched), "reason": reason}


def record(
    method: str, index: int, picked: list[int], attempts: list[dict[str, object]]
) -> dict[str, object]:
    return {
        "kind": "clutter", "index": index, "method": method, "objects": 4, "picked": picked,
        "robot_s": 50.0, "perception_s": 10.0, "frames": 5, "attempts": attempts,
    }  # fmt: skip


OURS = [
    record("ours", 0, [1, 2, 3], [attempt(1, "picked"), attempt(2, "picked", ("object_3",)), attempt(3, "picked"),
                                  attempt(4, "nothing proposed", reason="sweep")]),
    record("ours", 1, [1], [attempt(1, "picked"), attempt(2, "slipped"), attempt(3, "collided", ("object_2",)),
                            attempt(4, "not seen")]),
]  # fmt: skip
PEER = [record("peer", 0, [1], [attempt(1, "picked"), *(attempt(i, "missed") for i in (2, 3, 4))])]


def test_objects_and_attempts_are_counted_apart() -> None:
    tally = Tally(OURS)
    assert (tally.picked, tally.objects, tally.per_object) == (4, 8, 50.0)
    assert (tally.successes, tally.attempts) == (
        4,
        6,
    )  # neither "nothing proposed" nor "not seen" is an attempt
    assert tally.touched == 1
    assert tally.per_hour == pytest.approx(4 / (120 / 3600))
    assert tally.perception_s == pytest.approx(2.0)


def test_peers_are_compared_on_the_scenes_that_both_have_done() -> None:
    against = next(f for f in figures([*OURS, *PEER], "ours", ["ours", "peer"]) if f["peer"] == "peer")
    assert (against["value"], against["peer_value"]) == (75.0, 25.0)
    assert "same 1 scenes" in against["name"]


def test_the_tables_name_why_nothing_was_proposed() -> None:
    text = markdown([*OURS, *PEER], ["ours", "peer"])
    assert "50 % (4/8)" in text and "1: sweep 1" in text and "25 % (1/4)" in text


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"), [(8, 10, 49.0, 94.3), (0, 10, 0.0, 27.8), (10, 10, 72.2, 100.0)]
)
def test_wilson_intervals_are_those_of_the_literature(
    successes: int, trials: int, low: float, high: float
) -> None:
    assert wilson(successes, trials) == pytest.approx((low, high), abs=0.1)
    assert wilson(0, 0) == (0.0, 100.0)
