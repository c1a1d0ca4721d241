"""The thread that reads a camera, and the one place where the newest capture waits for whoever wants it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.camera.capture import Capture, Streams
from zerograsp_edge.runtime.camera.recovery import State, Supervisor
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames


class MonotonicClock:
    """time.monotonic(), with sleeps that `wake` ends."""

    def __init__(self) -> None:
        self._awake = threading.Event()

    def now(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        self._awake.wait(seconds)

    def wake(self) -> None:
        """End the present sleep and all later ones."""
        self._awake.set()


class Reader:
    """Steps a supervisor in a thread of its own.

    Args:
        keep_all: wait until a capture has been taken before the next is read, instead of replacing it: for sources that
            do not run by themselves.
    """

    def __init__(self, supervisor: Supervisor, *, keep_all: bool = False, name: str = "camera") -> None:
        self._supervisor, self._keep_all = supervisor, keep_all
        self._changed = threading.Condition()
        self._waiting: tuple[Capture, Streams] | None = None
        self._ended: Exception | None = None
        self._closing = False
        self._superseded = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def take(self, timeout: float) -> tuple[Capture, Streams]:
        """The newest capture that was not taken yet, and the streams it is of.

        Raises:
            EndOfFrames: of a finite source, all have been taken.
            CameraError: none within `timeout` s, the camera has been given up, or the reader is closed.
        """
        with self._changed:
            taken = self._await(timeout)
            self._waiting = None
            self._changed.notify_all()
        return taken

    def wait(self, timeout: float) -> None:
        """Until there is something to take. Raises like `take`."""
        with self._changed:
            self._await(timeout)

    def _await(self, timeout: float) -> tuple[Capture, Streams]:
        deadline = time.monotonic() + timeout
        while self._waiting is None:
            if self._closing:
                raise CameraError("the camera is closed")
            if self._ended is not None:
                raise self._ended
            if self._supervisor.state is State.FAILED:
                raise CameraError(self._supervisor.trouble)
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                trouble = self._supervisor.trouble or f"no usable frame within {timeout:.2g} s; so far {self.counters}"
                raise CameraError(trouble)
            self._changed.wait(remaining if remaining < threading.TIMEOUT_MAX else None)
        return self._waiting

    @property
    def counters(self) -> CameraCounters:
        """A copy, but for `frames`, which are those who take them count."""
        return replace(self._supervisor.counters, superseded=self._superseded)

    def close(self) -> None:
        """Ends the thread and a waiting `take`. A clock that sleeps has to be woken before."""
        with self._changed:
            self._closing = True
            self._waiting = None
            self._changed.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            self._supervisor.close()

    def _run(self) -> None:
        try:
            while not self._closing:
                before = self._supervisor.state
                capture = self._supervisor.step()
                if capture is not None:
                    streams = self._supervisor.streams
                    assert streams is not None
                    self._offer(capture, streams)
                elif self._supervisor.state is not before:
                    self._announce()
        except EndOfFrames as end:
            self._ended = end
        except CameraError as error:
            self._ended = error
        except Exception as error:  # whoever reads has to know
            self._ended = CameraError(f"the thread that reads the camera failed: {type(error).__name__}: {error}")
            self._ended.__cause__ = error
        self._announce()

    def _offer(self, capture: Capture, streams: Streams) -> None:
        with self._changed:
            while self._keep_all and self._waiting is not None and not self._closing:
                self._changed.wait()
            if self._closing:
                return
            self._superseded += self._waiting is not None
            self._waiting = capture, streams
            self._changed.notify_all()

    def _announce(self) -> None:
        with self._changed:
            # A capture of streams that are gone shows the past, which only matters of a source that runs by itself.
            if not self._keep_all and self._supervisor.state is not State.STREAMING:
                self._superseded += self._waiting is not None
                self._waiting = None
            self._changed.notify_all()
