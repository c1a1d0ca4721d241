"""Camera files: the pinhole intrinsics of a picture from JSON or YAML, in the forms that are in use."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zerograsp_edge.runtime.errors import FrameError

logger = logging.getLogger(__name__)

FORMS = (
    "fx, fy, cx, cy; "
    "or K / k / cam_K / camera_matrix / intrinsics / left_k (3x3, 9 numbers, or {data: 9 numbers}); "
    "or P / p / projection_matrix / left_p (3x4 or 12 numbers)"
)
_K_NAMES = ("K", "k", "cam_K", "camera_matrix", "intrinsics", "left_k")
_P_NAMES = ("P", "p", "projection_matrix", "left_p")
_DISTORTION_NAMES = ("D", "d", "distortion", "distortion_coefficients", "coeffs", "left_d")


@dataclass(frozen=True, eq=False)
class CameraFile:
    """What a camera file says.

    Attributes:
        intrinsics: (3, 3) float32, pixels.
        depth_scale: mm per unit of the depth image, None when the file does not say.
        size: (width, height) of the picture the intrinsics belong to, None when the file does not say.
        serial: the camera's serial number, empty when the file does not say.
    """

    intrinsics: np.ndarray
    depth_scale: float | None
    size: tuple[int, int] | None
    serial: str = ""


def read_camera(path: str | Path) -> CameraFile:
    """Read intrinsics from JSON or YAML.

    Pictures are taken as rectified, so a projection matrix (P, left_p, ROS `projection_matrix`) wins over a
    K beside it, which belongs to the raw picture. `depth_scale` is taken as mm per unit (BOP's meaning),
    except beside `left_p`: those files (ZeroGrasp's stereo rigs) keep another quantity under that name and
    store depth in mm.

    Raises:
        FrameError: the file cannot be read or parsed, or holds none of the known forms.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FrameError(f"camera file {path} cannot be read: {error}") from error
    entries = _parse(text, path)
    try:
        intrinsics = _intrinsics(entries, path)
        depth_scale = (
            float(entries["depth_scale"]) if "depth_scale" in entries and "left_p" not in entries else None
        )
        size = _size(entries)
    except (TypeError, ValueError) as error:
        if isinstance(error, FrameError):
            raise
        raise FrameError(f"camera file {path}: an entry is not a number ({error})") from error
    if depth_scale is not None and not 0 < depth_scale < np.inf:
        raise FrameError(
            f"camera file {path}: depth_scale must be positive (mm per unit), got {depth_scale:g}"
        )
    serial = str(entries.get("serial", entries.get("serial_number", "")))
    return CameraFile(intrinsics, depth_scale, size, serial)


def _parse(text: str, path: Path) -> Mapping[str, Any]:
    import yaml  # JSON is YAML too, but its own parser gives better messages

    try:
        entries = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        raise FrameError(f"camera file {path} is not valid {path.suffix[1:].upper()}: {error}") from error
    if not isinstance(entries, Mapping):
        raise FrameError(
            f"camera file {path} must hold a mapping with {FORMS}; it holds a {type(entries).__name__}"
        )
    nested = entries.get("intrinsics", entries.get("camera"))
    return {**entries, **nested} if isinstance(nested, Mapping) and "data" not in nested else entries


def _intrinsics(entries: Mapping[str, Any], path: Path) -> np.ndarray:
    if {"fx", "fy"} <= entries.keys():
        cx, cy = entries.get("cx", entries.get("ppx")), entries.get("cy", entries.get("ppy"))
        if cx is None or cy is None:
            raise FrameError(f"camera file {path} has fx, fy but no cx, cy")
        return np.array([[entries["fx"], 0, cx], [0, entries["fy"], cy], [0, 0, 1]], np.float32)
    for name in _P_NAMES:
        if name in entries:
            matrix = _matrix(entries[name], (3, 4), name, path)
            if not matrix.any():
                continue  # ROS writes zeros for "not calibrated"
            if np.any(matrix[:2, 3]):
                raise FrameError(
                    f"camera file {path}: {name} has the offset {matrix[:2, 3].tolist()} "
                    "of a stereo pair's second camera; "
                    "give the first camera's matrix"
                )
            return matrix[:, :3]
    for name in _K_NAMES:
        if name in entries and not isinstance(entries[name], str):
            _warn_of_distortion(entries, path)
            return _matrix(entries[name], (3, 3), name, path)
    raise FrameError(
        f"camera file {path} holds no intrinsics; expected {FORMS}; it has: {', '.join(map(str, entries))}"
    )


def _matrix(value: Any, shape: tuple[int, int], name: str, path: Path) -> np.ndarray:
    numbers = np.array(value["data"] if isinstance(value, Mapping) and "data" in value else value, np.float32)
    if numbers.size != shape[0] * shape[1]:
        raise FrameError(
            f"camera file {path}: {name} must hold {shape[0]}x{shape[1]} numbers, "
            f"got an array of shape {numbers.shape}"
        )
    return numbers.reshape(shape)


def _size(entries: Mapping[str, Any]) -> tuple[int, int] | None:
    width = entries.get("width", entries.get("image_width"))
    height = entries.get("height", entries.get("image_height"))
    return None if width is None or height is None else (int(width), int(height))


def _warn_of_distortion(entries: Mapping[str, Any], path: Path) -> None:
    for name in _DISTORTION_NAMES:
        value = entries.get(name)
        value = value.get("data") if isinstance(value, Mapping) else value
        if isinstance(value, list) and any(value):
            logger.warning("%s: distortion %s is not applied; pictures are taken as rectified", path, value)
