"""Ids that stay with their objects while camera and objects move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.kernels import PieceGraph
from zerograsp_edge.runtime.frame import MIN_DEPTH_MM, Frame
from zerograsp_edge.runtime.segmentation.boundary import COLOUR, PIXELS, Pieces

# Frames that an object may be hidden for and come back under its id.
PATIENCE = 30
# mm; an object that is farther from where it was expected is another one, whatever it looks like.
REACH = 120.0
_FARTHEST_COST = 2.5


@dataclass(frozen=True, eq=False)
class Appearances:
    """What objects of one frame are recognised by.

    Attributes:
        centres: (n, 3) mm, camera optical frame.
        colours: (n, 3) mean in Lab, 8 bits a channel.
        sizes: (n,) mm, root of the visible area.
    """

    centres: np.ndarray
    colours: np.ndarray
    sizes: np.ndarray


def appearances_of_pieces(graph: PieceGraph, pieces: Pieces, objects: np.ndarray) -> Appearances:
    """Of objects made of pieces; objects: (P,) object of each piece, 0 .. n - 1, -1 = none."""
    count = int(objects.max(initial=-1)) + 1
    inside = objects >= 0
    of, pixels = objects[inside], graph.statistics[inside, PIXELS]
    total = np.bincount(of, pixels, count)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(of, pixels * x, count) / total for x in values[inside].T], axis=1)

    areas = np.bincount(of, pieces.areas[inside], count)
    return Appearances(mean(pieces.centres), mean(graph.statistics[:, COLOUR]), np.sqrt(areas))


def appearances_of_masks(frame: Frame, objects: np.ndarray) -> Appearances:
    """Of objects in an image; objects: (H, W) 0 .. n - 1, -1 = none; each has pixels with depth, which count."""
    import cv2

    count = int(objects.max(initial=-1)) + 1
    seen = (objects >= 0) & (frame.depth > MIN_DEPTH_MM)
    of, depth = objects[seen], frame.depth[seen].astype(np.float64)
    total = np.bincount(of, minlength=count)
    (fx, _, cx), (_, fy, cy), _ = frame.intrinsics.astype(np.float64)
    rows, columns = np.nonzero(seen)
    points = np.stack([(columns - cx) / fx * depth, (rows - cy) / fy * depth, depth], axis=1)
    lab = cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2LAB)[seen]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(of, x, count) / total for x in values.T], axis=1)

    return Appearances(mean(points), mean(lab), np.sqrt(np.bincount(of, depth**2 / (fx * fy), count)))


@dataclass
class _Track:
    centre: np.ndarray
    colour: np.ndarray
    size: float
    unseen: int = 0


class IdTracker:
    """Gives each object of a frame the id of the object of earlier frames that it continues.

    Objects are compared by position, size and colour. The camera's own motion moves them all alike: it is
    taken out as the
    median motion of the pairs that are nearest, before the rest is matched.
    """

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._next = 1

    def update(self, objects: Appearances) -> np.ndarray:
        """(n,) int32 ids."""
        centres, colours, sizes = objects.centres, objects.colours, objects.sizes
        ids = self._match(centres, colours, sizes)
        for i, known in enumerate(ids):
            if known == 0:
                ids[i] = self._next
                self._next += 1
            self._tracks[int(ids[i])] = _Track(centres[i], colours[i], float(sizes[i]))
        seen = set(ids.tolist())
        for name in list(self._tracks):
            if name not in seen:
                self._tracks[name].unseen += 1
                if self._tracks[name].unseen > PATIENCE:
                    del self._tracks[name]
        return ids

    def _match(self, centres: np.ndarray, colours: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """(n,) int32 id of the track that each object continues, 0 = none; moves the tracks along with the camera."""
        ids = np.zeros(len(centres), np.int32)
        if not self._tracks or not len(centres):
            return ids
        names = np.array(list(self._tracks), np.int32)
        tracks = list(self._tracks.values())
        looks = np.linalg.norm(colours[:, None] - np.array([t.colour for t in tracks]), axis=2) / 25
        growth = np.abs(np.log(np.maximum(sizes, 1)[:, None] / np.maximum([t.size for t in tracks], 1.0))) / 0.7
        known = np.array([t.centre for t in tracks])
        # Two passes: the second knows how the camera has moved.
        for _ in range(2):
            away = np.linalg.norm(centres[:, None] - known, axis=2)
            cost = np.where(away < REACH, away / 40 + looks + growth, np.inf)
            rows, columns = _pair(cost)
            if len(rows):
                known = known + np.median(centres[rows] - known[columns], axis=0)
        for track, centre in zip(tracks, known, strict=True):
            track.centre = centre
        ids[rows] = names[columns]
        return ids


def _pair(cost: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of pairs, the cheapest first; each row and column at most once."""
    rows, columns = [], []
    cost = cost.copy()
    while cost.size and cost.min() < _FARTHEST_COST:
        row, column = np.unravel_index(int(cost.argmin()), cost.shape)
        rows.append(int(row))
        columns.append(int(column))
        cost[row], cost[:, column] = np.inf, np.inf
    return np.array(rows, int), np.array(columns, int)
