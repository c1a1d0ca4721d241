"""Objects of a frame by SAM 2 (Ravi et al., 2024), prompted by geometry or by a grid of points; without PyTorch.

Prompts from geometry: every object that `GeometricSegmenter` finds gives its box and its innermost point, and SAM 2
draws its outline. A grid: SAM 2 is asked at every point for a whole, a part and a subpart, as Meta's
`SAM2AutomaticMaskGenerator` does, and geometry decides which of the masks stand on a support; the usual 32 x 32 points
are 1024 prompts instead of one for each object.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zerograsp_edge.runtime.errors import ConfigError
from zerograsp_edge.runtime.frame import MIN_DEPTH_MM, Frame
from zerograsp_edge.runtime.network import Executor, Stopwatch
from zerograsp_edge.runtime.segmentation import Segmentation, SupportPlane
from zerograsp_edge.runtime.segmentation.geometric import (
    OF_SUPPORT,
    TOO_LARGE,
    TOO_MANY,
    TOO_SMALL,
    GeometricSegmenter,
    SegmentationConfig,
)
from zerograsp_edge.runtime.segmentation.mask_filters import (
    Candidates,
    box_nms,
    box_of,
    candidates,
    mask_nms,
    without_small_regions,
)
from zerograsp_edge.runtime.segmentation.sam2_bundle import Sam2Bundle
from zerograsp_edge.runtime.segmentation.sam2_network import (
    BOX_FIRST,
    BOX_LAST,
    OBJECT,
    Sam2Network,
    several_masks,
    single_masks,
)
from zerograsp_edge.runtime.segmentation.tracking import IdTracker, appearances_of_masks

NO_MASK = "no mask passed the thresholds"
UNSURE, DUPLICATE, INSIDE, WITHOUT_DEPTH = (
    "without a sure mask",
    "the same as another",
    "inside another",
    "without depth",
)


@dataclass(frozen=True)
class Sam2Config:
    """Which of SAM 2's masks are objects. The first five as in Meta's automatic mask generator, with its defaults.

    Attributes:
        points_per_side: of the grid.
        min_iou: predicted IoU that a mask must exceed.
        min_stability: least IoU of the masks at logits `stability_offset` above and below 0.
        stability_offset: see min_stability.
        box_nms: of two masks whose boxes have an IoU above this, the one with the better predicted IoU is kept.
        mask_nms: the same by the masks themselves.
        prompts: geometry or grid.
        batch: prompts decoded together; the decoder's memory grows with it.
        small_region: holes and islands of fewer pixels are filled and removed; of a 640x480 picture, in others in
            proportion.
        min_free: a mask of which others, better ones, have taken more than 1 - min_free is left out as inside them.
        on_support: a mask is part of a support when more of its pixels with depth than this lie on one.
        support_tolerance: distance from a plane, as a share of the depth, up to which a pixel lies on it; 4 mm or more.
        geometry: of the supports and prompts; its max_depth, max_object, min_pixels and max_objects count for SAM 2's
            masks as well.
    """

    points_per_side: int = 32
    min_iou: float = 0.8
    min_stability: float = 0.95
    stability_offset: float = 1.0
    box_nms: float = 0.7
    mask_nms: float = 0.8
    prompts: Literal["geometry", "grid"] = "geometry"
    batch: int = 16
    small_region: int = 100
    min_free: float = 0.5
    on_support: float = 0.5
    support_tolerance: float = 0.006
    geometry: SegmentationConfig = SegmentationConfig()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        if self.prompts not in ("geometry", "grid"):
            raise ConfigError(f"prompts: expected geometry or grid, got {self.prompts!r}")
        for name in ("points_per_side", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected 1 or more, got {getattr(self, name)}")
        for name in ("min_iou", "min_stability", "box_nms", "mask_nms", "min_free", "on_support"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}: expected a value from 0 to 1, got {getattr(self, name):g}")


class Sam2Segmenter:
    """Segments frames with SAM 2 and keeps objects' ids from frame to frame, as `GeometricSegmenter` does.

    Args:
        bundle: of SAM 2 (`load_sam2_bundle`).
        config: which masks are objects.
        threads: of executor and geometry; 0 takes all.
        executor: what runs the stages; by default ONNX Runtime on the CPU.

    A segmenter serves one frame at a time; a second thread waits.
    """

    def __init__(
        self,
        bundle: Sam2Bundle,
        config: Sam2Config | None = None,
        *,
        threads: int = 0,
        executor: Executor | None = None,
    ) -> None:
        if executor is None:
            from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor

            executor = OnnxRuntimeExecutor(bundle, threads)
        self.bundle = bundle
        self.config = config or Sam2Config()
        self._network = Sam2Network(bundle, executor, self.config.batch)
        self._geometry = GeometricSegmenter(self.config.geometry, threads=threads)
        self._tracker = IdTracker()
        self._lock = threading.Lock()

    def reset(self) -> None:
        """Forget earlier frames: ids start again at 1."""
        with self._lock:
            self._geometry.reset()
            self._tracker = IdTracker()

    def __call__(self, frame: Frame) -> Segmentation:
        """The objects of a frame; a mask that it may have is not looked at."""
        with self._lock:
            return self._segment(frame)

    def _segment(self, frame: Frame) -> Segmentation:
        c, watch = self.config, Stopwatch()
        left_out = Counter[str]()
        with watch("geometry"):
            found = self._geometry(frame)
        if found.reason and (c.prompts == "geometry" or not found.planes):
            return self._result(found.mask, found.planes, found.left_out, found.reason, watch)
        with watch("image_encoder"):
            self._network.encode(frame.rgb)
        masks = self._prompted(frame, found, watch) if c.prompts == "geometry" else self._grid(frame, watch)
        if c.prompts == "geometry":
            left_out[UNSURE] = len(found.object_ids) - len(masks)
        with watch("filter"):
            kept = masks[box_nms(masks.boxes, masks.iou, c.box_nms)]
            kept = kept[mask_nms(kept, c.mask_nms)]
            if c.prompts == "geometry":
                left_out[DUPLICATE] = len(masks) - len(kept)
            objects = self._objects(frame, kept, found.planes, left_out)
        with watch("track"):
            ids = self._tracker.update(appearances_of_masks(frame, objects))
            mask = np.append(ids, 0)[objects].astype(np.int32)
        reason = "" if len(ids) else NO_MASK
        left_out = Counter({why: count for why, count in left_out.items() if count})
        if reason and left_out:
            reason += "; left out: " + ", ".join(f"{count} {why}" for why, count in left_out.items())
        return self._result(mask, found.planes, left_out, reason, watch)

    def _result(
        self, mask: np.ndarray, planes: tuple[SupportPlane, ...], left_out: Mapping[str, int], reason: str,
        watch: Stopwatch,
    ) -> Segmentation:  # fmt: skip
        # That SAM 2 is not sure of anything does not say that nothing is there: without planes, which is what
        # `Segmentation.apply` goes by, the frame is refused rather than called empty.
        seen = () if reason.startswith(NO_MASK) else planes
        weights = "" if self.bundle.trained else " with random weights"
        source = f"SAM 2{weights} prompted by {'geometry' if self.config.prompts == 'geometry' else 'a grid'}"
        return Segmentation(mask, seen, left_out, reason, watch.timings, source)

    def _prompted(self, frame: Frame, found: Segmentation, watch: Stopwatch) -> Candidates:
        """A mask for each object that geometry has found: prompted by its box and its innermost point."""
        points = np.array([_prompt(found.mask == name) for name in found.object_ids], np.float32)
        labels = np.tile(np.array([BOX_FIRST, BOX_LAST, OBJECT], np.int32), (len(points), 1))
        return self._decode(frame, points, labels, single=True, watch=watch)

    def _grid(self, frame: Frame, watch: Stopwatch) -> Candidates:
        """Three masks for each point of the grid."""
        points = point_grid(self.config.points_per_side) * np.array([frame.width, frame.height])
        labels = np.full((len(points), 1), OBJECT, np.int32)
        return self._decode(frame, points[:, None].astype(np.float32), labels, single=False, watch=watch)

    def _decode(
        self, frame: Frame, points: np.ndarray, labels: np.ndarray, *, single: bool, watch: Stopwatch
    ) -> Candidates:
        c, parts = self.config, []
        for at in range(0, len(points), c.batch):
            with watch("mask_decoder"):
                outputs = self._network.decode(points[at : at + c.batch], labels[at : at + c.batch])
            with watch("candidates"):
                logits, iou = (single_masks if single else several_masks)(*outputs)
                shape = (frame.height, frame.width)
                parts.append(candidates(logits, iou, shape, c.min_iou, c.min_stability, c.stability_offset))
        return Candidates.concatenate(parts)

    def _objects(
        self, frame: Frame, masks: Candidates, planes: tuple[SupportPlane, ...], left_out: Counter[str]
    ) -> np.ndarray:
        """(H, W) int32: object of each pixel, from 0 by size, -1 = none; counts what is left out.

        The best masks first; a pixel belongs to the first object that claims it.
        """
        c = self.config
        points = frame.point_image()
        measured = frame.depth > MIN_DEPTH_MM
        near = measured & (frame.depth <= c.geometry.max_depth)
        support = near & _on_supports(points, planes, c.support_tolerance)
        scale = frame.height * frame.width / (640 * 480)
        fewest, region = c.geometry.min_pixels * scale, round(c.small_region * scale)
        owner = np.full(frame.depth.shape, -1, np.int32)
        kept = 0
        for index in range(len(masks)):
            whole = without_small_regions(masks.mask(index), region)
            area = np.count_nonzero(whole)
            free = whole & (owner < 0)
            seen = free & near
            pixels = np.count_nonzero(seen)
            if area < fewest:
                left_out[TOO_SMALL] += 1
            elif np.count_nonzero(free) < c.min_free * area:
                left_out[INSIDE] += 1
            elif pixels < fewest / 4:
                left_out[WITHOUT_DEPTH] += 1
            elif np.count_nonzero(support & seen) > c.on_support * pixels:
                left_out[OF_SUPPORT] += 1
            elif _extent(points[seen]) > c.geometry.max_object:
                left_out[TOO_LARGE] += 1
            else:
                owner[free] = kept
                kept += 1
        return _largest(owner, kept, c.geometry.max_objects, left_out)


def point_grid(side: int) -> np.ndarray:
    """(side^2, 2) x, y in 0 to 1, evenly, half a step from the edges; as sam2's `build_point_grid`."""
    steps = (np.arange(side) + 0.5) / side
    return np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)


def _prompt(mask: np.ndarray) -> list[tuple[float, float]]:
    """Corners of a mask's box and the centre of its innermost pixel."""
    import cv2

    x0, y0, x1, y1 = box_of(mask)
    inside = np.pad(mask[y0 : y1 + 1, x0 : x1 + 1].astype(np.uint8), 1)
    depth = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_5)[1:-1, 1:-1]
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return [(x0, y0), (x1 + 1, y1 + 1), (x0 + column + 0.5, y0 + row + 0.5)]


def _on_supports(points: np.ndarray, planes: tuple[SupportPlane, ...], tolerance: float) -> np.ndarray:
    """(H, W) bool: on a plane; of the one that carries, also below. points: (H, W, 3) mm."""
    on = np.zeros(points.shape[:2], bool)
    reach = np.maximum(4.0, tolerance * points[..., 2])
    for plane in planes:
        height = plane.height(points)
        on |= height < reach if plane.carries else np.abs(height) < reach
    return on


def _extent(points: np.ndarray) -> float:
    """Longest extent of (n, 3) points along an axis of the camera, mm; a twentieth at each end does not count."""
    low, high = np.percentile(points, [5, 95], axis=0)
    return float((high - low).max())


def _largest(owner: np.ndarray, count: int, most: int | None, left_out: Counter[str]) -> np.ndarray:
    """Objects numbered by size, at most `most` of them."""
    pixels = np.bincount(owner[owner >= 0], minlength=count)
    order = np.argsort(-pixels, kind="stable")
    if most is not None and count > most:
        left_out[TOO_MANY] += count - most
        order = order[:most]
    number = np.full(count + 1, -1, np.int32)  # the last: of the background, -1
    number[order] = np.arange(len(order))
    return number[owner]
