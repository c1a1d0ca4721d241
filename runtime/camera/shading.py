"""Colours for the simulated camera: textures, a soft key light with shadows, and light from the sky."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.camera.scene import SceneObject

TABLES = ("wood", "grid")
# Single precision throughout: only what the eye sees is computed here.
_F = np.float32
_LIGHT = np.array([-0.45, -0.35, 0.82], _F) / _F(0.9987)
# Directions to the corners of a square light: four rays give a soft enough edge.
_SIDE = np.cross(_LIGHT, np.array([0, 0, 1], _F)) / np.linalg.norm(_LIGHT[:2])
_LIGHT_SAMPLES = [
    _LIGHT + _F(0.05) * (_F(a) * _SIDE + _F(b) * np.cross(_LIGHT, _SIDE))
    for a, b in ((-1, -0.4), (0.4, -1), (1, 0.4), (-0.4, 1))
]
_KEY, _SKY = np.array([0.90, 0.86, 0.79], _F), np.array([0.31, 0.34, 0.39], _F)
_BOUNCE, _LIGHT_TONE = np.array([0.15, 0.12, 0.09], _F), np.array([0.76, 0.73, 0.66], _F)
_OCCLUSION_REACH_MM = 35.0


def shade(
    scene: tuple[SceneObject, ...],
    table: str,
    eye: np.ndarray,
    directions: np.ndarray,
    t: np.ndarray,
    labels: np.ndarray,
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
    rays = directions[hit].astype(_F)
    points = eye.astype(_F) + rays * t[hit, None].astype(_F)
    label = labels[hit]
    on_table = label < 0
    normals = np.tile(np.array([0, 0, 1], _F), (len(hit), 1))
    albedo, gloss = np.empty((len(hit), 3), _F), np.where(on_table, _F(0.08), _F(0.17))
    albedo[on_table] = _TABLE_TEXTURE[table](points[on_table, 0], points[on_table, 1])
    for i, item in enumerate(scene):
        own = np.flatnonzero(label == i)
        local = _to_object(item, points[own] - item.pose[:3, 3].astype(_F))
        normals[own] = item.shape.normals(local) @ item.pose[:3, :3].T
        albedo[own] = _paint(item, local)
    facing = np.maximum(normals @ _LIGHT, 0)
    lit = _light_fraction(scene, points, normals, label, facing > 0)
    halfway = _LIGHT - rays / np.linalg.norm(rays, axis=1, keepdims=True)
    halfway /= np.linalg.norm(halfway, axis=1, keepdims=True)
    highlight = gloss * np.maximum(np.einsum("ni,ni->n", normals, halfway), 0) ** 60
    up = 0.5 + 0.5 * normals[:, 2:]
    ambient = (_BOUNCE + up * (_SKY - _BOUNCE)) * _openness(scene, points, label)[:, None]
    colour[hit] = albedo * (ambient + (lit * facing)[:, None] * _KEY) + (lit * highlight)[:, None] * _KEY
    return colour


def _light_fraction(
    scene: tuple[SceneObject, ...],
    points: np.ndarray,
    normals: np.ndarray,
    label: np.ndarray,
    towards: np.ndarray,
) -> np.ndarray:
    """(n,) share of the light that points see; only points that face it (`towards`) are looked at."""
    lit = np.ones(len(points), _F)
    facing = np.flatnonzero(towards)
    start = points[facing] + normals[facing] * _F(0.5)  # off the surface
    squared, along = _to_centres(scene, start), start @ _LIGHT
    for i, item in enumerate(scene):
        # The light's corners lie 0.054 per mm of the way beside its centre.
        centre, radius = item.pose[:3, 3].astype(_F), _F(item.shape.bounding_radius)
        way = along - centre @ _LIGHT
        beam = (squared[:, i] - way**2 < (radius - _F(0.06) * np.minimum(way, 0) + 1) ** 2) & (way < radius)
        near = np.flatnonzero(beam & (label[facing] != i))
        local = _to_object(item, start[near] - centre)
        for sample in _LIGHT_SAMPLES:
            direction = np.broadcast_to(_to_object(item, sample), local.shape)
            lit[facing[near]] -= np.isfinite(item.shape.intersect(local, direction)) * _F(
                1 / len(_LIGHT_SAMPLES)
            )
    return np.maximum(lit, 0)


def _openness(scene: tuple[SceneObject, ...], points: np.ndarray, label: np.ndarray) -> np.ndarray:
    """(n,) share of the sky that points see: darker near the table and near other objects."""
    openness = np.where(label < 0, _F(1), 0.55 + 0.45 * np.clip(points[:, 2] / 45, 0, 1))
    squared = _to_centres(scene, points)
    for i, item in enumerate(scene):
        reach = item.shape.bounding_radius + _OCCLUSION_REACH_MM
        near = np.flatnonzero((squared[:, i] < _F(reach**2)) & (label != i))
        local = _to_object(item, points[near] - item.pose[:3, 3].astype(_F))
        gap = np.clip(item.shape.distance(local) / _OCCLUSION_REACH_MM, 0, 1)
        openness[near] *= 0.45 + 0.55 * gap**0.7
    return openness


def _to_centres(scene: tuple[SceneObject, ...], points: np.ndarray) -> np.ndarray:
    """(n, objects) squared distance of points to the objects' centres, rounded by less than 1 mm^2."""
    centres = np.array([item.pose[:3, 3] for item in scene], _F)
    own = np.einsum("ni,ni->n", points, points)[:, None] + np.einsum("ni,ni->n", centres, centres)
    return own - 2 * (points @ centres.T)


def _to_object(item: SceneObject, vectors: np.ndarray) -> np.ndarray:
    """Vectors of the table's frame in the object's axes."""
    return vectors @ item.pose[:3, :3].astype(_F)


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
        amount = np.zeros(len(local), _F)
    colour = item.colour.astype(_F)
    return colour + amount[:, None] * _F(0.65) * (_LIGHT_TONE - colour)


def _wood(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Planks of 92 mm along x, each with its own tone and grain."""
    plank = np.floor(y / 92)
    tone = _hash(plank)
    x = x + 4000 * _hash(plank + 17)
    warp = 5 * np.sin(x / 97 + 6 * tone) + 2.2 * np.sin(x / 31 + y / 23) + 9 * np.sin(x / 310 + 3 * tone)
    grain = 0.5 + 0.5 * np.sin((y + warp) * (0.42 + 0.16 * tone) + 2.5 * np.sin((y + 2 * warp) / 19))
    fibre = 0.5 * np.sin(x / 6.5 + 13 * np.sin(y * 0.9)) * np.sin(y * 3.1 + x / 40) + 0.5 * np.sin(
        y * 1.9 + x / 75
    )
    bright = 0.86 + 0.20 * (tone - 0.5) + 0.15 * (grain**1.5 - 0.4) + 0.035 * fibre
    seam = _smooth_step(np.abs(y - (plank + 0.5) * 92) - 45.2, 0.5)
    base = np.array([0.42, 0.25, 0.125], _F)
    return (
        base
        * (bright * (1 - 0.62 * seam))[:, None]
        * np.stack([np.ones_like(tone), 1 + 0.05 * grain, 1 + 0.15 * grain], 1)
    )


def _grid(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A work mat with lines every 20 mm, stronger every 100 mm."""
    thin = np.maximum(*(_smooth_step(np.abs(np.mod(axis, 20) - 10) - 9.55, 0.3) for axis in (x, y)))
    thick = np.maximum(*(_smooth_step(np.abs(np.mod(axis, 100) - 50) - 49.1, 0.4) for axis in (x, y)))
    mottle = 0.03 * np.sin(x / 41 + 2 * np.sin(y / 67)) * np.sin(y / 37 + 2 * np.sin(x / 59))
    amount = np.maximum(0.25 * thin, 0.6 * thick)[:, None]
    mat, line = np.array([0.045, 0.115, 0.125], _F), np.array([0.40, 0.50, 0.48], _F)
    return mat * (1 + mottle)[:, None] * (1 - amount) + amount * line


_TABLE_TEXTURE = {"wood": _wood, "grid": _grid}


def _hash(value: np.ndarray) -> np.ndarray:
    """A number in [0, 1) for every integer, without visible order."""
    return np.mod(np.sin(value * 12.9898 + 4.1) * 43758.5453, 1.0)


def _smooth_step(value: np.ndarray, softness: float) -> np.ndarray:
    """0 below -softness, 1 above softness, smooth between."""
    t = np.clip(value / (2 * softness) + 0.5, 0, 1)
    return t * t * (3 - 2 * t)
