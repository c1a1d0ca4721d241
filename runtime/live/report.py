"""What a live run did: counts, times and faults, gathered by its threads in bounded memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np

from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.errors import ZeroGraspError

if TYPE_CHECKING:
    from zerograsp_edge.runtime.live.pipeline import LiveResult

# Frames whose times are kept.
WINDOW = 1000
# Of them, those that the rate of the moment is of.
_RECENT = 60
PARTS = ("capture", "waiting", "perception", "handover", "consumer")


class Ending(str, Enum):
    """Why a live run ended."""

    RUNNING = "running"
    DONE = "done"  # as many frames or seconds as were asked for
    END_OF_FRAMES = "end of frames"  # the source is used up
    CAMERA = "camera"  # it delivered nothing for longer than allowed
    STOPPED = "stopped"  # asked to stop
    ERROR = "error"  # a defect: one of the threads has failed

    @property
    def ok(self) -> bool:
        return self in (Ending.DONE, Ending.END_OF_FRAMES)


@dataclass(frozen=True)
class Spread:
    """Milliseconds over the last frames: median, 95th percentile, largest; 0 where nothing was measured."""

    p50: float = 0.0
    p95: float = 0.0
    max: float = 0.0

    @staticmethod
    def of(seconds: deque[float]) -> Spread:
        if not seconds:
            return Spread()
        p50, p95, largest = np.percentile(np.array(seconds) * 1e3, (50, 95, 100))
        return Spread(float(p50), float(p95), float(largest))


@dataclass(frozen=True)
class LiveReport:
    """A live run, as of now.

    Every captured frame is perceived, or counted in `dropped["capture"]` or `discarded`; every perceived one is
    consumed, or counted in `dropped["consumer"]` or `discarded`.

    Attributes:
        ending: why it ended; RUNNING while it has not.
        explanation: one line for a person.
        seconds: since the threads were started.
        fps: perceived frames per second over the last frames.
        captured: frames that the camera handed out.
        perceived: frames that went through perception, those without an object and those that failed included.
        consumed: results that the consumer was given.
        empty: perceived frames that hold no object.
        dropped: frames that nobody got to see, by the stage that they did not reach or were lost in: `camera` (the
            camera's own count: lost on the way, or superseded before they were read), `capture` (superseded before
            perception), `consumer` (results superseded before the consumer took them).
        discarded: frames and results that were under way when the run was stopped.
        faults: failures by stage: `camera`, `perception`, `consumer`.
        last_fault: the newest one, for a person.
        camera: what became of everything the camera delivered.
        latency: from the exposure (`latency_from` "sensor") to the consumer having the grasps. Of a camera whose clock
            has no relation to this computer's ("arrival"), from the moment its frame was read.
        parts: latency by part: `capture` (exposure to frame), `waiting` for perception, `perception`, `handover` to the
            consumer; and `consumer`, which comes after it.
        timings: mean milliseconds of perception's own stages over all frames.
        cpu_seconds: CPU time of the three threads, and of the whole process, whose other threads are perception's
            workers and the camera's.
        silence: seconds since the camera's last frame, or since the start.
        objects, grasps: of the last frame that had a result.
        hanging: threads that had not ended when the run returned.
    """

    ending: Ending = Ending.RUNNING
    explanation: str = ""
    seconds: float = 0.0
    fps: float = 0.0
    captured: int = 0
    perceived: int = 0
    consumed: int = 0
    empty: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    discarded: int = 0
    faults: Mapping[str, int] = field(default_factory=dict)
    last_fault: str = ""
    camera: CameraCounters = field(default_factory=CameraCounters)
    latency: Spread = field(default_factory=Spread)
    latency_from: str = "arrival"
    parts: Mapping[str, Spread] = field(default_factory=dict)
    timings: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    silence: float = 0.0
    objects: int = 0
    grasps: int = 0
    hanging: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For JSON, milliseconds and seconds rounded."""
        return _rounded(asdict(self) | {"ending": self.ending.value})


class Figures:
    """Gathers a report; every method may be called from any thread."""

    def __init__(self, now: float) -> None:
        self._lock = threading.Lock()
        self._began = self._last_capture = now
        self._counts = {"captured": 0, "perceived": 0, "consumed": 0, "empty": 0}
        self._faults = {"camera": 0, "perception": 0, "consumer": 0}
        self._last_fault = ""
        self._latency: deque[float] = deque(maxlen=WINDOW)
        self._parts: dict[str, deque[float]] = {part: deque(maxlen=WINDOW) for part in PARTS}
        self._finished: deque[float] = deque(maxlen=_RECENT)
        self._stages: dict[str, float] = {}
        self._results = 0
        self._found = (0, 0)
        self._cpu: dict[str, float] = {}

    def captured(self, now: float) -> None:
        with self._lock:
            self._counts["captured"] += 1
            self._last_capture = now

    def perceived(self, item: LiveResult) -> None:
        with self._lock:
            self._counts["perceived"] += 1
            self._finished.append(item.finished)
            if item.result is not None:
                self._results += 1
                self._found = len(item.result.objects), sum(len(o.grasps) for o in item.result.objects)
                for stage, milliseconds in item.result.timings.items():
                    self._stages[stage] = self._stages.get(stage, 0.0) + milliseconds

    def empty(self) -> None:
        with self._lock:
            self._counts["empty"] += 1
            self._found = 0, 0

    def consumed(self, item: LiveResult, now: float) -> None:
        with self._lock:
            self._counts["consumed"] += 1
            self._latency.append(item.latency)
            for part, seconds in (item.parts() | {"consumer": now - item.delivered}).items():
                self._parts[part].append(seconds)

    def fault(self, stage: str, error: Exception) -> str:
        """Count a failure; its message."""
        message = describe_fault(error)
        with self._lock:
            self._faults[stage] += 1
            self._last_fault = f"{stage}: {message}"
        return message

    def cpu(self, stage: str, seconds: float) -> None:
        """CPU time of a stage's thread so far."""
        with self._lock:
            self._cpu[stage] = seconds

    def report(self, now: float, **more: Any) -> LiveReport:
        """A copy as of now, with the rest of the report's attributes."""
        with self._lock:
            finished = self._finished
            span = finished[-1] - finished[0] if len(finished) > 1 else 0.0
            return LiveReport(
                seconds=now - self._began,
                fps=(len(finished) - 1) / span if span > 0 else 0.0,
                faults=dict(self._faults),
                last_fault=self._last_fault,
                latency=Spread.of(self._latency),
                parts={part: Spread.of(values) for part, values in self._parts.items()},
                timings={stage: total / self._results for stage, total in self._stages.items()},
                silence=now - self._last_capture,
                objects=self._found[0],
                grasps=self._found[1],
                cpu_seconds=self._cpu | more.pop("cpu_seconds", {}),
                captured=self._counts["captured"],
                perceived=self._counts["perceived"],
                consumed=self._counts["consumed"],
                empty=self._counts["empty"],
                **more,
            )


def describe_fault(error: Exception) -> str:
    """One line: the message of an error that was raised on purpose, else its type, too."""
    message = " ".join(str(error).split())
    return message if isinstance(error, ZeroGraspError) else f"{type(error).__name__}: {message}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 3) if isinstance(value, float) else value
