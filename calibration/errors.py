"""Errors of calibration: one line that says what was expected, what came and what to do."""

from __future__ import annotations

from zerograsp_edge.runtime.errors import ZeroGraspError


class BoardError(ZeroGraspError, ValueError):
    """A board that cannot be made, or a picture that does not show it well enough."""


class PoseError(ZeroGraspError, ValueError):
    """A robot pose, or a file of them, that cannot be read or is no rigid transform."""


class CalibrationError(ZeroGraspError, ValueError):
    """The views given do not determine a calibration at all."""
