"""Plane polygons, as profiles and outlines: signed distance, rounded corners, cutting into convex pieces.

A polygon is (m, 2) float64, counterclockwise, simple, without a repeated end point. Lengths are millimetres.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

# Points times edges handled at once: the intermediate arrays stay in a core's cache.
_CHUNK = 1 << 16
_SLIVER = 2.0  # mm


@dataclass(frozen=True)
class Nearest:
    """Where points lie relative to a polygon's boundary.

    Attributes:
        distance: (n,) signed, positive outside.
        edge: (n,) index of the nearest edge; edge i runs from vertex i to vertex i + 1.
        along: (n,) where on that edge the nearest point lies, 0..1.
    """

    distance: np.ndarray
    edge: np.ndarray
    along: np.ndarray


def nearest(polygon: np.ndarray, points: np.ndarray, walls: np.ndarray | None = None) -> Nearest:
    """Exact signed distance of (n, 2) points to a polygon.

    Args:
        walls: (m,) bool, edges that are part of the surface; the others (those on an axis of revolution) only
            close the polygon. Default all.
    """
    ends = np.roll(polygon, -1, axis=0)
    kept = np.arange(len(polygon)) if walls is None else np.flatnonzero(walls)
    start, along = polygon[kept], (ends - polygon)[kept]
    length2 = np.einsum("ij,ij->i", along, along)
    # rise through which a ray towards +x crosses each edge
    rise = np.where(ends[:, 1] == polygon[:, 1], 1.0, ends[:, 1] - polygon[:, 1])
    slope = (ends[:, 0] - polygon[:, 0]) / rise
    distance, edge, where = np.empty(len(points)), np.empty(len(points), np.int64), np.empty(len(points))
    step = max(_CHUNK // len(polygon), 1)
    for first in range(0, len(points), step):
        x, y = points[first : first + step, 0, None], points[first : first + step, 1, None]
        dx, dy = x - start[:, 0], y - start[:, 1]
        t = np.clip((dx * along[:, 0] + dy * along[:, 1]) / length2, 0, 1)
        dx -= t * along[:, 0]
        dy -= t * along[:, 1]
        squared = dx * dx + dy * dy
        best = squared.argmin(axis=1)
        row = np.arange(len(best))
        crossed = ((polygon[:, 1] <= y) != (ends[:, 1] <= y)) & (
            x < polygon[:, 0] + (y - polygon[:, 1]) * slope
        )
        inside = crossed.sum(axis=1) % 2 == 1
        part = slice(first, first + step)
        distance[part] = np.sqrt(squared[row, best]) * np.where(inside, -1, 1)
        edge[part], where[part] = kept[best], t[row, best]
    return Nearest(distance, edge, where)


def edge_normals(polygon: np.ndarray) -> np.ndarray:
    """(m, 2) outward unit normals of the edges."""
    along = np.roll(polygon, -1, axis=0) - polygon
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    return np.stack([along[:, 1], -along[:, 0]], axis=1)


def centred(polygon: np.ndarray) -> np.ndarray:
    """The polygon with its bounding box about the origin."""
    return polygon - (polygon.min(axis=0) + polygon.max(axis=0)) / 2


def rounded(
    polygon: np.ndarray, radius: float | Sequence[float] | np.ndarray, step_degrees: float = 12.0
) -> np.ndarray:
    """Every corner, convex or reflex, replaced by an arc tangent to its edges.

    A radius that does not fit is reduced, so that neighbouring arcs take at most 45 % of their common edge each.

    Args:
        radius: of all corners, or (m,); 0 keeps a corner.
    """
    radii = np.broadcast_to(np.asarray(radius, np.float64), len(polygon))
    result: list[np.ndarray] = []
    for before, corner, after, r in zip(
        np.roll(polygon, 1, axis=0), polygon, np.roll(polygon, -1, axis=0), radii, strict=True
    ):
        towards, onwards = before - corner, after - corner
        room = 0.45 * min(np.linalg.norm(towards), np.linalg.norm(onwards))
        a, b = towards / np.linalg.norm(towards), onwards / np.linalg.norm(onwards)
        turn = np.pi - np.arccos(np.clip(a @ b, -1, 1))
        if r <= 0 or turn < np.radians(step_degrees) / 2:
            result.append(corner[None])
            continue
        tangent = min(r * np.tan(turn / 2), room)
        r = tangent / np.tan(turn / 2)
        middle = corner + (a + b) / np.linalg.norm(a + b) * (r / np.cos(turn / 2))
        first, last = corner + a * tangent - middle, corner + b * tangent - middle
        count = int(np.ceil(turn / np.radians(step_degrees))) + 1
        t = np.linspace(0, turn, count)[:, None]
        result.append(middle + (first * np.sin(turn - t) + last * np.sin(t)) / np.sin(turn))
    return np.concatenate(result)


def smoothed(path: np.ndarray, rounds: int = 3) -> np.ndarray:
    """Open (k, 2) path with its corners cut again and again (Chaikin); ends stay."""
    for _ in range(rounds):
        cut = np.empty((2 * len(path) - 2, 2))
        cut[0::2] = 0.75 * path[:-1] + 0.25 * path[1:]
        cut[1::2] = 0.25 * path[:-1] + 0.75 * path[1:]
        cut[0], cut[-1] = path[0], path[-1]
        path = cut
    return path


def triangulate(polygon: np.ndarray) -> np.ndarray:
    """(m - 2, 3) vertex indices of counterclockwise triangles, by clipping the ear with the widest smallest angle.

    Raises:
        ValueError: not a simple counterclockwise polygon.
    """
    left, triangles = list(range(len(polygon))), []
    while len(left) > 3:
        best, best_quality = -1, 0.0
        for i in range(len(left)):
            corner = polygon[[left[i - 1], left[i], left[(i + 1) % len(left)]]]
            area = _cross(corner[1] - corner[0], corner[2] - corner[0])
            if area <= 0:
                continue
            longest = max(np.sum((corner[a] - corner[a - 1]) ** 2) for a in range(3))
            if area / longest <= best_quality:
                continue
            others = np.array([v for v in left if v not in (left[i - 1], left[i], left[(i + 1) % len(left)])])
            if not _inside_triangle(corner, polygon[others]).any():
                best, best_quality = i, area / longest
        if best < 0:
            raise ValueError("expected a simple counterclockwise polygon without repeated vertices")
        triangles.append([left[best - 1], left[best], left[(best + 1) % len(left)]])
        del left[best]
    return np.array([*triangles, left])


def convex_pieces(polygon: np.ndarray, tolerance: float) -> list[np.ndarray]:
    """Few convex polygons that cover the polygon and leave it by at most `tolerance`."""
    cells = [polygon[t] for t in triangulate(polygon)]
    return merged(cells, lambda piece: float(nearest(polygon, along(piece)).distance.max()), tolerance)


def merged(
    cells: list[np.ndarray], excess: Callable[[np.ndarray], float], tolerance: float
) -> list[np.ndarray]:
    """Neighbouring convex cells joined into hulls, least excess first, as long as it stays within the tolerance.

    To be rid of slivers, three times the tolerance is granted to a piece under 2 mm across.

    Args:
        cells: convex polygons that tile the region; cells that share a stretch of boundary are neighbours.
        excess: how far the given convex polygon reaches out of the region, mm.
    """
    pieces: dict[int, np.ndarray] = dict(enumerate(hull(cell) for cell in cells))
    low = np.array([piece.min(axis=0) for piece in pieces.values()]) - 1e-6
    high = np.array([piece.max(axis=0) for piece in pieces.values()]) + 1e-6
    near = ((low[:, None] <= high) & (high[:, None] >= low)).all(axis=2)
    touching: dict[int, set[int]] = {i: set() for i in pieces}
    for i, j in np.argwhere(np.triu(near, 1)).tolist():
        if _touch(pieces[i], pieces[j]):
            touching[i].add(j)
            touching[j].add(i)
    cost: dict[tuple[int, int], float] = {}
    number = len(cells)
    while True:
        for i, others in touching.items():
            for j in others:
                if i < j and (i, j) not in cost:
                    sliver = min(_width(pieces[i]), _width(pieces[j])) < _SLIVER
                    cost[i, j] = excess(hull(np.concatenate([pieces[i], pieces[j]]))) / (3 if sliver else 1)
        if not cost or min(cost.values()) > tolerance:
            return list(pieces.values())
        i, j = min(cost, key=lambda pair: (cost[pair], pair))
        pieces[number] = hull(np.concatenate([pieces.pop(i), pieces.pop(j)]))
        around = (touching.pop(i) | touching.pop(j)) - {i, j}
        for k in around:
            touching[k] = (touching[k] - {i, j}) | {number}
        touching[number] = around
        cost = {pair: value for pair, value in cost.items() if not {i, j} & set(pair)}
        number += 1


def hull(points: np.ndarray) -> np.ndarray:
    """Counterclockwise convex hull of (k, 2) points, without vertices on straight edges (monotone chain)."""
    ordered = sorted({(round(x, 9), round(y, 9)) for x, y in points.tolist()})

    def chain(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
        out: list[tuple[float, float]] = []
        for x, y in ordered:
            while len(out) > 1:
                (ax, ay), (bx, by) = out[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 1e-9:
                    break
                out.pop()
            out.append((x, y))
        return out[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]) if len(ordered) > 2 else ordered)


def along(polygon: np.ndarray, steps: int = 8) -> np.ndarray:
    """(steps * m, 2) points spread along the edges."""
    t = np.linspace(0, 1, steps, endpoint=False)[:, None, None]
    return (polygon + t * (np.roll(polygon, -1, axis=0) - polygon)).reshape(-1, 2)


def _width(polygon: np.ndarray) -> float:
    """Least extent across any edge's direction; 0 of a point or a stroke."""
    return float(np.ptp(polygon @ edge_normals(polygon).T, axis=0).min()) if len(polygon) > 2 else 0.0


def _cross(a: np.ndarray, b: np.ndarray) -> float:
    return float(a[0] * b[1] - a[1] * b[0])


def _inside_triangle(corner: np.ndarray, points: np.ndarray) -> np.ndarray:
    sides = [
        (corner[i, 0] - corner[i - 1, 0]) * (points[:, 1] - corner[i - 1, 1])
        - (corner[i, 1] - corner[i - 1, 1]) * (points[:, 0] - corner[i - 1, 0])
        for i in range(3)
    ]
    return np.min(sides, axis=0) >= -1e-9


def _touch(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether an edge of one lies along an edge of the other for more than a point."""
    if (a.min(axis=0) > b.max(axis=0) + 1e-6).any() or (b.min(axis=0) > a.max(axis=0) + 1e-6).any():
        return False
    a1, b1 = np.roll(a, -1, axis=0), np.roll(b, -1, axis=0)
    direction = a1 - a
    length = np.linalg.norm(direction, axis=1)
    direction = direction / np.maximum(length, 1e-12)[:, None]
    off = [
        np.abs(
            direction[:, None, 0] * (p - a[:, None])[..., 1]
            - direction[:, None, 1] * (p - a[:, None])[..., 0]
        )
        for p in (b[None], b1[None])
    ]
    s = [np.einsum("ij,ikj->ik", direction, p - a[:, None]) for p in (b[None], b1[None])]
    common = np.minimum(np.maximum(*s), length[:, None]) - np.maximum(np.minimum(*s), 0)
    return bool(((np.maximum(*off) < 1e-6) & (common > 1e-6)).any())
