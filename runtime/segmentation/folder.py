"""Masks from a folder, by the frames' names."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from zerograsp_edge.runtime.camera.files import find_masks, read_mask
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.segmentation import Segmentation
from zerograsp_edge.runtime.segmentation.mask_message import MaskError


class FolderSegmenter:
    """Reads `NAME.mask.png`, or `NAME.png` in a sub-folder `mask`, for the frame NAME; .npy as well.

    Values are instance ids, 0 is the background: a mask of zeros is an empty scene.

    Raises:
        FrameError: no folder.
        MaskError: no mask in it.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._files = find_masks(self.folder)
        if not self._files:
            raise MaskError(f"{folder} holds no masks; expected NAME.mask.png or mask/NAME.png")

    def reset(self) -> None:
        """Nothing is kept from frame to frame."""

    def __call__(self, frame: Frame) -> Segmentation:
        """The frame's mask.

        Raises:
            MaskError: there is none, or it is not of the frame's size or has ids below 0.
            FrameError: its file cannot be read.
        """
        path = self._files.get(frame.name)
        if path is None:
            known = ", ".join(list(self._files)[:5]) + (", ..." if len(self._files) > 5 else "")
            raise MaskError(f"{self.folder} has no mask for frame '{frame.name}'; it has: {known}")
        mask = read_mask(path)
        if mask.dtype.kind not in "iub" or mask.shape != frame.depth.shape:
            raise MaskError(
                f"{path}: expected (height, width) {frame.depth.shape} integer ids for frame '{frame.name}', "
                f"got {mask.dtype} of shape {mask.shape}"
            )
        low, high = int(mask.min()), int(mask.max())
        if low < 0 or high >= 1 << 31:
            raise MaskError(f"{path}: expected ids from 0 (the background) to 2^31 - 1, got {low} to {high}")
        return Segmentation(mask.astype(np.int32), source=f"masks in {self.folder}")
