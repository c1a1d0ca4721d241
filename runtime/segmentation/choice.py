"""A segmenter by its name on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from zerograsp_edge.runtime.errors import ConfigError
from zerograsp_edge.runtime.segmentation import Segmenter

CHOICES = "geometric, none, sam2:BUNDLE, sam2-grid:BUNDLE, shm:NAME, zmq:ADDRESS or folder:PATH"


@contextmanager
def open_segmenter(choice: str, *, max_objects: int | None = None, threads: int = 0) -> Iterator[Segmenter | None]:
    """The segmenter of a choice; None for `none`. What it holds open is closed at the end.

    Args:
        choice: one of CHOICES.
        max_objects: the largest that are kept, where the segmenter chooses itself.
        threads: 0 takes all.

    Raises:
        ConfigError: no such choice.
        BundleError, MissingExtra, MaskError, FrameError: what it names cannot be used.
    """
    kind, _, where = choice.partition(":")
    if kind in ("shm", "zmq") and where:
        from zerograsp_edge.runtime.segmentation.external import (
            ExternalSegmenter,
            SharedMemoryMasks,
            ZmqMasks,
        )

        with ExternalSegmenter(SharedMemoryMasks(where) if kind == "shm" else ZmqMasks(where)) as external:
            yield external
    else:
        yield _make(choice, kind, where, max_objects, threads)


def _make(choice: str, kind: str, where: str, max_objects: int | None, threads: int) -> Segmenter | None:
    if choice == "none":
        return None
    if kind == "folder" and where:
        from zerograsp_edge.runtime.segmentation.folder import FolderSegmenter

        return FolderSegmenter(where)
    if not (choice == "geometric" or (kind in ("sam2", "sam2-grid") and where)):
        raise ConfigError(f"--segment: expected {CHOICES}, got {choice!r}")
    from zerograsp_edge.runtime.segmentation.geometric import GeometricSegmenter, SegmentationConfig

    geometry = SegmentationConfig(max_objects=max_objects)
    if choice == "geometric":
        return GeometricSegmenter(geometry, threads=threads)
    from zerograsp_edge.runtime.segmentation.sam2 import Sam2Config, Sam2Segmenter
    from zerograsp_edge.runtime.segmentation.sam2_bundle import load_sam2_bundle

    config = Sam2Config(prompts="grid" if kind == "sam2-grid" else "geometry", geometry=geometry)
    return Sam2Segmenter(load_sam2_bundle(where), config, threads=threads)
