"""Convex parts for the physics engine: they fill the solid and leave its hollows open."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from zerograsp_edge.runtime.simulation.shapes import HELD_OUT, TRAINED, Revolution, Shape
from zerograsp_edge.runtime.simulation.shapes import polygon as plane

pytest.importorskip("scipy", reason="hulls need scipy (extra sim)")
from scipy.spatial import ConvexHull

DRAWS = {**TRAINED, **HELD_OUT}
every_case = pytest.mark.parametrize(
    ("family", "size"),
    [(family, size) for family in DRAWS for size in (32.0, 70.0, 180.0)],
    ids=lambda value: str(value),
)


@cache
def member(family: str, size: float) -> Shape:
    return DRAWS[family](np.random.default_rng([6, int(size)]), size)


@cache
def hulls(family: str, size: float) -> list[ConvexHull]:
    return [ConvexHull(part) for part in member(family, size).parts()]


def in_some_hull(pieces: list[ConvexHull], points: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(points), bool)
    for piece in pieces:
        out = np.flatnonzero(~inside)
        planes = piece.equations
        inside[out] = (points[out] @ planes[:, :3].T + planes[:, 3] <= 1e-6).all(axis=1)
    return inside


@every_case
def test_parts_fill_the_solid_and_nothing_else(family: str, size: float) -> None:
    shape = member(family, size)
    points = np.random.default_rng(1).uniform(-1, 1, (12_000, 3)) * (shape.half_extents + 8)
    distance, filled = shape.distance(points), in_some_hull(hulls(family, size), points)
    deep, outside = distance < -min(2.0, 0.05 * size), distance > 3
    assert deep.any() and outside.any()
    assert filled[deep].mean() > 0.995
    assert filled[outside].mean() < 0.01


@every_case
def test_parts_are_few_and_not_slivers(family: str, size: float) -> None:
    pieces = hulls(family, size)
    assert len(pieces) <= 48
    for piece in pieces:
        spread = piece.points[piece.vertices] @ piece.equations[:, :3].T
        assert np.ptp(spread, axis=0).min() > 1.5  # mm, the narrowest way through


@pytest.mark.parametrize("family", ["bowl", "mug", "cup", "torus"])
def test_the_middle_of_a_hollow_stays_open(family: str) -> None:
    shape = member(family, 180.0)
    hole = shape.half_extents[0] - 2 * shape.half_extents[2] if family == "torus" else shape.half_extents[1]
    r = 0.4 * hole
    angle = np.linspace(0, 2 * np.pi, 40)
    body = shape.members[0].at if family == "mug" else np.zeros(3)
    top = 0.95 * shape.half_extents[2]
    ring = np.stack([r * np.cos(angle), r * np.sin(angle), np.full(40, top)], axis=1) + body
    assert (shape.distance(ring) > 3).all()
    assert not in_some_hull(hulls(family, 180.0), ring).any()


def test_a_convex_profile_is_one_part() -> None:
    drum = Revolution.of(np.array([(0, 0), (30, 0), (20, 50), (0, 50)]))
    assert len(drum.parts()) == 1


def test_a_cross_is_cut_into_three() -> None:
    outline = np.array(
        [(1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1), (-1, -3), (1, -3), (1, -1), (3, -1)]
    )
    outline = np.concatenate([outline, [(3, 1), (1, 1)]]).astype(float)
    pieces = plane.convex_pieces(outline, 1e-6)
    area = [abs(np.sum(p[:, 0] * np.roll(p[:, 1], -1) - p[:, 1] * np.roll(p[:, 0], -1))) / 2 for p in pieces]
    assert len(pieces) == 3 and sum(area) == pytest.approx(20)
