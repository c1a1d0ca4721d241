"""Masks on their way from one process to another: one layout for shared memory and ZeroMQ.

A message is 64 bytes and then the mask, row by row; numbers are little-endian:

    bytes   type      what
    0..8    8 bytes   ZGMASKS1
    8..12   uint32    CRC-32 of all that follows, header and mask
    12      uint8     element type: 1 uint8, 2 uint16, 3 int32
    16..24  uint64    sequence number: 1, 2, ... of this publisher
    24..32  uint64    publisher: a random number, another one after a restart
    32..40  float64   timestamp of the frame that the masks are of, seconds, in the camera's clock
    40..48  float64   time of publishing, seconds since 1970
    48..52  uint32    height
    52..56  uint32    width

What is not listed is 0. Mask values are instance ids, 0 the background. The checksum is what tells a whole message from
one that is still being written, on processors that reorder stores as well.

Shared memory holds a ring of messages. Its first 64 bytes:

    0..8    8 bytes   ZGMRING1, written last
    8..12   uint32    slots
    12..16  uint32    1 when the publisher has closed it or another one has taken its place
    16..24  uint64    bytes of a slot, a multiple of 64
    24..32  uint64    publisher
    32..40  uint64    its process id

Slot i begins at 64 + i * bytes of a slot; message number n is in slot n modulo slots. A slot is written in this order:
zeros over its header, mask, header.

This module needs NumPy and the standard library alone.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from zerograsp_edge.runtime.errors import ConfigError, ZeroGraspError

MAGIC, RING_MAGIC = b"ZGMASKS1", b"ZGMRING1"
HEADER = struct.Struct("<8sIB3xQQddII8x")
RING = struct.Struct("<8sIIQQQ24x")
CLOSED_AT, CLOSED = 12, (1).to_bytes(4, "little")
"""Offset of the ring's flag, and the flag."""
_CHECKED_FROM = 12
_DTYPES: dict[int, np.dtype] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 3: np.dtype("<i4")}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_LARGEST_SIDE = 1 << 16


class MaskError(ZeroGraspError, RuntimeError):
    """Masks from another process or a folder are missing, late, damaged or of another frame; none were used."""


@dataclass(frozen=True)
class MaskHeader:
    """See the module; `dtype`, `height` and `width` are plausible, nothing else is checked."""

    checksum: int
    dtype: np.dtype
    sequence: int
    publisher: int
    timestamp: float
    published: float
    height: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of the whole message."""
        return HEADER.size + self.height * self.width * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class MaskMessage:
    """Masks of one frame: header and (height, width) int32, 0 is the background."""

    header: MaskHeader
    mask: np.ndarray


def shared_memory_path(name: str) -> str:
    """The file that is the POSIX shared memory of that name, on Linux.

    Raises:
        ConfigError: no name.
    """
    if not name or "/" in name:
        raise ConfigError(f"shared memory: expected a name without '/', got {name!r}")
    return f"/dev/shm/{name}"


def checked_mask(mask: np.ndarray) -> np.ndarray:
    """The mask in one of the types that messages have.

    Raises:
        ValueError: not (H, W) integers from 0 to 2^31 - 1.
    """
    if not isinstance(mask, np.ndarray) or mask.ndim != 2 or 0 in mask.shape or mask.dtype.kind not in "iub":
        got = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise ValueError(f"mask: expected (H, W) integers, 0 the background, got {got}")
    if max(mask.shape) >= _LARGEST_SIDE:
        raise ValueError(f"mask: expected sides below {_LARGEST_SIDE}, got {mask.shape}")
    low, high = int(mask.min()), int(mask.max())
    if low < 0 or high >= 1 << 31:
        raise ValueError(f"mask: expected ids from 0 to 2^31 - 1, got {low} to {high}")
    dtype = next(d for d in _DTYPES.values() if high <= np.iinfo(d).max)
    return np.ascontiguousarray(mask, dtype)


def encode(mask: np.ndarray, sequence: int, publisher: int, timestamp: float, published: float) -> tuple[bytes, Any]:
    """Header and payload of a message.

    Args:
        mask: as `checked_mask` returns it.

    Raises:
        ValueError: the timestamp is not finite.
    """
    if not math.isfinite(timestamp):
        raise ValueError(f"timestamp: expected seconds, got {timestamp}")
    height, width = mask.shape
    fields = (_CODES[mask.dtype], sequence, publisher, timestamp, published, height, width)
    payload = mask.data.cast("B")
    checksum = zlib.crc32(payload, zlib.crc32(HEADER.pack(MAGIC, 0, *fields)[_CHECKED_FROM:]))
    return HEADER.pack(MAGIC, checksum, *fields), payload


def read_header(data: Any) -> MaskHeader:
    """The header at the beginning of a buffer.

    Raises:
        MaskError: too short, or not the header of a message.
    """
    if len(data) < HEADER.size:
        raise MaskError(f"expected a message of at least {HEADER.size} bytes, got {len(data)}")
    magic, checksum, code, sequence, publisher, timestamp, published, height, width = HEADER.unpack(
        bytes(data[: HEADER.size])
    )
    if magic != MAGIC:
        raise MaskError(f"expected a message that begins with {MAGIC!r}, got {magic!r}")
    if code not in _DTYPES or not (0 < height < _LARGEST_SIDE and 0 < width < _LARGEST_SIDE):
        raise MaskError(f"expected element type 1, 2 or 3 and a size, got type {code} and {width}x{height}")
    return MaskHeader(checksum, _DTYPES[code], sequence, publisher, timestamp, published, height, width)


def decode(data: Any) -> MaskMessage:
    """A message from exactly its bytes; the mask is a copy.

    Raises:
        MaskError: garbage, half-written, damaged, or ids below 0.
    """
    header = read_header(data)
    if len(data) != header.nbytes:
        raise MaskError(f"half a message: expected {header.nbytes} bytes for its size, got {len(data)}")
    data = bytes(data)
    if zlib.crc32(data[_CHECKED_FROM:]) != header.checksum:
        raise MaskError("a message whose checksum is wrong: half-written or damaged")
    if not (math.isfinite(header.timestamp) and math.isfinite(header.published)):
        raise MaskError(f"expected finite times, got {header.timestamp} and {header.published}")
    mask = np.frombuffer(data, header.dtype, offset=HEADER.size).reshape(header.height, header.width)
    if mask.min() < 0:
        raise MaskError(f"expected ids from 0, got {int(mask.min())}")
    return MaskMessage(header, mask.astype(np.int32))
