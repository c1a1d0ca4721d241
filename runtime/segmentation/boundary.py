"""How much two touching pieces of surface look like one object: features of their boundary, and a linear score of them.

The scores are logits of a logistic regression on simulated scenes (`benchmarks/parts/segmentation_fit.py` makes them
anew): positive where two pieces are rather one object. A concave crease between convex surfaces, a step in
depth and a change
of colour speak against it; the idea that objects part at concave boundaries is that of Stein et al., Object
partitioning
using local convexity, CVPR 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zerograsp_edge.kernels import PieceGraph

# Columns of statistics, see kernels.planar_superpixels.
PIXELS, COLUMN, ROW, INVERSE, SLOPE_U, SLOPE_V, RESIDUAL, COLOUR = 0, 1, 2, 3, 4, 5, 6, slice(7, 10)
FEATURES = (
    "constant", "step", "step / noise", "measured step", "concave", "convex", "concave, large", "lightness", "chroma",
    "gap", "length", "rise", "same colour, no step", "large step", "step / noise * chroma",
)  # fmt: skip
REGION_FEATURES = (
    "constant", "mean score", "attractive share", "best", "worst", "size", "contact", "lightness", "chroma", "variety",
    "gap", "colour / variety", "mean score * size", "measured step", "concave",
)  # fmt: skip
OBJECT_FEATURES = (
    "constant", "mean score", "attractive share", "pixels", "length / 100 mm", "width", "length", "flat",
    "flat, upright", "beside planes", "height / 50 mm",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of surface in space.

    Attributes:
        normals: (P, 3) unit, towards the camera.
        centres: (P, 3) mm, camera optical frame.
        areas: (P,) mm^2.
        accuracy: (P,) mm, standard deviation of the depth.
    """

    normals: np.ndarray
    centres: np.ndarray
    areas: np.ndarray
    accuracy: np.ndarray


def locate(statistics: np.ndarray, intrinsics: np.ndarray, noise: float) -> Pieces:
    """Pieces in space from their planes of inverse depth.

    With X = z K^-1 (u, v, 1), a plane n . X = 1 has the inverse depth n K^-1 (u, v, 1), affine in the pixel.

    Args:
        statistics: (P, 10), inverse depth in 1/m.
        intrinsics: (3, 3) of the reduced picture.
        noise: of the inverse depth, 1/m.
    """
    u, v, w, a, b = statistics[:, 1:6].T
    (fx, _, cx), (_, fy, cy) = intrinsics[:2]
    normals = -np.stack([a * fx, b * fy, a * (cx - u) + b * (cy - v) + w], axis=1)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-9)
    z = 1000 / np.maximum(w, 1e-6)
    centres = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z], axis=1)
    facing = np.abs(np.einsum("pi,pi->p", normals, centres)) / np.linalg.norm(centres, axis=1)
    areas = statistics[:, PIXELS] * z * z / (fx * fy) / np.maximum(facing, 0.1)
    return Pieces(normals, centres, areas, noise * z * z / 1000)


def boundary_features(graph: PieceGraph, pieces: Pieces, noise: float) -> np.ndarray:
    """(E, 15) FEATURES of the graph's edges. Lengths in mm, angles in radians, colours in 8-bit Lab."""
    i, j = graph.edges.T
    own = graph.statistics
    links, _, step, measured, _, _, gap = graph.edge_statistics.T
    to_mm = 1000 / np.maximum(0.5 * (own[i, INVERSE] + own[j, INVERSE]), 1e-3) ** 2
    apart = pieces.centres[i] - pieces.centres[j]
    distance = np.linalg.norm(apart, axis=1) + 1e-6
    turn = pieces.normals[i] - pieces.normals[j]
    cosine = np.einsum("ei,ei->e", pieces.normals[i], pieces.normals[j])
    angle = np.arccos(np.clip(cosine, -1, 1))
    side = np.einsum("ei,ei->e", turn, apart) / distance  # > 0: convex
    concave = np.minimum(np.where(side < 0, angle, 0), 1.2)
    convex = np.minimum(np.where(side >= 0, angle, 0), 1.6)
    large = np.clip(np.minimum(own[i, PIXELS], own[j, PIXELS]) / 30, 0, 1)
    colour = own[i, COLOUR] - own[j, COLOUR]
    lightness, chroma = np.abs(colour[:, 0]), np.hypot(colour[:, 1], colour[:, 2])
    # Capped: beyond, a step is a step.
    relative = np.log1p(np.minimum(step / noise / 2, 30))
    seen = np.log1p(np.minimum(measured * to_mm / 2, 15))
    tint = np.log1p(chroma / 3)
    # Things of one colour are often one thing, unless one stands before the other.
    same = ((lightness < 6) & (chroma < 3)) * np.exp(-measured * to_mm / 4)
    return np.stack(
        [
            np.ones(len(i)), np.log1p(np.minimum(step * to_mm / 2, 15)), relative, seen, concave, convex,
            concave * large,
            np.log1p(lightness / 5), tint, np.minimum(gap, 3), np.log1p(links),
            np.minimum(-np.minimum(side, 0) * distance, 20) / 10, same, np.maximum(seen - np.log1p(4), 0),
            relative * tint,
        ],
        axis=1,
    )  # fmt: skip


def boundary_scores(features: np.ndarray, weights: np.ndarray, bias: float) -> np.ndarray:
    """(E,) scores of boundaries, positive where two pieces are rather one object.

    A step of more than 20 mm, between the planes more than 10 mm, never attracts: in the simulator no two things have
    one colour, which the weights rely on, and on a robot's table some have.
    """
    score = features @ weights + bias
    steps = (features[:, FEATURES.index("measured step")] > np.log1p(10)) & (
        features[:, FEATURES.index("step")] > np.log1p(5)
    )
    return np.where(steps, np.minimum(score, -1.0), score)


def region_boundaries(
    graph: PieceGraph, regions: np.ndarray, score: np.ndarray, features: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Touching regions and the features of their whole boundary.

    Args:
        regions: (P,) region of each piece, 0 .. R - 1.
        score, features: (E,) and (E, 15) of the edges between pieces.

    Returns:
        (B, 2) int32, the smaller first; (B, 15) REGION_FEATURES.
    """
    count = int(regions.max()) + 1
    ends = np.sort(regions[graph.edges], axis=1).astype(np.int64)
    between = ends[:, 0] != ends[:, 1]
    keys, which = np.unique(ends[between, 0] * count + ends[between, 1], return_inverse=True)
    pairs = np.stack([keys // count, keys % count], axis=1)
    links, score, features = graph.edge_statistics[between, 0], score[between], features[between]
    length = np.bincount(which, links, len(keys))

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(which, links * values, len(keys)) / length

    best, worst = np.full(len(keys), -6.0), np.full(len(keys), 6.0)
    np.maximum.at(best, which, np.clip(score, -6, 6))
    np.minimum.at(worst, which, np.clip(score, -8, 6))
    own = graph.statistics
    pixels = np.bincount(regions, own[:, PIXELS], count)
    colour = np.stack([np.bincount(regions, own[:, 0] * c, count) / pixels for c in own[:, COLOUR].T], axis=1)
    spread = np.stack(
        [np.bincount(regions, own[:, 0] * c * c, count) / pixels for c in own[:, COLOUR].T], axis=1
    ) - colour**2
    i, j = pairs.T
    small = np.minimum(pixels[i], pixels[j])
    difference = colour[i] - colour[j]
    variety = np.sqrt(np.maximum(spread[i] + spread[j], 0).sum(axis=1))
    average = mean(score)
    return pairs.astype(np.int32), np.stack(
        [
            np.ones(len(keys)), average, mean(score > 0), best, worst, np.log(small), length / np.sqrt(small),
            np.log1p(np.abs(difference[:, 0]) / 5), np.log1p(np.hypot(difference[:, 1], difference[:, 2]) / 3),
            np.log1p(variety / 5), mean(features[:, FEATURES.index("gap")]),
            np.minimum(np.linalg.norm(difference, axis=1) / (variety + 4), 3), average * np.log(small),
            mean(features[:, FEATURES.index("measured step")]), mean(features[:, FEATURES.index("concave")]),
        ],
        axis=1,
    )  # fmt: skip


def object_features(
    pixels: np.ndarray,
    extents: np.ndarray,
    score: np.ndarray,
    attractive: np.ndarray,
    beside: np.ndarray,
    height: np.ndarray,
    upright: np.ndarray,
) -> np.ndarray:
    """(R, 11) OBJECT_FEATURES of regions, which tell objects from rims of bins, edges of boards and bumps of supports.

    Args:
        pixels: (R,) of the reduced picture.
        extents: (R, 3) mm, ascending.
        score, attractive: (R,) mean score of the boundary with the background, and the share of it that attracts.
        beside: (R,) share of the boundary that is with planes other than the carrying one.
        height: (R,) mm, most above the carrying plane.
        upright: (R,) 0 for what lies along the carrying plane to 1 for what stands on it.
    """
    thin, wide, long = np.maximum(extents, (2, 4, 8)).T
    flat = np.log(wide / thin)
    return np.stack(
        [
            np.ones(len(pixels)), np.clip(score, -6, 6), attractive, np.log(pixels), np.minimum(long, 200) / 100,
            np.log(wide), np.log(long), flat, flat * upright, beside, np.clip(height, 0, 150) / 50,
        ],
        axis=1,
    )  # fmt: skip
