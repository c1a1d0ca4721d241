"""Three threads and the one that runs them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from zerograsp_edge.runtime.camera.base import FrameSource
from zerograsp_edge.runtime.errors import ConfigError, EndOfFrames, NoObjectError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.live.report import Ending, Figures, LiveReport
from zerograsp_edge.runtime.live.slot import Slot
from zerograsp_edge.runtime.loop.signals import stop_on_signals
from zerograsp_edge.runtime.result import Result


@dataclass(frozen=True)
class LiveConfig:
    """How a live run goes and when it ends.

    Attributes:
        frames: end after that many perceived frames; None: no limit.
        seconds: end after that long; None: no limit.
        newest_wins: a frame or result that waits is replaced by a newer one; False: every frame is perceived and
            consumed, the source waits. None: as the source is, live or not.
        patience: s, end when a live camera has failed for that long without a frame between. A source that does not
            run by itself ends the run with its first failure: a file that cannot be read will not heal.
        fault_pause: s between a failed `read` and the next.
        stop_timeout: s, how long the end of a run may take. A thread that still hangs in the camera, in perception or
            in the consumer then is left behind, and named in the report.
        tick: s between two calls of `watch`, and the resolution of `seconds`.
    """

    frames: int | None = None
    seconds: float | None = None
    newest_wins: bool | None = None
    patience: float = 60.0
    fault_pause: float = 0.1
    stop_timeout: float = 5.0
    tick: float = 0.1

    def __post_init__(self) -> None:
        if self.frames is not None and self.frames < 1:
            raise ConfigError(f"frames: expected 1 or more, or no limit; got {self.frames}")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"seconds: expected more than 0, or no limit; got {self.seconds:g}")
        for name in ("patience", "fault_pause", "stop_timeout"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name}: expected 0 s or more, got {getattr(self, name)}")
        if not self.tick > 0:
            raise ConfigError(f"tick: expected more than 0 s, got {self.tick}")


@dataclass(frozen=True, eq=False)
class LiveResult:
    """One frame's way through the pipeline; times are of the run's clock (time.monotonic), s.

    Attributes:
        number: frames captured before this one; rises from result to result.
        frame: as it was perceived.
        result: None when the frame holds no object or could not be perceived.
        problem: why there is no result; empty when there is one.
        exposed: when the picture was taken; of a camera with a clock of its own, when it was read.
        captured: when the camera handed it out.
        started, finished: of perception.
        delivered: when the consumer was given it.
    """

    number: int
    frame: Frame
    result: Result | None
    problem: str
    exposed: float
    captured: float
    started: float
    finished: float
    delivered: float = 0.0

    @property
    def latency(self) -> float:
        """From the exposure to the consumer, s."""
        return self.delivered - self.exposed

    def parts(self) -> dict[str, float]:
        """The latency by part, s; see LiveReport."""
        return {
            "capture": self.captured - self.exposed,
            "waiting": self.started - self.captured,
            "perception": self.finished - self.started,
            "handover": self.delivered - self.finished,
        }


@dataclass(frozen=True, eq=False)
class _Captured:
    number: int
    frame: Frame
    exposed: float
    captured: float


@dataclass(frozen=True)
class _StopRequest:
    reason: str


@dataclass(frozen=True)
class _ThreadEnded:
    stage: str
    error: BaseException | None = None


@dataclass
class _Verdict:
    """Why the run ends; what is said first stays."""

    ending: Ending = Ending.RUNNING
    explanation: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def give(self, ending: Ending, explanation: str) -> None:
        with self.lock:
            if self.ending is Ending.RUNNING:
                self.ending, self.explanation = ending, explanation


class LivePipeline:
    """A camera, perception and a consumer, each in a thread of its own; serves one run.

    A failure of any of the three is counted and kept in the report, and the run goes on; it ends by the limits of the
    configuration, at the end of the frames, or by `stop`. The source is closed at the end of the run, also while its
    `read` is waiting.

    Args:
        source: of the frames.
        perceive: a Pipeline, or anything that makes a Result of a Frame; called from one thread only.
        consume: what is done with the results, in their order; called from one thread only, with every perceived frame
            that no newer one has replaced, those without a result included.
        watch: called with the report of the moment every `tick` s, and once at the end, in the thread of `run`.
        clock: of time stamps and limits; the source's `monotonic` clock.
    """

    def __init__(
        self,
        source: FrameSource,
        perceive: Callable[[Frame], Result],
        consume: Callable[[LiveResult], object],
        config: LiveConfig | None = None,
        *,
        watch: Callable[[LiveReport], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._source, self._perceive, self._consume = source, perceive, consume
        self._config = config or LiveConfig()
        self._watch, self._clock = watch, clock
        newest = source.live if self._config.newest_wins is None else self._config.newest_wins
        self._fresh: Slot[_Captured] = Slot(keep_all=not newest)
        self._results: Slot[LiveResult] = Slot(keep_all=not newest)
        # `put` of a SimpleQueue is reentrant: a signal handler may call it whatever the interrupted thread was doing.
        self._messages: queue.SimpleQueue[_StopRequest | _ThreadEnded] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._source_end: tuple[Ending, str] | None = None
        self._verdict = _Verdict()
        self._figures = Figures(clock())
        self._process_cpu = 0.0
        self._hanging: tuple[str, ...] = ()
        self._used = False

    def stop(self, reason: str = "asked to stop") -> None:
        """Ask the run to end; returns at once. From any thread, signal handlers and the consumer included.

        Before `run`, that run ends as soon as it begins.
        """
        self._messages.put(_StopRequest(reason))

    @property
    def report(self) -> LiveReport:
        """As of now."""
        return self._figures.report(
            self._clock(),
            ending=self._verdict.ending,
            explanation=self._verdict.explanation,
            camera=(counters := self._source.counters),
            dropped={
                "camera": counters.dropped,
                "capture": self._fresh.superseded,
                "consumer": self._results.superseded,
            },
            discarded=self._fresh.discarded + self._results.discarded,
            latency_from="sensor" if self._source.clock == "monotonic" else "arrival",
            cpu_seconds={"process": time.process_time() - self._process_cpu},
            hanging=self._hanging,
        )

    def run(self) -> LiveReport:
        """Run until the end; SIGINT and SIGTERM stop it when this is the main thread, a second one interrupts it.

        Raises:
            RuntimeError: it has run already.
            Whatever `watch` raises, after everything was stopped.
        """
        if self._used:
            raise RuntimeError("a LivePipeline serves one run: make another")
        self._used = True
        self._figures, self._process_cpu = Figures(self._clock()), time.process_time()
        stages = {"capture": self._capture, "perception": self._infer, "consumer": self._deliver}
        threads = {
            stage: threading.Thread(target=self._guarded, args=(stage, work), name=f"live {stage}", daemon=True)
            for stage, work in stages.items()
        }
        with stop_on_signals(lambda name: self.stop(name)):
            try:
                for thread in threads.values():
                    thread.start()
                self._supervise()
            finally:
                self._verdict.give(Ending.ERROR, "the thread that runs the pipeline was interrupted")
                self._shut_down(threads)
            report = self.report
            if self._watch is not None:
                self._watch(report)
        return report

    def _supervise(self) -> None:
        """Until the consumer has had the last result, or nothing more shall be done."""
        seconds, began, shown = self._config.seconds, self._clock(), time.monotonic()
        while True:
            try:
                message = self._messages.get(timeout=max(shown + self._config.tick - time.monotonic(), 0.0))
            except queue.Empty:
                shown = time.monotonic()
                if self._watch is not None:
                    self._watch(self.report)
            else:
                if isinstance(message, _StopRequest):
                    self._verdict.give(Ending.STOPPED, message.reason)
                    return
                if message.error is not None:
                    self._verdict.give(
                        Ending.ERROR, f"the {message.stage} thread failed: "
                        f"{type(message.error).__name__}: {message.error}",
                    )  # fmt: skip
                    return
                if message.stage == "perception":  # has all it shall have
                    self._fresh.abort()
                if message.stage == "consumer":
                    return
            if seconds is not None and self._clock() - began >= seconds:
                self._verdict.give(Ending.DONE, f"{seconds:g} s are over")
                return

    def _shut_down(self, threads: dict[str, threading.Thread]) -> None:
        """Ends the threads, in `stop_timeout` s at most."""
        self._stopping.set()
        self._fresh.abort()
        self._results.abort()
        closing = threading.Thread(target=self._source.close, name="live closing", daemon=True)
        closing.start()
        deadline = time.monotonic() + self._config.stop_timeout
        started = {stage: thread for stage, thread in threads.items() if thread.ident is not None}
        for thread in (*started.values(), closing):
            thread.join(max(deadline - time.monotonic(), 0.0))
        hanging = [stage for stage, thread in started.items() if thread.is_alive()]
        self._hanging = (*hanging, *(["closing of the camera"] if closing.is_alive() else []))

    def _guarded(self, stage: str, work: Callable[[], None]) -> None:
        """A thread: whatever happens in it, the one that runs the pipeline hears of it."""
        try:
            work()
        except BaseException as error:
            self._messages.put(_ThreadEnded(stage, error))
        else:
            self._messages.put(_ThreadEnded(stage))

    def _capture(self) -> None:
        number = 0
        failing_since: float | None = None
        while not self._stopping.is_set():
            try:
                frame = self._source.read()
            except EndOfFrames as end:
                self._source_end = Ending.END_OF_FRAMES, str(end)
                break
            except Exception as error:
                if self._stopping.is_set():  # a read that was waiting when the source was closed
                    break
                message, now = self._figures.fault("camera", error), self._clock()
                failing_since = now if failing_since is None else failing_since
                if not self._source.live or now - failing_since >= self._config.patience:
                    self._source_end = Ending.CAMERA, message
                    break
                self._stopping.wait(self._config.fault_pause)
                continue
            failing_since, now = None, self._clock()
            self._figures.captured(now)
            exposed = frame.timestamp if self._source.clock == "monotonic" else now
            taken = self._fresh.put(_Captured(number, frame, exposed, now))
            self._figures.cpu("capture", time.thread_time())
            if not taken:
                break
            number += 1
        self._fresh.finish()

    def _infer(self) -> None:
        perceived = 0
        while (item := self._fresh.take()) is not None:
            self._results.put(self._perceived(item))
            self._figures.cpu("perception", time.thread_time())
            perceived += 1
            if perceived == self._config.frames:
                self._verdict.give(Ending.DONE, f"{perceived} frames perceived")
                break
        if self._source_end is not None:  # and all that came before has been perceived
            self._verdict.give(*self._source_end)
        self._results.finish()

    def _perceived(self, item: _Captured) -> LiveResult:
        started, result, problem = self._clock(), None, ""
        try:
            result = self._perceive(item.frame)
        except NoObjectError as nothing:
            problem = str(nothing)
            self._figures.empty()
        except Exception as error:
            problem = self._figures.fault("perception", error)
        perceived = LiveResult(
            item.number, item.frame, result, problem, item.exposed, item.captured, started, self._clock()
        )
        self._figures.perceived(perceived)
        return perceived

    def _deliver(self) -> None:
        while (item := self._results.take()) is not None:
            item = replace(item, delivered=self._clock())
            try:
                self._consume(item)
            except Exception as error:
                self._figures.fault("consumer", error)
            self._figures.consumed(item, self._clock())
            self._figures.cpu("consumer", time.thread_time())
