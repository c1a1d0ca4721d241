"""Random sequences of faults: the loop always ends, and never moves without having just seen."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from zerograsp_edge.runtime.loop import Limits, LoopConfig, TipsPose

CAMERA = ("", "", "", "gone", "broken", "bad", "frozen", "identical", "stale", "future", "not a frame")
PERCEPTION = ("", "", "", "raise", "wrong", "empty", "no grasp", "nan")
ROBOT = ("", "", "", "", "refuse", "fails", "short", "stuck")


def scripted() -> Any:
    """The module of the fixtures: a property is run more often than a fixture is made."""
    path = Path(__file__).with_name("conftest.py")
    spec = importlib.util.spec_from_file_location("scripted_cell", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["scripted_cell"] = module
    spec.loader.exec_module(module)
    return module


MAKE_CELL = scripted().make_cell


def script(faults: list[str]) -> Callable[[int], str]:
    return lambda index: faults[index] if index < len(faults) else ""


@settings(max_examples=120, deadline=None)
@given(
    camera=st.lists(st.sampled_from(CAMERA), max_size=12),
    perception=st.lists(st.sampled_from(PERCEPTION), max_size=8),
    robot=st.lists(st.sampled_from(ROBOT), max_size=20),
    misses=st.sets(st.integers(1, 6)),
    slips=st.sets(st.integers(1, 12)),
    stop_after=st.none() | st.integers(1, 400),
)
def test_no_motion_without_having_just_seen(
    camera: list[str],
    perception: list[str],
    robot: list[str],
    misses: set[int],
    slips: set[int],
    stop_after: int | None,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cell = MAKE_CELL(Path(folder) / "loop.jsonl", ((0.4, 0.0), (0.3, 0.1)))
        cell.camera.script, cell.perceive.script = script(camera), script(perception)

        def number() -> int:
            return len(cell.commands()) - 1

        for name in ("refuse", "fails", "short", "stuck"):
            setattr(cell.robot, name, lambda _, __, name=name: script(robot)(number()) == name)
        cell.robot.misses, cell.robot.slips = misses.__contains__, slips.__contains__
        limits = Limits(pause=0.05, failed_attempts=4, perception_faults=4, robot_faults=1)
        loop = cell.loop(LoopConfig(place=(TipsPose((0.4, 0.6, 0.2)),), limits=limits))
        asked: list[float] = []

        def tick(now: float) -> None:
            if stop_after is not None and cell.clock.ticks >= stop_after and not asked:
                asked.append(now)
                loop.stop()

        cell.clock.on_tick = tick
        report = loop.run()  # the clock asserts that it ends
        cell.assert_safe(report.ending.value)

    fresh = seen = perceived = False
    for entry in cell.journal:
        if entry.kind == "read":
            fresh = seen = entry.good
        elif entry.kind == "perceive":
            seen = fresh and entry.good  # of a frame that should have been refused, nothing follows
            perceived |= seen
        elif entry.kind == "command":
            assert seen, f"{entry.name} after a picture or perception that failed"
            if entry.name == "close":
                assert perceived, "closed a second time on one view"
                perceived = False
        if asked and entry.kind == "command":
            assert entry.time <= asked[0] + 1e-9
    if asked:
        assert min(t for t in cell.robot.stops if t >= asked[0]) - asked[0] <= cell.robot.control_period + 1e-9
