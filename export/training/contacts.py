"""Where two fingers can hold a solid: antipodal pairs of surface points, and what flat pads touch at a pose."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
import torch.nn.functional as functional

from zerograsp_edge.export.training.clearance import Poses
from zerograsp_edge.export.training.distance_field import DistanceField
from zerograsp_edge.runtime.simulation.gripper import FINGER_HEIGHT_MM, FINGER_REAR_MM, MAX_OPENING_MM

MIN_FRICTION, MAX_FRICTION = 0.2, 1.2  # range of the friction quality
SIDE_CLEARANCE_MM = (
    6.0  # between an open finger and the solid, as the runtime's refinement keeps: 2.5 to 10 mm
)
MAX_SPAN_MM = MAX_OPENING_MM - 2 * SIDE_CLEARANCE_MM
_PATCH_MM = 0.8  # a pad gives way by this much: everything so close to the foremost point is touched
_PAD_ROWS, _PAD_COLUMNS = 5, 6


@dataclass(frozen=True, eq=False)
class Pairs:
    """Antipodal pairs. Attributes: first, second: (n, 3) mm; closing: (n, 3) unit, from first to second."""

    first: torch.Tensor
    second: torch.Tensor
    closing: torch.Tensor


def antipodal_pairs(
    field: DistanceField, points: torch.Tensor, normals: torch.Tensor, rng: np.random.Generator
) -> Pairs:
    """Pairs of surface points, at most MAX_SPAN_MM apart, whose friction cones contain the line between them.

    From every point rays go into the solid: along the normal, along the bisector of the normals found there, and
    one at random inside the cone. Each may end where it leaves the solid first (the wall of a cup) or last (the cup).

    Args:
        points, normals: (n, 3) on the surface.
    """
    random = torch.from_numpy(rng.normal(size=points.shape).astype(np.float32))
    inward = -normals
    found = [_across(field, points, inward)]
    # Where the straight ray ends on a slope, the line halfway between the two normals needs the least friction.
    leaves = found[0]
    rows, ends = leaves[0], leaves[1]
    bisector = functional.normalize(field.normals(ends) - normals[rows], dim=1)
    found.append(_across(field, points[rows], bisector, rows))
    tilted = functional.normalize(inward + 0.35 * random, dim=1)
    found.append(_across(field, points, tilted))
    rows = torch.cat([f[0] for f in found])
    second = torch.cat([f[1] for f in found])
    first = points[rows]
    closing = functional.normalize(second - first, dim=1)
    friction = torch.maximum(
        friction_needed(closing, -normals[rows]), friction_needed(closing, field.normals(second))
    )
    good = friction <= 0.8 * MAX_FRICTION
    return Pairs(first[good], second[good], closing[good])


def _across(
    field: DistanceField, points: torch.Tensor, directions: torch.Tensor, rows: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of the starting point and opposite surface point, of the first and of the last way out."""
    rows = torch.arange(len(points)) if rows is None else rows
    start = 0.8  # mm below the surface, so that the ray does not leave where it enters
    inner = field.trace(points + start * directions, directions, MAX_SPAN_MM - start, inside=True) + start
    far = points + (MAX_SPAN_MM + 1) * directions
    outer = MAX_SPAN_MM + 1 - field.trace(far, -directions, MAX_SPAN_MM)
    # A far end that lies in the solid meets the surface at once: no way out within the span.
    blocked = field.distance(far) <= 0
    ways = [inner, torch.where(blocked | (outer < inner + 3), torch.inf, outer)]
    keep = [torch.isfinite(way) & (way > 1.0) for way in ways]
    return (
        torch.cat([rows[k] for k in keep]),
        torch.cat([points[k] + way[k, None] * directions[k] for way, k in zip(ways, keep, strict=True)]),
    )


def friction_needed(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(n,) tangent of the angle between (n, 3) unit vectors; inf from 90 degrees on."""
    cosine = (a * b).sum(dim=1)
    sine = (1 - cosine**2).clamp_min(0).sqrt()
    return torch.where(cosine > 1e-3, sine / cosine.clamp_min(1e-3), torch.inf)


def friction_quality(friction: torch.Tensor) -> torch.Tensor:
    """(n,) 1 where 0.2 suffices, falling to 0 just beyond 1.2: the smallest friction that holds the grasp."""
    step = 0.1
    return ((MAX_FRICTION + step - friction) / (MAX_FRICTION + step - MIN_FRICTION)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class PadContact:
    """What the closing pads touch, per pose; NaN-free only where `touched`.

    Attributes:
        touched: (n,) bool: both pads meet the solid.
        upper, lower: (n,) y of its foremost points in the grasp's frame, mm.
        friction: (n,) smallest friction coefficient that holds the grasp.
        share: (n,) part of the pads that touches, the smaller of both, 0..1.
        x, z: (n,) middle of the contacts in the grasp's frame, mm.
        reach_x, reach_z: (n,) half extent of the smaller contact patch, mm.
    """

    touched: torch.Tensor
    upper: torch.Tensor
    lower: torch.Tensor
    friction: torch.Tensor
    share: torch.Tensor
    x: torch.Tensor
    z: torch.Tensor
    reach_x: torch.Tensor
    reach_z: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> PadContact:
        return PadContact(*(getattr(self, column.name)[rows] for column in fields(self)))


def pad_contact(field: DistanceField, poses: Poses) -> PadContact:
    """Rays across the pads, from the widest opening inwards.

    The force of a pad acts through the middle of its patch; the line between both middles must lie in the friction
    cones of the pads (normal: the closing direction) and of the solid there.
    """
    n = len(poses)
    columns = (torch.arange(_PAD_COLUMNS) + 0.5) / _PAD_COLUMNS
    z = torch.linspace(-FINGER_HEIGHT_MM / 2 + 1, FINGER_HEIGHT_MM / 2 - 1, _PAD_ROWS)
    # Contacts far behind the finger tips do not happen: the origin lies on the solid's outside.
    rear = torch.full((n, 1), FINGER_REAR_MM + 2)
    x = rear + (poses.depth[:, None] - 0.5 - rear) * columns
    local = torch.zeros(n, _PAD_COLUMNS, _PAD_ROWS, 3)
    local[..., 0] = x[:, :, None]
    local[..., 2] = z
    local = local.reshape(n, _PAD_COLUMNS * _PAD_ROWS, 3)
    half = MAX_OPENING_MM / 2 + 4
    heights, weights, middles, normals = [], [], [], []
    for side in (1.0, -1.0):
        local[..., 1] = side * half
        origins = poses.place(local).reshape(-1, 3)
        inward = (-side * poses.closing)[:, None].expand(n, local.shape[1], 3).reshape(-1, 3)
        way = field.trace(origins, inward, half + 25).reshape(n, _PAD_COLUMNS * _PAD_ROWS)
        height = half - way  # towards the pad, measured from the middle of the gripper
        top = height.amax(dim=1)
        patch = (height > top[:, None] - _PATCH_MM).float()
        weight = patch / patch.sum(dim=1, keepdim=True).clamp_min(1)
        heights.append(top)
        weights.append(patch)
        middle = torch.stack(
            [(weight * local[..., 0]).sum(1), side * top, (weight * local[..., 2]).sum(1)], dim=1
        )
        middles.append(middle)
        foremost = height.argmax(dim=1)
        contact = local[torch.arange(n), foremost].clone()
        contact[:, 1] = side * top
        touched = torch.isfinite(top)
        contact[~touched] = 0
        normals.append(field.normals(poses.place(contact[:, None])[:, 0]))
    touched = torch.isfinite(heights[0]) & torch.isfinite(heights[1])
    line_local = torch.where(touched[:, None], middles[0] - middles[1], torch.tensor([0.0, 1.0, 0.0]))
    line_local = functional.normalize(line_local, dim=1)
    line = poses.place(line_local[:, None])[:, 0] - poses.origin
    closing = poses.closing
    friction = torch.stack(
        [
            friction_needed(line, closing),
            friction_needed(line, normals[0]),
            friction_needed(-line, normals[1]),
        ]
    ).amax(dim=0)
    extent = [_extent(local, patch) for patch in weights]
    reach = torch.minimum(extent[0], extent[1])
    middle = (middles[0] + middles[1]) / 2
    return PadContact(
        touched,
        heights[0],
        -heights[1],
        torch.where(touched, friction, torch.inf),
        torch.minimum(weights[0].mean(1), weights[1].mean(1)),
        middle[:, 0],
        middle[:, 2],
        reach[:, 0],
        reach[:, 1],
    )


def _extent(local: torch.Tensor, patch: torch.Tensor) -> torch.Tensor:
    """(n, 2) half extent in x and z of the touched points."""
    there = local[..., [0, 2]]
    inside = patch[..., None] > 0
    most = torch.where(inside, there, -torch.inf).amax(1)
    least = torch.where(inside, there, torch.inf).amin(1)
    return (most - least) / 2
