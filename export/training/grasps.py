"""Grasp labels of a settled world: for every surface point the best grasp of a parallel gripper that sits there.

Grasps are found on exact geometry (antipodal pairs, `contacts.py`), kept where the open gripper meets nothing
(`clearance.py`) and handed to the surface points around the place where the gripper sits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as functional
from scipy.spatial import cKDTree

from zerograsp_edge.export.training.clearance import MAX_SPARE_MM, Poses, Surroundings
from zerograsp_edge.export.training.contacts import (
    SIDE_CLEARANCE_MM,
    USED_FRICTION,
    PadContact,
    antipodal_pairs,
    friction_quality,
    pad_contact,
)
from zerograsp_edge.export.training.distance_field import DistanceField
from zerograsp_edge.export.training.sample import (
    APPROACH,
    CLOSING,
    DEPTH,
    GRASP_CHANNELS,
    GRASPNESS,
    QUALITY,
    WIDTH,
)
from zerograsp_edge.runtime.simulation.gripper import MAX_DEPTH_MM, MAX_OPENING_MM
from zerograsp_edge.runtime.simulation.world import World

_SEEDS, _PAIRS, _TURNS = 900, 900, 10
# How far the finger tips reach beyond the contacts and the room this must leave, best first.
_TIPS_BEYOND_MM = ((12.0, 4.0), (6.0, 4.0), (6.0, 0.0), (2.5, 0.0))
_LEAST_BEYOND_MM = 1.0
_OFF_CENTRE_MM = 3.0  # between the origin and the middle of the contacts, along the closing direction
_NEAR_MM = 5.0  # a surface point takes over the grasps that sit so near
_CHOICES = 16  # of the nearest ones
_ANCHORS = 5000  # surface points that choose; the others follow the nearest of them
_GRAVITY = 9.81
_GRIP_FORCE_N = 25.0
# The closing direction's sign is free; labels choose the half space of this, so that neighbours agree.
_CLOSING_HALF_SPACE = torch.tensor([0.64, 0.59, 0.49])


@dataclass(frozen=True, eq=False)
class Candidates:
    """Grasps of one object, found and judged, in its frame.

    Attributes:
        poses: origin on the surface.
        normals: (n, 3) of the surface at the origin.
        quality: (n,) friction quality 0..1.
        graspness: (n,) 0..1, what the grasp is expected to be worth.
        upper, lower: (n,) y of the contacts in the grasp's frame, mm.
    """

    poses: Poses
    normals: torch.Tensor
    quality: torch.Tensor
    graspness: torch.Tensor
    upper: torch.Tensor
    lower: torch.Tensor


def label_world(
    world: World, surfaces: Sequence[tuple[np.ndarray, np.ndarray]], rng: np.random.Generator
) -> list[np.ndarray]:
    """Grasp labels for every surface point of every object.

    Args:
        world: settled; poses in mm.
        surfaces: per object (n, 3) points in mm and (n, 3) outward unit normals, in the object's frame.
        rng: draws the surface points and approach directions that are tried.

    Returns:
        Per object (n, 10) float32 in the object's frame, as `sample.ObjectSurface.grasps`.

    Raises:
        ValueError: surfaces and objects do not correspond.
    """
    if len(surfaces) != len(world.objects):
        raise ValueError(f"expected one surface per object ({len(world.objects)}), got {len(surfaces)}")
    fields = [DistanceField.of(item.shape) for item in world.objects]
    with torch.no_grad():
        return [
            _label_object(world, fields, index, points, normals, rng)
            for index, (points, normals) in enumerate(surfaces)
        ]


def _label_object(
    world: World,
    fields: list[DistanceField],
    index: int,
    points: np.ndarray,
    normals: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    if points.shape != normals.shape or points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"expected points and normals (n, 3), got {points.shape} and {normals.shape}")
    labels = np.zeros((len(points), GRASP_CHANNELS), np.float32)
    surroundings = Surroundings.of(world, fields, index)
    item = world.objects[index]
    weight = item.density * fields[index].volume * 1e-9 * _GRAVITY
    up = torch.tensor(item.pose[2, :3], dtype=torch.float32)
    where, outward = torch.from_numpy(points.astype(np.float32)), torch.from_numpy(normals.astype(np.float32))
    candidates = find_grasps(surroundings, where, outward, weight, up, rng)
    if len(candidates.poses):
        anchors = torch.from_numpy(rng.permutation(len(points))[:_ANCHORS])
        chosen = _choose(candidates, where[anchors], outward[anchors])
        poses, _, fits = _move(candidates, chosen, where[anchors], outward[anchors])
        usable = fits & (chosen >= 0)
        usable[usable.clone()] = surroundings.free(poses[usable])
        chosen[~usable] = -1
        # Between the anchors, a millimetre or two away, the same grasp is moved; the clearance is made for that.
        _, nearest = cKDTree(points[anchors.numpy()]).query(points)
        chosen = chosen[torch.from_numpy(nearest)]
        poses, worth, fits = _move(candidates, chosen, where, outward)
        rows = (fits & (chosen >= 0)).nonzero()[:, 0]
        poses = poses[rows]
        labels[rows, GRASPNESS] = worth[rows]
        labels[rows, QUALITY] = candidates.quality[chosen[rows]]
        labels[rows, CLOSING] = poses.closing
        labels[rows, APPROACH] = -poses.approach
        labels[rows, DEPTH] = poses.depth / MAX_DEPTH_MM
        labels[rows, WIDTH] = poses.width / MAX_OPENING_MM
    return labels


def find_grasps(
    surroundings: Surroundings,
    points: torch.Tensor,
    normals: torch.Tensor,
    weight: float,
    up: torch.Tensor,
    rng: np.random.Generator,
) -> Candidates:
    """Grasps of one object that are free of collision and hold by friction.

    Args:
        points, normals: (n, 3) its surface.
        weight: of the object, N.
        up: (3,) against gravity, in the object's frame.
    """
    field = surroundings.own
    seeds = torch.from_numpy(rng.permutation(len(points))[:_SEEDS])
    pairs = antipodal_pairs(field, points[seeds], normals[seeds], rng)
    chosen = torch.from_numpy(rng.permutation(len(pairs.first))[:_PAIRS])
    middle = ((pairs.first + pairs.second) / 2)[chosen].repeat_interleave(_TURNS, 0)
    span = (pairs.second - pairs.first).norm(dim=1)[chosen].repeat_interleave(_TURNS)
    closing = pairs.closing[chosen].repeat_interleave(_TURNS, 0)
    approach = _directions_around(pairs.closing[chosen], rng)
    origin, outward, approach = _arrive(field, middle, approach, closing)
    ahead = ((middle - origin) * approach).sum(dim=1)
    arrived = torch.isfinite(origin).all(dim=1) & (ahead > -14) & (ahead < MAX_DEPTH_MM - 2)
    origin, outward, approach, closing, span, ahead = (
        v[arrived] for v in (origin, outward, approach, closing, span, ahead)
    )
    width = (span + 2 * SIDE_CLEARANCE_MM).clamp_max(MAX_OPENING_MM)
    poses = Poses(origin, approach, closing, (ahead + _LEAST_BEYOND_MM).clamp(0, MAX_DEPTH_MM), width)
    # What does not fit with the shortest fingers does not fit with longer ones.
    fits = surroundings.free(poses)
    poses, outward, ahead = poses[fits], outward[fits], ahead[fits]
    depth = poses.depth.clone()
    waiting = torch.arange(len(poses))
    for beyond, spare in _TIPS_BEYOND_MM:
        longer = replace(poses[waiting], depth=(ahead[waiting] + beyond).clamp(0, MAX_DEPTH_MM))
        fits = surroundings.free(longer, spare)
        depth[waiting[fits]] = longer.depth[fits]
        waiting = waiting[~fits]
    poses = replace(poses, depth=depth)
    contact = pad_contact(field, poses)
    poses, usable = _open_around(poses, contact)
    poses, outward, contact = poses[usable], outward[usable], contact[usable]
    quality = friction_quality(contact.friction)
    graspness = quality * _steadiness(field, poses, contact, weight, up) * _room(surroundings, poses)
    good = contact.friction <= USED_FRICTION
    return Candidates(
        poses[good], outward[good], quality[good], graspness[good], contact.upper[good], contact.lower[good]
    )


def _directions_around(closing: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """(n * _TURNS, 3) unit approaches perpendicular to (n, 3) closing directions, from a random turn on."""
    axis = functional.one_hot(closing.abs().argmin(dim=1), 3).float()
    first = functional.normalize(torch.linalg.cross(closing, axis), dim=1)
    second = torch.linalg.cross(closing, first)
    start = torch.from_numpy(rng.uniform(0, 2 * np.pi, (len(closing), 1)).astype(np.float32))
    angle = start + torch.arange(_TURNS) * (2 * np.pi / _TURNS)
    return (angle.cos()[..., None] * first[:, None] + angle.sin()[..., None] * second[:, None]).reshape(-1, 3)


def _arrive(
    field: DistanceField, middle: torch.Tensor, approach: torch.Tensor, closing: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the gripper's middle line meets the solid first: origin, normal there, approach; NaN where it does not.

    An approach less than 30 degrees off the surface's normal is turned about the closing axis to face the surface:
    labels then follow the surface instead of the directions drawn.
    """
    origin = _first_met(field, middle, approach)
    normal = field.normals(torch.nan_to_num(origin))
    facing = -normal
    facing = functional.normalize(facing - (facing * closing).sum(1, keepdim=True) * closing, dim=1)
    turned = torch.isfinite(origin[:, 0]) & ((facing * approach).sum(1) > np.cos(np.radians(30)))
    approach = torch.where(turned[:, None], facing, approach)
    again = _first_met(field, middle[turned], approach[turned])
    origin[turned] = again
    normal[turned] = field.normals(torch.nan_to_num(again))
    return origin, normal, approach


def _first_met(field: DistanceField, middle: torch.Tensor, approach: torch.Tensor) -> torch.Tensor:
    back = float((field.upper - field.lower).norm())
    start = middle - back * approach
    way = field.trace(start, approach, back + MAX_DEPTH_MM)
    return torch.where(torch.isfinite(way)[:, None], start + way[:, None] * approach, torch.nan)


def _open_around(poses: Poses, contact: PadContact) -> tuple[Poses, torch.Tensor]:
    """Poses opened to clear what the pads will touch, and which of them are usable."""
    width = _opening(contact.upper, contact.lower)
    span = contact.upper - contact.lower
    usable = (
        contact.touched
        & (((contact.upper + contact.lower) / 2).abs() <= _OFF_CENTRE_MM)
        & (span >= 1)
        & (width <= MAX_OPENING_MM)
    )
    return Poses(poses.origin, poses.approach, poses.closing, poses.depth, width), usable


def _room(surroundings: Surroundings, poses: Poses) -> torch.Tensor:
    """(n,) 0.6..1: less where an error of some millimetres runs the gripper into something."""
    wider = [surroundings.free(poses, spare).float() for spare in (MAX_SPARE_MM / 2, MAX_SPARE_MM)]
    return 0.6 + 0.2 * (wider[0] + wider[1])


def _opening(upper: torch.Tensor, lower: torch.Tensor) -> torch.Tensor:
    """Width that leaves SIDE_CLEARANCE_MM on the tighter side, mm."""
    return 2 * torch.maximum(upper, -lower) + 2 * SIDE_CLEARANCE_MM


def _steadiness(
    field: DistanceField, poses: Poses, contact: PadContact, weight: float, up: torch.Tensor
) -> torch.Tensor:
    """(n,) 0..1: how well the contacts resist what friction at a point does not: tilting out of the pads.

    A broad contact resists the torque of gravity about the middle of the contacts, a narrow one does not; a contact at
    the very edge of the pads slips off with the smallest error of the pose.
    """
    middle = torch.stack([contact.x, (contact.upper + contact.lower) / 2, contact.z], dim=1)
    holds = poses.place(middle[:, None])[:, 0]
    lever = field.centre_of_mass - holds
    lever = lever - (lever * up).sum(1, keepdim=True) * up
    torque = weight * lever.norm(dim=1)  # N mm
    resists = _GRIP_FORCE_N * (4 + contact.reach_x + contact.reach_z)
    balance = 1 / (1 + (torque / resists) ** 2)
    area = contact.share / (contact.share + 0.05)
    inside = ((poses.depth - contact.x) / 4).clamp(0.25, 1) * ((12 - contact.z.abs()) / 4).clamp(0.25, 1)
    return balance * area * inside


def _choose(candidates: Candidates, points: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """(n,) index of the best candidate that sits near each of (n, 3) points and can be moved there, -1 without one."""
    tree = cKDTree(candidates.poses.origin.numpy())
    count = min(_CHOICES, len(candidates.poses))
    distance, found = tree.query(points.numpy(), k=[*range(1, count + 1)], distance_upper_bound=_NEAR_MM)
    near = torch.from_numpy(np.where(np.isfinite(distance), found, -1))
    rows, _ = (near >= 0).nonzero(as_tuple=True)
    poses, worth, fits = _move(candidates, near[near >= 0], points[rows], normals[rows])
    # An approach that faces the surface is worth more: labels of neighbouring points then agree.
    facing = 0.75 + 0.25 * (-(poses.approach * normals[rows]).sum(dim=1)).clamp(0, 1)
    preference = torch.full(near.shape, -1.0)
    preference[near >= 0] = torch.where(fits, worth * facing, -1.0)
    best = preference.argmax(dim=1)
    chosen = near[torch.arange(len(near)), best]
    return torch.where(preference[torch.arange(len(near)), best] >= 0, chosen, -1)


def _move(
    candidates: Candidates, chosen: torch.Tensor, points: torch.Tensor, normals: torch.Tensor
) -> tuple[Poses, torch.Tensor, torch.Tensor]:
    """The chosen candidates moved to (n, 3) points: poses, worth there, and whether the grasp is still one.

    The finger tips stay at their height; the opening grows by what the point lies off the middle. Rows where `chosen`
    is -1 are meaningless.
    """
    poses = candidates.poses
    offset = points - poses.origin[chosen]
    approach, closing = poses.approach[chosen], poses.closing[chosen]
    sign = torch.where((closing @ _CLOSING_HALF_SPACE) < 0, -1.0, 1.0)
    aside = (offset * closing).sum(dim=1)
    upper, lower = candidates.upper[chosen] - aside, candidates.lower[chosen] - aside
    depth = poses.depth[chosen] - (offset * approach).sum(dim=1)
    width = _opening(upper, lower)
    fits = (
        ((normals * candidates.normals[chosen]).sum(dim=1) > 0.6)
        & (((upper + lower) / 2).abs() <= _OFF_CENTRE_MM)
        & (depth >= 0)
        & (depth <= MAX_DEPTH_MM)
        & (width <= MAX_OPENING_MM)
    )
    worth = candidates.graspness[chosen] * (1 - 0.2 * (offset.norm(dim=1) / _NEAR_MM).square().clamp_max(4))
    return Poses(points, approach, closing * sign[:, None], depth, width), worth, fits
