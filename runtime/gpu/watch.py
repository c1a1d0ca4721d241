"""Milliseconds per part of a frame on the GPU, from events on the stream."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zerograsp_edge.runtime.device import Device, Event, Stream
from zerograsp_edge.runtime.network import Stopwatch


class DeviceWatch:
    """Marks where parts end; a part lasts from the mark before it, so that waiting for the host counts as well.

    Events are made once and used again for the next frame.
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self._events: list[Event] = []
        self._parts: list[str] = []
        self.host = Stopwatch()
        """For parts that the CPU does."""

    def start(self, watch: Stopwatch, stream: Stream) -> None:
        """A frame begins; its timings go to `watch`."""
        self.host = watch
        self._parts.clear()
        self.mark("", stream)

    def mark(self, part: str, stream: Stream) -> None:
        """A part ends here."""
        if len(self._parts) == len(self._events):
            self._events.append(self._device.event())
        self._events[len(self._parts)].record(stream)
        self._parts.append(part)

    def finish(self) -> None:
        """Adds the parts to the timings. All marks must have been reached."""
        timings = self.host.timings
        for i, part in enumerate(self._parts[1:], start=1):
            timings[part] = timings.get(part, 0.0) + self._events[i].milliseconds_since(self._events[i - 1])


@contextmanager
def drained(stream: Stream) -> Iterator[None]:
    """After an error nothing of the frame may still read the buffers that the next one fills."""
    try:
        yield
    except BaseException:
        stream.synchronize()
        raise
