"""The result of a hand-eye calibration: a file that says where the camera sits on, or beside, the robot.

It lies on the lean side because the grasp loop reads it; `zerograsp_edge.calibration` writes it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.versioned_file import read_entries, write_entries

Mode = Literal["eye-in-hand", "eye-to-hand"]
FORMAT, VERSION = "zerograsp-edge hand-eye", 1
# Lengths are metres; beyond this they are millimetres, or no robot.
MAX_REACH_M = 20.0
_ORTHONORMAL = 1e-5


class HandEyeError(ZeroGraspError, ValueError):
    """A hand-eye file, or a pose given to it, is not what it must be."""


@dataclass(frozen=True)
class HandEyeResiduals:
    """How well the calibration explains the views it was made from.

    Attributes:
        reprojection_px: RMS distance of detected corners to predicted ones.
        robot_translation_mm, robot_rotation_deg: RMS by which the robot's poses had to be corrected.
        sigma_translation_mm, sigma_rotation_deg: standard deviation of the result, its worst axis.
        views_used, views_rejected: counts.
    """

    reprojection_px: float
    robot_translation_mm: float
    robot_rotation_deg: float
    sigma_translation_mm: float
    sigma_rotation_deg: float
    views_used: int
    views_rejected: int


@dataclass(frozen=True, eq=False)
class HandEye:
    """Where the camera is.

    Attributes:
        mode: `eye-in-hand` (the camera moves with the hand) or `eye-to-hand` (it stands beside the robot).
        transform: (4, 4) float64, m: hand <- camera (eye-in-hand) or base <- camera (eye-to-hand). The camera
            frame is the optical one: x right, y down, z forward.
        residuals: how well it fits.
        sufficient: whether the poses sufficed; `advice` says what was missing.
        date: ISO 8601, when it was calibrated.
        camera_serial: serial number, empty when unknown.
        intrinsics: (3, 3), pixels: the K that the calibration assumed.
        intrinsics_sha256: `intrinsics_hash` of K, distortion and picture size.
    """

    mode: Mode
    transform: np.ndarray
    residuals: HandEyeResiduals
    sufficient: bool
    date: str
    intrinsics: np.ndarray
    intrinsics_sha256: str
    camera_serial: str = ""
    advice: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            raise HandEyeError(f"mode must be {' or '.join(get_args(Mode))}, got '{self.mode}'")
        object.__setattr__(self, "transform", checked_pose(self.transform, "transform"))
        object.__setattr__(self, "intrinsics", np.asarray(self.intrinsics, np.float64))
        if self.intrinsics.shape != (3, 3):
            raise HandEyeError(f"intrinsics must be 3x3, got shape {self.intrinsics.shape}")

    def camera_in_base(self, robot_pose: np.ndarray | None = None) -> np.ndarray:
        """The camera's pose.

        Args:
            robot_pose: (4, 4) base <- hand, m, at the time of the picture; not needed for eye-to-hand.

        Returns:
            (4, 4) float64 base <- camera, m.

        Raises:
            HandEyeError: no pose for a camera on the hand, or a pose that is no rigid transform in metres.
        """
        if self.mode == "eye-to-hand":
            return self.transform.copy()
        if robot_pose is None:
            raise HandEyeError(
                "the camera is mounted on the hand (eye-in-hand): expected the robot's pose at the time of the "
                "picture, got None"
            )
        return checked_pose(robot_pose, "robot_pose") @ self.transform

    def check_camera(
        self,
        intrinsics: np.ndarray,
        distortion: np.ndarray | None = None,
        size: tuple[int, int] | None = None,
        serial: str = "",
    ) -> str | None:
        """None when this camera is the one that was calibrated, else one line that says what differs."""
        if serial and self.camera_serial and serial != self.camera_serial:
            return f"the hand-eye calibration is of camera {self.camera_serial}, this is {serial}; calibrate again"
        if intrinsics_hash(intrinsics, distortion, size) != self.intrinsics_sha256:
            return (
                f"the camera's intrinsics are not those of the hand-eye calibration ({_numbers(self.intrinsics)} "
                f"then, {_numbers(np.asarray(intrinsics))} now, or another distortion or picture size); a changed "
                "resolution is harmless, another camera is not: calibrate again if in doubt"
            )
        return None

    @staticmethod
    def load(path: str | Path) -> HandEye:
        """Read and validate a file, JSON or YAML.

        Raises:
            HandEyeError: missing, damaged, another format or version, or a transform that is not rigid; the
                message names the file and the entry.
        """
        path = Path(path)
        try:
            return _from_entries(read_entries(path, FORMAT, VERSION, "hand-eye calibration", HandEyeError))
        except HandEyeError as error:
            raise HandEyeError(
                f"{path}: {error}; make a new one with: zerograsp-edge calibrate hand-eye"
            ) from error

    def save(self, path: str | Path) -> Path:
        """Write the file; the suffix (.json, .yaml, .yml) chooses the format. Replaces it in one step.

        Raises:
            HandEyeError: another suffix.
            OutputError: it cannot be written.
        """
        return write_entries(path, self.to_dict(), HandEyeError)

    def to_dict(self) -> dict[str, Any]:
        """The file's content."""
        maps = "hand <- camera" if self.mode == "eye-in-hand" else "base <- camera"
        return {
            "format": FORMAT,
            "version": VERSION,
            "mode": self.mode,
            "maps": maps,
            "unit": "m",
            "transform": [[float(value) for value in row] for row in self.transform],
            "sufficient": self.sufficient,
            "advice": list(self.advice),
            "residuals": {f.name: getattr(self.residuals, f.name) for f in fields(HandEyeResiduals)},
            "date": self.date,
            "camera_serial": self.camera_serial,
            "intrinsics": [[float(value) for value in row] for row in self.intrinsics],
            "intrinsics_sha256": self.intrinsics_sha256,
        }


def intrinsics_hash(
    intrinsics: np.ndarray, distortion: np.ndarray | None = None, size: tuple[int, int] | None = None
) -> str:
    """SHA-256 of K, distortion and size; trailing zeros of the distortion count as none, K to 0.001 px."""
    k = [[f"{value:.3f}" for value in row] for row in np.asarray(intrinsics, np.float64) + 0.0]
    d = [] if distortion is None else [f"{value:.6f}" for value in np.asarray(distortion, np.float64).ravel()]
    while d and float(d[-1]) == 0:
        d.pop()
    text = json.dumps({"K": k, "distortion": d, "size": None if size is None else list(map(int, size))})
    return hashlib.sha256(text.encode()).hexdigest()


def checked_pose(pose: Any, name: str) -> np.ndarray:
    """(4, 4) float64 copy of a rigid transform in metres.

    Raises:
        HandEyeError: another shape, not finite, not a rotation, a wrong last row, or so far away that the unit
            must be another one.
    """
    try:
        matrix = np.array(pose, np.float64)
    except (TypeError, ValueError) as error:
        raise HandEyeError(f"{name} must be a 4x4 matrix of numbers ({error})") from error
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise HandEyeError(
            f"{name} must be a finite 4x4 matrix, got shape {matrix.shape}"
            + ("" if matrix.shape != (4, 4) else " with values that are not finite")
        )
    rotation = matrix[:3, :3]
    deviation = float(np.abs(rotation @ rotation.T - np.eye(3)).max())
    if deviation > _ORTHONORMAL or np.linalg.det(rotation) < 0:
        what = "mirrors" if deviation <= _ORTHONORMAL else f"is off by {deviation:.2g} from orthonormal"
        raise HandEyeError(f"{name} must start with a 3x3 rotation; it {what}")
    if np.abs(matrix[3] - [0, 0, 0, 1]).max() > 1e-9:
        raise HandEyeError(f"{name} must end with the row 0 0 0 1, got {matrix[3].tolist()}")
    if np.abs(matrix[:3, 3]).max() > MAX_REACH_M:
        raise HandEyeError(
            f"{name} lies {np.linalg.norm(matrix[:3, 3]):g} m away; expected metres below {MAX_REACH_M:g}: "
            "is it in millimetres?"
        )
    return matrix


def _from_entries(entries: Mapping[str, Any]) -> HandEye:
    def entry(name: str, kind: type, source: Mapping[str, Any] = entries) -> Any:
        if name not in source:
            raise HandEyeError(f"entry '{name}' is missing")
        value: Any = source[name]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise HandEyeError(f"entry '{name}' must be a {kind.__name__}, it is {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise HandEyeError(f"entry '{name}' must be finite, it is {value}")
        return value

    if entry("unit", str) != "m":
        raise HandEyeError(f"entry 'unit' must be 'm', it is '{entries['unit']}'")
    residuals = entry("residuals", dict)
    # PEP 563: the annotations are strings.
    counts = HandEyeResiduals(
        **{
            f.name: entry(f.name, int if f.type == "int" else float, residuals)
            for f in fields(HandEyeResiduals)
        }
    )
    try:
        intrinsics = np.array(entry("intrinsics", list), np.float64)
    except (TypeError, ValueError) as error:
        raise HandEyeError(f"entry 'intrinsics' must be a 3x3 matrix ({error})") from error
    return HandEye(
        mode=entry("mode", str),
        transform=checked_pose(entry("transform", list), "transform"),
        residuals=counts,
        sufficient=entry("sufficient", bool),
        date=entry("date", str),
        intrinsics=intrinsics,
        intrinsics_sha256=entry("intrinsics_sha256", str),
        camera_serial=entry("camera_serial", str),
        advice=tuple(map(str, entry("advice", list))),
    )


def _numbers(k: np.ndarray) -> str:
    return f"fx {k[0, 0]:.1f}, fy {k[1, 1]:.1f}, cx {k[0, 2]:.1f}, cy {k[1, 2]:.1f}"
