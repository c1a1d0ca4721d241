"""What `cv2.imread` does not tell about a PNG: whether it is whole, and the indices of a palette image."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3


@dataclass(frozen=True)
class PngHeader:
    """The fields of IHDR that matter here."""

    width: int
    height: int
    bit_depth: int
    colour_type: int

    @property
    def is_palette(self) -> bool:
        return self.colour_type == _PALETTE


def check_png(data: bytes) -> PngHeader:
    """Walk all chunks and verify every CRC up to IEND.

    OpenCV decodes a truncated file into a partly blank picture without a word.

    Raises:
        ValueError: not a PNG, truncated, or damaged; the message says where.
    """
    header = None
    for kind, body in _chunks(data):
        if kind == b"IHDR":
            header = PngHeader(*struct.unpack(">IIBB", body[:10]))
    if header is None:
        raise ValueError("it has no IHDR chunk")
    return header


def palette_as_grey(data: bytes) -> bytes:
    """A palette PNG rewritten as a grey one with the same pixels: a decoder then yields indices, not colours.

    Below 8 bits a decoder stretches grey values to 0..255: divide by 255 // (2**bit_depth - 1).
    """
    out = [SIGNATURE]
    for kind, body in _chunks(data):
        if kind in (b"PLTE", b"tRNS"):
            continue
        if kind == b"IHDR":
            body = body[:9] + bytes([_GREY]) + body[10:]
        out.append(struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)))
    return b"".join(out)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if not data.startswith(SIGNATURE):
        raise ValueError("it is not a PNG file")
    at = len(SIGNATURE)
    while True:
        if at + 12 > len(data):
            raise ValueError(f"it is truncated: it ends after {len(data)} bytes, before the IEND chunk")
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if end > len(data):
            raise ValueError(
                f"it is truncated: {end - len(data)} bytes of its {kind.decode('latin1')} chunk are missing"
            )
        body = data[at + 8 : end - 4]
        if zlib.crc32(kind + body) != struct.unpack(">I", data[end - 4 : end])[0]:
            raise ValueError(
                f"it is damaged: wrong checksum in its {kind.decode('latin1')} chunk at byte {at}"
            )
        yield kind, body
        if kind == b"IEND":
            return
        at = end
