"""Colours for the simulated camera: textures, a soft key light with shadows, and ambient light from the sky."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.camera.scene import SceneObject

TABLES = ("wood", "grid")
_LIGHT = np.array([-0.45, -0.35, 0.82]) / np.linalg.norm([-0.45, -0.35, 0.82])
# Directions to the corners of a square light: four rays give a soft enough edge.
_SIDE = np.cross(_LIGHT, [0, 0, 1.0]) / np.linalg.norm(np.cross(_LIGHT, [0, 0, 1.0]))
_LIGHT_SAMPLES = [
    _LIGHT + 0.05 * (a * _SIDE + b * np.cross(_LIGHT, _SIDE)) for a, b in ((-1, -0.4), (0.4, -1), (1, 0.4), (-0.4, 1))
]
_KEY, _SKY, _BOUNCE = np.array([1.05, 1.0, 0.92]), np.array([0.34, 0.37, 0.42]), np.array([0.16, 0.13, 0.10])
_OCCLUSION_REACH_MM = 35.0


def shade(
    scene: tuple[SceneObject, ...], table: str, eye: np.ndarray, directions: np.ndarray, t: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """(n, 3) linear colour of ray hits.

    Args:
        scene: objects in the table's frame.
        table: one of TABLES.
        eye: (3,) mm, where the rays start.
        directions: (n, 3).
        t: (n,) ray parameter of the hit, inf for none.
        labels: (n,) index of the object hit, -1 for the table.
    """
    colour = np.tile(_SKY, (len(t), 1))
    hit = np.flatnonzero(np.isfinite(t))
    points = eye + directions[hit] * t[hit, None]
    label = labels[hit]
    normals = np.tile([0.0, 0.0, 1.0], (len(hit), 1))
    albedo, gloss = np.empty((len(hit), 3)), np.full(len(hit), 0.10)
    albedo[label < 0] = _TABLE_TEXTURE[table](points[label < 0, 0], points[label < 0, 1])
    for i, item in enumerate(scene):
        own = np.flatnonzero(label == i)
        local = (points[own] - item.pose[:3, 3]) @ item.pose[:3, :3]
        normals[own] = item.shape.normals(local) @ item.pose[:3, :3].T
        albedo[own] = _paint(item, local)
        gloss[own] = 0.35
    view = -directions[hit] / np.linalg.norm(directions[hit], axis=1, keepdims=True)
    halfway = view + _LIGHT
    halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
    facing = np.maximum(normals @ _LIGHT, 0)
    lit = _light_fraction(scene, points, normals, label)
    highlight = gloss * np.maximum(np.einsum("ni,ni->n", normals, halfway), 0) ** 60
    up = 0.5 + 0.5 * normals[:, 2:]
    ambient = (up * _SKY + (1 - up) * _BOUNCE) * _openness(scene, points, label)[:, None]
    colour[hit] = albedo * (ambient + (lit * facing)[:, None] * _KEY) + (lit * highlight)[:, None] * _KEY
    return colour


def _light_fraction(
    scene: tuple[SceneObject, ...], points: np.ndarray, normals: np.ndarray, label: np.ndarray
) -> np.ndarray:
    """(n,) share of the light that points see."""
    lit = np.ones(len(points))
    start = points + normals * 0.5  # off the surface, so that it does not shade itself
    for i, item in enumerate(scene):
        offset = start - item.pose[:3, 3]
        along = offset @ _LIGHT
        aside = np.einsum("ni,ni->n", offset, offset) - along**2
        # The light samples spread by 0.05 per mm of the way to the object's sphere.
        radius = item.shape.bounding_radius
        near = np.flatnonzero((along < radius) & (aside < (radius + 0.06 * np.maximum(-along, 0) + 1) ** 2) & (label != i))
        local = offset[near] @ item.pose[:3, :3]
        for sample in _LIGHT_SAMPLES:
            direction = np.broadcast_to(sample @ item.pose[:3, :3], local.shape)
            lit[near] -= np.isfinite(item.shape.intersect(local, direction)) / len(_LIGHT_SAMPLES)
    return np.maximum(lit, 0)


def _openness(scene: tuple[SceneObject, ...], points: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(n,) share of the sky that points see: darker near the table and near other objects."""
    openness = np.where(label < 0, 1.0, 0.55 + 0.45 * np.clip(points[:, 2] / 45, 0, 1))
    for i, item in enumerate(scene):
        reach = item.shape.bounding_radius + _OCCLUSION_REACH_MM
        offset = points - item.pose[:3, 3]
        near = np.flatnonzero((np.einsum("ni,ni->n", offset, offset) < reach**2) & (label != i))
        gap = np.clip(item.distance(points[near]) / _OCCLUSION_REACH_MM, 0, 1)
        openness[near] *= 0.45 + 0.55 * gap**0.7
    return openness


def _paint(item: SceneObject, local: np.ndarray) -> np.ndarray:
    """(n, 3) albedo of points in the object's frame: its colour with its pattern in a lighter tone."""
    height = item.shape.half_extents[2]
    x, y, z = local.T
    if item.pattern == "band":
        amount = _smooth_step(0.42 * height - np.abs(z), 0.6)
    elif item.pattern == "stripes":
        amount = _smooth_step(np.sin(z * (2 * np.pi / 16)) - 0.2, 0.12)
    elif item.pattern == "dots":
        spacing = 17.0
        cell = [np.mod(axis + spacing / 2, spacing) - spacing / 2 for axis in (x, y, z)]
        amount = _smooth_step(5.2 - np.sqrt(cell[0] ** 2 + cell[1] ** 2 + cell[2] ** 2), 0.5)
    else:
        amount = np.zeros(len(local))
    light = 0.35 * item.colour + 0.65 * np.array([0.80, 0.77, 0.70])
    return item.colour + amount[:, None] * (light - item.colour)


def _wood(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Planks of 92 mm along x, each with its own tone and grain."""
    plank = np.floor(y / 92)
    tone = _hash(plank)
    x = x + 4000 * _hash(plank + 17)
    warp = 5 * np.sin(x / 97 + 6 * tone) + 2.2 * np.sin(x / 31 + y / 23) + 9 * np.sin(x / 310 + 3 * tone)
    grain = 0.5 + 0.5 * np.sin((y + warp) * (0.42 + 0.16 * tone) + 2.5 * np.sin((y + 2 * warp) / 19))
    fibre = 0.5 * np.sin(x / 6.5 + 13 * np.sin(y * 0.9)) * np.sin(y * 3.1 + x / 40) + 0.5 * np.sin(y * 1.9 + x / 75)
    bright = 0.86 + 0.20 * (tone - 0.5) + 0.15 * (grain**1.5 - 0.4) + 0.035 * fibre
    seam = _smooth_step(np.abs(y - (plank + 0.5) * 92) - 45.2, 0.5)
    base = np.array([0.42, 0.25, 0.125])
    return base * (bright * (1 - 0.62 * seam))[:, None] * np.stack([np.ones_like(tone), 1 + 0.05 * grain, 1 + 0.15 * grain], 1)


def _grid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A work mat with lines every 20 mm, stronger every 100 mm."""
    thin = np.maximum(*(_smooth_step(np.abs(np.mod(axis, 20) - 10) - 9.55, 0.3) for axis in (x, y)))
    thick = np.maximum(*(_smooth_step(np.abs(np.mod(axis, 100) - 50) - 49.1, 0.4) for axis in (x, y)))
    mottle = 0.03 * np.sin(x / 41 + 2 * np.sin(y / 67)) * np.sin(y / 37 + 2 * np.sin(x / 59))
    amount = np.maximum(0.25 * thin, 0.6 * thick)[:, None]
    return np.array([0.045, 0.115, 0.125]) * (1 + mottle)[:, None] * (1 - amount) + amount * np.array([0.42, 0.52, 0.50])


_TABLE_TEXTURE = {"wood": _wood, "grid": _grid}


def _hash(value: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for every integer, without visible order."""
    return np.mod(np.sin(value * 12.9898 + 4.1) * 43758.5453, 1.0)


def _smooth_step(value: np.ndarray, softness: float) -> np.ndarray:
    """0 below -softness, 1 above softness, smooth between."""
    t = np.clip(value / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)
