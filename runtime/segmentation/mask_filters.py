"""Many candidate masks of one picture, and which of them are kept.

The rules are those of `SAM2AutomaticMaskGenerator` (Meta's sam2, Apache-2.0), which the tests compare with: predicted
IoU, stability, non-maximum suppression of boxes, small regions. On top: suppression by the masks themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_BITS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Masks of one picture, n of them, eight pixels to a byte.

    Attributes:
        packed: (n, bytes) uint8, `np.packbits` of the picture's pixels, row by row.
        shape: (H, W) of the picture.
        boxes: (n, 4) float32 x0, y0, x1, y1: first and last column and row of the mask.
        iou: (n,) float32, predicted by the network.
        stability: (n,) float32, see `stability_score`.
    """

    packed: np.ndarray
    shape: tuple[int, int]
    boxes: np.ndarray
    iou: np.ndarray
    stability: np.ndarray

    def __len__(self) -> int:
        return len(self.packed)

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool."""
        height, width = self.shape
        return np.unpackbits(self.packed[index], count=height * width).reshape(self.shape).view(np.bool_)

    def areas(self) -> np.ndarray:
        """(n,) pixels."""
        return _BITS[self.packed].sum(axis=1, dtype=np.int64)

    def __getitem__(self, which: np.ndarray) -> Candidates:
        return Candidates(
            self.packed[which], self.shape, self.boxes[which], self.iou[which], self.stability[which]
        )

    @staticmethod
    def concatenate(parts: list[Candidates]) -> Candidates:
        packed, boxes, iou, stability = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("packed", "boxes", "iou", "stability")
        )
        return Candidates(packed, parts[0].shape, boxes, iou, stability)


def candidates(
    logits: np.ndarray, iou: np.ndarray, shape: tuple[int, int], min_iou: float, min_stability: float, offset: float
) -> Candidates:
    """The masks, at the picture's size, whose predicted IoU is above and whose stability at least the given.

    Args:
        logits: (n, h, w) float32, of any size; interpolated to `shape` before anything is counted, as sam2 does.
        iou: (n,) predicted.
        offset: of the logits, for the stability score.
    """
    import cv2

    height, width = shape
    packed, boxes, kept, scores = [], [], [], []
    for index in np.flatnonzero(iou > min_iou):
        fine = cv2.resize(logits[index], (width, height), interpolation=cv2.INTER_LINEAR)
        stability = stability_score(fine, offset)
        if stability < min_stability:
            continue
        mask = fine > 0
        packed.append(np.packbits(mask))
        boxes.append(box_of(mask))
        kept.append(index)
        scores.append(stability)
    size = -(-height * width // 8)
    return Candidates(
        np.array(packed, np.uint8).reshape(-1, size), shape, np.array(boxes, np.float32).reshape(-1, 4),
        iou[np.array(kept, int)].astype(np.float32), np.array(scores, np.float32),
    )  # fmt: skip


def stability_score(logits: np.ndarray, offset: float) -> float:
    """IoU of the masks where logits are above `offset` and above `-offset`; 0 where there are none."""
    low = np.count_nonzero(logits > -offset)
    return np.count_nonzero(logits > offset) / low if low else 0.0


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last column and row of a mask: x0, y0, x1, y1; zeros for an empty one."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def box_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> np.ndarray:
    """Indices of the boxes that are kept, best first; a box goes whose IoU with a better one is above the threshold.

    Areas are (x1 - x0) (y1 - y0) and quotients float32, as torchvision's: at the threshold itself both decide alike.
    """
    x0, y0, x1, y1 = boxes.astype(np.float32).T
    area = (x1 - x0) * (y1 - y0)
    left = np.argsort(-scores, kind="stable")
    kept = []
    while len(left):
        best, left = left[0], left[1:]
        kept.append(best)
        wide = np.minimum(x1[best], x1[left]) - np.maximum(x0[best], x0[left])
        high = np.minimum(y1[best], y1[left]) - np.maximum(y0[best], y0[left])
        overlap = np.maximum(wide, 0) * np.maximum(high, 0)
        union = area[best] + area[left] - overlap
        share = np.divide(overlap, union, out=np.zeros_like(union), where=union > 0)
        left = left[share.astype(np.float64) <= threshold]
    return np.array(kept, int)


def mask_nms(masks: Candidates, threshold: float) -> np.ndarray:
    """Indices of the masks that are kept, in their order, which is best first; as `box_nms`, by the masks' IoU."""
    areas = masks.areas()
    kept: list[int] = []
    for index in range(len(masks)):
        others = np.array(kept, int)
        (x0, y0, x1, y1), theirs = masks.boxes[index], masks.boxes[others]
        near = (theirs[:, 0] <= x1) & (theirs[:, 2] >= x0) & (theirs[:, 1] <= y1) & (theirs[:, 3] >= y0)
        others = others[near]
        overlap = _BITS[masks.packed[others] & masks.packed[index]].sum(axis=1, dtype=np.int64)
        if not (overlap > threshold * (areas[others] + areas[index] - overlap)).any():
            kept.append(index)
    return np.array(kept, int)


def without_small_regions(mask: np.ndarray, area: int) -> np.ndarray:
    """A mask with holes below `area` pixels filled and islands below it removed, 8-connected; the largest one stays."""
    return _islands(~_holes(mask, area), area) if area > 0 else mask


def _holes(mask: np.ndarray, area: int) -> np.ndarray:
    """Background of a mask without its small parts, all of it when every part is small."""
    regions, sizes = _regions(~mask)
    large = sizes >= area
    large[0] = False
    return large[regions]


def _islands(mask: np.ndarray, area: int) -> np.ndarray:
    regions, sizes = _regions(mask)
    large = sizes >= area
    large[0] = False
    if len(sizes) > 1 and not large.any():
        large[1 + int(sizes[1:].argmax())] = True
    return large[regions]


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) number of the connected region, 0 outside the mask, and pixels by number."""
    import cv2

    _, regions, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return regions, statistics[:, cv2.CC_STAT_AREA]
