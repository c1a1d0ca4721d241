"""Procedural surface patterns, painted on cube maps (objects) and squares (supports)."""

from __future__ import annotations

import numpy as np

PATTERNS = ("plain", "noise", "stripes", "checker", "wood", "band", "speckle")

# OpenGL's faces in order: outward axis, and the axes of increasing column and row.
_FACES = (
    ((1, 0, 0), (0, 0, -1), (0, -1, 0)),
    ((-1, 0, 0), (0, 0, 1), (0, -1, 0)),
    ((0, 1, 0), (1, 0, 0), (0, 0, 1)),
    ((0, -1, 0), (1, 0, 0), (0, 0, -1)),
    ((0, 0, 1), (1, 0, 0), (0, -1, 0)),
    ((0, 0, -1), (-1, 0, 0), (0, -1, 0)),
)


def cube_map(pattern: str, colour: np.ndarray, rng: np.random.Generator, size: int = 64) -> np.ndarray:
    """(6 * size, size, 3) uint8 sRGB faces of a cube map with a pattern in a colour (linear RGB, 0..1)."""
    ramp = (np.arange(size) + 0.5) / size * 2 - 1
    down, across = np.meshgrid(ramp, ramp, indexing="ij")
    points = [
        np.array(axis) + across[..., None] * column + down[..., None] * row
        for axis, column, row in np.array(_FACES, float)
    ]
    directions = np.concatenate(points).reshape(-1, 3)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return _to_bytes(paint(pattern, directions, colour, rng)).reshape(6 * size, size, 3)


def square(pattern: str, colour: np.ndarray, rng: np.random.Generator, size: int = 160) -> np.ndarray:
    """(size, size, 3) uint8 sRGB texture."""
    ramp = (np.arange(size) + 0.5) / size * 2 - 1
    y, x = np.meshgrid(ramp, ramp, indexing="ij")
    points = np.stack([x, y, np.zeros_like(x)], axis=-1).reshape(-1, 3)
    return _to_bytes(paint(pattern, points, colour, rng, detail=2.5)).reshape(size, size, 3)


def paint(
    pattern: str, points: np.ndarray, colour: np.ndarray, rng: np.random.Generator, detail: float = 1.0
) -> np.ndarray:
    """(n, 3) linear RGB of a pattern at (n, 3) points within about a unit of the origin.

    Args:
        pattern: one of PATTERNS.
        colour: (3,) the ground; the other colour of two-tone patterns is drawn.
        detail: how many times finer than on a small object.
    """
    colour = np.asarray(colour, float)
    other = np.clip(rng.uniform(0, 1, 3) ** 2 * rng.uniform(0.3, 1), 0.01, 0.95)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    if pattern == "plain":
        amount = 0.06 * waves(points * 3 * detail, rng)
    elif pattern == "noise":
        amount = 0.5 + 0.5 * waves(points * rng.uniform(1.5, 6) * detail, rng)
    elif pattern == "stripes":
        amount = _step(np.sin((points @ axis) * rng.uniform(6, 22) * detail) - rng.uniform(-0.6, 0.6), 0.15)
    elif pattern == "checker":
        frequency = rng.uniform(3, 9) * detail
        amount = _step(np.prod(np.sin(points * frequency + rng.uniform(0, 6, 3)) + 1e-3, axis=1) * 8, 0.3)
    elif pattern == "wood":
        other = colour * rng.uniform(0.35, 0.75)
        radius = np.linalg.norm(np.cross(points + rng.uniform(-1, 1, 3), axis), axis=1)
        warped = radius + 0.15 * waves(points * 2 * detail, rng)
        amount = (0.5 + 0.5 * np.sin(warped * rng.uniform(14, 40) * detail)) ** 2
    elif pattern == "band":
        amount = _step(rng.uniform(0.15, 0.5) - np.abs(points[:, 2] - rng.uniform(-0.3, 0.3)), 0.03)
    elif pattern == "speckle":
        amount = _step(waves(points * rng.uniform(8, 16) * detail, rng) - 0.35, 0.25)
    else:
        raise ValueError(f"pattern must be one of {', '.join(PATTERNS)}, got '{pattern}'")
    amount = np.clip(amount, 0, 1)[:, None]
    mottle = 1 + 0.05 * waves(points * 12 * detail, rng)[:, None]
    return np.clip((colour * (1 - amount) + other * amount) * mottle, 0, 1)


def waves(points: np.ndarray, rng: np.random.Generator, count: int = 7) -> np.ndarray:
    """(n,) smooth noise of (n, 3) points, mostly within +-1: a warped sum of plane waves."""
    warp = np.sin(points @ rng.normal(size=(3, 3)) * 1.3 + rng.uniform(0, 6, 3))
    phase = (points + 0.6 * warp) @ rng.normal(size=(3, count)) * 1.5 + rng.uniform(0, 2 * np.pi, count)
    return np.sin(phase).sum(axis=1) / np.sqrt(count)


def _step(value: np.ndarray, softness: float) -> np.ndarray:
    t = np.clip(value / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)


def _to_bytes(linear: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(linear, 0, 1) ** (1 / 2.2) * 255).astype(np.uint8)
