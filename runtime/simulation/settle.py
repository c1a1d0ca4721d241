"""Objects dropped on a support and simulated until they lie still."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.simulation.physics import (
    MM,
    body_name,
    load_mujoco,
    object_poses,
    quaternion,
    world_spec,
)
from zerograsp_edge.runtime.simulation.solids import solid_of
from zerograsp_edge.runtime.simulation.supports import inner_half, make_support
from zerograsp_edge.runtime.simulation.world import SupportBox, World, WorldObject

if TYPE_CHECKING:
    import mujoco

# Where objects may end: within the network's cube of 640 mm about the optical axis, whatever the camera's aim.
REACH_MM, TOP_MM = 240.0, 300.0
MOST_PENETRATION_MM = 2.0
_TIMESTEP_S = 0.003
_LONGEST_S = 4.0
_REST_SPEED, _REST_TURN = 4e-3, 0.08  # m/s, rad/s
# Still means: without velocities and damping, nothing moves by more than this in half a second.
_PROOF_S, _PROOF_MM = 0.5, 0.5
_RISE_MM = 6.0
_DROP_TRIES = 6
_ROUNDS = 4


class SettleError(ZeroGraspError, RuntimeError):
    """No object came to rest on the support."""


def settle(
    rng: np.random.Generator,
    support_kind: str,
    objects: Sequence[WorldObject],
    *,
    spread: float,
    seed: int = 0,
) -> World:
    """A world in which the objects lie still where they fell.

    Each object is put, in a random orientation (half of them in one in which the shape can rest), as low as it
    goes without touching those before it, and then all are let go together. Objects that fall off, end outside
    REACH_MM or above TOP_MM, do not come to rest, or stick in another one by more than MOST_PENETRATION_MM are
    taken out, and the others settle again.

    Args:
        support_kind: one of SUPPORT_KINDS; the support is drawn too.
        objects: their poses are ignored.
        spread: mm; objects are dropped within this distance of the origin in x and y.
        seed: noted in the world.

    Returns:
        The world; the ids of its objects are 1 .. n again, in the order given.

    Raises:
        SettleError: no object is left.
    """
    if not objects:
        raise ValueError("settle needs at least one object")
    support = make_support(support_kind, rng)
    parked = [
        replace(item, object_id=i + 1, pose=_pose(np.eye(3), np.array([2e3 * (i + 1), 0, 1e4])))
        for i, item in enumerate(objects)
    ]
    world = World(support_kind, support, tuple(parked), seed)
    model = world_spec(world, timestep=_TIMESTEP_S).compile()
    data = load_mujoco().MjData(model)
    reach = np.minimum(inner_half(support_kind, support), spread)
    world = _posed(world, [_drop(rng, model, data, item, support[0], reach) for item in world.objects])
    for _ in range(_ROUNDS):
        world, faults = _simulate(world)
        faults = faults or _misplaced(world) or _stuck(world)
        if not faults:
            renumbered = tuple(replace(item, object_id=i + 1) for i, item in enumerate(world.objects))
            return replace(world, objects=renumbered)
        kept = tuple(item for item in world.objects if item.object_id not in faults)
        if not kept:
            break
        world = replace(world, objects=kept)
    raise SettleError(
        f"no rest within {_ROUNDS} rounds of {_LONGEST_S} s for {len(objects)} objects on a {support_kind} "
        f"(seed {seed}); draw other objects"
    )


def surface_points(item: WorldObject, count: int, seed: int = 0) -> np.ndarray:
    """(count, 3) points spread at random over an object's mesh, world frame, mm."""
    import trimesh

    points, _ = trimesh.sample.sample_surface(solid_of(item.shape).mesh, count, seed=seed)
    return np.asarray(points) @ item.pose[:3, :3].T + item.pose[:3, 3]


def penetration(world: World, samples: int = 1500) -> np.ndarray:
    """(objects, objects + 1) how deep points of each row's object lie in the column's, mm; last column: support.

    0 where they do not touch.
    """
    bodies = world.objects
    depth = np.zeros((len(bodies), len(bodies) + 1))
    centres = np.array([item.pose[:3, 3] for item in bodies])
    radii = np.array([item.shape.bounding_radius for item in bodies])
    for i, item in enumerate(bodies):
        points = surface_points(item, samples)
        depth[i, -1] = max(0.0, -world.support_distance(points).min())
        for j, other in enumerate(bodies):
            near = np.linalg.norm(points - centres[j], axis=1) < radii[j]
            if i != j and near.any():
                depth[i, j] = max(0.0, -other.distance(points[near]).min())
    return depth


def _drop(
    rng: np.random.Generator,
    model: mujoco.MjModel,
    data: mujoco.MjData,
    item: WorldObject,
    floor: SupportBox,
    reach: np.ndarray,
) -> np.ndarray:
    """A free pose for an object, the lowest of some random ones; `data` then holds it there."""
    start = model.joint(body_name(item.object_id)).qposadr[0]
    best: np.ndarray | None = None
    for _ in range(_DROP_TRIES):
        rotation = _orientation(rng, item)
        half = np.abs(rotation) @ item.shape.half_extents
        room = np.maximum(reach - half[:2] * 0.8, 5)
        x, y = rng.uniform(-room, room)
        position = floor.rotation @ np.array([x, y, half[2] + 1])
        if best is not None and position[2] >= best[2, 3]:
            continue
        while _touches(model, data, start, rotation, position):
            position[2] += _RISE_MM
        if best is None or position[2] < best[2, 3]:
            best = _pose(rotation, position)
    assert best is not None
    _touches(model, data, start, best[:3, :3], best[:3, 3])
    return best


def _touches(
    model: mujoco.MjModel, data: mujoco.MjData, start: int, rotation: np.ndarray, position: np.ndarray
) -> bool:
    """Whether anything touches when the free joint at `start` of qpos is put there; the rest does not touch."""
    mujoco = load_mujoco()
    data.qpos[start : start + 3] = position * MM
    data.qpos[start + 3 : start + 7] = quaternion(rotation)
    mujoco.mj_fwdPosition(model, data)
    return data.ncon > 0


def _orientation(rng: np.random.Generator, item: WorldObject) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    if rng.uniform() < 0.5:
        return Rotation.random(random_state=rng).as_matrix()
    rests = item.shape.rests()
    turn = Rotation.from_euler("z", rng.uniform(0, 2 * np.pi)).as_matrix()
    return turn @ rests[int(rng.integers(len(rests)))]


def _simulate(world: World) -> tuple[World, set[int]]:
    """The world after its objects came to rest, and the ids of those that did not."""
    mujoco = load_mujoco()
    model = world_spec(world, timestep=_TIMESTEP_S).compile()
    data = mujoco.MjData(model)
    _damp(model)
    # Free joints fill qvel in the order of the objects: three linear, three angular each.
    limits = np.array([_REST_SPEED] * 3 + [_REST_TURN] * 3)
    steps = round(0.06 / _TIMESTEP_S)
    quiet = 0
    while data.time < _LONGEST_S and quiet < 3:
        mujoco.mj_step(model, data, steps)
        quiet = quiet + 1 if (np.abs(data.qvel.reshape(-1, 6)) < limits).all() else 0
    before = object_poses(model, data, world)
    model.dof_damping[:] = 0
    data.qvel[:] = 0
    mujoco.mj_step(model, data, round(_PROOF_S / _TIMESTEP_S))
    mujoco.mj_forward(model, data)
    after = object_poses(model, data, world)
    moved = {
        item.object_id
        for item, old, new in zip(world.objects, before, after, strict=True)
        if _displacement(item, old, new) > _PROOF_MM
    }
    return _posed(world, after), moved


def _damp(model: mujoco.MjModel) -> None:
    """Air as thick as honey for turning, so that round things stop rolling; joints of world_spec only."""
    for body in range(1, model.nbody):
        start = model.body_dofadr[body]
        model.dof_damping[start : start + 3] = 0.3 * model.body_mass[body]
        model.dof_damping[start + 3 : start + 6] = 8 * model.body_inertia[body].max()


def _displacement(item: WorldObject, old: np.ndarray, new: np.ndarray) -> float:
    """Most that a point of the object's bounding box moved, mm."""
    corners = np.stack(np.meshgrid(*[(-1, 1)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    corners = corners * item.shape.half_extents
    change = corners @ (new[:3, :3] - old[:3, :3]).T + new[:3, 3] - old[:3, 3]
    return float(np.linalg.norm(change, axis=1).max())


def _misplaced(world: World) -> set[int]:
    found = set()
    for item in world.objects:
        points = surface_points(item, 300)
        outside = (
            np.abs(points[:, :2]).max() > REACH_MM or points[:, 2].max() > TOP_MM or points[:, 2].min() < -5
        )
        if outside:
            found.add(item.object_id)
    return found


def _stuck(world: World) -> set[int]:
    """The object that sticks deepest in another one or in the support, alone: without it the rest may be fine."""
    depth = penetration(world)
    row, column = np.unravel_index(np.argmax(depth), depth.shape)
    if depth[row, column] <= MOST_PENETRATION_MM:
        return set()
    return {world.objects[int(row)].object_id}


def _posed(world: World, poses: Sequence[np.ndarray] | np.ndarray) -> World:
    items = tuple(replace(item, pose=pose) for item, pose in zip(world.objects, poses, strict=True))
    return replace(world, objects=items)


def _pose(rotation: np.ndarray, position: np.ndarray) -> np.ndarray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, position
    return pose
