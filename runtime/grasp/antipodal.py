"""Grasps from the reconstructed surface alone: antipodal pairs, judged by what flat pads would touch.

A network's grasp head says where a hand may go; whether two pads hold the object is geometry, and the pipeline has the
object's complete surface. Candidates come from two sources: pairs of surface points whose inward normals face each
other (the condition of Nguyen 1988 for two contacts with friction), each with approaches all around the closing
direction; and the network's own grasps. Both are judged alike (`judge`), by friction, size and place of the contact
patches and by the lever of gravity, as the training labels are. Collisions are left to refinement.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.kernels.hand import Fit, Hand
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction

GRASP_POINT_M = 0.02  # a grasp made here has its point so far behind the tips: depth is this
_OPEN_LIMIT_M = 0.1
_MOST_POINTS = 2000  # of an object; of more, every so many
# A pad touches what is so near to its foremost point; half the score is for a contact of so much area.
_PATCH_M, _HALF_AREA_M2 = np.float32(0.003), np.float32(50e-6)
_USUAL_OPENING_M, _MOST_BACK_M = 0.06, 0.03


@dataclass(frozen=True)
class AntipodalConfig:
    """How grasps are made from surfaces.

    Attributes:
        pairs: antipodal pairs tried per object.
        turns: approaches around each pair's closing direction.
        network: best network grasps per object that are judged as well.
        friction: coefficient that a grasp may need.
        beyond: how far the tips reach beyond the contacts, m, each tried.
        clearance: between the open fingers and the object, m, on either side; the second one where the first collides.
        steepest: approaches are within this angle of straight down, degrees; needs the world's frame.
        keep: best candidates per object that go on to the collision check.
        least: score below which a candidate is none.
        room, palm_room: grasps with so much more room around the hand, and before its palm, are preferred, m.
        down: 0..1, how much a level approach is worth beside one straight down.
    """

    pairs: int = 60
    turns: int = 12
    network: int = 100
    friction: float = 0.7
    beyond: tuple[float, ...] = (0.012, 0.004)
    clearance: tuple[float, float] = (0.008, 0.004)
    steepest: float = 75.0
    keep: int = 600
    least: float = 0.01
    room: float = 0.004
    palm_room: float = 0.003
    down: float = 0.6


def antipodal_grasps(
    item: ObjectReconstruction,
    hand: Hand,
    up: np.ndarray | None = None,
    floor: float | None = None,
    config: AntipodalConfig | None = None,
) -> Grasps:
    """Grasps of one object in its frame (the camera's), best first, their score 0..1.

    Args:
        up: (3,) against gravity; None: approaches come from everywhere, and gravity is not thought of.
        floor: how far the hand must stay from the origin along `up`, m: tips that would be lower are drawn back.

    Returns:
        At most `config.keep` grasps with width and depth as they should be executed.
    """
    config = AntipodalConfig() if config is None else config
    if len(item.points) < 10:
        return Grasps.empty()
    stride = -(-len(item.points) // _MOST_POINTS)
    points = item.points[::stride].astype(np.float32, copy=False) / np.float32(1000)
    normals = item.normals[::stride].astype(np.float32, copy=False)
    spacing = item.voxel_size / 1000 * np.sqrt(stride)
    tips, rotation = _candidates(points, normals, hand, up, config)
    if config.network and len(item.grasps):
        best = item.grasps.top(config.network)
        at = best.translation + best.depth[:, None] * best.rotation[:, :, 0]
        tips, rotation = np.concatenate([tips, at]), np.concatenate([rotation, best.rotation])
    if up is not None:
        steep = -(rotation[:, :, 0] @ up.astype(np.float32))
        allowed = steep >= np.cos(np.radians(config.steepest))
        tips, rotation = tips[allowed], rotation[allowed]
    if up is not None and floor is not None:
        tips, rotation = _above(tips, rotation, hand, up, floor)
    if not len(tips):
        return Grasps.empty()
    tips, span, score = judge(points, normals, spacing, tips, rotation, hand, up, config)
    widest = np.float32(min(hand.max_opening, _OPEN_LIMIT_M))
    openings = [np.minimum(span + np.float32(2 * c), widest) for c in config.clearance]
    # Of two openings the wider one first: it is removed where it collides.
    width, score = np.concatenate(openings), np.concatenate([score, np.float32(0.9) * score])
    tips, rotation = np.concatenate([tips, tips]), np.concatenate([rotation, rotation])
    order = np.argsort(-score, kind="stable")[: config.keep]
    order = order[score[order] > config.least]
    rotation = np.ascontiguousarray(rotation[order])
    return Grasps(
        score=score[order],
        width=width[order],
        depth=np.full(len(order), GRASP_POINT_M, np.float32),
        rotation=rotation,
        translation=tips[order] - np.float32(GRASP_POINT_M) * rotation[:, :, 0],
        object_id=np.full(len(order), item.object_id, np.int32),
    )


def _candidates(
    points: np.ndarray, normals: np.ndarray, hand: Hand, up: np.ndarray | None, config: AntipodalConfig
) -> tuple[np.ndarray, np.ndarray]:
    """(C, 3) tips and (C, 3, 3) rotations of hands around antipodal pairs."""
    widest = min(hand.max_opening, _OPEN_LIMIT_M) - 2 * min(config.clearance)
    seeds = np.linspace(0, len(points) - 1, min(2 * config.pairs, len(points))).astype(int)
    # (seeds, n): vectors from every seed to every point, in products that never hold the vectors themselves.
    local = points - points.mean(axis=0)
    square = np.einsum("pi,pi->p", local, local)
    distance = np.sqrt(np.maximum(square[seeds, None] + square - 2 * local[seeds] @ local.T, 1e-12))
    here = np.einsum("si,si->s", local[seeds], normals[seeds])[:, None] - normals[seeds] @ local.T
    there = np.einsum("pi,pi->p", local, normals) - local[seeds] @ normals.T
    worst = np.minimum(here, there) / distance
    worst[~((distance > 0.004) & (distance < widest))] = -1
    partner = worst.argmax(axis=1)
    rows = np.arange(len(seeds))
    quality = worst[rows, partner]
    chosen = np.argsort(-quality, kind="stable")[: config.pairs]
    chosen = chosen[quality[chosen] > 1 / np.hypot(1, 1.3 * config.friction)]
    first, second = points[seeds[chosen]], points[partner[chosen]]
    middle = (first + second) / 2
    closing = (second - first) / np.linalg.norm(second - first, axis=1)[:, None]
    reference = np.array([0, 0, 1], np.float32) if up is None else up.astype(np.float32)
    # The first approach is as straight down as the closing direction allows, the others are turned from it.
    first = -reference + closing * (closing @ reference)[:, None]
    flat = np.linalg.norm(first, axis=1) < 1e-3
    first[flat] = np.cross(closing[flat], np.array([1, 0, 0], np.float32))
    first /= np.maximum(np.linalg.norm(first, axis=1), 1e-9)[:, None]
    second = np.cross(closing, first)
    angle = (np.arange(config.turns) * (2 * np.pi / config.turns)).astype(np.float32)
    approach = np.cos(angle)[None, :, None] * first[:, None] + np.sin(angle)[None, :, None] * second[:, None]
    approach = np.repeat(approach.reshape(-1, 3), len(config.beyond), axis=0)
    count = config.turns * len(config.beyond)
    closing, middle = np.repeat(closing, count, axis=0), np.repeat(middle, count, axis=0)
    beyond = np.tile(np.array(config.beyond, np.float32), len(approach) // len(config.beyond))
    rotation = np.stack([approach, closing, np.cross(approach, closing)], axis=2)
    return middle + beyond[:, None] * approach, rotation.astype(np.float32)


def _above(
    tips: np.ndarray, rotation: np.ndarray, hand: Hand, up: np.ndarray, floor: float
) -> tuple[np.ndarray, np.ndarray]:
    """Hands drawn back along their approach until the tips of their fingers, opened as usual, are above the floor."""
    steep, across, height = (rotation.transpose(0, 2, 1) @ up.astype(np.float32)).T
    usual = np.float32(_USUAL_OPENING_M / 2 + hand.finger_thickness)
    lowest = tips @ up.astype(np.float32) - np.abs(across) * usual - np.abs(height) * (hand.finger_height / 2)
    back = np.maximum(np.float32(floor) - lowest, 0) / np.maximum(-steep, 0.2)
    kept = back < _MOST_BACK_M
    return (tips - back[:, None].astype(np.float32) * rotation[:, :, 0])[kept], rotation[kept]


def judge(
    points: np.ndarray,
    normals: np.ndarray,
    spacing: float,
    tips: np.ndarray,
    rotation: np.ndarray,
    hand: Hand,
    up: np.ndarray | None,
    config: AntipodalConfig,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What the pads of hands would touch when they close.

    Args:
        points, normals: (n, 3) float32 of the object, m.
        spacing: between neighbouring points, m.
        tips: (C, 3) float32 m; rotation: (C, 3, 3) float32, columns approach, closing, height.

    Returns:
        (C, 3) tips moved along the closing direction to the middle of the contacts, (C,) extent of what passes between
        the fingers, m, (C,) scores 0..1, 0 for hands that would not hold it.
    """
    tips, rotation = tips.astype(np.float32, copy=False), rotation.astype(np.float32, copy=False)
    # (C, n) coordinates of every point in every hand's frame, its origin between the tips.
    x, y, z = (
        rotation[:, :, k] @ points.T - np.einsum("ci,ci->c", tips, rotation[:, :, k])[:, None]
        for k in range(3)
    )
    half_height = np.float32(hand.finger_height / 2)
    passes = (x < 0) & (np.abs(z) < half_height + np.float32(spacing / 4))
    upper = np.where(passes, y, -np.inf).max(axis=1)
    lower = np.where(passes, y, np.inf).min(axis=1)
    turned = rotation[:, :, 1] @ normals.T  # along the closing direction
    held = np.isfinite(upper) & np.isfinite(lower)
    score = np.where(held, np.float32(1), np.float32(0))
    sides = []
    for sign, extreme in ((np.float32(1), upper), (np.float32(-1), lower)):
        with np.errstate(invalid="ignore"):
            near = passes & (np.abs(extreme[:, None] - y) < _PATCH_M)
        # Points of the faces beside, at the patch's edge, are near as well, but a pad does not press on them.
        touching = (near & (sign * turned > 0.5)).astype(np.float32)
        size = np.maximum(touching.sum(axis=1), 1e-3)
        sides.append(
            (
                np.stack([np.einsum("cn,cn->c", touching, v) / size for v in (x, z)], axis=1),
                sign * np.einsum("cn,cn->c", touching, turned) / size,
                size,
            )
        )
    (at_upper, facing_upper, size_upper), (at_lower, facing_lower, size_lower) = sides
    upper, lower = np.where(held, upper, 0), np.where(held, lower, 0)
    span = upper - lower
    # Friction: between each pad and its patch, and along the line between the patches' middles.
    skew = np.linalg.norm(at_upper - at_lower, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = np.maximum(skew / np.maximum(span, 1e-4), 0)
        for facing in (facing_upper, facing_lower):
            facing = np.clip(facing, 1e-3, 1)
            needed = np.maximum(needed, np.sqrt(1 - facing**2) / facing)
    score *= np.clip((1.3 * config.friction - needed) / (1.1 * config.friction), 0, 1)
    area = np.minimum(size_upper, size_lower) * np.float32(spacing**2)
    score *= area / (area + _HALF_AREA_M2)
    middle = (at_upper + at_lower) / 2
    inside = np.clip(-np.maximum(at_upper[:, 0], at_lower[:, 0]) / np.float32(0.008), 0.1, 1)
    score *= inside * np.clip((np.float32(0.012) - np.abs(middle[:, 1])) / np.float32(0.006), 0.1, 1)
    # Up to the last 2.5 mm a wide object may use up the clearance.
    score[span + np.float32(0.005) > min(hand.max_opening, _OPEN_LIMIT_M)] = 0
    score[span < 0.002] = 0
    if up is not None:
        holds = tips + np.einsum(
            "cij,cj->ci", rotation, np.stack([middle[:, 0], (upper + lower) / 2, middle[:, 1]], axis=1)
        )
        lever = points.mean(axis=0) - holds
        vertical = up.astype(np.float32)
        lever -= (lever @ vertical)[:, None] * vertical
        score /= 1 + (np.linalg.norm(lever, axis=1) / np.float32(0.03)) ** 2
        steep = -(rotation[:, :, 0] @ vertical)
        score *= np.float32(config.down) + np.float32(1 - config.down) * np.clip(steep, 0, 1)
    tips = tips + ((upper + lower) / 2)[:, None] * rotation[:, :, 1]
    return tips, span, score.astype(np.float32)


def complete(
    objects: Sequence[ObjectReconstruction],
    points: np.ndarray,
    hand: Hand,
    up: np.ndarray | None,
    floor: float | None,
    config: AntipodalConfig,
    threads: int = 0,
) -> Grasps:
    """Grasps of all objects of a frame, in place of those the network gave them.

    Args:
        points: (n, 3) m, the scene; where a hand that is larger by `config.room` does not fit, a grasp is worth half.
    """
    workers = min(threads or os.cpu_count() or 1, len(objects))
    if workers > 1:  # NumPy works without the interpreter's lock
        with ThreadPoolExecutor(workers) as pool:
            parts = list(pool.map(lambda item: antipodal_grasps(item, hand, up, floor, config), objects))
    else:
        parts = [antipodal_grasps(item, hand, up, floor, config) for item in objects]
    grasps = Grasps.concatenate(parts)
    if not len(grasps) or not config.room:
        return grasps
    larger = replace(
        hand,
        finger_thickness=hand.finger_thickness + config.room,
        finger_height=hand.finger_height + 2 * config.room,
        # The palm begins nearer to the object.
        finger_length=max(hand.finger_length - config.palm_room, 0.0),
        finger_base=max(hand.finger_base - config.palm_room, 0.0),
        palm_thickness=hand.palm_thickness + config.room,
        palm_height=hand.palm_height + 2 * config.room,
        sweep=-1.0,
    )
    fit = kernels.refine_grasps(
        *(np.ascontiguousarray(getattr(grasps, name)) for name in ("rotation", "translation", "width", "depth")),
        np.ascontiguousarray(points, np.float32), larger, threads=threads,
    ).fit  # fmt: skip
    worth = np.where(fit == Fit.FITS, np.float32(1), np.float32(0.5))
    return replace(grasps, score=grasps.score * worth)
