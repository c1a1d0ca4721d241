"""Order, backpressure, newest wins, latency, faults and limits of the live pipeline, without a camera."""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable

import pytest

from zerograsp_edge.runtime.errors import CameraError, ConfigError, FrameError, NoObjectError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.live import Ending, LiveConfig, LivePipeline, LiveReport, LiveResult
from zerograsp_edge.runtime.result import Result

from .conftest import FakeClock, Kept, ScriptedCamera, perceive

FAST = LiveConfig(fault_pause=0.0, tick=0.01)


def assert_accounted(report: LiveReport) -> None:
    """Every captured frame is consumed, or counted where it was dropped or discarded."""
    dropped = report.dropped["capture"] + report.dropped["consumer"]
    assert report.consumed + dropped + report.discarded == report.captured


class LockStep:
    """A camera's `before` that waits until the consumer has had the frame before."""

    def __init__(self, then: Callable[[int], object] = lambda number: None) -> None:
        self._free = threading.Semaphore(1)
        self._then = then

    def __call__(self, number: int) -> None:
        self._free.acquire()
        self._then(number)

    def release(self, item: LiveResult) -> None:
        self._free.release()


def test_every_frame_of_a_source_that_waits_is_perceived_once_and_in_order(kept: Kept) -> None:
    seen = []

    def remembering(frame: Frame) -> Result:
        seen.append(int(frame.name))
        return perceive(frame)

    report = LivePipeline(ScriptedCamera(count=200), remembering, kept, FAST).run()
    assert seen == kept.names == list(range(200))
    assert [item.number for item in kept.items] == seen
    assert report.ending is Ending.END_OF_FRAMES and report.ending.ok
    assert report.explanation == "all 200 frames have been read"
    assert (report.captured, report.perceived, report.consumed) == (200, 200, 200)
    assert report.dropped == {"camera": 2, "capture": 0, "consumer": 0} and report.discarded == 0
    assert report.latency_from == "arrival"


def test_slow_perception_gets_the_newest_frame(kept: Kept) -> None:
    first_taken, all_captured = threading.Event(), threading.Event()
    perceived = []

    def before(number: int) -> None:
        if number == 1:
            first_taken.wait()
        if number == 10:
            all_captured.set()

    def slow(frame: Frame) -> Result:
        first_taken.set()
        all_captured.wait()
        perceived.append(int(frame.name))
        return perceive(frame)

    report = LivePipeline(ScriptedCamera(count=10, live=True, before=before), slow, kept, FAST).run()
    assert perceived == [0, 9]
    assert kept.names[-1] == 9
    assert report.dropped["capture"] == 8 and report.perceived == 2
    assert_accounted(report)


def test_slow_consumer_gets_the_newest_result_and_slows_nobody(kept: Kept) -> None:
    taken, all_perceived = threading.Event(), threading.Event()
    perceived = threading.Semaphore(1)

    def before(number: int) -> None:
        """Gives a frame when the one before has been perceived, so that none is superseded before that."""
        perceived.acquire()
        if number == 10:
            all_perceived.set()

    def perceiving(frame: Frame) -> Result:
        if int(frame.name) > 1:
            taken.wait()
        perceived.release()
        return perceive(frame)

    def consume(item: LiveResult) -> None:
        taken.set()
        all_perceived.wait()
        kept(item)

    camera = ScriptedCamera(count=10, live=True, before=before)
    report = LivePipeline(camera, perceiving, consume, FAST).run()
    assert report.perceived == 10 - report.dropped["capture"]
    # The first, the newest when it was done with that, and the last one, which may have come just after.
    assert len(kept.names) <= 3 and kept.names[-1] == 9 and kept.names == sorted(set(kept.names))
    assert report.dropped["consumer"] == report.perceived - len(kept.names) > 0
    assert_accounted(report)


def test_a_camera_whose_frames_wait_waits_for_a_slow_consumer(kept: Kept) -> None:
    """At most one frame in each of the two places, one being perceived and one being consumed."""
    camera = ScriptedCamera(count=50)
    ahead = []

    def consume(item: LiveResult) -> None:
        ahead.append(camera.number - int(item.frame.name) - 1)
        kept(item)

    LivePipeline(camera, perceive, consume, FAST).run()
    assert kept.names == list(range(50))
    assert max(ahead) <= 4


def test_latency_from_the_exposure_to_the_consumer(kept: Kept) -> None:
    clock = FakeClock()
    step = LockStep(lambda number: clock.sleep(0.012))

    def perceiving(frame: Frame) -> Result:
        clock.sleep(0.08)
        return perceive(frame)

    def consume(item: LiveResult) -> None:
        kept(item)
        clock.sleep(0.005)
        step.release(item)

    camera = ScriptedCamera(30, live=True, clock="monotonic", before=step, stamp=lambda number: clock() - 0.012)
    report = LivePipeline(camera, perceiving, consume, FAST, clock=clock).run()
    assert report.latency_from == "sensor"
    assert [item.latency for item in kept.items] == pytest.approx([0.092] * 30)
    assert (report.latency.p50, report.latency.p95, report.latency.max) == pytest.approx((92, 92, 92))
    expected = {"capture": 12, "waiting": 0, "perception": 80, "handover": 0}
    for part, milliseconds in expected.items():
        assert report.parts[part].p50 == pytest.approx(milliseconds, abs=1e-6), part
        assert kept.items[3].parts()[part] * 1e3 == pytest.approx(milliseconds, abs=1e-6)
    assert report.timings == {"network": 2.0}
    json.dumps(report.to_dict())


def test_rate_and_latency_are_of_the_last_frames(kept: Kept) -> None:
    clock = FakeClock()
    step = LockStep(lambda number: clock.sleep(0.1))

    def consume(item: LiveResult) -> None:
        step.release(item)

    report = LivePipeline(ScriptedCamera(100, before=step), perceive, consume, FAST, clock=clock).run()
    assert report.fps == pytest.approx(10)
    assert report.latency.max == 0, "of a clock of its own nothing is known before the arrival"


def test_faults_of_a_camera_are_counted_and_the_run_goes_on(kept: Kept) -> None:
    failures = iter([True, True, False, True] + [False] * 100)

    def before(number: int) -> None:
        if next(failures):
            raise CameraError("no usable frame within 1 s")

    report = LivePipeline(ScriptedCamera(5, live=True, before=before), perceive, kept, FAST).run()
    assert report.faults == {"camera": 3, "perception": 0, "consumer": 0}
    assert report.last_fault == "camera: no usable frame within 1 s"
    assert report.ending is Ending.END_OF_FRAMES and kept.names[-1] == 4


def test_a_camera_that_fails_for_too_long_ends_the_run(kept: Kept) -> None:
    clock = FakeClock()

    def before(number: int) -> None:
        if number == 3:
            clock.sleep(1.0)
            raise CameraError("no frame; plug it in again")

    camera = ScriptedCamera(live=True, before=before)
    report = LivePipeline(camera, perceive, kept, LiveConfig(patience=9, fault_pause=0, tick=0.01), clock=clock).run()
    assert report.ending is Ending.CAMERA and not report.ending.ok
    assert report.explanation == "no frame; plug it in again"
    assert report.faults["camera"] == 10 and report.silence == pytest.approx(10)
    assert kept.names[-1] == 2, "what came before is still delivered"
    assert_accounted(report)


def test_a_file_that_cannot_be_read_ends_the_run(kept: Kept) -> None:
    def before(number: int) -> None:
        if number == 2:
            raise FrameError("2.depth.png is truncated")

    report = LivePipeline(ScriptedCamera(before=before), perceive, kept, FAST).run()
    assert report.ending is Ending.CAMERA and report.explanation == "2.depth.png is truncated"
    assert kept.names == [0, 1]


def test_failing_perception_is_counted_shown_and_delivered(kept: Kept) -> None:
    def failing(frame: Frame) -> Result:
        if frame.name == "1":
            raise NoObjectError("nothing on the table")
        if frame.name == "2":
            raise ValueError("a\ndefect")
        return perceive(frame)

    report = LivePipeline(ScriptedCamera(4), failing, kept, FAST).run()
    assert [item.problem for item in kept.items] == ["", "nothing on the table", "ValueError: a defect", ""]
    assert [item.result is None for item in kept.items] == [False, True, True, False]
    assert report.empty == 1 and report.faults == {"camera": 0, "perception": 1, "consumer": 0}
    assert report.last_fault == "perception: ValueError: a defect"


def test_failing_consumer_is_counted_and_gets_the_next(kept: Kept) -> None:
    def failing(item: LiveResult) -> None:
        kept(item)
        raise OSError("disk full")

    report = LivePipeline(ScriptedCamera(3), perceive, failing, FAST).run()
    assert kept.names == [0, 1, 2] and report.faults["consumer"] == 3 and report.consumed == 3
    assert report.last_fault == "consumer: OSError: disk full"


def test_a_thread_that_dies_is_an_error_and_not_silence(kept: Kept) -> None:
    def dying(frame: Frame) -> Result:
        raise SystemExit(3)

    report = LivePipeline(ScriptedCamera(), dying, kept, FAST).run()
    assert report.ending is Ending.ERROR and "perception thread failed: SystemExit" in report.explanation


def test_limit_of_frames(kept: Kept) -> None:
    camera = ScriptedCamera()
    report = LivePipeline(camera, perceive, kept, LiveConfig(frames=7, tick=0.01)).run()
    assert kept.names == list(range(7)) and report.perceived == 7
    assert (report.ending, report.explanation) == (Ending.DONE, "7 frames perceived")
    assert camera.closed.is_set()
    assert_accounted(report)


def test_limit_of_frames_before_the_source_ends(kept: Kept) -> None:
    """Though the camera has been read to its end by then."""
    at_end = threading.Event()
    camera = ScriptedCamera(count=3, before=lambda number: number == 3 and at_end.set())

    def waiting(frame: Frame) -> Result:
        if frame.name == "1":
            at_end.wait()
        return perceive(frame)

    report = LivePipeline(camera, waiting, kept, LiveConfig(frames=2, tick=0.01)).run()
    assert (report.ending, report.explanation) == (Ending.DONE, "2 frames perceived")
    assert_accounted(report)


def test_limit_of_seconds(kept: Kept) -> None:
    clock = FakeClock()
    camera = ScriptedCamera(before=lambda number: clock.sleep(0.5))
    report = LivePipeline(camera, perceive, kept, LiveConfig(seconds=20, tick=0.001), clock=clock).run()
    assert report.ending is Ending.DONE and report.explanation == "20 s are over" and report.seconds >= 20
    assert_accounted(report)


def test_watch_sees_the_run_and_its_end(kept: Kept) -> None:
    reports: list[LiveReport] = []
    seen = threading.Event()

    def watch(report: LiveReport) -> None:
        reports.append(report)
        seen.set()

    camera = ScriptedCamera(3, before=lambda number: number == 2 and seen.wait())
    final = LivePipeline(camera, perceive, kept, FAST, watch=watch).run()
    assert reports[0].ending is Ending.RUNNING and reports[-1] == final


def test_a_watch_that_fails_stops_everything_first(kept: Kept) -> None:
    def watch(report: LiveReport) -> None:
        raise OSError("terminal gone")

    camera = ScriptedCamera()
    with pytest.raises(OSError, match="terminal gone"):
        LivePipeline(camera, perceive, kept, FAST, watch=watch).run()
    assert camera.closed.is_set()


def test_frames_and_results_are_let_go(kept: Kept) -> None:
    """However long the run: what is alive are the frames under way."""
    alive: weakref.WeakSet[Frame] = weakref.WeakSet()
    most = 0

    def watching(frame: Frame) -> Result:
        nonlocal most
        alive.add(frame)
        most = max(most, len(alive))
        return perceive(frame)

    live = LivePipeline(ScriptedCamera(2500), watching, lambda item: None, FAST)
    report = live.run()
    assert report.consumed == 2500 and most <= 4
    lengths = [len(live._figures._latency), *(len(kept) for kept in live._figures._parts.values())]
    assert lengths == [1000] * len(lengths)


def test_serves_one_run(kept: Kept) -> None:
    live = LivePipeline(ScriptedCamera(1), perceive, kept, FAST)
    live.run()
    with pytest.raises(RuntimeError, match="one run"):
        live.run()


@pytest.mark.parametrize("wrong", [{"frames": 0}, {"seconds": 0.0}, {"tick": 0.0}, {"stop_timeout": -1.0}])
def test_configuration_is_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        LiveConfig(**wrong)  # type: ignore[arg-type]
