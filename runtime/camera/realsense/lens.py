"""What a colour lens does to the picture, taken out: frames are pinhole pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from zerograsp_edge.runtime.errors import CameraError

# A picture whose pixels all lie within this of where a pinhole would put them is left as it is, pixels.
NEGLIGIBLE = 0.1


def pinhole(intrinsics: Any) -> np.ndarray:
    """(3, 3) float32, pixels, of `rs.intrinsics`."""
    i = intrinsics
    return np.array([[i.fx, 0, i.ppx], [0, i.fy, i.ppy], [0, 0, 1]], np.float32)


def rectification(intrinsics: Any) -> np.ndarray | None:
    """Where the pixels of a pinhole picture lie in the picture as it comes.

    Args:
        intrinsics: `rs.intrinsics` with Brown-Conrady distortion in one of its forms.

    Returns:
        (2, H, W) float32, x and y in pixels; None when the picture is a pinhole picture as it is.

    Raises:
        CameraError: a lens model that no D400 camera has.
    """
    i = intrinsics
    model = str(i.model).rsplit(".", 1)[-1]
    k1, k2, p1, p2, k3 = (float(c) for c in i.coeffs)
    if model == "none" or not any((k1, k2, p1, p2, k3)):
        return None
    if model not in ("brown_conrady", "inverse_brown_conrady", "modified_brown_conrady"):
        raise CameraError(f"lens model {model} is not known; expected Brown-Conrady")
    v, u = np.mgrid[: i.height, : i.width].astype(np.float64)
    x, y = (u - i.ppx) / i.fx, (v - i.ppy) / i.fy
    square = x * x + y * y
    radial = 1 + square * (k1 + square * (k2 + square * k3))
    # librealsense's project: the variants differ in whether the tangential part sees the radial one.
    tx, ty = (x, y) if model == "brown_conrady" else (x * radial, y * radial)
    places = np.stack(
        [
            (x * radial + 2 * p1 * tx * ty + p2 * (square + 2 * tx * tx)) * i.fx + i.ppx,
            (y * radial + 2 * p2 * tx * ty + p1 * (square + 2 * ty * ty)) * i.fy + i.ppy,
        ],
    )
    if np.abs(places - np.stack([u, v])).max() < NEGLIGIBLE:
        return None
    return places.astype(np.float32)
