"""The frames that two bundles are compared on, with the truth about their objects where it is known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.export.training.metrics import Surface
from zerograsp_edge.export.training.sample import SceneSample
from zerograsp_edge.export.training.truth import (
    asked_objects,
    share_in_picture,
    true_surfaces,
    visible_shares,
)
from zerograsp_edge.runtime.bundle import Limits
from zerograsp_edge.runtime.camera.files import FrameFolder
from zerograsp_edge.runtime.camera.simulated import GroundTruth, SimulatedCamera
from zerograsp_edge.runtime.errors import MissingExtra
from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.simulation.shapes.surface import surface_samples

SIMULATED = "simulated"
SPACING_MM = 1.0  # between the points of a true surface


@dataclass(frozen=True, eq=False)
class JudgedFrame:
    """A frame with masks.

    Attributes:
        truth: complete surfaces of the objects that count, camera frame, mm, by mask value; None where it is unknown.
    """

    frame: Frame
    truth: Mapping[int, Surface] | None = None


@dataclass(frozen=True, eq=False)
class FrameSource:
    """Frames to compare on.

    Attributes:
        name: for the report.
        frames: read once.
        without_truth: why no frame comes with the truth; None where they do.
    """

    name: str
    frames: Iterator[JudgedFrame]
    without_truth: str | None = None


def open_frames(source: str, count: int, seed: int, limits: Limits) -> FrameSource:
    """At most `count` frames.

    Args:
        source: `simulated`; a folder of scenes (.npz, as `zerograsp-edge scenes` writes them), of each the first view;
            or a folder of frames as `FrameFolder` reads them.
        seed: of the first simulated frame.
        limits: simulated frames keep within them.

    Raises:
        CalibrationError: there is no such folder, or count is not positive. FrameError: the folder holds no frame.
    """
    if count < 1:
        raise CalibrationError(f"count: expected at least 1 frame, got {count}")
    if source == SIMULATED:
        try:
            require("trimesh", "sim", "know the true surfaces of simulated objects")
            require("scipy.spatial", "sim", "compare surfaces")
        except MissingExtra as error:
            return FrameSource(
                f"{count} simulated frames", _simulated(count, seed, limits, False), str(error)
            )
        return FrameSource(f"{count} simulated frames", _simulated(count, seed, limits, True))
    folder = Path(source)
    if not folder.is_dir():
        raise CalibrationError(
            f"frames: expected '{SIMULATED}', a folder of frames (NAME.rgb.png, NAME.depth.png, NAME.mask.png and a "
            f"camera file) or of scenes (.npz), but there is no folder {folder}"
        )
    frames = any(folder.glob("*.rgb.*")) or (folder / "rgb").is_dir()  # results beside them may be .npz, too
    if not frames and (scenes := sorted(folder.rglob("*.npz"))[:count]):
        require("scipy.spatial", "sim", "compare surfaces")
        return FrameSource(f"{len(scenes)} scenes of {folder}", map(_of_scene, scenes))
    recorded = FrameFolder(folder)
    names = recorded.names[:count]
    return FrameSource(
        f"{len(names)} frames of {folder}", (_recorded(recorded, name) for name in names),
        "the truth about recorded frames is not known",
    )  # fmt: skip


def _simulated(count: int, seed: int, limits: Limits, truth: bool) -> Iterator[JudgedFrame]:
    width, height = min(640, limits.max_width // 32 * 32), min(480, limits.max_height // 32 * 32)
    for i in range(count):
        camera = SimulatedCamera(seed + i, min(3 + i % 6, limits.max_objects), width, height)
        frame = camera.read()
        yield JudgedFrame(frame, simulated_truth(frame, camera.ground_truth) if truth else None)


def simulated_truth(frame: Frame, truth: GroundTruth) -> dict[int, Surface]:
    """The surfaces of a simulated frame's objects, without those of which next to nothing shows."""
    assert frame.mask is not None
    surfaces, shares = {}, {}
    for item in truth.objects:
        points, normals = surface_samples(
            item.source.shape, SPACING_MM, np.random.default_rng(item.object_id)
        )
        surfaces[item.object_id] = surface = Surface(points, normals).moved(item.pose)
        shares[item.object_id] = item.visible_fraction * share_in_picture(
            surface.points, frame.intrinsics, frame.mask.shape
        )
    asked, _ = asked_objects(frame.mask, shares)
    return {i: surfaces[i] for i in asked}


def _of_scene(path: Path) -> JudgedFrame:
    sample = SceneSample.load(path)
    view = sample.views[0]
    surfaces = true_surfaces(sample, view)
    asked, _ = asked_objects(view.mask, visible_shares(sample, view, surfaces))
    frame = Frame(view.rgb, view.depth, view.intrinsics, mask=view.mask, background=0, name=path.stem)
    return JudgedFrame(frame, {i: surfaces[i] for i in asked})


def _recorded(folder: FrameFolder, name: str) -> JudgedFrame:
    frame = folder[name]
    if frame.mask is None:
        raise CalibrationError(
            f"{folder.folder}: expected frames with masks, {name} has none: add {name}.mask.png, its pixels "
            "the object's number, 0 the background"
        )
    return JudgedFrame(frame)
