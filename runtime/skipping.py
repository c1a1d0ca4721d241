"""Objects of a mask that cannot be reconstructed, and what a user is told about them."""

from __future__ import annotations

from collections.abc import Sequence

from zerograsp_edge.runtime.bundle import Geometry
from zerograsp_edge.runtime.errors import FrameError
from zerograsp_edge.runtime.result import SkippedObject


def sparse(object_id: int, valid: int, needed: int) -> SkippedObject:
    """Too few of its pixels have depth."""
    return SkippedObject(object_id, f"{valid} pixels with valid depth, at least {needed} are needed")


def outside(object_id: int, z_min: float, geometry: Geometry) -> SkippedObject:
    """None of its points lies in the octree's cube, which begins at `z_min` mm."""
    half = geometry.cube_size / 2
    return SkippedObject(
        object_id,
        f"outside the reconstructed cube: +-{half:.0f} mm beside the optical axis, "
        f"{z_min:.0f} to {z_min + geometry.cube_size:.0f} mm deep",
    )


def check_some_kept(kept: Sequence[int], skipped: Sequence[SkippedObject], frame: str) -> None:
    """Raises FrameError, with every object's reason, when no object is left."""
    if not kept:
        reasons = "; ".join(f"object {s.object_id}: {s.reason}" for s in skipped)
        raise FrameError(f"frame '{frame}' has no object to reconstruct: {reasons}")
