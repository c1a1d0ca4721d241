"""SAM 2's stages on a frame: the picture in, mask logits of prompts out."""

from __future__ import annotations

import numpy as np

from zerograsp_edge.runtime.network import Executor
from zerograsp_edge.runtime.segmentation.sam2_bundle import IMAGE_ENCODER, MASK_DECODER, Sam2Bundle

# The mask decoder's outputs: the single-mask token, then the three of the multi-mask output.
TOKENS = 4
OBJECT, BOX_FIRST, BOX_LAST = 1, 2, 3
"""Labels of prompt points: on the object, first and last corner of its box."""

# As sam2.build_sam sets them: when a single mask counts as unstable.
_DYNAMIC_DELTA, _DYNAMIC_STABILITY = 0.05, 0.98


class Sam2Network:
    """Runs a bundle's stages, one picture at a time, on buffers that are allocated here.

    Args:
        executor: what runs a stage; made for the same bundle.
        batch: prompts that are decoded together; the decoder's memory grows with it.

    Attributes:
        features: the image encoder's outputs for the last picture, by name.
    """

    def __init__(self, bundle: Sam2Bundle, executor: Executor, batch: int = 16) -> None:
        self.size, self.batch = bundle.image_size, batch
        self._executor = executor
        cells, channels = (self.size // 16) ** 2, bundle.channels
        self._picture = np.empty((self.size, self.size, 3), np.float32)
        self.features = {
            "image_embedding": np.empty((cells, channels), np.float32),
            "detail_4": np.empty((cells, 16, channels // 8), np.float32),
            "detail_8": np.empty((cells, 4, channels // 4), np.float32),
        }
        self._logits = np.empty((batch, TOKENS, self.size // 4, self.size // 4), np.float32)
        self._iou = np.empty((batch, TOKENS), np.float32)
        self._scale = np.ones(2, np.float32)

    def encode(self, rgb: np.ndarray) -> None:
        """Takes an (H, W, 3) uint8 picture, which the prompts that follow are about."""
        height, width = rgb.shape[:2]
        self._scale = np.array([self.size / width, self.size / height], np.float32)
        resize_picture(rgb, self.size, self._picture)
        self._executor.run(IMAGE_ENCODER, {"rgb": self._picture}, self.features)

    def decode(self, points: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits (B, 4, S / 4, S / 4) and predicted IoU (B, 4); they last until the next call.

        Args:
            points: (B, N, 2) x, y in pixels of the picture, 0 its left and upper edge; B up to `batch`.
            labels: (B, N) of the points: 1 on the object, 0 beside it, 2 and 3 a box's corners, -1 none.
        """
        count = len(points)
        inputs = {
            **self.features,
            "points": np.ascontiguousarray(points * self._scale, np.float32),
            "labels": np.ascontiguousarray(labels, np.int32),
        }
        logits, iou = self._logits[:count], self._iou[:count]
        self._executor.run(MASK_DECODER, inputs, {"logits": logits, "iou": iou})
        return logits, iou


def several_masks(logits: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The multi-mask output, for a prompt that says little: whole, part, subpart; (3 B, h, w), (3 B,)."""
    return logits[:, 1:].reshape(-1, *logits.shape[2:]), iou[:, 1:].reshape(-1)


def single_masks(logits: np.ndarray, iou: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One mask for each prompt, for prompts that say enough; (B, h, w), (B,).

    The single-mask token's, unless it is unstable: then the multi-mask output's with the best predicted IoU, as sam2's
    "dynamic multimask via stability".
    """
    flat = logits[:, 0].reshape(len(logits), -1)
    high, low = (np.count_nonzero(flat > delta, axis=1) for delta in (_DYNAMIC_DELTA, -_DYNAMIC_DELTA))
    stable = high >= _DYNAMIC_STABILITY * low
    which = np.where(stable, 0, 1 + iou[:, 1:].argmax(axis=1))
    every = np.arange(len(logits))
    return logits[every, which], iou[every, which]


def resize_picture(rgb: np.ndarray, size: int, out: np.ndarray | None = None) -> np.ndarray:
    """(size, size, 3) float32, 0 to 255, of an (H, W, 3) uint8 picture; its aspect is not kept.

    As `SAM2Transforms` does it, torchvision's bilinear resize with antialiasing, but before its division by 255:
    an axis that grows is interpolated, one that shrinks is filtered with a triangle of two new pixels' width.
    """
    import cv2

    out = np.empty((size, size, 3), np.float32) if out is None else out
    picture = rgb.astype(np.float32)
    height, width = rgb.shape[:2]
    if width > size:
        picture = _shrink(picture, size, 1)
    if height > size:
        picture = _shrink(picture, size, 0)
    if picture.shape == out.shape:
        out[...] = picture
    else:
        cv2.resize(picture, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    return out


def _shrink(picture: np.ndarray, size: int, axis: int) -> np.ndarray:
    """An axis shortened to `size`; a new pixel is the mean of the old ones, weighted by a triangle around it."""
    length = picture.shape[axis]
    scale = length / size
    centre = scale * (np.arange(size) + 0.5)
    first = np.maximum((centre - scale + 0.5).astype(int), 0)
    taps = first[:, None] + np.arange(2 * int(np.ceil(scale)) + 1)
    beyond = np.minimum((centre + scale + 0.5).astype(int), length)
    weights = np.maximum(1 - np.abs(taps + 0.5 - centre[:, None]) / scale, 0) * (taps < beyond[:, None])
    weights /= weights.sum(axis=1, keepdims=True)
    shape = [1, 1, 1]
    shape[axis] = size
    out: np.ndarray = np.zeros(1, np.float32)
    for tap, weight in zip(np.minimum(taps, length - 1).T, weights.T.astype(np.float32), strict=True):
        out = out + np.take(picture, tap, axis=axis) * weight.reshape(shape)
    return out
