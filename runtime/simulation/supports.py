"""What objects stand on: a table, an open bin on a table, a shelf; random in size."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.simulation.world import SUPPORT_KINDS, SupportBox


def make_support(kind: str, rng: np.random.Generator) -> tuple[SupportBox, ...]:
    """Fixed cuboids of a support whose carrying surface is z = 0 around the origin.

    A table is one box. A bin has a floor and four walls, 250 to 450 mm wide inside, and stands on a table. A shelf has
    two boards, a back at +y and two sides; it is open towards -y, where a camera must stand.
    """
    if kind == "table":
        return (_table(rng, 0.0),)
    if kind == "bin":
        return _bin(rng)
    if kind == "shelf":
        return _shelf(rng)
    raise ValueError(f"support must be one of {', '.join(SUPPORT_KINDS)}, got '{kind}'")


def inner_half(kind: str, support: tuple[SupportBox, ...]) -> np.ndarray:
    """(2,) half the free width in x and y, mm, of a support made by `make_support`, in its first box's axes."""
    if kind == "bin":
        return support[0].half[:2] - 2 * support[1].half[0]
    return support[0].half[:2]


def _box(
    centre: tuple[float, float, float], half: tuple[float, float, float], turn: np.ndarray
) -> SupportBox:
    return SupportBox(turn @ np.array(centre), np.array(half), turn)


def _turn(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _table(rng: np.random.Generator, top: float) -> SupportBox:
    half = (*rng.uniform(330, 800, 2), rng.uniform(8, 25))
    return _box((0.0, 0.0, top - half[2]), half, _turn(rng.uniform(0, 2 * np.pi)))


def _bin(rng: np.random.Generator) -> tuple[SupportBox, ...]:
    x, y = rng.uniform(125, 225, 2)
    wall, floor, height = rng.uniform(1.5, 5), rng.uniform(1.5, 4), rng.uniform(50, 150)
    turn = _turn(rng.uniform(0, 2 * np.pi))
    middle = height / 2 - floor
    sides = (
        (sign * (x + wall), 0.0, middle, wall, y, height / 2 + floor) for sign in (-1, 1)
    )  # beside, so that walls and floor fill every corner once
    ends = ((0.0, sign * (y + wall), middle, x + 2 * wall, wall, height / 2 + floor) for sign in (-1, 1))
    return (
        _box((0.0, 0.0, -floor), (x + 2 * wall, y + 2 * wall, floor), turn),
        *(_box(values[:3], values[3:], turn) for values in (*sides, *ends)),
        _table(rng, -2 * floor),
    )


def _shelf(rng: np.random.Generator) -> tuple[SupportBox, ...]:
    x, y, height = rng.uniform(190, 400), rng.uniform(120, 190), rng.uniform(260, 420)
    board, back = rng.uniform(6, 14), rng.uniform(2, 5)
    upright = height / 2 + 2 * board
    level = np.eye(3)
    return (
        _box((0.0, 0.0, -board), (x, y, board), level),
        _box((0.0, 0.0, height + board), (x, y, board), level),
        _box((0.0, y + back, height / 2), (x + 2 * board, back, upright), level),
        *(_box((sign * (x + board), 0.0, height / 2), (board, y, upright), level) for sign in (-1, 1)),
    )
