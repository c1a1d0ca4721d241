"""Stop at every moment, from any thread and by signals: everything ends, everything is accounted for."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from zerograsp_edge.runtime.errors import CameraError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.live import Ending, LiveConfig, LivePipeline, LiveReport, LiveResult
from zerograsp_edge.runtime.result import Result

from .conftest import Kept, ScriptedCamera, perceive
from .test_live import FAST, assert_accounted

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("live_source", [True, False], ids=["newest wins", "every frame"])
@pytest.mark.parametrize("moment", range(30))
def test_stop_at_the_nth_moment(moment: int, live_source: bool) -> None:
    """Moments are the begins and ends of camera, perception and consumer, in whatever order they come."""
    lock, moments = threading.Lock(), 0
    names: list[int] = []

    def now() -> None:
        nonlocal moments
        with lock:
            if moments == moment:
                live.stop("now")
            moments += 1

    def perceiving(frame: Frame) -> Result:
        now()
        result = perceive(frame)
        now()
        return result

    def consume(item: LiveResult) -> None:
        now()
        names.append(item.number)
        now()

    camera = ScriptedCamera(live=live_source, before=lambda number: now())
    live = LivePipeline(camera, perceiving, consume, FAST)
    report = live.run()
    assert (report.ending, report.explanation) == (Ending.STOPPED, "now")
    assert report.hanging == () and camera.closed.is_set()
    assert names == sorted(set(names))
    assert report.faults == {"camera": 0, "perception": 0, "consumer": 0}, "being closed is no fault of the camera"
    assert_accounted(report)


def test_stop_before_the_run(kept: Kept) -> None:
    camera = ScriptedCamera()
    live = LivePipeline(camera, perceive, kept, FAST)
    live.stop("never mind")
    report = live.run()
    assert (report.ending, report.explanation) == (Ending.STOPPED, "never mind")
    assert camera.closed.is_set()
    assert_accounted(report)


@pytest.mark.parametrize("live_source", [True, False])
def test_stop_while_the_camera_waits(kept: Kept, live_source: bool) -> None:
    camera = ScriptedCamera(live=live_source, waits=3)
    live = LivePipeline(camera, perceive, kept, FAST)

    def stopping() -> None:
        camera.waiting.wait()
        live.stop("enough")

    thread = threading.Thread(target=stopping)
    thread.start()
    report = live.run()
    thread.join()
    assert report.ending is Ending.STOPPED and report.faults["camera"] == 0
    assert_accounted(report)


def test_stop_while_the_camera_fails(kept: Kept) -> None:
    """The pause between two tries is no reason to wait."""
    failed = threading.Event()

    def before(number: int) -> None:
        failed.set()
        raise CameraError("unplugged")

    camera = ScriptedCamera(live=True, before=before)
    live = LivePipeline(camera, perceive, kept, LiveConfig(fault_pause=1e6, patience=1e9, tick=0.01))

    def stopping() -> None:
        failed.wait()
        live.stop()

    thread = threading.Thread(target=stopping)
    thread.start()
    report = live.run()
    thread.join()
    assert report.ending is Ending.STOPPED and report.faults["camera"] == 1 and report.hanging == ()


def test_stop_from_the_consumer_and_from_watch(kept: Kept) -> None:
    def consume(item: LiveResult) -> None:
        kept(item)
        live.stop("seen enough")

    live = LivePipeline(ScriptedCamera(), perceive, consume, FAST)
    assert live.run().explanation == "seen enough"

    def watch(report: LiveReport) -> None:
        watched.stop("watched enough")

    watched = LivePipeline(ScriptedCamera(), perceive, lambda item: None, FAST, watch=watch)
    assert watched.run().explanation == "watched enough"


@pytest.mark.parametrize("where", ["camera", "perception", "consumer"])
def test_a_stage_that_hangs_is_left_behind_and_named(kept: Kept, where: str) -> None:
    released = threading.Event()

    def hang_at(stage: str) -> None:
        if stage == where:
            live.stop("hangs")
            released.wait()

    def perceiving(frame: Frame) -> Result:
        hang_at("perception")
        return perceive(frame)

    camera = ScriptedCamera(before=lambda number: hang_at("camera"))
    live = LivePipeline(
        camera, perceiving, lambda item: hang_at("consumer"), LiveConfig(stop_timeout=0.1, tick=0.01)
    )
    report = live.run()
    released.set()
    assert report.hanging == ("capture" if where == "camera" else where,)
    for thread in threading.enumerate():
        if thread.name.startswith("live "):
            thread.join()


_PROGRAM = """
import threading
from tests.runtime.live.conftest import ScriptedCamera, perceive
from zerograsp_edge.runtime.live import LiveConfig, LivePipeline

first = threading.Event()

def consume(item):
    if not first.is_set():
        first.set()
        print("running", flush=True)

camera = ScriptedCamera(live=True, waits={waits})
report = LivePipeline(camera, perceive, consume, LiveConfig(tick={tick})).run()
print(report.ending.value, report.explanation, report.hanging, camera.closed.is_set(), flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
@pytest.mark.parametrize("waits", [3, None], ids=["camera waits", "frames flow"])
def test_signals(number: signal.Signals, waits: int | None) -> None:
    program = _PROGRAM.format(waits=waits, tick=1000 if waits else 0.001)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    process.send_signal(number)
    output, _ = process.communicate()
    assert output.splitlines() == [f"stopped {number.name} () True"]
    assert process.returncode == 0
