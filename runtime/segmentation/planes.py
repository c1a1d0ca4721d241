"""Large planes among pieces of surface: tables, floors and walls of bins, boards and sides of shelves, room walls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.runtime.segmentation.boundary import PIXELS, RESIDUAL, Pieces

HYPOTHESES = 100
MOST_PLANES = 10
_FEWEST_PIXELS = 20
_PARALLEL = 0.8  # cosine between a piece and the plane that it lies in
_REFINEMENTS = 3


@dataclass(frozen=True, eq=False)
class Plane:
    """A plane and the pieces it was fitted to.

    Attributes:
        normal: (3,) unit, towards the camera; points have normal . x = offset.
        offset: mm, negative.
        area: mm^2 of its pieces.
        length: mm along its longer side.
        centre: (3,) mm.
    """

    normal: np.ndarray
    offset: float
    area: float
    length: float
    centre: np.ndarray

    def height(self, points: np.ndarray) -> np.ndarray:
        return points @ self.normal - self.offset


def find_planes(
    statistics: np.ndarray, pieces: Pieces, noise: float, *, min_area: float, min_length: float, max_depth: float
) -> list[Plane]:
    """Planes larger than an object, by area.

    Deterministic consensus: planes of pieces spread evenly over the picture are the hypotheses; the one whose
    inliers have the largest area is refined and its inliers are taken out, until what is left is small.

    Args:
        statistics: (P, 10) of the pieces.
        noise: of the inverse depth, 1/m.
        min_area: mm^2, and
        min_length: mm of the longer side: a smaller plane may be an object's face. One of twice the area and
            more counts
            whatever its shape.
        max_depth: mm, of pieces that are looked at.
    """
    usable = (statistics[:, PIXELS] >= _FEWEST_PIXELS) & (statistics[:, RESIDUAL] < 6 * noise)
    chosen = np.flatnonzero(usable & (pieces.centres[:, 2] < max_depth))
    if len(chosen) < 4:
        return []
    normals, centres, areas = pieces.normals[chosen], pieces.centres[chosen], pieces.areas[chosen]
    limit = tolerance(pieces)[chosen]
    seeds = np.linspace(0, len(chosen) - 1, min(HYPOTHESES, len(chosen))).astype(int)
    offsets = np.einsum("hi,hi->h", normals[seeds], centres[seeds])
    inliers = np.abs(normals[seeds] @ centres.T - offsets[:, None]) < 1.5 * limit
    inliers &= np.abs(normals[seeds] @ normals.T) > _PARALLEL
    counted = inliers.astype(np.float32)
    left = np.ones(len(chosen), bool)
    planes = []
    for _ in range(MOST_PLANES):
        score = counted @ (areas * left).astype(np.float32)
        best = int(score.argmax())
        if score[best] < 0.5 * min_area:
            break
        current = inliers[best] & left
        for _ in range(_REFINEMENTS):
            centre, axes = _principal(centres[current], areas[current])
            normal = axes[:, 0] if axes[:, 0] @ centre < 0 else -axes[:, 0]
            offset = float(normal @ centre)
            fits = left & (np.abs(centres @ normal - offset) < limit) & (np.abs(normals @ normal) > _PARALLEL)
            if np.count_nonzero(fits) < 3:
                break
            current = fits
        area = float(areas[current].sum())
        length = max(_extent((centres[current] - centre) @ axes[:, k], areas[current]) for k in (1, 2))
        if (area > min_area and length > min_length) or area > 2.4 * min_area:
            planes.append(Plane(normal, offset, area, length, centre))
        left &= ~current
    return planes


def carrying_plane(planes: list[Plane], pieces: Pieces, of_plane: np.ndarray, reach: float) -> int:
    """Which plane carries the objects: a large one that has things before it and few behind it; -1 without planes.

    Args:
        of_plane: (P,) plane of each piece, -1 = none.
        reach: mm; how far from the plane's middle things count.
    """
    free = of_plane < 0
    limit = tolerance(pieces)
    worth = []
    for plane in planes:
        near = free & (np.linalg.norm(pieces.centres - plane.centre, axis=1) < reach)
        height = plane.height(pieces.centres)
        before = pieces.areas[near & (height > limit)].sum()
        behind = pieces.areas[near & (height < -limit)].sum()
        worth.append(plane.area * ((before + 200) / (before + behind + 400)) ** 2)
    return int(np.argmax(worth)) if worth else -1


def above(plane: Plane, carrying: Plane) -> bool:
    """Whether a plane is parallel to the carrying one and before it."""
    return abs(float(plane.normal @ carrying.normal)) > 0.95 and float(carrying.height(plane.centre)) > 0


def large_patch(
    patches: np.ndarray, inside: np.ndarray, pieces: Pieces, min_area: float, min_length: float
) -> bool:
    """Whether one connected patch of a plane is a support by itself, see find_planes.

    Args:
        patches: (P,) patch of each piece.
        inside: (P,) bool pieces of the plane.
    """
    area = np.bincount(patches[inside], pieces.areas[inside])
    if len(area) == 0:
        return False
    largest = inside & (patches == int(area.argmax()))
    points, weights = pieces.centres[largest], pieces.areas[largest]
    centre, axes = _principal(points, weights)
    length = max(_extent((points - centre) @ axes[:, k], weights) for k in (1, 2))
    return bool((area.max() > min_area and length > min_length) or area.max() > 2.4 * min_area)


def tolerance(pieces: Pieces) -> np.ndarray:
    """(P,) mm from a plane within which a piece is part of it."""
    return np.maximum(3.0, 2.5 * pieces.accuracy)


def assign(planes: list[Plane], statistics: np.ndarray, pieces: Pieces) -> np.ndarray:
    """(P,) the first plane that each piece lies in, -1 = none. Of the smallest pieces the direction does not count."""
    of_plane = np.full(len(statistics), -1)
    limit = tolerance(pieces)
    for index, plane in enumerate(planes):
        parallel = (np.abs(pieces.normals @ plane.normal) > 0.7) | (statistics[:, PIXELS] < 12)
        inside = np.abs(plane.height(pieces.centres)) < limit
        of_plane[(of_plane < 0) & inside & parallel] = index
    return of_plane


def _principal(points: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted centre and principal axes in columns, the flattest first."""
    centre = weights @ points / weights.sum()
    offset = (points - centre) * np.sqrt(weights)[:, None]
    return centre, np.linalg.eigh(offset.T @ offset)[1]


def _extent(along: np.ndarray, weights: np.ndarray) -> float:
    """Length of what is spread along a line, from its 3 % and 97 % quantiles."""
    order = np.argsort(along)
    share = np.cumsum(weights[order]) / weights.sum()
    low, high = np.interp([0.03, 0.97], share, along[order])
    return float(high - low) / 0.94
