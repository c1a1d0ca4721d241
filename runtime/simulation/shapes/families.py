"""Random members of the shape families: fourteen to train on, eight held out to test generalisation.

Every draw takes the longest extent in mm (20..250) and keeps walls, necks, handles and plates at least 3 mm thick:
where a small size leaves no room for a family's usual proportions they are clamped, so tiny members look stouter.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from zerograsp_edge.runtime.simulation.shapes import polygon as plane
from zerograsp_edge.runtime.simulation.shapes.base import Shape
from zerograsp_edge.runtime.simulation.shapes.extrusion import Extrusion
from zerograsp_edge.runtime.simulation.shapes.primitives import Box, Capsule, Cylinder, RoundedBox, Torus
from zerograsp_edge.runtime.simulation.shapes.radial import Crumpled, Superquadric
from zerograsp_edge.runtime.simulation.shapes.revolution import Revolution
from zerograsp_edge.runtime.simulation.shapes.sweep import Sweep
from zerograsp_edge.runtime.simulation.shapes.union import Union

Draw = Callable[[np.random.Generator, float], Shape]

SMALLEST, LARGEST = 20.0, 250.0  # longest extent, mm
THINNEST = 3.0  # mm, of any wall, neck or plate
GRIPPER_OPENING = 80.0  # mm; draw_shape makes most objects fit a 0.1 m gripper with room to spare


def _box(rng: np.random.Generator, size: float) -> Shape:
    half = _shuffled_half(rng, size, 0.25)
    return Box(half) if rng.random() < 0.4 else _rounded_box(rng, half)


def _cylinder(rng: np.random.Generator, size: float) -> Shape:
    radius, half_height = _round_proportions(rng, size, 0.2, 4.0)
    return Cylinder(radius, half_height)


def _capsule(rng: np.random.Generator, size: float) -> Shape:
    radius = max(size * rng.uniform(0.12, 0.42), THINNEST) / 2
    return Capsule(radius, size / 2 - radius)


def _cone(rng: np.random.Generator, size: float) -> Shape:
    """Cone or frustum with rounded edges."""
    radius, half_height = _round_proportions(rng, size, 0.5, 2.5)
    narrow = rng.uniform(0.05, 0.2) if rng.random() < 0.3 else rng.uniform(0.3, 0.85)
    top = max(narrow * radius, THINNEST / 2)
    path = np.array([[0, 0], [radius, 0], [top, 2 * half_height], [0, 2 * half_height]])
    edges = rng.uniform(0.1, 0.6) * np.array([0, min(top, half_height), 0.8 * top, 0])
    return _revolved(plane.rounded(path, edges), size)


def _superquadric(rng: np.random.Generator, size: float) -> Shape:
    return Superquadric(_shuffled_half(rng, size, 0.35), rng.uniform(0.25, 1.5), rng.uniform(0.25, 1.5))


def _torus(rng: np.random.Generator, size: float) -> Shape:
    minor = max(size / 2 * rng.uniform(0.12, 0.34), 2 * THINNEST / 2)
    return Torus(size / 2 - minor, minor)


def _bottle(rng: np.random.Generator, size: float) -> Shape:
    """Body, shoulder, neck and, half of the time, a cap that is wider than the neck. In units of its height."""
    body = max(rng.uniform(0.13, 0.24), THINNEST / size)
    waist = body * rng.uniform(0.75, 1.0)
    neck = max(body * rng.uniform(0.3, 0.7), THINNEST / 2 / size)
    shoulder, neck_start = rng.uniform(0.4, 0.62), rng.uniform(0.68, 0.8)
    foot = body * rng.uniform(0.1, 0.3)
    smooth = [(0, 0), (body - foot, 0), (body, 0), (body, foot), (waist, shoulder / 2), (body, shoulder)]
    sloping = ((body + neck) / 2 + 0.1 * body, (shoulder + neck_start) / 2)
    smooth += [sloping, (neck, neck_start), (neck, 0.85)]
    curve = plane.smoothed(np.array(smooth), 2)
    cap, cap_start = neck * rng.uniform(1.15, 1.4), rng.uniform(0.87, 0.92)
    if rng.random() < 0.5:
        end = [(neck, cap_start), (cap, cap_start), (cap, 1), (0, 1)]
        radii = [0, 0.05, rng.uniform(0.1, 0.4), 0]
    else:
        end, radii = [(neck, 1), (0, 1)], [rng.uniform(0.1, 0.4), 0]
    path = np.concatenate([curve, end])
    return _revolved(plane.rounded(path, np.array([0.0] * len(curve) + radii) * neck), size)


def _bowl(rng: np.random.Generator, size: float) -> Shape:
    radius = size / 2
    height = max(size * rng.uniform(0.25, 0.55), 4 * THINNEST)
    wall = max(radius * rng.uniform(0.05, 0.09), THINNEST)
    floor = wall * rng.uniform(1.0, 1.4)
    foot = radius * rng.uniform(0.3, 0.6)
    bulge, lift = rng.uniform(0.6, 1.1), rng.uniform(0.8, 1.2)
    t = np.linspace(0, np.pi / 2, 19)
    rise_r, rise_z = np.sin(t) ** bulge, (1 - np.cos(t)) ** lift
    outer = np.stack([foot + (radius - foot) * rise_r, height * rise_z], axis=1)
    bottom = 0.6 * foot
    inner = np.stack([bottom + (radius - wall - bottom) * rise_r, floor + (height - floor) * rise_z], axis=1)
    return Revolution.of(_hollow(outer, inner, wall))


def _mug(rng: np.random.Generator, size: float) -> Shape:
    """A slightly tapered cup with a round or a squarish handle on +x."""
    slim, taper, handle = rng.uniform(0.36, 0.5), rng.uniform(0.85, 1.0), rng.uniform(0.5, 0.68)
    reach, raised, square = rng.uniform(0.45, 0.7), rng.uniform(-0.03, 0.06), rng.random() < 0.3
    t = np.linspace(-np.pi / 2, np.pi / 2, 15)
    bow = np.maximum(np.cos(t), 0) ** (0.5 if square else 1.0)

    def build(height: float) -> Shape:
        top = max(slim * height, 3 * THINNEST)
        bottom, wall = taper * top, max(0.07 * top, THINNEST)
        grip = max(0.11 * top, THINNEST)
        z = height * (raised + handle / 2 * np.sin(t))
        # Either end's ball touches the inner wall from outside: it sits in the wall without showing in the hollow.
        inner = bottom - wall + (top - bottom) * (z / height + 0.5)
        centres = np.stack([inner + 1.02 * grip + max(reach * top, 3 * grip) * bow, 0 * z, z], axis=1)
        body = Revolution.of(_cup(bottom, top, height, wall))
        return Union.of((body, np.zeros(3)), Sweep.placed(centres, np.full(len(t), grip)))

    return _fitted(build, size)


def _banana(rng: np.random.Generator, size: float) -> Shape:
    bend, thick = np.radians(rng.uniform(50, 130)), rng.uniform(0.08, 0.14)
    blunt, skew, tip = rng.uniform(2, 4), rng.uniform(-0.15, 0.15), rng.uniform(0.3, 0.6)
    t = np.linspace(-1, 1, 21)
    angle = t * bend / 2
    path = np.stack([np.sin(angle), np.cos(angle), 0 * t], axis=1)
    fat = 1 - (1 - tip) * np.abs((t - skew) / (1 + abs(skew))) ** blunt

    def build(length: float) -> Shape:
        radii = np.maximum(thick * length * fat, THINNEST / 2)
        return Sweep.placed(path * (length / bend), radii)[0]

    return _fitted(build, size)


def _l_part(rng: np.random.Generator, size: float) -> Shape:
    """Two rounded boxes that share a corner region."""
    other, wide = rng.uniform(0.4, 0.95), rng.uniform(0.15, 0.5)
    thick, thick2 = rng.uniform(0.12, 0.28, 2)
    a, b = np.maximum(size * np.array([thick, thick2]), THINNEST)
    across, width = max(size * other, 2.5 * a), max(size * wide, THINNEST)
    narrow = max(width * rng.uniform(0.7, 1.0), THINNEST)
    radius = _edge_radius(rng, min(a, b, narrow))
    return Union.of(
        (RoundedBox((size / 2, width / 2, a / 2), radius), np.zeros(3)),
        (
            RoundedBox((b / 2, narrow / 2, across / 2), radius),
            np.array([(b - size) / 2, 0, (across - a) / 2]),
        ),
    )


def _t_part(rng: np.random.Generator, size: float) -> Shape:
    """A rounded box on the middle part of another."""
    stem, wide, shift = rng.uniform(0.4, 0.95), rng.uniform(0.15, 0.5), rng.uniform(-0.2, 0.2)
    thick, thick2 = rng.uniform(0.12, 0.28, 2)
    a, b = np.maximum(size * np.array([thick, thick2]), THINNEST)
    tall, width = max(size * stem, 2.5 * a), max(size * wide, THINNEST)
    narrow = max(width * rng.uniform(0.7, 1.0), THINNEST)
    radius = _edge_radius(rng, min(a, b, narrow))
    return Union.of(
        (RoundedBox((size / 2, width / 2, a / 2), radius), np.zeros(3)),
        (RoundedBox((b / 2, narrow / 2, tall / 2), radius), np.array([shift * size, 0, (tall - a) / 2])),
    )


def _plate(rng: np.random.Generator, size: float) -> Shape:
    """A thin board or disc, 4 to 10 mm thick (less than a third of its size)."""
    thick = min(rng.uniform(4, 10), max(size / 3, 4))
    if rng.random() < 0.25:
        return Cylinder(size / 2, thick / 2)
    width = max(size * rng.uniform(0.35, 1.0), 1.5 * thick)
    return _rounded_box(rng, (size / 2, width / 2, thick / 2))


def _crumpled(rng: np.random.Generator, size: float) -> Shape:
    """An ellipsoid with low-frequency radial noise."""
    count = 6
    waves = rng.normal(size=(count, 3))
    waves *= rng.uniform(2, 5, (count, 1)) / np.linalg.norm(waves, axis=1, keepdims=True)
    amplitudes = rng.uniform(0.2, 1, count)
    amplitudes *= rng.uniform(0.1, 0.3) / amplitudes.sum()
    axes = np.array([1, *rng.uniform(0.45, 1.0, 2)])
    return Crumpled.of(axes, waves, rng.uniform(0, 2 * np.pi, count), amplitudes, size)


def _prism(rng: np.random.Generator, size: float) -> Shape:
    """Three- or six-sided, upright or flat."""
    sides = 3 if rng.random() < 0.4 else 6
    turn = np.arange(sides) * (2 * np.pi / sides)
    outline = plane.centred(np.stack([np.cos(turn), np.sin(turn)], axis=1))
    across = 2 * outline.max(axis=0).max()
    slim = rng.uniform(0.2, 1.0)
    diameter, height = (slim, 1.0) if rng.random() < 0.6 else (1.0, slim)
    return _extruded(rng, outline * (size * diameter / across), size * height)


def _dumbbell(rng: np.random.Generator, size: float) -> Shape:
    """Two knobs on a grip."""
    end, grip = rng.uniform(0.18, 0.3), rng.uniform(0.35, 0.6)
    end = max(end, 1.2 * THINNEST / size)
    grip = max(grip * end, THINNEST / 2 / size)
    long = rng.uniform(0.2, 0.32)
    half = [(0, 0), (end, 0), (end, long), (grip, long)]
    path = np.array(half + [(r, 1 - z) for r, z in half[::-1]])
    outer, inner = rng.uniform(0.15, 0.45) * long, 0.3 * (end - grip)
    return _revolved(plane.rounded(path, [0, outer, outer, inner, inner, outer, outer, 0]), size)


def _cross(rng: np.random.Generator, size: float) -> Shape:
    """Two bars crossing in one plane."""
    wide = np.maximum(size * rng.uniform(0.15, 0.35, 2), THINNEST)
    long = np.array([size, max(size * rng.uniform(0.6, 1.0), 2 * wide[0])])
    (x, y), (v, u) = long / 2, wide / 2
    outline = [(u, y), (-u, y), (-u, v), (-x, v), (-x, -v), (-u, -v), (-u, -y), (u, -y), (u, -v), (x, -v)]
    outline += [(x, v), (u, v)]
    return _extruded(rng, np.array(outline), max(size * rng.uniform(0.12, 0.35), THINNEST))


def _hammer(rng: np.random.Generator, size: float) -> Shape:
    """A round grip with a block across its end."""
    grip = max(size * rng.uniform(0.04, 0.075), THINNEST / 2)
    head = np.maximum(size * rng.uniform([0.3, 0.11, 0.11], [0.5, 0.2, 0.2]), 6)
    offset = rng.uniform(-0.15, 0.15) * head[0]
    half = (float(head[0] / 2), float(head[1] / 2), float(head[2] / 2))
    block = RoundedBox(half, _edge_radius(rng, head.min()))
    stick = Capsule(grip, (size - half[2]) / 2 - grip)
    return Union.of(
        (block, np.array([offset, 0, 0])),
        (stick, np.array([0, 0, half[2] - size + grip + stick.half_height])),
    )


def _pear(rng: np.random.Generator, size: float) -> Shape:
    """Egg or pear: r = width sin(t) (1 + slope cos(t) + waist cos(2 t)) over z = -cos(t)."""
    t = np.linspace(0, np.pi, 41)
    slope = rng.uniform(0.1, 0.35) * rng.choice([-1, 1])
    waist = rng.uniform(0.0, 0.2)
    r = rng.uniform(0.3, 0.48) * np.sin(t) * (1 - slope * np.cos(t) + waist * np.cos(2 * t))
    r[[0, -1]] = 0
    return _revolved(np.stack([r, -np.cos(t) / 2], axis=1), size)


def _wedge(rng: np.random.Generator, size: float) -> Shape:
    """A ramp, its thin end cut off."""
    tall = max(size * rng.uniform(0.25, 0.7), 2 * THINNEST)
    tip = max(tall * rng.uniform(0.05, 0.3), THINNEST)
    outline = np.array([(0, 0), (size, 0), (size, tip), (rng.uniform(0, 0.25) * size, tall), (0, tall)])
    return _extruded(rng, plane.centred(outline), max(size * rng.uniform(0.25, 0.7), THINNEST))


def _gear(rng: np.random.Generator, size: float) -> Shape:
    """A star or gear wheel with 5 to 10 teeth."""
    teeth = int(rng.integers(5, 11))
    root = rng.uniform(0.62, 0.82)
    gap, tip = rng.uniform(0.3, 0.5), rng.uniform(0.12, 0.4)  # of a tooth's share, at its root and its tip
    share = 2 * np.pi / teeth
    turn = (np.arange(teeth)[:, None] + np.array([-(1 - gap) / 2, -tip / 2, tip / 2, (1 - gap) / 2])) * share
    reach = np.array([root, 1, 1, root])
    outline = np.stack([reach * np.cos(turn), reach * np.sin(turn)], axis=-1).reshape(-1, 2)
    outline = plane.centred(outline)
    return _extruded(rng, outline * (size / 2 / outline.max()), max(size * rng.uniform(0.15, 0.4), THINNEST))


def _cup_without_handle(rng: np.random.Generator, size: float) -> Shape:
    """A cup with a conical wall."""
    slim, taper = rng.uniform(0.35, 0.5), rng.uniform(0.55, 0.8)
    top = max(slim * size, 3 * THINNEST)
    return Revolution.of(_cup(taper * top, top, max(size, 2 * top), max(0.06 * top, THINNEST)))


TRAINED: dict[str, Draw] = {
    "box": _box,
    "cylinder": _cylinder,
    "capsule": _capsule,
    "cone": _cone,
    "superquadric": _superquadric,
    "torus": _torus,
    "bottle": _bottle,
    "bowl": _bowl,
    "mug": _mug,
    "banana": _banana,
    "l_part": _l_part,
    "t_part": _t_part,
    "plate": _plate,
    "crumpled": _crumpled,
}

HELD_OUT: dict[str, Draw] = {
    "prism": _prism,
    "dumbbell": _dumbbell,
    "cross": _cross,
    "hammer": _hammer,
    "pear": _pear,
    "wedge": _wedge,
    "gear": _gear,
    "cup": _cup_without_handle,
}

# Usual longest extents in mm where a family's differ from 50..180.
_USUAL = {
    "bottle": (80.0, 220.0),
    "bowl": (80.0, 180.0),
    "mug": (70.0, 130.0),
    "cup": (70.0, 130.0),
    "banana": (90.0, 200.0),
    "hammer": (100.0, 220.0),
    "plate": (70.0, 200.0),
}


def draw_shape(rng: np.random.Generator, family: str) -> Shape:
    """A member of a family at a size it might have in a household.

    Seven out of eight have the family's usual size (for most 5 to 18 cm), the others anything from 2 to 25 cm, both
    log-uniform. Nine out of ten fit the gripper: at least one extent is below 80 mm.

    Raises:
        ValueError: there is no such family.
    """
    draw = TRAINED.get(family) or HELD_OUT.get(family)
    if draw is None:
        raise ValueError(f"no shape family {family!r}; there are {', '.join([*TRAINED, *HELD_OUT])}")
    may_be_large = rng.random() < 0.1
    while True:
        usual = rng.random() < 7 / 8
        low, high = _USUAL.get(family, (50.0, 180.0)) if usual else (SMALLEST, LARGEST)
        shape = draw(rng, float(np.exp(rng.uniform(np.log(low), np.log(high)))))
        if may_be_large or 2 * shape.half_extents.min() < GRIPPER_OPENING:
            return shape


def _shuffled_half(rng: np.random.Generator, size: float, flattest: float) -> tuple[float, float, float]:
    """Half edges: one size / 2, the others from `flattest` of it, in any order."""
    half = size / 2 * np.array([1, *rng.uniform(flattest, 1.0, 2)])
    a, b, c = rng.permutation(np.maximum(half, THINNEST / 2))
    return float(a), float(b), float(c)


def _round_proportions(
    rng: np.random.Generator, size: float, flattest: float, slimmest: float
) -> tuple[float, float]:
    """Radius and half height of something round whose height is `flattest` to `slimmest` diameters, log-uniform."""
    ratio = np.exp(rng.uniform(np.log(flattest), np.log(slimmest)))
    diameter, height = (size, size * ratio) if ratio < 1 else (size / ratio, size)
    return max(diameter, THINNEST) / 2, max(height, THINNEST) / 2


def _edge_radius(rng: np.random.Generator, thinnest: float) -> float:
    """Of an edge's rounding: 5 to 35 % of the thinnest extent, 0.5 to 10 mm."""
    return float(np.clip(rng.uniform(0.05, 0.35) * thinnest, 0.5, 10))


def _rounded_box(rng: np.random.Generator, half: tuple[float, float, float]) -> Shape:
    return RoundedBox(half, _edge_radius(rng, 2 * min(half)))


def _extruded(rng: np.random.Generator, outline: np.ndarray, height: float) -> Shape:
    """A prism over a centred outline; half of them have rounded edges."""
    if rng.random() < 0.5:
        return Extrusion(outline, height / 2)
    extent = outline.max(axis=0)
    radius = min(rng.uniform(0.05, 0.2) * min(height, *extent), 6.0)
    # shrunk so that the rounding brings it back to the same bounding box
    return Extrusion(outline * ((extent - radius) / extent), height / 2 - radius, radius)


def _revolved(profile: np.ndarray, size: float) -> Shape:
    """A profile of any scale, scaled so that its longest extent is `size`."""
    longest = max(2 * profile[:, 0].max(), np.ptp(profile[:, 1]))
    return Revolution.of(profile * (size / longest))


def _cup(bottom: float, top: float, height: float, wall: float) -> np.ndarray:
    """Profile of a cup with a conical wall: outer radii at the bottom and the top, mm."""
    outer = np.array([(bottom, 0), (top, height)])
    inner = np.array([(bottom - wall, wall), (top - wall, height)])
    return _hollow(outer, inner, wall, foot=0.8 * wall)


def _hollow(outer: np.ndarray, inner: np.ndarray, wall: float, foot: float = 0.0) -> np.ndarray:
    """Profile of a vessel from its outer and inner outline, both going up; the rim is rounded."""
    path = np.concatenate([[(0, 0)], outer, inner[::-1], [(0, inner[0, 1])]])
    radii = np.zeros(len(path))
    radii[1], radii[-2] = foot, 1.5 * foot
    radii[[len(outer), len(outer) + 1]] = 0.45 * wall
    return plane.rounded(path, radii)


def _fitted(build: Callable[[float], Shape], size: float) -> Shape:
    """What `build` makes of the scale at which the longest extent is `size`, to 1 %."""
    scale = size
    for _ in range(8):
        shape = build(scale)
        longest = 2 * float(shape.half_extents.max())
        if abs(longest / size - 1) < 0.01:
            break
        scale *= size / longest
    return shape
