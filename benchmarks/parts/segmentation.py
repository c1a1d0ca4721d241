"""Scenes with exact instance masks, and how well a segmentation agrees with them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zerograsp_edge.export.training.scenes import make_views
from zerograsp_edge.runtime.errors import MissingExtra
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.simulation.render import RenderError, WorldRenderer
from zerograsp_edge.runtime.simulation.scenes import (
    MOST_ATTEMPTS,
    SceneError,
    Split,
    attempt_world,
    scene_kind_of,
)

# As in the reconstruction benchmark: an object that shows less is asked of nobody.
MIN_VISIBLE, MIN_PIXELS = 0.05, 50
# A share of an object, or of a segment, from which it counts as a part of it.
PART = 0.2
_FORMAT = 1


@dataclass(frozen=True, eq=False)
class TruthScene:
    """A noisy picture of a simulated scene with its exact mask.

    Attributes:
        kind: single, clutter, pile or shelf.
        frame: depth with the noise of a stereo camera, no mask.
        truth: (H, W) uint8 exact object ids, 0 is the background.
        asked: ids of the objects that show enough to be asked for.
        camera_pose: (4, 4) world <- camera, mm.
    """

    split: str
    seed: int
    kind: str
    frame: Frame
    truth: np.ndarray
    asked: tuple[int, ...]
    camera_pose: np.ndarray


@dataclass(frozen=True)
class ObjectScore:
    """One object and the segment that overlaps it best.

    Attributes:
        split, kind, seed, object_id: which object.
        iou: intersection over union with that segment, 0..1.
        over: two segments or more hold at least 20 % of it each.
        under: the best segment holds more than half of another object too.
    """

    split: str
    kind: str
    seed: int
    object_id: int
    iou: float
    over: bool
    under: bool


def make_scene(split: Split, seed: int) -> TruthScene:
    """The first picture of the scene that `zerograsp-edge scenes` makes of this seed, with its exact mask.

    Raises:
        SceneError: no sub-seed gives a scene.
    """
    for attempt in range(MOST_ATTEMPTS):
        try:
            world = attempt_world(seed, split, None, attempt)
            view = make_views(world, seed, 1, split, attempt)[0]
            with WorldRenderer(world, np.random.default_rng(0)) as renderer:
                _, truth = renderer.geometry(view.camera_pose, view.intrinsics)
        except (MissingExtra, RenderError):
            raise
        except Exception:  # as where scenes are generated: one world's physics or geometry ends nothing
            continue
        pixels = np.bincount(truth.ravel(), minlength=256)
        asked = tuple(
            item.object_id
            for item, visible in zip(world.objects, view.visible_fraction, strict=True)
            if visible >= MIN_VISIBLE and pixels[item.object_id] >= MIN_PIXELS
        )
        frame = Frame(view.rgb, view.depth, view.intrinsics, name=f"{split}-{seed}")
        return TruthScene(split, seed, scene_kind_of(seed, split), frame, truth, asked, view.camera_pose)
    raise SceneError(f"no scene from {split} seed {seed}")


def load_scenes(
    folder: Path, splits: Sequence[Split], seeds: Sequence[int], jobs: int, done: Callable[[int], object]
) -> list[TruthScene]:
    """The scenes of seeds in each split, from files where they are there, else made and kept. Seeds without a scene are
    left out, and reported by their absence."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(folder / f"{split}-{seed:06d}.npz", split, seed) for split in splits for seed in seeds]
    missing = [job for job in wanted if not job[0].exists()]
    if missing:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context) as pool:
            for count, _ in enumerate(pool.map(_make_file, missing)):
                done(len(wanted) - len(missing) + count + 1)
    return [_read_file(*job) for job in wanted if job[0].stat().st_size]


def score(scene: TruthScene, mask: np.ndarray) -> tuple[list[ObjectScore], int]:
    """Every asked object with its best segment; how many segments are mostly no object."""
    values, segments = np.unique(mask, return_inverse=True)
    segments = segments.reshape(mask.shape)
    count = len(values)
    overlap = np.bincount(
        scene.truth.astype(np.int64).ravel() * count + segments.ravel(), minlength=256 * count
    ).reshape(256, count)
    found = np.flatnonzero(values != 0)
    sizes, areas = overlap.sum(axis=0), overlap.sum(axis=1)
    scores = []
    for i in scene.asked:
        iou = overlap[i, found] / (areas[i] + sizes[found] - overlap[i, found])
        best = int(found[iou.argmax()]) if len(found) else 0
        others = [j for j in scene.asked if j != i]
        scores.append(
            ObjectScore(
                scene.split, scene.kind, scene.seed, i, float(iou.max(initial=0.0)),
                int(np.count_nonzero(overlap[i, found] > PART * areas[i])) >= 2,
                bool(len(found) and overlap[i, best]) and any(overlap[j, best] > 0.5 * areas[j] for j in others),
            )
        )  # fmt: skip
    false = int(np.count_nonzero(overlap[1:, found].max(axis=0) < 0.5 * sizes[found])) if len(found) else 0
    return scores, false


def rows(scores: Sequence[ObjectScore], kinds: Sequence[str]) -> Iterator[tuple[str, list[ObjectScore]]]:
    """The scores by scene kind, of the two tabletop kinds together, and all."""
    for kind in kinds:
        yield kind, [s for s in scores if s.kind == kind]
    yield "tabletop (single, clutter)", [s for s in scores if s.kind in ("single", "clutter")]
    yield "all", list(scores)


def _make_file(job: tuple[Path, Split, int]) -> None:
    path, split, seed = job
    try:
        scene = make_scene(split, seed)
    except SceneError:
        path.touch()
        return
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        np.savez_compressed(
            file, format=_FORMAT, kind=scene.kind, rgb=scene.frame.rgb, depth=scene.frame.depth,
            intrinsics=scene.frame.intrinsics, truth=scene.truth, asked=np.array(scene.asked, np.int32),
            camera_pose=scene.camera_pose,
        )  # fmt: skip
    temporary.replace(path)


def _read_file(path: Path, split: str, seed: int) -> TruthScene:
    with np.load(path) as file:
        if int(file["format"]) != _FORMAT:
            raise ValueError(f"{path} is of another version; delete it, it is made again")
        frame = Frame(file["rgb"], file["depth"], file["intrinsics"], name=f"{split}-{seed}")
        asked = tuple(int(i) for i in file["asked"])
        return TruthScene(split, seed, str(file["kind"]), frame, file["truth"], asked, file["camera_pose"])
