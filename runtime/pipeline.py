"""Frame in, reconstructions and grasps out."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np

from zerograsp_edge.runtime.bundle import Bundle, BundleError
from zerograsp_edge.runtime.engines import engines_of
from zerograsp_edge.runtime.errors import LimitError, NoObjectError, ZeroGraspError
from zerograsp_edge.runtime.frame import Frame, check_object_count
from zerograsp_edge.runtime.grasp.refine import RefineConfig, Refinement, refine_objects, visible_points
from zerograsp_edge.runtime.network import Executor, Stopwatch, Taps
from zerograsp_edge.runtime.perception import CpuPerception, Perceived, Perception
from zerograsp_edge.runtime.result import Result
from zerograsp_edge.runtime.segmentation import Segmentation, Segmenter

BACKENDS = ("auto", "onnxruntime", "tensorrt")


class Pipeline:
    """Turns frames into reconstructions; all buffers are allocated here, sized from the bundle's limits.

    A pipeline serves one frame at a time; a second thread waits.

    Args:
        bundle: what to run.
        backend: `onnxruntime` (CPU), `tensorrt` (GPU, needs engines), or `auto`: TensorRT where it can be used; or an
            executor of the bundle's stages on the CPU.
        threads: CPU threads; 0 takes all cores this process may use.
        latent: `mean` (deterministic) or `sample`, a sample of the prior per object.
        seed: of the samples.
        refine: how the grasps are refined and which are removed; None returns them as the network predicts them.
        segmenter: what finds the objects of a frame that comes without a mask; None: such a frame is refused.

    Attributes:
        fallback: why `auto` chose the CPU; None where it did not, or was not asked.

    Raises:
        BundleError: the backend or the bundle cannot be used.
        DeviceError, MissingExtra: `tensorrt` was asked for and this machine lacks something.
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
        self.bundle = bundle
        self.refine = refine
        self.segmenter = segmenter
        self.perception: Perception
        self.perception, self.fallback = _open(bundle, backend, threads, refine)
        self.executor = self.perception.executor
        self._random = np.random.default_rng(seed) if latent == "sample" else None
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
            seen = self.perception.run(
                frame, ids, watch, self._draw_noise, world_from_camera=world_from_camera, forced_splits=forced_splits,
                taps=taps,
            )  # fmt: skip
        objects = seen.objects
        refinement: Refinement | None = None
        if self.refine is not None:
            with watch("refine"):
                # Without this pipeline's workspace: another thread may be using it, the lock is released.
                objects, refinement = refine_objects(
                    objects, self._visible(frame, seen), self.refine, world_from_camera=world_from_camera,
                    threads=self.executor.threads, refined=seen.refined,
                )  # fmt: skip
        return Result(
            objects=objects,
            skipped=seen.skipped,
            timings=watch.timings,
            z_min=seen.z_min,
            name=frame.name,
            timestamp=frame.timestamp,
            notes=() if refinement is None else refinement.explain(),
            refinement=refinement,
            segmentation=segmentation,
        )

    def _draw_noise(self, objects: int) -> np.ndarray | None:
        if self._random is None:
            return None
        return self._random.standard_normal((objects, self.bundle.geometry.latent), np.float32)

    def _visible(self, frame: Frame, seen: Perceived) -> np.ndarray:
        """(n, 3) m: what may collide beside the surfaces; nothing where that is decided already."""
        assert self.refine is not None
        if seen.refined is not None:
            return np.empty((0, 3), np.float32)
        return visible_points(frame.depth, frame.intrinsics, self.refine.visible_stride)


def _open(
    bundle: Bundle, backend: str | Executor, threads: int, refine: RefineConfig | None
) -> tuple[Perception, str | None]:
    """What runs the frames; for `auto` that is not on the GPU, the reason.

    Raises:
        ZeroGraspError: the backend that was asked for cannot run here; the message says what it lacks.
    """
    if not isinstance(backend, str):
        return CpuPerception(bundle, backend), None
    fallback = None
    if backend != "onnxruntime":
        from zerograsp_edge.runtime.gpu.perception import open_device_perception

        try:
            if backend == "tensorrt" or engines_of(bundle):
                return open_device_perception(bundle, threads, refine), None
            fallback = "the bundle has no TensorRT engines"
        except ZeroGraspError as error:
            if backend == "tensorrt":
                raise
            fallback = str(error)
    from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor

    return CpuPerception(bundle, OnnxRuntimeExecutor(bundle, threads)), fallback
