"""Masks from another process, over shared memory or ZeroMQ, matched to frames by timestamp.

Whatever is wrong with the other side ends in a `MaskError` within a timeout: never in an empty scene, and never in the
masks of another frame. The grasp loop counts it as a fault of perception, and nothing moves. `mask_message` has the
layout, `mask_publisher` the other side.
"""

from __future__ import annotations

import math
import mmap
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

from zerograsp_edge.runtime.errors import ConfigError
from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.segmentation import Segmentation
from zerograsp_edge.runtime.segmentation.mask_message import (
    CLOSED_AT,
    HEADER,
    RING,
    RING_MAGIC,
    MaskError,
    MaskHeader,
    MaskMessage,
    decode,
    read_header,
    shared_memory_path,
)

_LARGEST_MESSAGE = HEADER.size + 4 * 8192 * 8192
_POLL = 0.002  # seconds between looks into shared memory


@dataclass(frozen=True)
class ExternalConfig:
    """Which masks count as those of a frame; seconds.

    Attributes:
        tolerance: largest difference of the timestamps of mask and frame.
        max_age: since the masks were published; older ones are of an earlier run, or their publisher hangs.
        timeout: how long a frame waits for its masks.
    """

    tolerance: float = 0.004
    max_age: float = 2.0
    timeout: float = 0.5

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name}: expected seconds, 0 or more, got {value!r}")


class MaskSource(Protocol):
    """Where published masks can be seen; used by one thread at a time."""

    name: str
    refused: str
    """What was wrong with messages that were there and are no masks; empty when there were none."""

    def headers(self) -> list[MaskHeader]:
        """Of the masks that can be read now, in any order. Raises MaskError when there is no publisher."""

    def read(self, header: MaskHeader) -> MaskMessage:
        """The message of a header. Raises MaskError when it is damaged, being written, or not there any more."""

    def wait(self, seconds: float) -> None:
        """Until something may have come, at most that long."""

    def close(self) -> None: ...


class ExternalSegmenter:
    """A segmenter whose masks are made elsewhere; ids are those of the publisher.

    Args:
        source: `SharedMemoryMasks` or `ZmqMasks`; closed with the segmenter.
        config: which masks count as those of a frame.
    """

    def __init__(self, source: MaskSource, config: ExternalConfig | None = None) -> None:
        self.config = config or ExternalConfig()
        self._source = source
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Nothing is kept from frame to frame."""

    def __call__(self, frame: Frame) -> Segmentation:
        """The masks published for the frame's timestamp.

        Raises:
            MaskError: none came in time, or what came is damaged, stale, or of another size.
        """
        with self._lock:
            return self._segment(frame)

    def close(self) -> None:
        """Closes the source. Calling it twice is allowed."""
        with self._lock:
            self._source.close()

    def __enter__(self) -> ExternalSegmenter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _segment(self, frame: Frame) -> Segmentation:
        start = time.monotonic()
        deadline = start + self.config.timeout
        while True:
            try:
                message = self._find(frame)
                break
            except _NotYet as why:
                left = deadline - time.monotonic()
                if why.final or left <= 0:
                    raise MaskError(
                        f"{self._source.name}: no masks for frame '{frame.name}' (timestamp {frame.timestamp:.6f} s) "
                        f"within {self.config.timeout:g} s: {why}"
                    ) from why.__cause__
                self._source.wait(left)
        if message.mask.shape != frame.depth.shape:
            raise MaskError(
                f"{self._source.name}: expected masks of the frame's size, {frame.width}x{frame.height}, "
                f"got {message.header.width}x{message.header.height}; publish them for the very pictures of this camera"
            )
        waited = 1e3 * (time.monotonic() - start)
        return Segmentation(message.mask, timings={"wait": waited}, source=self._source.name)

    def _find(self, frame: Frame) -> MaskMessage:
        """The masks of a frame, from what is there now."""
        c = self.config
        try:
            headers = self._source.headers()
        except MaskError as error:
            raise _NotYet(str(error)) from error
        refused = f"; refused: {self._source.refused}" if self._source.refused else ""
        if not headers:
            raise _NotYet(f"nothing was published{refused}")
        best = min(headers, key=lambda h: (abs(h.timestamp - frame.timestamp), -h.published))
        away = best.timestamp - frame.timestamp
        if not abs(away) <= c.tolerance:
            if all(h.timestamp > frame.timestamp for h in headers):
                # Masks come in order: those of this frame have been overwritten, or it has another clock.
                raise _NotYet(
                    f"the oldest there are of a frame {away:.3f} s later; are both clocks the camera's? "
                    f"or give the publisher more slots{refused}",
                    final=True,
                )
            newest = max(headers, key=lambda h: h.timestamp)
            which = "newest" if newest.timestamp < frame.timestamp else "nearest"
            order = "later" if away > 0 else "earlier"
            raise _NotYet(f"the {which} are of a frame {abs(away):.3f} s {order}{refused}")
        try:
            message = self._source.read(best)
        except MaskError as error:
            raise _NotYet(str(error)) from error
        age = time.time() - message.header.published
        if not abs(age) <= c.max_age:
            raise _NotYet(
                f"stale: published {age:.1f} s ago, at most {c.max_age:g} s are allowed"
                if age > 0
                else f"published {-age:.1f} s in the future: the clocks of the two machines differ"
            )
        return message


class _NotYet(Exception):
    """There are no masks for the frame, yet; `final`: and waiting will not help."""

    def __init__(self, why: str, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class SharedMemoryMasks:
    """Masks of a `MaskPublisher` on this machine. It may start later, and restart.

    The memory is mapped to be read only, by its file: `multiprocessing.shared_memory` would map it to be written, and
    before Python 3.13 remove it when this process ends.
    """

    def __init__(self, name: str) -> None:
        self._path = shared_memory_path(name)
        self.name = f"shared memory '{name}'"
        self.refused = ""
        self._ring: _Ring | None = None

    def headers(self) -> list[MaskHeader]:
        if self._ring is not None and (self._ring.closed or not self._is_current(self._ring)):
            self.close()
        if self._ring is None:
            self._ring = _Ring(self._path, self.name)
        headers, damaged = [], ""
        for header in self._ring.headers():
            if isinstance(header, MaskError):
                damaged = str(header)
            else:
                headers.append(header)
        self.refused = damaged
        return headers

    def read(self, header: MaskHeader) -> MaskMessage:
        assert self._ring is not None, "headers() first"
        return self._ring.read(header)

    def wait(self, seconds: float) -> None:
        time.sleep(min(seconds, _POLL))

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
            self._ring = None

    def _is_current(self, ring: _Ring) -> bool:
        """Whether the name still stands for the memory that is mapped: a publisher that was killed says nothing."""
        try:
            return os.stat(self._path).st_ino == ring.inode
        except OSError:
            return False


class _Ring:
    """One publisher's shared memory, mapped."""

    def __init__(self, path: str, name: str) -> None:
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except FileNotFoundError as error:
            raise MaskError("there is no publisher (or it has closed)") from error
        except OSError as error:
            raise MaskError(f"cannot be read: {error.strerror}") from error
        try:
            status = os.fstat(descriptor)
            self.inode, size = status.st_ino, status.st_size
            if size < RING.size:
                raise MaskError("there is no publisher yet: the memory is empty")
            self._map = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        magic, slots, _, slot, self.publisher, _ = RING.unpack(self._map[: RING.size])
        if magic != RING_MAGIC or slots < 1 or slot < HEADER.size or RING.size + slots * slot > size:
            self.close()
            raise MaskError(f"expected a publisher's of masks, got something else ({size} bytes, {magic!r})")
        self._offsets = [RING.size + i * slot for i in range(slots)]
        self._slot = slot

    @property
    def closed(self) -> bool:
        return self._map[CLOSED_AT : CLOSED_AT + 4] != bytes(4)

    def headers(self) -> Iterator[MaskHeader | MaskError]:
        """Of the slots that are not empty or being written; what is wrong with those that are neither."""
        for at in self._offsets:
            data = self._map[at : at + HEADER.size]
            if data[:8] == bytes(8):
                continue
            slot = (at - RING.size) // self._slot
            try:
                header = read_header(data)
            except MaskError as error:
                yield error
                continue
            if header.sequence % len(self._offsets) == slot and header.nbytes <= self._slot:
                yield header
            else:
                yield MaskError(f"slot {slot} holds message {header.sequence} of {header.nbytes} bytes")

    def read(self, header: MaskHeader) -> MaskMessage:
        at = self._offsets[header.sequence % len(self._offsets)]
        message = decode(self._map[at : at + header.nbytes])
        if message.header != header:
            raise MaskError("the masks were overwritten while they were read")
        return message

    def close(self) -> None:
        self._map.close()


class ZmqMasks:
    """Masks of a `ZmqMaskPublisher`, which may start later, and restart.

    Args:
        address: to connect to, for example `tcp://192.168.1.5:5555`.
        keep: messages that stay readable.

    Raises:
        MissingExtra: no pyzmq (extra `zmq`).
        MaskError: no such address.
    """

    def __init__(self, address: str, *, keep: int = 8) -> None:
        zmq = self._zmq = require("zmq", "zmq", "receive masks over ZeroMQ")
        self.name = f"ZeroMQ {address}"
        self._kept: deque[MaskMessage] = deque(maxlen=keep)
        self.refused = ""
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.RCVHWM, keep)
        self._socket.set(zmq.MAXMSGSIZE, _LARGEST_MESSAGE)
        self._socket.set(zmq.SUBSCRIBE, b"")
        try:
            self._socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise MaskError(f"{self.name}: cannot connect: {error}") from error

    def headers(self) -> list[MaskHeader]:
        while self._socket.poll(0):
            parts = self._socket.recv_multipart(self._zmq.NOBLOCK)
            try:
                if len(parts) != 1:
                    raise MaskError(f"expected messages of one part, got {len(parts)}")
                message = decode(parts[0])
            except MaskError as error:
                self.refused = str(error)
                continue
            self.refused = ""
            if self._kept and self._kept[-1].header.publisher != message.header.publisher:
                self._kept.clear()  # it has restarted: timestamps may begin anew
            self._kept.append(message)
        return [message.header for message in self._kept]

    def read(self, header: MaskHeader) -> MaskMessage:
        return next(message for message in self._kept if message.header is header)

    def wait(self, seconds: float) -> None:
        self._socket.poll(max(1, int(1e3 * seconds)))

    def close(self) -> None:
        self._context.destroy(linger=0)
