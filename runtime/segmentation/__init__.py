"""Instance masks from a frame: one protocol, `Segmenter`, and what it returns.

`geometric.GeometricSegmenter` (the default, no network) finds supports and the things on them, `sam2.Sam2Segmenter`
runs SAM 2, `external.ExternalSegmenter` takes masks from another process and `folder.FolderSegmenter` from files. Masks
that are there when a frame is made need no segmenter: `Frame(mask=...)`, `frame.with_mask`, NAME.mask.png.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from zerograsp_edge.runtime.errors import FrameError, NoObjectError
from zerograsp_edge.runtime.frame import Frame


@dataclass(frozen=True, eq=False)
class SupportPlane:
    """A large plane that carries, contains or surrounds the objects; camera optical frame.

    Attributes:
        normal: (3,) float64, unit, towards the camera.
        distance: mm; points of the plane have normal . x = -distance.
        area_cm2: of its visible part.
        carries: it is the plane that objects stand on: what lies behind it is background.
    """

    normal: np.ndarray
    distance: float
    area_cm2: float
    carries: bool

    def height(self, points: np.ndarray) -> np.ndarray:
        """(n,) mm by which (n, 3) points, mm, lie on the camera's side of the plane."""
        return points @ self.normal + self.distance


@dataclass(frozen=True, eq=False)
class Segmentation:
    """What a segmenter found in one frame.

    Attributes:
        mask: (H, W) int32, 0 is the background; an object keeps its id from frame to frame.
        planes: supports, the carrying one first.
        left_out: segments that are no objects, counted by reason.
        reason: why there is no object; empty when there is one.
        timings: milliseconds by part.
        source: what found them, for people.
    """

    mask: np.ndarray
    planes: tuple[SupportPlane, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    reason: str = ""
    timings: Mapping[str, float] = field(default_factory=dict)
    source: str = "a segmenter"

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Mask values of the objects, ascending."""
        return tuple(int(value) for value in np.unique(self.mask) if value)

    def apply(self, frame: Frame) -> Frame:
        """The frame with this mask.

        Raises:
            NoObjectError: a support was seen and nothing on it.
            FrameError: no object was found for another reason, which the message says.
        """
        if self.reason:
            error = NoObjectError if self.planes else FrameError
            raise error(f"no object found in frame '{frame.name}': {self.reason}")
        return frame.with_mask(self.mask, background=0)


class Segmenter(Protocol):
    """Finds the objects of a frame. One that is fed by another process or a network has the same two methods."""

    def __call__(self, frame: Frame) -> Segmentation:
        """The objects of a frame; a mask that the frame may have is not looked at. Finding none is no error."""

    def reset(self) -> None:
        """Forget earlier frames: ids start again at 1."""
