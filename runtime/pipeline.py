"""Frame in, reconstructions and grasps out."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.runtime.bundle import Bundle, BundleError
from zerograsp_edge.runtime.errors import LimitError, NoObjectError
from zerograsp_edge.runtime.frame import Frame, check_object_count
from zerograsp_edge.runtime.grasp.decode import decode
from zerograsp_edge.runtime.grasp.refine import RefineConfig, Refinement, refine_objects, visible_points
from zerograsp_edge.runtime.network import Executor, Network, Scene, Stopwatch, Taps
from zerograsp_edge.runtime.result import Result, SkippedObject
from zerograsp_edge.runtime.segmentation import Segmentation, Segmenter

BACKENDS = ("auto", "onnxruntime")


class Pipeline:
    """Turns frames into reconstructions; all buffers are allocated here, sized from the bundle's limits.

    A pipeline serves one frame at a time; a second thread waits.

    Args:
        bundle: what to run.
        backend: `auto` or `onnxruntime`, or an executor of the bundle's stages.
        threads: CPU threads; 0 takes all cores this process may use.
        latent: `mean` (deterministic) or `sample`, a sample of the prior per object.
        seed: of the samples.
        refine: how the grasps are refined and which are removed; None returns them as the network predicts them.
        segmenter: what finds the objects of a frame that comes without a mask; None: such a frame is refused.
    """

    def __init__(
        self,
        bundle: Bundle,
        backend: str | Executor = "auto",
        *,
        threads: int = 0,
        latent: str = "mean",
        seed: int = 0,
        refine: RefineConfig | None = None,
        segmenter: Segmenter | None = None,
    ) -> None:
        if isinstance(backend, str) and backend not in BACKENDS:
            raise BundleError(f"backend: expected one of {', '.join(BACKENDS)}, got {backend!r}")
        if latent not in ("mean", "sample"):
            raise ValueError(f"latent: expected 'mean' or 'sample', got {latent!r}")
        if threads < 0:
            raise ValueError(f"threads: expected 0 or more, got {threads}")
        from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor

        self.bundle = bundle
        self.refine = refine
        self.segmenter = segmenter
        self.executor: Executor = (
            OnnxRuntimeExecutor(bundle, threads) if isinstance(backend, str) else backend
        )
        self._network = Network(bundle, self.executor)
        self._workspace = kernels.Workspace()
        self._random = np.random.default_rng(seed) if latent == "sample" else None
        pixels = bundle.limits.max_height * bundle.limits.max_width
        self._labels, self._valid = np.empty((2, pixels), np.int32)
        self._points = np.empty((pixels, 3), np.float32)
        self._lock = threading.Lock()

    def __call__(self, frame: Frame, world_from_camera: np.ndarray | None = None) -> Result:
        """Reconstructs every object of a frame.

        Args:
            world_from_camera: (4, 4) rigid, m: the frame of the workspace, approach cone and support of `refine`;
                None: they are in the camera's frame.

        Raises:
            NoObjectError: the frame's mask is all background.
            FrameError: the frame has no mask and there is no segmenter, or it finds nothing; or no object has enough
                valid depth.
            LimitError: the frame exceeds a limit of the bundle, which is named.
            DecodeError: the network's output is not finite.
        """
        return self.run(frame, world_from_camera)

    def run(
        self,
        frame: Frame,
        world_from_camera: np.ndarray | None = None,
        *,
        forced_splits: Mapping[int, np.ndarray] | None = None,
        taps: Taps | None = None,
    ) -> Result:
        """As a call, with the network's splits replaced and its tensors recorded; see `Network.run`."""
        limits = self.bundle.limits
        if frame.height > limits.max_height or frame.width > limits.max_width:
            raise LimitError(
                f"frame '{frame.name}' is {frame.width}x{frame.height} pixels, the bundle's limits are "
                f"max_width = {limits.max_width}, max_height = {limits.max_height}: "
                "resize or crop it, or export with larger limits"
            )
        watch = Stopwatch()
        segmentation: Segmentation | None = None
        if frame.mask is None and self.segmenter is not None:
            with watch("segmentation"):
                segmentation = self.segmenter(frame)
                frame = segmentation.apply(frame)
        ids = frame.object_ids()
        if not ids:
            raise NoObjectError(f"frame '{frame.name}' holds no object: its mask is background everywhere")
        check_object_count(ids, limits.max_objects)
        with self._lock:
            try:
                scene, kept, skipped = self._see(frame, ids, watch)
                noise = None
                if self._random is not None:
                    noise = self._random.standard_normal((len(kept), self.bundle.geometry.latent), np.float32)
                surface = self._network.run(scene, watch, noise=noise, forced_splits=forced_splits, taps=taps)
            except kernels.CapacityError as error:
                limit = self._exceeded(error)
                raise LimitError(
                    f"frame '{frame.name}' exceeds the bundle's limit {limit} = {getattr(limits, limit)}: "
                    f"{error.limit}: {error.needed} needed, room for {error.capacity}; export with a larger limit "
                    f"(zerograsp-edge export --{limit.replace('_', '-')}) or give fewer objects"
                ) from error
        with watch("decode"):
            objects = decode(surface.signal, surface.keys, self._network.cube(scene.z_min), kept)
        refinement: Refinement | None = None
        if self.refine is not None:
            with watch("refine"):
                # Without this pipeline's workspace: another thread may be using it, the lock is released.
                objects, refinement = refine_objects(
                    objects, visible_points(frame.depth, frame.intrinsics, self.refine.visible_stride), self.refine,
                    world_from_camera=world_from_camera, threads=self.executor.threads,
                )  # fmt: skip
        return Result(
            objects=objects,
            skipped=tuple(skipped),
            timings=watch.timings,
            z_min=scene.z_min,
            name=frame.name,
            timestamp=frame.timestamp,
            notes=() if refinement is None else refinement.explain(),
            refinement=refinement,
            segmentation=segmentation,
        )

    def _exceeded(self, error: kernels.CapacityError) -> str:
        """The limit of the bundle that a buffer which is too small was sized from."""
        depth, tokens = self.bundle.geometry.min_lod, self.bundle.limits.max_tokens
        exceeded = (error.limit, error.capacity) == (f"nodes at depth {depth}", tokens)
        return "max_tokens" if exceeded else "max_nodes"

    def _see(
        self, frame: Frame, ids: tuple[int, ...], watch: Stopwatch
    ) -> tuple[Scene, list[int], list[SkippedObject]]:
        """The scene of the objects that can be reconstructed, their mask values; others with the reason."""
        g, limits = self.bundle.geometry, self.bundle.limits
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
            sparse = points.valid_counts < limits.min_points
            if sparse.any():
                # Too few pixels to be an object; they must not decide where the cube begins either.
                for i in np.flatnonzero(sparse):
                    count = int(points.valid_counts[i])
                    skipped.append(
                        SkippedObject(
                            kept[i],
                            f"{count} pixels with valid depth, at least {limits.min_points} are needed",
                        )
                    )
                kept, labels = _without(sparse, kept, labels)
                if kept:
                    points = scan(labels)
            outside = points.counts == 0
            if kept and outside.any():
                half = g.cube_size / 2
                for i in np.flatnonzero(outside):
                    skipped.append(
                        SkippedObject(
                            kept[i],
                            f"outside the reconstructed cube: +-{half:.0f} mm beside the optical axis, "
                            f"{points.z_min:.0f} to {points.z_min + g.cube_size:.0f} mm deep",
                        )
                    )
                valid[...] = _without(outside, kept, valid)[1]
                kept, labels = _without(outside, kept, labels)
            if not kept:
                reasons = "; ".join(f"object {s.object_id}: {s.reason}" for s in skipped)
                raise FrameError(f"frame '{frame.name}' has no object to reconstruct: {reasons}")
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
