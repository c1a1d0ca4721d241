"""Surfaces of revolution: a closed profile in the half plane (r, z), turned about z."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.simulation.shapes import polygon as plane
from zerograsp_edge.runtime.simulation.shapes.base import ON_SIDE, UPRIGHT, Shape
from zerograsp_edge.runtime.simulation.shapes.convex import ring_angles

if TYPE_CHECKING:
    import trimesh

_SECTIONS = 96
_SMOOTH = np.cos(np.radians(25))  # edges that meet more sharply keep their own normals
_MOST_PARTS = 36
_CUT = 0.6  # mm, how far convex pieces of the profile may leave it


@dataclass(frozen=True, eq=False)
class Revolution(Shape):
    """A solid of revolution, possibly hollow.

    Attributes:
        profile: (m, 2) path of (r, z), r >= 0, that starts and ends on the axis (r = 0) and stays off it between,
            going up on the outside (counterclockwise); the axis closes it. z is centred by `of`.
    """

    profile: np.ndarray

    @classmethod
    def of(cls, profile: np.ndarray) -> Revolution:
        """Checks and centres a profile.

        Raises:
            ValueError: it does not start and end on the axis, or does not go counterclockwise.
        """
        profile = np.asarray(profile, np.float64)
        step = np.linalg.norm(np.diff(profile, axis=0), axis=1)
        profile = profile[np.concatenate([[True], step > 1e-6])]
        on_axis = profile[:, 0] == 0
        if not (on_axis[0] and on_axis[-1]) or on_axis[1:-1].any() or (profile[:, 0] < 0).any():
            raise ValueError("a profile starts and ends at r = 0 and has r > 0 between")
        after = np.roll(profile, -1, axis=0)
        if np.sum(profile[:, 0] * after[:, 1] - profile[:, 1] * after[:, 0]) <= 0:
            raise ValueError("a profile goes up on the outside (counterclockwise); this one is reversed")
        middle = (profile[:, 1].min() + profile[:, 1].max()) / 2
        return cls(profile - [0, middle])

    @property
    def half_extents(self) -> np.ndarray:
        r = float(self.profile[:, 0].max())
        return np.array([r, r, float(self.profile[:, 1].max())])

    @property
    def bounding_radius(self) -> float:
        return float(np.linalg.norm(self.profile, axis=1).max())

    def rests(self) -> tuple[np.ndarray, ...]:
        return (UPRIGHT, ON_SIDE)

    def distance(self, points: np.ndarray) -> np.ndarray:
        """Exact for the revolved polygon."""
        return self._nearest(points).distance

    def normals(self, points: np.ndarray) -> np.ndarray:
        """Of the nearest edge; across edges that continue each other smoothly they are interpolated."""
        found = self._nearest(points)
        first, last = self._end_normals
        n = first[found.edge] * (1 - found.along[:, None]) + last[found.edge] * found.along[:, None]
        n /= np.linalg.norm(n, axis=1, keepdims=True)
        r = np.hypot(points[:, 0], points[:, 1])
        safe = np.maximum(r, 1e-12)
        radial = np.where(r > 1e-9, points[:, 0] / safe, 1.0), np.where(r > 1e-9, points[:, 1] / safe, 0.0)
        return np.stack([n[:, 0] * radial[0], n[:, 0] * radial[1], n[:, 1]], axis=1)

    def mesh(self) -> trimesh.Trimesh:
        import trimesh

        rings = self.profile[1:-1]
        angle = np.arange(_SECTIONS) * (2 * np.pi / _SECTIONS)
        around = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        vertices = np.concatenate(
            [np.insert(around * r, 2, z, axis=1) for r, z in rings]
            + [np.array([[0, 0, self.profile[0, 1]], [0, 0, self.profile[-1, 1]]])]
        )
        i = np.arange(_SECTIONS)
        j = (i + 1) % _SECTIONS
        low = np.arange(len(rings) - 1)[:, None] * _SECTIONS
        a, b, c, d = low + i, low + j, low + j + _SECTIONS, low + i + _SECTIONS
        bottom, top = len(vertices) - 2, len(vertices) - 1
        last = (len(rings) - 1) * _SECTIONS
        faces = np.concatenate(
            [
                np.stack([a, b, c], axis=-1).reshape(-1, 3),
                np.stack([a, c, d], axis=-1).reshape(-1, 3),
                np.stack([j, i, np.full_like(i, bottom)], axis=1),
                np.stack([last + i, last + j, np.full_like(i, top)], axis=1),
            ]
        )
        return trimesh.Trimesh(vertices, faces, process=False)

    def parts(self) -> list[np.ndarray]:
        """Discs where the solid reaches the axis, sectors of rings where it does not (walls of a hollow).

        Ring corners lie half way between the inscribed and the circumscribed circle, 1 mm from either at most if
        16 sectors reach that. The profile is cut to 0.6 mm, or as much more coarsely as it takes to make do with 36
        parts and at least 12 sectors.
        """
        whole = plane.hull(self.profile)
        pieces = [whole] if self._excess(whole) <= _CUT else self._slabs()
        for tolerance in _CUT * 1.25 ** np.arange(16):
            pieces = plane.merged(pieces, self._excess, float(tolerance))
            discs = [piece for piece in pieces if piece[:, 0].min() < 1e-6]
            walls = [piece for piece in pieces if piece[:, 0].min() >= 1e-6]
            wanted = _sectors(float(self.profile[:, 0].max()))
            sectors = min(wanted, (_MOST_PARTS - len(discs)) // len(walls)) if walls else 0
            if len(discs) <= _MOST_PARTS and (not walls or sectors >= min(wanted, 12)):
                return [_revolved(piece, *ring_angles(24)) for piece in discs] + [
                    sector for piece in walls for sector in _ring(piece, sectors)
                ]
        raise ValueError(
            f"a profile of {len(self.profile)} points is too intricate for {_MOST_PARTS} convex parts; smooth it"
        )

    def _slabs(self) -> list[np.ndarray]:
        """The profile cut at the heights of its vertices into trapezoids."""
        closed, after = self.profile, np.roll(self.profile, -1, axis=0)
        levels = np.unique(closed[:, 1])
        keep = levels[np.diff(levels, prepend=-np.inf) > 1e-4]
        cells = []
        for low, high in pairwise(keep):
            middle = (low + high) / 2
            crossing = []
            for p, q in zip(closed, after, strict=True):
                if (p[1] <= middle) != (q[1] <= middle):
                    slope = (q[0] - p[0]) / (q[1] - p[1])
                    within = np.clip([middle, low, high], min(p[1], q[1]), max(p[1], q[1]))
                    crossing.append(tuple(p[0] + (within - p[1]) * slope))
            crossing.sort()
            for (_, a, b), (_, c, d) in zip(crossing[0::2], crossing[1::2], strict=True):
                cells.append(np.array([[a, low], [c, low], [d, high], [b, high]]))
        return cells

    def _excess(self, piece: np.ndarray) -> float:
        if piece[:, 0].min() < 1e-6:  # revolved as a whole: what counts is the hull with its mirror image
            piece = plane.hull(np.concatenate([piece, piece * [-1, 1]]))
        points = plane.along(piece)
        points = points[points[:, 0] >= 0]
        return float(plane.nearest(self.profile, points, self._walls).distance.max())

    def _nearest(self, points: np.ndarray) -> plane.Nearest:
        flat = np.stack([np.hypot(points[:, 0], points[:, 1]), points[:, 2]], axis=1)
        return plane.nearest(self.profile, flat, self._walls)

    @cached_property
    def _walls(self) -> np.ndarray:
        return np.arange(len(self.profile)) < len(self.profile) - 1

    @cached_property
    def _end_normals(self) -> tuple[np.ndarray, np.ndarray]:
        """Normals at the start and the end of every edge."""
        edges = plane.edge_normals(self.profile)
        before, after = np.roll(edges, 1, axis=0), np.roll(edges, -1, axis=0)
        # past the poles the profile continues as its own mirror image
        before[0], after[-2] = edges[0] * [-1, 1], edges[-2] * [-1, 1]
        first, last = edges.copy(), edges.copy()
        for ends, others in ((first, before), (last, after)):
            smooth = np.einsum("ij,ij->i", edges, others) > _SMOOTH
            ends[smooth] = (edges + others)[smooth]
            ends /= np.linalg.norm(ends, axis=1, keepdims=True)
        return first, last


def _sectors(radius: float) -> int:
    """How many sectors a ring needs: the chord of one misses the circle by r (1 - cos(half)), 2 mm of it wanted."""
    return int(np.clip(np.ceil(np.pi / np.arccos(1 - min(2 / radius, 0.5))), 8, 16))


def _ring(piece: np.ndarray, sectors: int) -> list[np.ndarray]:
    half = np.pi / sectors
    stretch = 2 / (1 + np.cos(half))
    return [_revolved(piece, np.array([-half, half]) + 2 * half * k, stretch) for k in range(sectors)]


def _revolved(piece: np.ndarray, angles: np.ndarray, scale: float) -> np.ndarray:
    """(angles * k, 3) copies of (k, 2) profile points at the given angles, radii stretched by scale."""
    r, z = piece[:, 0] * scale, piece[:, 1]
    return np.concatenate([np.stack([r * np.cos(a), r * np.sin(a), z], axis=1) for a in angles])
