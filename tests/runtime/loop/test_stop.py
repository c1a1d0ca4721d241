"""Stop in every state: within one control period, and no motion after it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from zerograsp_edge.runtime.loop import Ending, Limits, LoopConfig, State, TipsPose

STATES = [state for state in State if state is not State.END]
MOVED_IN = [
    State.OBSERVE, State.OPEN, State.PREGRASP, State.APPROACH, State.CLOSE, State.LIFT, State.PLACE, State.RELEASE,
    State.RETREAT,
]  # fmt: skip


def scenario(cell: Any, state: State) -> LoopConfig:
    """A run that comes through that state."""
    if state is State.WAIT:
        cell.perceive.script = lambda index: "raise"
    if state is State.RECOVER:
        cell.robot.fails = lambda name, count: name == "close"
    return LoopConfig(
        observe=TipsPose((0.3, 0.4, 0.4)), place=(TipsPose((0.4, 0.6, 0.2)),), limits=Limits(pause=0.5)
    )


def assert_stopped(cell: Any, asked: float, before: int) -> None:
    stop = min(time for time in cell.robot.stops if time >= asked)
    assert stop - asked <= cell.robot.control_period + 1e-9
    assert len(cell.commands()) == before, "no motion after the stop"
    assert not cell.robot.state().moving


@pytest.mark.parametrize("state", STATES, ids=lambda s: s.value)
def test_stop_on_entering_a_state(cell: Any, state: State) -> None:
    asked: list[tuple[float, int]] = []

    def listen(event: Any) -> None:
        if (event.event, event.state) == ("enter", state) and not asked:
            asked.append((cell.clock.time, len(cell.commands())))
            loop.stop("the test says so")

    loop = cell.loop(scenario(cell, state), callback=listen)
    report = loop.run()
    assert_stopped(cell, *asked[0])
    # A fault stays the reason for the end, even when somebody asks to stop while it is being cleared.
    assert report.ending is (Ending.ROBOT if state is State.RECOVER else Ending.STOPPED)
    cell.assert_safe(report.ending.value)
    if state is not State.RECOVER:
        assert cell.lines()[-1]["reason"] == f"stopped in state {state.value}: the test says so"


@pytest.mark.parametrize("state", MOVED_IN, ids=lambda s: s.value)
def test_stop_in_the_middle_of_a_motion(cell: Any, state: State) -> None:
    """Asked for while the robot moves, between two looks of the loop."""
    asked: list[tuple[float, int]] = []

    def tick(now: float) -> None:
        if loop.state is state and cell.robot.state().moving and not asked:
            asked.append((now, len(cell.commands())))
            loop.stop()

    loop = cell.loop(scenario(cell, state))
    cell.clock.on_tick = tick
    assert loop.run().ending is Ending.STOPPED
    assert_stopped(cell, *asked[0])


@pytest.mark.parametrize("who", ["camera", "perceive"])
def test_stop_while_camera_or_perception_hangs(cell: Any, who: str) -> None:
    hanging = getattr(cell, who)
    hanging.script = lambda index: "hang"
    ticks: list[float] = []

    def tick(now: float) -> None:
        ticks.append(now)
        if len(ticks) == 20:
            loop.stop()

    loop = cell.loop(LoopConfig(), threaded=True)
    cell.clock.on_tick = tick
    report = loop.run()
    hanging.release.set()
    assert report.ending is Ending.STOPPED
    assert_stopped(cell, ticks[19], 0)


def test_stop_from_another_thread(cell: Any) -> None:
    cell.clock.real = 0.2
    cell.robot.stuck = lambda name, count: name == "follow"
    loop = cell.loop()

    def watch() -> None:
        while loop.state is not State.APPROACH:
            pass
        loop.stop("from a thread")

    thread = threading.Thread(target=watch)
    thread.start()
    report = loop.run()
    thread.join()
    assert report.explanation == "stopped in state approach: from a thread"


def test_stop_before_the_run(cell: Any) -> None:
    loop = cell.loop()
    loop.stop("too early")
    assert loop.run().ending is Ending.STOPPED
    assert cell.commands() == []
    assert cell.camera.reads == 0


def test_handlers_are_given_back(cell: Any) -> None:
    before = signal.getsignal(signal.SIGTERM)
    cell.loop(LoopConfig()).run()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_a_process_in_mid_motion(tmp_path: Path, number: signal.Signals) -> None:
    program = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("scripted", sys.argv[1])
scripted = importlib.util.module_from_spec(spec)
sys.modules["scripted"] = scripted
spec.loader.exec_module(scripted)
cell = scripted.make_cell(Path(sys.argv[2]), real=1.0)
def stuck(name, count):
    # Asked when the command has been given: from now on the robot moves.
    if name == "follow":
        print("moving", flush=True)
    return name == "follow"
cell.robot.stuck = stuck
report = cell.loop(threaded=True).run()
assert not cell.robot.state().moving
print(report.ending.value, len(cell.robot.stops) > 0, cell.commands()[-1])
sys.exit(7)
"""
    conftest = str(Path(__file__).with_name("conftest.py"))
    log = tmp_path / "loop.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", program, conftest, str(log)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "moving\n"
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert output.split() == ["stopped", "True", "follow"]
    assert process.returncode == 7, "the program went on after the loop"
    last = json.loads(log.read_text().splitlines()[-1])
    assert last["reason"] == f"stopped in state approach: {number.name}"


