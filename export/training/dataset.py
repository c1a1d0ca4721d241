"""A folder of scenes as an endless stream of batches, prepared by a thread while the network trains.

The order is a function of the seed and of the files: at the start of every epoch the folder is listed again,
so scenes that a generator adds meanwhile are seen from the next epoch on. A `Cursor` says where the stream
stands; a stream opened with the cursor of a batch continues with the batches that would have followed, bit by
bit.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ocnn.octree import Octree
from torch import Tensor

from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.preprocess import FrameInputs, prepare_frame
from zerograsp_edge.runtime.errors import ZeroGraspError

from .augment import Augmentation, Augmented, augment, dihedral, without_objects
from .sample import GRASPNESS, SceneSample, View
from .targets import ObjectTarget, TargetError, frame_targets, target_octree

log = logging.getLogger(__name__)


class DatasetError(ZeroGraspError, ValueError):
    """A folder that has no usable scene."""


@dataclass(frozen=True)
class BatchLimits:
    """How much goes into one batch."""

    max_nodes: int = 400_000
    """Nodes of the finest depth of all target octrees: they decide about memory."""
    max_frames: int = 4
    """Views per batch."""


@dataclass(frozen=True)
class Cursor:
    """Where a stream stands: the epoch's files in their order before shuffling, and the next one to be read."""

    epoch: int = 0
    index: int = 0
    names: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "index": self.index, "names": list(self.names)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Cursor:
        return cls(int(values["epoch"]), int(values["index"]), tuple(values["names"]))


@dataclass(frozen=True, eq=False)
class TrainingView:
    """One view, ready for the network, with its targets."""

    frame: FrameInputs
    targets: tuple[ObjectTarget, ...]
    labelled: bool
    """Whether the scene has grasp labels: a grasp somewhere on some object."""

    @property
    def nodes(self) -> int:
        return sum(t.nodes for t in self.targets)


@dataclass(frozen=True, eq=False)
class Batch:
    """Views for one training step."""

    frames: tuple[FrameInputs, ...]
    target: Octree
    labelled: Tensor
    """(B,) bool, objects of scenes that have grasp labels."""
    cursor: Cursor
    """Of the stream after this batch."""
    scenes: int
    """Scenes that the current epoch has."""

    @property
    def objects(self) -> int:
        return sum(len(f.points) for f in self.frames)

    @property
    def nodes(self) -> int:
        """Of the target's finest depth."""
        return int(self.target.nnum[self.target.depth])

    @property
    def labelled_rows(self) -> Tensor:
        """(S,) bool: the target's non-empty finest nodes whose object has grasp labels."""
        return self.labelled[self.target.batch_id(self.target.depth, nempty=True)]


def scene_names(folder: Path) -> tuple[str, ...]:
    """The scene files of a folder and those below it, relative to it, sorted."""
    return tuple(sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.npz")))


def prepare_view(
    config: NetworkConfig, scene: SceneSample, view: View, changed: Augmented, without: tuple[int, ...] = ()
) -> TrainingView:
    """A view, possibly augmented, and its targets.

    Objects of the mask without any surface inside the cube are taken out of the mask.

    Args:
        without: objects to take out of the mask beforehand.
    Raises:
        TargetError: the mask does not fit the scene, or has no background.
        NoObjectsError: no object is left.
    """
    mask = without_objects(changed.mask, list(without))
    if mask.min() != 0:
        raise TargetError("the mask has no background pixel (0)", ())
    frame = prepare_frame(config, changed.rgb, changed.depth, mask, changed.intrinsics)
    try:
        targets = frame_targets(config, frame, scene, view, changed.warp)
        return TrainingView(frame, targets, any(o.grasps[:, GRASPNESS].any() for o in scene.objects))
    except TargetError as error:
        known = {o.object_id for o in scene.objects}
        if not set(error.object_ids) <= known:
            raise
        return prepare_view(config, scene, view, changed, (*without, *error.object_ids))


class SceneStream:
    """Batches without end; a thread prepares them ahead.

    Scenes that cannot be used are skipped; `skipped` has them with the reason. An object is left out of a
    view whose targets alone exceed `limits.max_nodes`; `objects_left_out` counts them.

    Args:
        folder: scenes (.npz), searched with its sub-folders.
        seed: of order and augmentation.
        cursor: of the batch after which to continue.
        ahead: batches prepared ahead.
    Raises:
        DatasetError: the folder has no scene, here; no scene can be used, while iterating.
    """

    def __init__(
        self,
        folder: Path,
        config: NetworkConfig,
        seed: int,
        augmentation: Augmentation | None = None,
        limits: BatchLimits | None = None,
        cursor: Cursor | None = None,
        ahead: int = 2,
    ) -> None:
        self.folder, self.config, self.seed = folder, config, seed
        self.augmentation = augmentation or Augmentation()
        self.limits = limits or BatchLimits()
        self.skipped: dict[str, str] = {}
        self.objects_left_out = 0
        self._cursor = cursor or Cursor()
        if not scene_names(folder):
            raise DatasetError(f"{folder}: expected training scenes (.npz), found none; generate some first")
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(maxsize=max(ahead, 1))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._thread is None:
            self._thread = threading.Thread(target=self._produce, name="scene-stream", daemon=True)
            self._thread.start()
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)  # so that every later call fails too
            raise item
        return item

    def close(self) -> None:
        """Stop the thread. Batches already prepared are dropped."""
        self._stop.set()
        if self._thread is not None:
            while self._thread.is_alive():
                try:
                    self._ready.get_nowait()
                except queue.Empty:
                    self._thread.join(0.05)

    def __enter__(self) -> SceneStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _produce(self) -> None:
        try:
            for batch in self._batches():
                self._put(batch)
                if self._stop.is_set():
                    return
        except BaseException as error:  # raised again where the batches are consumed
            self._put(error)

    def _put(self, item: Batch | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def _batches(self) -> Iterator[Batch]:
        views: list[TrainingView] = []
        for view, before in self._views():
            nodes = sum(v.nodes for v in views) + view.nodes
            objects = sum(len(v.targets) for v in views)
            # BatchNorm over objects needs two of them.
            full = nodes > self.limits.max_nodes or len(views) >= self.limits.max_frames
            if views and full and objects >= 2:
                yield self._batch(views, before)
                views = []
            views.append(view)

    def _batch(self, views: list[TrainingView], cursor: Cursor) -> Batch:
        target = target_octree(self.config, [t for v in views for t in v.targets])
        labelled = torch.tensor([v.labelled for v in views for _ in v.targets])
        return Batch(tuple(v.frame for v in views), target, labelled, cursor, len(cursor.names))

    def _views(self) -> Iterator[tuple[TrainingView, Cursor]]:
        """Every usable view, with the cursor that begins with it."""
        cursor = self._cursor
        while True:
            if cursor.index >= len(cursor.names):
                epoch = cursor.epoch + (1 if cursor.names else 0)
                cursor = Cursor(epoch, 0, scene_names(self.folder))
            order = np.random.default_rng((self.seed, cursor.epoch)).permutation(len(cursor.names))
            usable = 0
            for index in range(cursor.index, len(order)):
                before = Cursor(cursor.epoch, index, cursor.names)
                view = self._load(cursor.names[order[index]], (self.seed, cursor.epoch, index))
                if view is not None:
                    usable += 1
                    yield view, before
                if self._stop.is_set():
                    return
            if cursor.index == 0 and usable == 0:
                name, reason = next(iter(self.skipped.items()), ("", "the folder is empty"))
                raise DatasetError(
                    f"{self.folder}: none of {len(cursor.names)} scenes can be used; the first, {name}: {reason}"
                )
            cursor = Cursor(cursor.epoch, len(cursor.names), cursor.names)

    def _load(self, name: str, seed: tuple[int, int, int]) -> TrainingView | None:
        """One random view of a scene; None, with the reason in `skipped`, when there is none."""
        rng = np.random.default_rng(seed)
        try:
            scene = SceneSample.load(self.folder / name)
            view = scene.views[int(rng.integers(len(scene.views)))]
            changed = augment(view, self.augmentation, rng)
            result = prepare_view(self.config, scene, view, changed)
            without: tuple[int, ...] = ()
            while result.nodes > self.limits.max_nodes and len(result.targets) > 1:
                without = (*without, int(rng.choice(result.frame.object_ids)))
                self.objects_left_out += 1
                result = prepare_view(self.config, scene, view, changed, without)
        except (ZeroGraspError, ValueError) as error:
            if name not in self.skipped:
                log.warning("scene %s is skipped: %s", name, error)
            self.skipped[name] = str(error)
            return None
        if result.nodes > self.limits.max_nodes:
            self.skipped[name] = f"one object has {result.nodes} nodes, the limit is {self.limits.max_nodes}"
            log.warning("scene %s is skipped: %s", name, self.skipped[name])
            return None
        return result


def unchanged(view: View) -> Augmented:
    """A view as it is."""
    return dihedral(view, False, False, False)
