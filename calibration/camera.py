"""The camera model a calibration is made with: intrinsics, lens distortion and picture size."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zerograsp_edge.runtime.camera.intrinsics import read_camera
from zerograsp_edge.runtime.errors import FrameError

Pictures = Literal["auto", "raw", "rectified"]
_DISTORTION_COUNTS = (4, 5, 8, 12, 14)
_DISTORTION_NAMES = ("D", "d", "distortion", "distortion_coefficients", "coeffs")
_PROJECTION_NAMES = ("P", "p", "projection_matrix")


@dataclass(frozen=True, eq=False)
class CameraModel:
    """A pinhole camera with OpenCV's distortion model.

    Attributes:
        intrinsics: (3, 3) float64, pixels; integer coordinates are pixel centres.
        distortion: (k,) float64 with k of 0, 4, 5, 8, 12 or 14: k1, k2, p1, p2, k3, ... in OpenCV's order;
            empty for rectified pictures.
        size: (width, height), or None when unknown.
        serial: the camera's serial number, empty when unknown.

    Raises:
        FrameError: K is no camera matrix, or the number of coefficients fits no model.
    """

    intrinsics: np.ndarray
    distortion: np.ndarray = field(default_factory=lambda: np.zeros(0))
    size: tuple[int, int] | None = None
    serial: str = ""

    def __post_init__(self) -> None:
        k = np.asarray(self.intrinsics, np.float64)
        d = np.asarray(self.distortion, np.float64).ravel()
        if k.shape != (3, 3) or not np.isfinite(k).all() or k[0, 0] <= 0 or k[1, 1] <= 0:
            raise FrameError(
                f"intrinsics must be a finite 3x3 matrix with positive focal lengths, got {k.tolist()}"
            )
        if d.size not in (0, *_DISTORTION_COUNTS) or not np.isfinite(d).all():
            raise FrameError(
                "distortion must be 0, 4, 5, 8, 12 or 14 finite numbers in OpenCV's order "
                f"(k1, k2, p1, p2, k3, ...), got {d.tolist()}"
            )
        object.__setattr__(self, "intrinsics", k)
        object.__setattr__(self, "distortion", d)

    def check_size(self, image: np.ndarray, name: str) -> None:
        """Raises FrameError when a picture does not have the size that the intrinsics belong to."""
        size = (image.shape[1], image.shape[0])
        if self.size is not None and size != self.size:
            raise FrameError(
                f"{name} is {size[0]}x{size[1]} pixels, the camera file is for {self.size[0]}x{self.size[1]}; "
                "give the intrinsics of this resolution"
            )


def read_camera_model(path: str | Path, pictures: Pictures = "auto") -> CameraModel:
    """Read K, distortion, size and serial number from a camera file (see `runtime.camera.intrinsics`).

    Args:
        pictures: `raw` takes K and the distortion, `rectified` takes the projection matrix (or K where there is
            none) without distortion. `auto` decides where the file leaves no doubt: a file with both a lens
            distortion and a projection matrix describes two kinds of pictures, and is an error.

    Raises:
        FrameError: the file is damaged, or `auto` cannot decide.
    """
    path = Path(path)
    entries = _entries(path)
    camera = read_camera(path)
    distortion = _distortion(entries, path)
    projected = any(np.any(_numbers(entries[n])) for n in _PROJECTION_NAMES if n in entries)
    if pictures == "auto" and projected and distortion.any():
        raise FrameError(
            f"camera file {path} has a distortion, for raw pictures, and a projection matrix, for rectified "
            "ones; say which the pictures are: --pictures raw or --pictures rectified"
        )
    intrinsics = np.asarray(camera.intrinsics, np.float64)
    if pictures == "rectified" or not distortion.any():
        distortion = np.zeros(0)
    elif projected:  # read_camera prefers P; raw pictures need the K beside it
        raw = {n: v for n, v in entries.items() if n not in _PROJECTION_NAMES}
        names = [n for n in ("K", "k", "cam_K", "camera_matrix") if n in raw]
        if not names:
            raise FrameError(
                f"camera file {path} has no K beside its projection matrix; raw pictures need it"
            )
        numbers = _numbers(raw[names[0]])
        if numbers.size != 9:
            raise FrameError(f"camera file {path}: {names[0]} must hold 9 numbers, got {numbers.size}")
        intrinsics = numbers.reshape(3, 3)
    return CameraModel(intrinsics, distortion, camera.size, camera.serial)


def _entries(path: Path) -> Mapping[str, Any]:
    """The file's mapping; `read_camera` reports what is wrong with a damaged file, so nothing is caught here."""
    import yaml

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FrameError(f"camera file {path} cannot be read: {error}") from error
    except yaml.YAMLError:
        try:  # JSON that YAML does not take (tabs)
            entries = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise FrameError(f"camera file {path} is neither JSON nor YAML: {error}") from error
    if not isinstance(entries, Mapping):
        raise FrameError(f"camera file {path} must hold a mapping, it holds a {type(entries).__name__}")
    nested = entries.get("intrinsics", entries.get("camera"))
    return {**entries, **nested} if isinstance(nested, Mapping) and "data" not in nested else entries


def _distortion(entries: Mapping[str, Any], path: Path) -> np.ndarray:
    for name in _DISTORTION_NAMES:
        if entries.get(name) is not None:
            try:
                return _numbers(entries[name])
            except (TypeError, ValueError) as error:
                raise FrameError(f"camera file {path}: {name} is not a list of numbers ({error})") from error
    return np.zeros(0)


def _numbers(value: Any) -> np.ndarray:
    return np.array(
        value["data"] if isinstance(value, Mapping) and "data" in value else value, np.float64
    ).ravel()
