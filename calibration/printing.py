"""A board on paper at its exact size: PDF with vector rectangles, or PNG with its resolution in the file."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np

from zerograsp_edge.calibration.board import Board
from zerograsp_edge.calibration.errors import BoardError
from zerograsp_edge.runtime.errors import OutputError

PAPERS_MM = {"a4": (297.0, 210.0), "a3": (420.0, 297.0), "letter": (279.4, 215.9)}
PIXELS_PER_METRE = 20_000  # 508 dpi; a whole number, as PNG wants it
_POINTS_PER_METRE = 72 / 0.0254
_MARGIN_M = 0.006  # what printers leave blank, and the board's quiet zone


def write_board(path: str | Path, board: Board, paper: str = "a4") -> Path:
    """Write a board for printing at 100 %; the suffix chooses PDF or PNG.

    Args:
        paper: page of the PDF, landscape: `a4`, `a3`, `letter`. A PNG has the board's own size.

    Raises:
        BoardError: another suffix, an unknown paper, or a board larger than the page.
        OutputError: the file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in (".png", ".pdf"):
        raise BoardError(f"expected a file NAME.png or NAME.pdf, got {path}")
    data = board_pdf(board, paper) if suffix == ".pdf" else board_png(board)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from error
    return path


def draw_board(board: Board, pixels_per_metre: float = PIXELS_PER_METRE, margin_m: float = 0.0) -> np.ndarray:
    """(H, W) uint8 picture, white 255 and black 0, with a white margin around the board.

    Edges are at the nearest pixel; an edge at x (m) lies at pixel coordinate x * pixels_per_metre - 0.5 (integer
    coordinates are pixel centres).
    """
    width, height = (round((length + 2 * margin_m) * pixels_per_metre) for length in board.size_m)
    image = np.full((height, width), 255, np.uint8)
    edges = board.black_rectangles()
    edges[:, 2:] += edges[:, :2]
    for left, top, right, bottom in np.rint((edges + margin_m) * pixels_per_metre).astype(int):
        image[top:bottom, left:right] = 0
    return image


def board_png(board: Board) -> bytes:
    """A PNG with its resolution (chunk pHYs), so that programs print it at its true size."""
    image = draw_board(board, margin_m=_MARGIN_M)
    data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_BILEVEL, 1])[1].tobytes()
    body = b"pHYs" + struct.pack(">IIB", PIXELS_PER_METRE, PIXELS_PER_METRE, 1)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    end_of_header = 8 + 25  # signature, IHDR
    return data[:end_of_header] + chunk + data[end_of_header:]


def board_pdf(board: Board, paper: str = "a4") -> bytes:
    """A one-page PDF: the board in vector rectangles, a 100 mm ruler and a caption (PDF 1.4, ISO 32000-1)."""
    if paper not in PAPERS_MM:
        raise BoardError(f"unknown paper '{paper}'; expected {', '.join(PAPERS_MM)}")
    page = np.array(PAPERS_MM[paper]) / 1000
    caption_m = 0.016
    need = np.array(board.size_m) + 2 * _MARGIN_M + [0, caption_m]
    if (need > page).any():
        raise BoardError(
            f"the board with margins needs {1000 * need[0]:.0f}x{1000 * need[1]:.0f} mm, {paper} is "
            f"{PAPERS_MM[paper][0]:g}x{PAPERS_MM[paper][1]:g}; take larger paper, smaller squares, or a PNG"
        )
    left, top = (page[0] - board.size_m[0]) / 2, (page[1] - board.size_m[1] - caption_m) / 2
    scale = _POINTS_PER_METRE
    rectangles = board.black_rectangles()
    x, y = rectangles[:, 0] + left, page[1] - top - rectangles[:, 1] - rectangles[:, 3]  # PDF's y points up
    drawing = [
        f"{scale * a:.4f} {scale * b:.4f} {scale * w:.4f} {scale * h:.4f} re"
        for a, b, (w, h) in zip(x, y, rectangles[:, 2:], strict=True)
    ]
    ruler_y = page[1] - top - board.size_m[1] - 0.010
    ruler = [
        f"{scale * left:.4f} {scale * ruler_y:.4f} m {scale * (left + 0.1):.4f} {scale * ruler_y:.4f} l S"
    ]
    ruler += [
        f"{scale * (left + at):.4f} {scale * (ruler_y - 0.002):.4f} m {scale * (left + at):.4f} "
        f"{scale * (ruler_y + 0.002):.4f} l S"
        for at in (0.0, 0.1)
    ]
    text = f"100 mm (measure it: print at 100 %, no fit to page)   |   {board}"
    caption = f"BT /F 7 Tf {scale * left:.2f} {scale * (ruler_y - 0.0055):.2f} Td ({text.translate(_ESCAPES)}) Tj ET"
    stream = "\n".join(["0 g", *drawing, "f", "0.3 w", *ruler, caption]).encode("ascii")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R /ViewerPreferences << /PrintScaling /None >> >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {scale * page[0]:.4f} {scale * page[1]:.4f}] "
        "/Contents 4 0 R /Resources << /Font << /F 5 0 R >> >> >>".encode("ascii"),
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    return _pdf_file(objects)


_ESCAPES = str.maketrans({"(": r"\(", ")": r"\)", "\\": r"\\"})


def _pdf_file(objects: list[bytes]) -> bytes:
    """The objects, numbered from 1, with cross-reference table and trailer."""
    data, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(data)
    data += b"xref\n0 %d\n0000000000 65535 f \n%s" % (len(objects) + 1, table)
    return data + b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
