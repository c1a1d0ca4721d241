"""docs/reconstruction.png: held-out scenes as measured, reconstructed, and as they are, seen from the side.

python benchmarks/figures/reconstruction.py --bundle edge.zgb scenes/test_unseen-000003.npz ...
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from overview import BACKGROUND, OUT, PANEL, draw_masks, from_the_side

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from parts.reconstruction import (
    OURS,
    VISIBLE,
    Prediction,
    Predictor,
    frame_of,
    references,
    run_pipeline,
    score_scene,
)

from zerograsp_edge.export.training.metrics import Surface, summarise
from zerograsp_edge.export.training.sample import SceneSample
from zerograsp_edge.export.training.truth import asked_objects, true_surfaces, visible_shares
from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.overlay import PALETTE
from zerograsp_edge.runtime.pipeline import Pipeline

POINT_MM = 3.2  # diameter that a surface point is drawn with: points 2.5 mm apart leave no gaps


def draw_surfaces(
    surfaces: dict[int, Surface], centre: np.ndarray, view: np.ndarray, light: np.ndarray, scale: float
) -> np.ndarray:
    """(h, w, 3) uint8 RGB: shaded discs at the surfaces' points, orthographic, nearest in front.

    Points whose normal looks away are drawn darker, as the inside of what is open.

    Args:
        surfaces: by mask value, camera frame, mm.
        centre: (3,) mm, the point in the picture's middle.
        view: (3, 3) rotation, viewer <- camera frame.
        light: (3,) unit direction to it, camera frame.
        scale: pixels per mm.
    """
    sharper = 2  # drawn larger, then averaged
    width, height = PANEL[0] * sharper, PANEL[1] * sharper
    picture = np.full((height * width, 3), BACKGROUND)
    drawn = {i: s for i, s in surfaces.items() if len(s)}
    if drawn:
        points = np.concatenate([s.points for s in drawn.values()])
        colours = np.concatenate([_shade(i, s, view, light) for i, s in drawn.items()])
        seen = (points - centre) @ view.T
        at = np.rint(seen[:, :2] * scale * sharper + (width / 2, height / 2)).astype(int)
        reach = max(round(POINT_MM / 2 * scale * sharper), 1)
        window = np.arange(-reach, reach + 1)
        disc = np.stack(np.meshgrid(window, window), axis=-1).reshape(-1, 2)
        disc = disc[(disc**2).sum(axis=1) <= reach * (reach + 0.5)]
        # Far to near: the last one that writes a pixel stays.
        order = np.argsort(-seen[:, 2], kind="stable")
        pixels = (at[order, None] + disc).reshape(-1, 2)
        rows = np.repeat(order, len(disc))
        inside = ((pixels >= 0) & (pixels < (width, height))).all(axis=1)
        picture[pixels[inside, 1] * width + pixels[inside, 0]] = colours[rows[inside]]
    return cv2.resize(picture.reshape(height, width, 3), PANEL, interpolation=cv2.INTER_AREA)


def _shade(object_id: int, surface: Surface, view: np.ndarray, light: np.ndarray) -> np.ndarray:
    """(n, 3) uint8."""
    normals = surface.normals
    assert normals is not None
    lit = 0.55 + 0.5 * np.maximum(normals @ light, 0)
    lit = np.where(normals @ view[2] > 0.1, 0.4, lit)
    colour = PALETTE[(object_id - 1) % len(PALETTE)].astype(np.float64)
    return np.minimum(colour * lit[:, None], 255).astype(np.uint8)


def draw_scene(sample: SceneSample, predict: Predictor) -> list[tuple[np.ndarray, str]]:
    """The pictures of a scene, each with a line of text."""
    view_of_scene = sample.views[0]
    truth = true_surfaces(sample, view_of_scene)
    asked, _ = asked_objects(view_of_scene.mask, visible_shares(sample, view_of_scene, truth))
    truth = {i: truth[i] for i in asked}
    prediction: Prediction = predict(view_of_scene, asked)
    visible = references(view_of_scene, asked)[VISIBLE].surfaces
    view = from_the_side(view_of_scene.camera_pose)
    light = view_of_scene.camera_pose[2, :3] - 0.55 * view[0] - 0.35 * view[2]
    light /= np.linalg.norm(light)
    points = np.concatenate([s.points for s in truth.values()]) @ view.T
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 0.86 * min(PANEL / np.maximum(high - low, 1)[:2])
    centre = view.T @ ((low + high) / 2)
    records = score_scene(sample, "test_trained", {OURS: lambda *_: prediction}).records
    ours, bare = (summarise(r.metrics for r in records if r.method == method) for method in (OURS, VISIBLE))
    return [
        (
            cv2.resize(draw_masks(frame_of(view_of_scene)), PANEL),
            f"{sample.support_kind}, objects: {len(asked)}",
        ),
        (draw_surfaces(visible, centre, view, light, scale), _caption(bare["chamfer"], bare["f1_10"])),
        (
            draw_surfaces(prediction.surfaces, centre, view, light, scale),
            _caption(ours["chamfer"], ours["f1_10"]),
        ),
        (draw_surfaces(truth, centre, view, light, scale), ""),
    ]


def _caption(chamfer: float, f1: float) -> str:
    return f"chamfer {chamfer:.1f} mm, F1 at 10 mm {f1:.0f} %"


def draw(samples: list[SceneSample], predict: Predictor, out: Path) -> None:
    """One row per scene."""
    headings = (
        "colour and noisy masks",
        "what was measured, from the side",
        "reconstructed",
        "true surfaces",
    )
    plt.rcParams.update({"font.family": "DejaVu Sans"})
    rows = len(samples)
    figure, axes = plt.subplots(
        rows, 4, figsize=(15.2, 3.2 * rows + 0.3), dpi=80, facecolor="white", squeeze=False
    )
    for index, (row, sample) in enumerate(zip(axes, samples, strict=True)):
        for axis, heading, (picture, note) in zip(row, headings, draw_scene(sample, predict), strict=True):
            axis.imshow(picture, interpolation="antialiased")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_color("#d0d0d8")
            if index == 0:
                axis.set_title(heading, loc="left", fontsize=13, fontweight="bold", color="#22222a", pad=7)
            axis.set_xlabel(note, loc="left", fontsize=11, color="#55555f", labelpad=5)
    figure.tight_layout(pad=0.6)
    figure.savefig(out)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("scenes", type=Path, nargs="+", help="scene files, one row each")
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=OUT.with_name("reconstruction.png"))
    options = parser.parse_args()
    pipeline = Pipeline(load_bundle(options.bundle))
    draw([SceneSample.load(path) for path in options.scenes], run_pipeline(pipeline), options.out)
    print(f"wrote {options.out} ({options.out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
