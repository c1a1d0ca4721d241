"""Training scenes on disk: worlds, surfaces, grasp labels and views, made by several processes."""

from __future__ import annotations

import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from zerograsp_edge.export.training.sample import GRASP_CHANNELS, ObjectSurface, SceneSample
from zerograsp_edge.export.training.scenes import label_generator, make_views
from zerograsp_edge.runtime.errors import MissingExtra
from zerograsp_edge.runtime.simulation.render import RenderError
from zerograsp_edge.runtime.simulation.scenes import (
    MOST_ATTEMPTS,
    SceneError,
    SceneKind,
    Split,
    attempt_world,
)

logger = logging.getLogger(__name__)

SURFACE_SPACING_MM = 1.2
# Each process works alone on one core: libraries must not start threads of their own.
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
# A crash of a process ends its pool; as many pools are started anew.
_MOST_POOLS = 5


@dataclass
class Generation:
    """What a run of `generate` did.

    Attributes:
        made, skipped: scenes written, and found on disk.
        retried: attempts with a first or later sub-seed that failed, over all scenes.
        failed: seeds of which no attempt gave a scene, with the last reason.
        seconds: wall time.
    """

    made: int = 0
    skipped: int = 0
    retried: int = 0
    failed: dict[int, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        rate = self.made / self.seconds if self.seconds else 0.0
        return (
            f"{self.made} scenes in {self.seconds:.0f} s ({rate:.2f} a second), {self.skipped} were there, "
            f"{self.retried} attempts retried, {len(self.failed)} seeds given up"
        )


def scene_path(folder: str | Path, split: Split, seed: int) -> Path:
    """Where the scene of a seed is stored."""
    return Path(folder) / f"{split}-{seed:06d}.npz"


def generate_scene(
    seed: int, split: Split, views: int, scene_kind: SceneKind | None = None, labels: bool = True
) -> SceneSample:
    """One scene: a world, its surfaces, grasp labels, noisy views. The same arguments give the same scene.

    Args:
        labels: False leaves the grasps zero, which takes half the time: training and tests of shapes need none.

    Raises:
        SceneError: no sub-seed gives a scene.
    """
    return _generate_counted(seed, split, views, scene_kind, labels)[0]


def generate(
    folder: str | Path,
    split: Split,
    seeds: Iterable[int],
    views: int,
    processes: int,
    *,
    labels: bool = True,
    progress: Callable[[Generation], object] = lambda _: None,
) -> Generation:
    """Write the scenes of seeds to a folder, one file each; those that are there are kept as they are.

    A scene that fails is tried again with other sub-seeds, a process that crashes is replaced; neither ends the run.

    Args:
        labels: with grasp labels, see `generate_scene`.
        progress: called after every scene.

    Raises:
        MissingExtra, RenderError: this machine cannot make scenes at all.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    begin, result = time.monotonic(), Generation()
    pending = []
    for seed in seeds:
        if scene_path(folder, split, seed).exists():
            result.skipped += 1
        else:
            pending.append(seed)
    pools = 0
    with _single_threaded():
        while pending and pools < _MOST_POOLS:
            pools += 1
            finished = set()
            try:
                for seed, retried, reason in _run(folder, split, pending, views, processes, labels):
                    finished.add(seed)
                    result.retried += retried
                    if reason is None:
                        result.made += 1
                    else:
                        result.failed[seed] = reason
                        logger.warning("%s seed %d given up: %s", split, seed, reason)
                    result.seconds = time.monotonic() - begin
                    progress(result)
            except BrokenProcessPool as error:
                logger.warning("a process making scenes crashed (%s); starting new ones", error)
            pending = [seed for seed in pending if seed not in finished]
    for seed in pending:
        result.failed[seed] = f"processes crashed {_MOST_POOLS} times"
    result.seconds = time.monotonic() - begin
    return result


def _run(
    folder: Path, split: Split, seeds: list[int], views: int, processes: int, labels: bool
) -> Iterator[tuple[int, int, str | None]]:
    """(seed, failed attempts, reason when given up) as scenes are done; at most a few are queued at once."""
    context = multiprocessing.get_context("spawn")  # an OpenGL context does not survive a fork
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        waiting = iter(seeds)
        running: set[Future[tuple[int, int, str | None]]] = set()
        while True:
            for seed in waiting:
                running.add(pool.submit(_write_scene, folder, split, seed, views, labels))
                if len(running) >= 2 * processes:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _write_scene(
    folder: Path, split: Split, seed: int, views: int, labels: bool
) -> tuple[int, int, str | None]:
    import cv2

    cv2.setNumThreads(1)
    try:
        scene, retried = _generate_counted(seed, split, views, None, labels)
    except SceneError as error:
        return seed, MOST_ATTEMPTS, str(error)
    scene.save(scene_path(folder, split, seed))
    return seed, retried, None


def _generate_counted(
    seed: int, split: Split, views: int, scene_kind: SceneKind | None, labels: bool
) -> tuple[SceneSample, int]:
    """The scene and the number of attempts before it that failed."""
    reason = ""
    for attempt in range(MOST_ATTEMPTS):
        try:
            return _attempt_scene(seed, split, views, scene_kind, attempt, labels), attempt
        except (MissingExtra, RenderError):
            raise
        except (
            Exception
        ) as error:  # physics, geometry and labels of one world must not end a run of thousands
            reason = f"{type(error).__name__}: {error}"
            logger.info("%s seed %d, attempt %d: %s", split, seed, attempt, reason, exc_info=True)
    raise SceneError(
        f"no scene from {split} seed {seed} in {MOST_ATTEMPTS} attempts (the last: {reason}); leave this seed out"
    )


def _attempt_scene(
    seed: int, split: Split, views: int, scene_kind: SceneKind | None, attempt: int, labels: bool
) -> SceneSample:
    from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples

    world = attempt_world(seed, split, scene_kind, attempt)
    pictures = make_views(world, seed, views, split, attempt)
    rng = label_generator(seed, split, attempt)
    surfaces = [surface_samples(item.shape, SURFACE_SPACING_MM, rng) for item in world.objects]
    if labels:
        from zerograsp_edge.export.training.grasps import label_world

        grasps = label_world(world, surfaces, rng)
    else:
        grasps = [np.zeros((len(points), GRASP_CHANNELS), np.float32) for points, _ in surfaces]
    objects = tuple(
        ObjectSurface(
            item.object_id,
            item.family,
            item.pose,
            np.asarray(points, np.float32),
            np.asarray(normals, np.float32),
            np.asarray(columns, np.float32),
        )
        for item, (points, normals), columns in zip(world.objects, surfaces, grasps, strict=True)
    )
    return SceneSample(seed, world.support_kind, objects, tuple(pictures))


@contextmanager
def _single_threaded() -> Iterator[None]:
    """Variables that processes started within inherit."""
    before = {name: os.environ.get(name) for name in _ONE_THREAD}
    os.environ.update(dict.fromkeys(_ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
