"""From a frame with masks to the surfaces of its objects: what every backend does, and how the CPU does it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.kernels.hand import RefinedGrasps
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.errors import LimitError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.decode import decode
from zerograsp_edge.runtime.network import Executor, Network, Scene, Stopwatch, Taps
from zerograsp_edge.runtime.result import ObjectReconstruction, SkippedObject
from zerograsp_edge.runtime.skipping import check_some_kept, outside, sparse

DrawNoise = Callable[[int], np.ndarray | None]
"""(objects, latent) float32 standard normal for a sample of the latent vectors; None: their mean."""


@dataclass(frozen=True)
class Perceived:
    """What became of a frame's objects.

    Attributes:
        objects: reconstructed, with the grasps that the network predicts.
        skipped: those that could not be, by mask value.
        z_min: near side of the octree's cube, mm.
        refined: what refinement found about every grasp, in the objects' order, where the backend has refined them.
    """

    objects: tuple[ObjectReconstruction, ...]
    skipped: tuple[SkippedObject, ...]
    z_min: float
    refined: RefinedGrasps | None = None


class Backend(Protocol):
    """What runs the stages: its name, and the CPU threads of what runs beside it."""

    name: str
    threads: int


class Perception(Protocol):
    """A backend; it serves one frame at a time."""

    @property
    def executor(self) -> Backend: ...

    def describe(self) -> dict[str, str]:
        """What else than this machine's CPU it runs on, by name; for records of measurements."""
        ...

    def run(
        self,
        frame: Frame,
        ids: tuple[int, ...],
        watch: Stopwatch,
        draw_noise: DrawNoise,
        *,
        world_from_camera: np.ndarray | None = None,
        forced_splits: Mapping[int, np.ndarray] | None = None,
        taps: Taps | None = None,
    ) -> Perceived:
        """One frame.

        Args:
            ids: mask values of the frame's objects.
            watch: receives the milliseconds of every part.
            draw_noise: called once, with the number of objects that go on.
            world_from_camera, forced_splits, taps: see `Pipeline.run`.

        Raises:
            FrameError, LimitError, DecodeError: see `Pipeline.__call__`.
        """
        ...


class CpuPerception:
    """Native kernels and an executor of the stages, on buffers that are allocated here."""

    def __init__(self, bundle: Bundle, executor: Executor) -> None:
        self.executor = executor
        self._bundle = bundle
        self._network = Network(bundle, executor)
        self._workspace = kernels.Workspace()
        pixels = bundle.limits.max_height * bundle.limits.max_width
        self._labels, self._valid = np.empty((2, pixels), np.int32)
        self._points = np.empty((pixels, 3), np.float32)

    def describe(self) -> dict[str, str]:
        return {}

    def run(
        self,
        frame: Frame,
        ids: tuple[int, ...],
        watch: Stopwatch,
        draw_noise: DrawNoise,
        *,
        world_from_camera: np.ndarray | None = None,
        forced_splits: Mapping[int, np.ndarray] | None = None,
        taps: Taps | None = None,
    ) -> Perceived:
        limits = self._bundle.limits
        try:
            scene, kept, skipped = self._see(frame, ids, watch)
            noise = draw_noise(len(kept))
            surface = self._network.run(scene, watch, noise=noise, forced_splits=forced_splits, taps=taps)
        except kernels.CapacityError as error:
            limit = self._exceeded(error)
            raise LimitError(
                f"frame '{frame.name}' exceeds the bundle's limit {limit} = {getattr(limits, limit)}: "
                f"{error.limit}: {error.needed} needed, room for {error.capacity}; {larger(limit)}"
            ) from error
        with watch("decode"):
            objects = decode(surface.signal, surface.keys, self._network.cube(scene.z_min), kept)
        return Perceived(objects, tuple(skipped), scene.z_min)

    def _exceeded(self, error: kernels.CapacityError) -> str:
        """The limit of the bundle that a buffer which is too small was sized from."""
        depth, tokens = self._bundle.geometry.min_lod, self._bundle.limits.max_tokens
        exceeded = (error.limit, error.capacity) == (f"nodes at depth {depth}", tokens)
        return "max_tokens" if exceeded else "max_nodes"

    def _see(
        self, frame: Frame, ids: tuple[int, ...], watch: Stopwatch
    ) -> tuple[Scene, list[int], list[SkippedObject]]:
        """The scene of the objects that can be reconstructed, their mask values; others with the reason."""
        g, limits = self._bundle.geometry, self._bundle.limits
        kept, skipped = list(ids), []
        size = frame.height * frame.width
        whole, valid = (b[:size].reshape(frame.height, frame.width) for b in (self._labels, self._valid))

        def scan(labels: np.ndarray) -> kernels.PointSet:
            return kernels.points_from_depth(
                frame.depth, labels, frame.intrinsics, len(kept), g.grid_size, g.min_lod,
                z_margin=g.z_margin, out=self._points, valid_labels=valid,
                workspace=self._workspace, threads=self.executor.threads,
            )  # fmt: skip

        with watch("points"):
            labels = frame.label_image(whole)
            points = scan(labels)
            few = points.valid_counts < limits.min_points
            if few.any():
                # Too few pixels to be an object; they must not decide where the cube begins either.
                for i in np.flatnonzero(few):
                    skipped.append(sparse(kept[i], int(points.valid_counts[i]), limits.min_points))
                kept, labels = _without(few, kept, labels)
                if kept:
                    points = scan(labels)
            beyond = points.counts == 0
            if kept and beyond.any():
                for i in np.flatnonzero(beyond):
                    skipped.append(outside(kept[i], points.z_min, g))
                valid[...] = _without(beyond, kept, valid)[1]
                kept, labels = _without(beyond, kept, labels)
            check_some_kept(kept, skipped, frame.name)
        counts = points.counts[points.counts > 0]
        with watch("adjacency"):
            # Of the whole masks: whether two objects touch does not depend on where the camera measured
            # depth.
            adjacency = kernels.adjacency(
                labels, len(kept), workspace=self._workspace, threads=self.executor.threads
            )
        scene = Scene(
            frame.rgb, frame.depth, frame.intrinsics, valid, adjacency, points.points, counts, points.z_min
        )
        return scene, kept, sorted(skipped, key=lambda s: s.object_id)


def _without(drop: np.ndarray, ids: list[int], labels: np.ndarray) -> tuple[list[int], np.ndarray]:
    """Ids and label image without the objects where `drop` is set; the others move up."""
    kept = [i for i, dropped in zip(ids, drop, strict=True) if not dropped]
    new_index = np.where(drop, -1, np.cumsum(~drop) - 1).astype(np.int32)
    return kept, np.append(new_index, np.int32(-1))[labels]


def larger(limit: str) -> str:
    """What to do about a limit of the bundle that a frame exceeds."""
    return f"export with a larger limit (zerograsp-edge export --{limit.replace('_', '-')}) or give fewer objects"
