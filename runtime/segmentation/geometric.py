"""Objects of a frame without a network: supports, and what stands on them, parted by steps, creases and colour."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.runtime.frame import MIN_DEPTH_MM, Frame
from zerograsp_edge.runtime.network import Stopwatch
from zerograsp_edge.runtime.segmentation import Segmentation, SupportPlane
from zerograsp_edge.runtime.segmentation.boundary import (
    OBJECT_FEATURES,
    PIXELS,
    Pieces,
    boundary_features,
    boundary_scores,
    locate,
    object_features,
    region_boundaries,
)
from zerograsp_edge.runtime.segmentation.planes import (
    Plane,
    above,
    assign,
    carrying_plane,
    find_planes,
    large_patch,
    tolerance,
)
from zerograsp_edge.runtime.segmentation.tracking import IdTracker, appearances_of_pieces
from zerograsp_edge.runtime.segmentation.weights import (
    BOUNDARY_WEIGHTS,
    OBJECT_WEIGHTS,
    REGION_WEIGHTS,
)

_SCORE, _ATTRACTIVE, _BESIDE = (
    OBJECT_FEATURES.index(name) for name in ("mean score", "attractive share", "beside planes")
)
SOURCE = "geometry"
NO_DEPTH = "no depth within {:.0f} to {:.0f} mm"
NOTHING = "nothing stands on the supports"
TOO_SMALL, TOO_LARGE, OF_SUPPORT, TOO_MANY = (
    "too small",
    "larger than an object",
    "part of a support",
    "more objects than asked for",
)


@dataclass(frozen=True)
class SegmentationConfig:
    """What is taken for an object; lengths in mm.

    Attributes:
        max_depth: what is farther away is background.
        max_object: longest extent of an object.
        min_plane_area: cm^2; a plane is a support from this area on and if it is also longer than an object is
            usually (`min_plane_length`), or from 2.4 times this area on.
        min_plane_length: see min_plane_area.
        min_pixels: fewest pixels of an object in a 640x480 picture; in others in proportion.
        working_pixels: the picture is reduced by a whole factor to about this many pixels.
        cell: edge of a superpixel's seed in the reduced picture, pixels.
        iterations: of the superpixels.
        fill: longest run of unmeasured pixels in a row, in reduced pixels, that is given to what lies around it.
        max_objects: the largest are kept and the others reported; None keeps all.
        split_bias: added to every score; lower parts more.
        merge_bias: added to the scores of whole regions; lower leaves more of them apart.
        object_score: regions that look less like an object than this are taken for parts of supports: rims, bumps.
    """

    max_depth: float = 1600.0
    max_object: float = 350.0
    min_plane_area: float = 250.0
    min_plane_length: float = 250.0
    min_pixels: int = 120
    working_pixels: int = 320 * 240
    cell: int = 8
    iterations: int = 4
    fill: int = 12
    max_objects: int | None = None
    split_bias: float = -1.4
    merge_bias: float = -0.8
    object_score: float = -1.0


class GeometricSegmenter:
    """Segments tabletops, bins and shelves from depth and colour, and keeps objects' ids from frame to frame.

    Args:
        config: what is taken for an object.
        threads: of the native parts; 0 takes all of OpenMP's.

    A segmenter serves one frame at a time; a second thread waits.
    """

    def __init__(self, config: SegmentationConfig | None = None, *, threads: int = 0) -> None:
        self.config = config or SegmentationConfig()
        self.threads = threads
        self._workspace = kernels.Workspace()
        self._tracker = IdTracker()
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Forget earlier frames: ids start again at 1."""
        with self._lock:
            self._tracker = IdTracker()

    def __call__(self, frame: Frame) -> Segmentation:
        """The objects of a frame; a mask that it may have is not looked at."""
        with self._lock:
            return self._segment(frame)

    def _segment(self, frame: Frame) -> Segmentation:
        import cv2

        c, watch = self.config, Stopwatch()
        stride = _stride(frame.height, frame.width, c.working_pixels)
        with watch("reduce"):
            inverse = kernels.reduce_depth(
                frame.depth, stride, MIN_DEPTH_MM, c.max_depth * 2, threads=self.threads
            )
            if np.count_nonzero(inverse) < c.min_pixels / 4:
                reason = NO_DEPTH.format(MIN_DEPTH_MM, 2 * c.max_depth)
                nothing = np.zeros(frame.depth.shape, np.int32)
                return Segmentation(nothing, reason=reason, timings=watch.timings, source=SOURCE)
            height, width = inverse.shape
            whole = frame.rgb[: height * stride, : width * stride]
            small = cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA)
            colour = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
            noise = depth_noise(inverse)
        with watch("superpixels"):
            labels, statistics = kernels.planar_superpixels(
                inverse, colour, c.cell, c.iterations, 2 * noise,
                workspace=self._workspace, threads=self.threads,
            )  # fmt: skip
        with watch("graph"):
            graph = kernels.superpixel_graph(inverse, colour, labels, statistics, workspace=self._workspace)
            pieces = locate(graph.statistics, _reduced(frame.intrinsics, stride), noise)
        with watch("planes"):
            planes = find_planes(
                graph.statistics, pieces, noise, min_area=100 * c.min_plane_area,
                min_length=c.min_plane_length, max_depth=1.6 * c.max_depth,
            )  # fmt: skip
            background, of_plane, carrying = self._background(graph, pieces, planes)
            present = set(of_plane.tolist())
            structure = (of_plane >= 0) & (of_plane != carrying)
        with watch("regions"):
            touching = graph.touching(~background)
            features = boundary_features(touching, pieces, noise)
            score = boundary_scores(features, BOUNDARY_WEIGHTS, c.split_bias)
            regions = self._regions(touching, score, features, background)
        with watch("objects"):
            objects, left_out = self._objects(
                touching, score, pieces, regions, background, structure,
                planes[carrying] if carrying >= 0 else None, stride, frame,
            )  # fmt: skip
        with watch("track"):
            ids = self._tracker.update(appearances_of_pieces(graph, pieces, objects))
        with watch("expand"):
            of_piece = np.append(np.append(0, ids)[objects + 1], -1).astype(np.int32)
            mask = kernels.expand_labels(
                frame.depth, stride, inverse, of_piece[graph.pieces], MIN_DEPTH_MM, c.max_depth * 2,
                fill=c.fill * stride, workspace=self._workspace, threads=self.threads,
            )  # fmt: skip
            np.maximum(mask, 0, out=mask)
        supports = [
            SupportPlane(p.normal, -p.offset, p.area / 100, i == carrying)
            for i, p in enumerate(planes)
            if i in present
        ]
        reason = "" if len(ids) and mask.any() else NOTHING
        if reason and left_out:
            reason += "; left out: " + ", ".join(f"{count} {why}" for why, count in left_out.items())
        return Segmentation(
            mask, tuple(sorted(supports, key=lambda s: not s.carries)), left_out, reason, watch.timings,
            SOURCE,
        )  # fmt: skip

    def _background(
        self, graph: kernels.PieceGraph, pieces: Pieces, planes: list[Plane]
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """(P,) bool pieces that are no object; (P,) plane of each piece, -1 = none; which plane carries, -1 = none."""
        c = self.config
        of_plane = assign(planes, graph.statistics, pieces)
        carrying = carrying_plane(planes, pieces, of_plane, reach=500)
        for index in range(len(planes)):
            # Faces of equal height on separate boxes lie in one plane, too, and are no shelf.
            if index != carrying and above(planes[index], planes[carrying]):
                patches = kernels.contract_graph(
                    len(of_plane), graph.edges, (of_plane[graph.edges] == index).all(axis=1) * 1.0,
                    workspace=self._workspace,
                )  # fmt: skip
                if not large_patch(patches, of_plane == index, pieces, 100 * c.min_plane_area, c.min_plane_length):
                    of_plane[of_plane == index] = -1
        background = (of_plane >= 0) | (pieces.centres[:, 2] > c.max_depth)
        if carrying >= 0:
            background |= planes[carrying].height(pieces.centres) < 0.5 * tolerance(pieces)
        return background, of_plane, carrying

    def _regions(
        self, graph: kernels.PieceGraph, score: np.ndarray, features: np.ndarray, background: np.ndarray
    ) -> np.ndarray:
        """(P,) region of each piece; every piece of the background is one of its own."""
        between = ~background[graph.edges].any(axis=1)
        inner = graph.with_edges(between)
        score, features = score[between], features[between]
        weight = score * np.sqrt(inner.edge_statistics[:, 0])
        regions = kernels.contract_graph(len(background), inner.edges, weight, workspace=self._workspace)
        # Whole regions say more about one another than their pieces did: their colours, how much of them touches.
        for _ in range(2):
            regions = self._merged(inner, score, features, regions)
        return regions

    def _merged(
        self, graph: kernels.PieceGraph, score: np.ndarray, features: np.ndarray, regions: np.ndarray
    ) -> np.ndarray:
        pairs, of_pairs = region_boundaries(graph, regions, score, features)
        weight = of_pairs @ REGION_WEIGHTS + self.config.merge_bias
        count = int(regions.max()) + 1
        return kernels.contract_graph(count, pairs, weight, workspace=self._workspace)[regions]

    def _objects(
        self,
        graph: kernels.PieceGraph,
        score: np.ndarray,
        pieces: Pieces,
        regions: np.ndarray,
        background: np.ndarray,
        structure: np.ndarray,
        carrying: Plane | None,
        stride: int,
        frame: Frame,
    ) -> tuple[np.ndarray, dict[str, int]]:
        """(P,) object of each piece, from 0, by size; -1 = none. How many regions were left out, by reason."""
        c = self.config
        free = np.flatnonzero(~background)
        names, of = np.unique(regions[free], return_inverse=True)
        count = len(names)
        region = np.full(len(regions), -1)
        region[free] = of
        pixels, extents, described = self._describe(graph, score, pieces, region, count, structure, carrying)
        likeness = described @ OBJECT_WEIGHTS
        # What parts clearly from all around it is a thing, however slim and long.
        parted, attached, beside = described[:, [_SCORE, _ATTRACTIVE, _BESIDE]].T
        alone = (parted < -2.5) & (attached < 0.1) & (beside < 0.3)
        pixels *= stride**2
        fewest = c.min_pixels * frame.height * frame.width / (640 * 480)
        small = pixels < fewest
        large = ~small & (extents[:, 2] > c.max_object)
        support = ~small & ~large & ~alone & (likeness < c.object_score)
        # The smallest specks are noise, not segments.
        left_out = Counter[str]()
        for why, out in ((TOO_SMALL, small & (pixels >= fewest / 4)), (TOO_LARGE, large), (OF_SUPPORT, support)):
            left_out[why] = int(np.count_nonzero(out))
        kept = np.flatnonzero(~small & ~large & ~support)
        kept = kept[np.argsort(-pixels[kept], kind="stable")]
        if c.max_objects is not None and len(kept) > c.max_objects:
            left_out[TOO_MANY] = len(kept) - c.max_objects
            kept = kept[: c.max_objects]
        number = np.full(count + 1, -1)  # the last: of the background, -1
        number[kept] = np.arange(len(kept))
        return number[region], {why: n for why, n in left_out.items() if n}

    def _describe(
        self,
        graph: kernels.PieceGraph,
        score: np.ndarray,
        pieces: Pieces,
        region: np.ndarray,
        count: int,
        structure: np.ndarray,
        carrying: Plane | None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, (R, 3) extents in mm and (R, 11) OBJECT_FEATURES of regions; (P,) `region` is -1 in the
        background."""
        free = np.flatnonzero(region >= 0)
        of, points = region[free], pieces.centres[free]
        pixels = np.bincount(of, graph.statistics[free, PIXELS], count)
        extents, thinnest = _extents(of, count, points, graph.statistics[free, PIXELS])
        highest, upright = np.zeros(count), np.zeros(count)
        if carrying:
            np.maximum.at(highest, of, carrying.height(points))
            upright = 1 - np.abs(thinnest @ carrying.normal)
        towards = _towards_background(graph, score, region, count, structure)
        return pixels, extents, object_features(pixels, extents, *towards, highest, upright)


def depth_noise(inverse_depth: np.ndarray, reach: int = 4) -> float:
    """Standard deviation of the inverse depth's error, 1/m, from its second differences, which are 0 on planes.

    Pixels `reach` apart, so that an error that is smooth over a few pixels counts in full; the median, so that edges do
    not count; at least 0.05 %.
    """
    differences = []
    for rows in (inverse_depth[::8], inverse_depth.T[::8]):
        before, here, after = rows[:, : -2 * reach], rows[:, reach:-reach], rows[:, 2 * reach :]
        measured = (before > 0) & (here > 0) & (after > 0)
        differences.append(np.abs(before - 2 * here + after)[measured])
    every = np.concatenate(differences)
    least = 5e-4 * float(np.median(inverse_depth[inverse_depth > 0]))
    if len(every) == 0:
        return least
    # The median of |x| of a normal distribution is 0.6745 sigma; the difference has the variance 1 + 4 + 1.
    return max(float(np.median(every)) / 0.6745 / 6**0.5, least)


def _stride(height: int, width: int, pixels: int) -> int:
    """Whole factor that brings a picture nearest to the wanted number of pixels; a tiny picture is not reduced."""
    return int(np.clip(round((height * width / pixels) ** 0.5), 1, min(8, height, width)))


def _reduced(intrinsics: np.ndarray, stride: int) -> np.ndarray:
    """(3, 3) intrinsics of the picture reduced by blocks; integer coordinates are pixel centres."""
    reduced = intrinsics.astype(np.float64)
    reduced[:2] /= stride
    reduced[:2, 2] -= (stride - 1) / (2 * stride)
    return reduced


def _extents(
    regions: np.ndarray, count: int, points: np.ndarray, pixels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(R, 3) mm, ascending: edges of the boxes that have the regions' second moments; (R, 3) direction of the
    shortest."""
    total = np.bincount(regions, pixels, count)
    centre = np.stack([np.bincount(regions, pixels * x, count) / total for x in points.T], axis=1)
    offset = points - centre[regions]
    moments = np.empty((count, 3, 3))
    for i in range(3):
        for j in range(i + 1):
            moments[:, i, j] = moments[:, j, i] = (
                np.bincount(regions, pixels * offset[:, i] * offset[:, j], count) / total
            )
    variances, axes = np.linalg.eigh(moments)
    return np.sqrt(12 * np.maximum(variances, 0)), axes[:, :, 0]


def _towards_background(
    graph: kernels.PieceGraph, score: np.ndarray, regions: np.ndarray, count: int, structure: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each region's boundary: mean score and attractive share of what is with the background; share of all
    of it that is
    with walls, boards and other planes. Regions are -1 in the background."""
    i, j = regions[graph.edges].T
    links = graph.edge_statistics[:, 0] * (i != j)
    outer = (i < 0) != (j < 0)
    own = np.maximum(i, j)[outer]
    length = np.maximum(np.bincount(own, links[outer], count), 1)
    mean = np.bincount(own, (links * np.clip(score, -6, 6))[outer], count) / length
    attractive = np.bincount(own, (links * (score > 0))[outer], count) / length
    touching = np.bincount(own, (links * structure[graph.edges].any(axis=1))[outer], count)
    whole = np.bincount(i[i >= 0], links[i >= 0], count) + np.bincount(j[j >= 0], links[j >= 0], count)
    return mean, attractive, touching / np.maximum(whole, 1)


def self_check() -> int:
    """Number of objects found in a small made-up picture of two boxes on a table, which is 2 on a sound
    installation."""
    height, width = 240, 320
    depth = np.full((height, width), 700, np.float32)
    depth[80:140, 60:120] = 640
    depth[100:180, 190:250] = 620
    rgb = np.full((height, width, 3), 90, np.uint8)
    intrinsics = np.array([[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]], np.float32)
    return len(GeometricSegmenter(threads=1)(Frame(rgb, depth, intrinsics)).object_ids)
