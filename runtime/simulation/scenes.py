"""Random worlds and cameras, deterministic by split and seed: for training, tests and simulated robots.

Every random choice comes from a seed sequence that holds the split's number, so no seed of one split can make a
world of another; and the families of `test_unseen` are in no other split.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.simulation.settle import SettleError, settle
from zerograsp_edge.runtime.simulation.shapes.families import HELD_OUT, TRAINED, draw_shape
from zerograsp_edge.runtime.simulation.solids import SolidError
from zerograsp_edge.runtime.simulation.textures import PATTERNS
from zerograsp_edge.runtime.simulation.world import World, WorldObject

logger = logging.getLogger(__name__)

Split = Literal["train", "val", "test_trained", "test_unseen"]
SceneKind = Literal["single", "clutter", "pile", "shelf"]
SPLITS: tuple[str, ...] = get_args(Split)
SCENE_KINDS: tuple[str, ...] = get_args(SceneKind)
_KIND_SHARES = (0.10, 0.35, 0.35, 0.20)
# Fewest and most objects of each kind, before any fall off.
_COUNTS = {"single": (1, 1), "clutter": (2, 8), "pile": (6, 12), "shelf": (1, 8)}
MOST_ATTEMPTS = 12
WIDTH, HEIGHT = 640, 480
_NEAREST_MM, _FARTHEST_MM = 350.0, 1000.0
_LENS_CLEARANCE_MM = 60.0
# Last number of a seed sequence: what the random numbers are for.
WORLD, VIEWS, LABELS, KIND = range(4)


class SceneError(ZeroGraspError, RuntimeError):
    """No scene or no view could be made from a seed."""


def make_world(
    seed: int,
    split: Split,
    scene_kind: SceneKind | None = None,
    *,
    objects: tuple[int, int] | None = None,
    support: str | None = None,
) -> World:
    """A settled world of 1 to 12 objects.

    Args:
        seed: not negative; the same seed and split give the same world.
        split: `test_unseen` has objects of held-out families only, the others of trained families only.
        scene_kind: `single` object, `clutter` on a table, `pile` in a bin, `shelf`; None draws it.
        objects: fewest and most, those that lie still in the end; None: 1 to 12 by kind, before any fall off.
        support: one of `world.SUPPORT_KINDS`; None: what the kind of scene stands on.

    Raises:
        SceneError: after MOST_ATTEMPTS sub-seeds whose objects fell off, or had no solid mesh; has not been seen.
    """
    for attempt in range(MOST_ATTEMPTS):
        try:
            world = attempt_world(seed, split, scene_kind, attempt, objects=objects, support=support)
        except (SettleError, SolidError) as error:
            logger.info("%s seed %d, attempt %d: %s", split, seed, attempt, error)
            continue
        if objects is None or len(world.objects) >= objects[0]:
            return world
        logger.info("%s seed %d, attempt %d: %d objects left", split, seed, attempt, len(world.objects))
    raise SceneError(
        f"no settled world from {split} seed {seed} in {MOST_ATTEMPTS} attempts; leave this seed out"
    )


def attempt_world(
    seed: int,
    split: Split,
    scene_kind: SceneKind | None = None,
    attempt: int = 0,
    *,
    objects: tuple[int, int] | None = None,
    support: str | None = None,
) -> World:
    """The world of one sub-seed, as make_world tries them in turn; some objects may be lost.

    Raises:
        SettleError: all are.
    """
    rng = generator(seed, split, attempt, WORLD)
    kind = scene_kind_of(seed, split) if scene_kind is None else scene_kind
    if kind not in SCENE_KINDS:
        raise ValueError(f"scene_kind must be one of {', '.join(SCENE_KINDS)}, got '{kind}'")
    fewest, most = _COUNTS[kind] if objects is None else objects
    count = int(rng.integers(fewest, most + 1))
    families = tuple(HELD_OUT if split == "test_unseen" else TRAINED)
    items = [_draw_object(rng, families) for _ in range(count)]
    usual = {
        "single": str(rng.choice(["table", "bin", "shelf"], p=[0.7, 0.15, 0.15])),
        "clutter": "table",
        "pile": "bin",
        "shelf": "shelf",
    }[kind]
    # A pile is heaped in the middle; clutter ranges from heaped to loose.
    spread = {"single": 60.0, "pile": rng.uniform(70, 160)}.get(
        kind, rng.uniform(60, 110) + rng.uniform(5, 14) * count
    )
    return settle(rng, usual if support is None else support, items, spread=spread, seed=seed)


def scene_kind_of(seed: int, split: Split) -> str:
    """Which of SCENE_KINDS a seed makes when it is not told."""
    return str(generator(seed, split, 0, KIND).choice(SCENE_KINDS, p=_KIND_SHARES))


def draw_intrinsics(rng: np.random.Generator) -> np.ndarray:
    """(3, 3) float32 like those of RealSense cameras at 640x480: focal length 460 to 640, centre a little off."""
    focal = rng.uniform(460, 640)
    fx, fy = focal * (1 + rng.normal(0, 0.002, 2))
    cx, cy = (WIDTH - 1) / 2 + rng.uniform(-12, 12), (HEIGHT - 1) / 2 + rng.uniform(-10, 10)
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32)


def draw_camera(rng: np.random.Generator, world: World) -> np.ndarray | None:
    """(4, 4) world <- camera, mm; None for a pose inside or too near to the support or an object."""
    centres = np.array([item.pose[:3, 3] for item in world.objects])
    target = centres.mean(axis=0)
    if rng.uniform() < 0.3:
        target = centres[int(rng.integers(len(centres)))]
    target = target + rng.uniform(-40, 40, 3) * [1, 1, 0.5]
    low, high, azimuth = 25.0, 85.0, rng.uniform(-np.pi, np.pi)
    if world.support_kind == "shelf":
        high, azimuth = 50.0, -np.pi / 2 + rng.uniform(-0.9, 0.9)
    elevation = np.radians(rng.uniform(low, high))
    outward = np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    eye = target + rng.uniform(_NEAREST_MM, _FARTHEST_MM) * outward
    clear = min(
        world.support_distance(eye[None])[0], *(item.distance(eye[None])[0] for item in world.objects)
    )
    if clear < _LENS_CLEARANCE_MM:
        return None
    roll = rng.uniform(-np.pi, np.pi) if rng.uniform() < 0.5 else rng.normal(0, 0.15)
    return look_at(eye, target, roll)


def look_at(eye: np.ndarray, target: np.ndarray, roll: float = 0.0) -> np.ndarray:
    """(4, 4) world <- camera (x right, y down, z forward), mm: at `eye`, towards `target`, rolled by radians.

    Not for a camera that looks straight up or down.
    """
    forward = (target - eye) / np.linalg.norm(target - eye)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    c, s = np.cos(roll), np.sin(roll)
    level = np.stack([right, np.cross(forward, right), forward], axis=1)
    pose = np.eye(4)
    pose[:3, :3] = level @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    pose[:3, 3] = eye
    return pose


def expose(rgb: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 through a lens and a sensor: a little blur, gain, colour cast, noise."""
    import cv2

    blurred = cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.45, 1.0)).astype(np.float32)
    gain = rng.uniform(0.8, 1.15) * (1 + rng.uniform(-0.06, 0.06, 3))
    noise = rng.uniform(0.5, 4) * rng.standard_normal(rgb.shape, np.float32)
    return np.clip(np.rint(blurred * gain.astype(np.float32) + noise), 0, 255).astype(np.uint8)


def _draw_object(rng: np.random.Generator, families: Sequence[str]) -> WorldObject:
    """An object with its id and pose still to be set."""
    family = str(families[int(rng.integers(len(families)))])
    value, red, green, blue = rng.uniform(0.05, 1.0), *rng.uniform(0.02, 1.0, 3) ** 1.5
    return WorldObject(
        object_id=0,
        family=family,
        shape=draw_shape(rng, family),
        pose=np.eye(4),
        density=float(rng.uniform(150, 900)),
        friction=float(rng.uniform(0.5, 1.0)),
        colour=(value * red, value * green, value * blue),
        pattern=str(rng.choice(PATTERNS)),
    )


def generator(seed: int, split: Split, attempt: int, purpose: int) -> np.random.Generator:
    """Random numbers of one attempt of a seed, for one purpose: WORLD, VIEWS, LABELS or KIND."""
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got '{split}'")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    return np.random.default_rng(np.random.SeedSequence((SPLITS.index(split), seed, attempt, purpose)))
