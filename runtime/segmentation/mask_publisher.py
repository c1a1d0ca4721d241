"""The other side of `external.ExternalSegmenter`: hands masks to a pipeline in another process.

    with MaskPublisher("masks") as publisher:            # run --segment shm:masks
        while True:
            publisher.publish(my_network(rgb), timestamp)  # the frame's own timestamp, in the camera's clock

Ids that stay with their objects from frame to frame are the publisher's business. This module needs NumPy and, for
`ZmqMaskPublisher`, pyzmq; nothing else of the package's dependencies.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import secrets
import time
from types import TracebackType

import numpy as np

from zerograsp_edge.runtime.errors import ConfigError
from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.segmentation.mask_message import (
    CLOSED,
    CLOSED_AT,
    HEADER,
    RING,
    RING_MAGIC,
    MaskError,
    checked_mask,
    encode,
    shared_memory_path,
)


class MaskPublisher:
    """Publishes masks in shared memory, for processes of this machine.

    The memory is the POSIX one of that name, the file `/dev/shm/NAME`, and locked while the publisher lives: what a
    killed one has left is taken over, from one that runs it is not. `multiprocessing.shared_memory` can open it, but
    does not make it: its tracker, cleaning up after a killed publisher, would remove the memory of the next one.

    Args:
        name: of the shared memory; the segmenter is given the same.
        max_pixels: of a mask.
        slots: masks that stay readable; more where they are published long before their frames are processed.

    Raises:
        MaskError: another process publishes under the name, something else uses it, or there is not enough memory.
    """

    def __init__(self, name: str, *, max_pixels: int = 1920 * 1080, slots: int = 4) -> None:
        if slots < 2 or max_pixels < 1:
            raise ConfigError(f"expected 2 or more slots and some pixels, got {slots} and {max_pixels}")
        path = self._path = shared_memory_path(name)
        self.name = name
        self._id = secrets.randbits(63)
        self._sequence = 0
        self._slots = slots
        self._slot = -(-(HEADER.size + 4 * max_pixels) // 64) * 64
        size = RING.size + slots * self._slot
        # Made under another name, it appears whole and locked.
        hidden = shared_memory_path(f".{name}.{self._id:x}")
        self._file = os.open(hidden, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX)
            try:
                os.posix_fallocate(self._file, 0, size)
            except OSError as error:
                raise MaskError(
                    f"shared memory '{name}': expected {size / 1e6:.0f} MB to be free ({error.strerror}); give fewer "
                    "slots or max_pixels, or a container a larger /dev/shm"
                ) from error
            self._map = mmap.mmap(self._file, size)
            self._map[: RING.size] = RING.pack(RING_MAGIC, slots, 0, self._slot, self._id, os.getpid())
            _make_room(path, name)
            try:
                os.link(hidden, path)
            except FileExistsError as error:
                raise MaskError(f"shared memory '{name}' has just been taken by another process") from error
        except BaseException:
            os.close(self._file)
            raise
        finally:
            os.unlink(hidden)

    def publish(self, mask: np.ndarray, timestamp: float) -> int:
        """Publishes the masks of one frame; returns their sequence number.

        Args:
            mask: (H, W) integers or bool, 0 is the background.
            timestamp: of the frame, seconds, in the camera's clock.

        Raises:
            ValueError: mask or timestamp is not as described, or the mask has more than `max_pixels`.
            MaskError: the publisher is closed.
        """
        if self._map.closed:
            raise MaskError(f"shared memory '{self.name}': this publisher is closed; make a new one")
        mask = checked_mask(mask)
        if HEADER.size + mask.nbytes > self._slot:
            raise ValueError(f"mask: expected up to {(self._slot - HEADER.size) // 4} pixels, got {mask.size}")
        sequence = self._sequence + 1
        header, payload = encode(mask, sequence, self._id, timestamp, time.time())
        at = RING.size + sequence % self._slots * self._slot
        self._map[at : at + HEADER.size] = bytes(HEADER.size)
        self._map[at + HEADER.size : at + HEADER.size + mask.nbytes] = payload
        self._map[at : at + HEADER.size] = header
        self._sequence = sequence
        return sequence

    def close(self) -> None:
        """Tells readers, and gives the memory back. Calling it twice is allowed."""
        if self._map.closed:
            return
        self._map[CLOSED_AT : CLOSED_AT + 4] = CLOSED
        self._map.close()
        try:
            if os.stat(self._path).st_ino == os.fstat(self._file).st_ino:
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        finally:
            os.close(self._file)

    def __enter__(self) -> MaskPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ZmqMaskPublisher:
    """Publishes masks over ZeroMQ, for other machines too; their clocks must agree within the segmenter's `max_age`.

    Args:
        address: to bind, for example `tcp://*:5555` or `ipc:///run/masks`.

    Raises:
        MissingExtra: no pyzmq (extra `zmq`).
        MaskError: the address cannot be bound.
    """

    def __init__(self, address: str) -> None:
        zmq = require("zmq", "zmq", "publish masks over ZeroMQ")
        self._id = secrets.randbits(63)
        self._sequence = 0
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.set(zmq.LINGER, 0)
        self._socket.set(zmq.SNDHWM, 4)
        try:
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise MaskError(f"cannot publish masks at {address}: {error}") from error

    def publish(self, mask: np.ndarray, timestamp: float) -> int:
        """As `MaskPublisher.publish`; never waits: a subscriber that is too slow misses masks."""
        mask = checked_mask(mask)
        self._sequence += 1
        header, payload = encode(mask, self._sequence, self._id, timestamp, time.time())
        self._socket.send(b"".join((header, payload)))
        return self._sequence

    def close(self) -> None:
        """Closes the socket. Calling it twice is allowed."""
        self._context.destroy(linger=0)

    def __enter__(self) -> ZmqMaskPublisher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_room(path: str, name: str) -> None:
    """Takes a name over from a publisher that is gone."""
    try:
        left = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    except OSError as error:
        raise MaskError(f"shared memory '{name}' is somebody else's: {error.strerror}; choose another name") from error
    try:
        ring = os.pread(left, RING.size, 0)
        if len(ring) < RING.size or not ring.startswith(RING_MAGIC):
            raise MaskError(
                f"shared memory '{name}' is not a publisher's of masks; choose another name, or remove {path}"
            )
        try:
            fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            process = RING.unpack(ring)[-1]
            raise MaskError(f"process {process} publishes masks as '{name}'; stop it or choose another name") from error
        os.pwrite(left, CLOSED, CLOSED_AT)
        os.unlink(path)
    finally:
        os.close(left)
