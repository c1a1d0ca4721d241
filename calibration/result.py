"""From a calibration to its file. The file's class, `HandEye`, lives on the lean side, where `run` and the loop use it:
`HandEye.load(path)`, `camera_in_base(robot_pose)`."""

from __future__ import annotations

from datetime import datetime, timezone

import numpy as np

from zerograsp_edge.calibration.camera import CameraModel
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.calibration.hand_eye import Calibration
from zerograsp_edge.runtime.hand_eye import HandEye, HandEyeError, HandEyeResiduals, intrinsics_hash

__all__ = ["HandEye", "HandEyeError", "HandEyeResiduals", "hand_eye_result"]


def hand_eye_result(calibration: Calibration, camera: CameraModel, when: datetime | None = None) -> HandEye:
    """What the file holds.

    Args:
        when: time of the calibration, default now; written in UTC.

    Raises:
        CalibrationError: the poses leave the result undetermined, so that there is nothing to write.
    """
    if not np.isfinite(calibration.covariance).all():
        raise CalibrationError(
            "the poses do not determine the result: " + "; ".join(calibration.assessment.shortfalls)
        )
    used = calibration.used
    residuals = HandEyeResiduals(
        reprojection_px=_rms([v.reprojection_px for v in used]),
        robot_translation_mm=_rms([v.translation_mm for v in used]),
        robot_rotation_deg=_rms([v.rotation_deg for v in used]),
        sigma_translation_mm=calibration.sigma_translation_mm,
        sigma_rotation_deg=calibration.sigma_rotation_deg,
        views_used=len(used),
        views_rejected=len(calibration.rejected),
    )
    assessment = calibration.assessment
    advice = () if assessment.sufficient else (*assessment.shortfalls, assessment.next_pose.instruction)
    return HandEye(
        mode=calibration.mode,
        transform=calibration.transform,
        residuals=residuals,
        sufficient=assessment.sufficient,
        date=(when or datetime.now(timezone.utc)).astimezone(timezone.utc).isoformat(timespec="seconds"),
        intrinsics=camera.intrinsics,
        intrinsics_sha256=intrinsics_hash(camera.intrinsics, camera.distortion, camera.size),
        camera_serial=camera.serial,
        advice=(*calibration.notes, *advice),
    )


def _rms(values: list[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
