"""docs/overview.png: a simulated frame, the octree the native core builds of it, and the simulator's truth.

Nothing in it was predicted by a network: the second row shows what is known before inference, and what a
reconstruction has to add.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from zerograsp_edge import kernels
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera, TrueObject
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.network import node_coordinates
from zerograsp_edge.runtime.overlay import PALETTE

OUT = Path(__file__).resolve().parents[2] / "docs" / "overview.png"
SEED, OBJECTS = 6, 6
MIN_LOD, MAX_LOD, GRID_SIZE = 4, 9, 80.0  # the published network's octree
CUBE = (1 << MIN_LOD) * GRID_SIZE  # mm
PANEL = (640, 480)
LIGHT = np.array(
    [-0.25, -0.92, -0.30]
)  # unit direction to it in the camera frame: above, a little to the left
BACKGROUND = np.array((250, 250, 252), np.uint8)


@dataclass(frozen=True)
class Voxels:
    """Cubes of one edge length: centres (n, 3) mm in the camera frame, and the object each belongs to."""

    centres: np.ndarray
    objects: np.ndarray
    edge: float


def visible_octree(frame: Frame, depths: tuple[int, ...]) -> tuple[list[Voxels], float]:
    """The occupied nodes of the native core's octree at some depths, and the near side of its cube, mm."""
    points = kernels.points_from_depth(
        frame.depth, frame.label_image(), frame.intrinsics, len(frame.object_ids()), GRID_SIZE, MIN_LOD
    )
    octree = kernels.build_octree(points.points, points.counts, MAX_LOD, MIN_LOD - 1)
    levels = []
    for depth in depths:
        nodes, objects = node_coordinates(octree.keys[depth][octree.children[depth] >= 0])
        edge = CUBE / (1 << depth)
        corner = np.array([-CUBE / 2, -CUBE / 2, points.z_min])
        levels.append(Voxels(corner + (nodes[:, :3] + 0.5) * edge, objects, edge))
    return levels, points.z_min


def true_surface(objects: tuple[TrueObject, ...], z_min: float, depth: int) -> Voxels:
    """The voxels that the true surfaces of all objects pass through."""
    edge = CUBE / (1 << depth)
    corner = np.array([-CUBE / 2, -CUBE / 2, z_min])
    nodes, owners = [], []
    for index, item in enumerate(objects):
        mesh = item.mesh()
        samples = mesh.sample(int(mesh.area / edge**2 * 120), seed=index)
        found = np.unique(np.floor((samples - corner) / edge).astype(np.int64), axis=0)
        nodes.append(found)
        owners.append(np.full(len(found), index))
    return Voxels(corner + (np.concatenate(nodes) + 0.5) * edge, np.concatenate(owners), edge)


def draw_voxels(
    voxels: Voxels, centre: np.ndarray, view: np.ndarray, light: np.ndarray, pixels_per_mm: float
) -> np.ndarray:
    """(h, w, 3) uint8 RGB: shaded cubes, orthographic, far to near.

    Args:
        centre: (3,) mm, the point in the picture's middle.
        view: (3, 3) rotation, viewer <- camera frame.
        light: (3,) unit direction to it, camera frame.
    """
    sharper = 3  # drawn larger, then averaged
    width, height = PANEL[0] * sharper, PANEL[1] * sharper
    picture = np.full((height, width, 3), BACKGROUND)
    scale = pixels_per_mm * sharper
    seen = (voxels.centres - centre) @ view.T
    at = seen[:, :2] * scale + (width / 2, height / 2)
    colours = PALETTE[voxels.objects % len(PALETTE)].astype(np.float32)
    half = voxels.edge / 2
    faces = []
    # The three faces that look at the viewer.
    for axis in range(3):
        normal = np.zeros(3)
        normal[axis] = -np.sign(view[2, axis])
        others = [a for a in range(3) if a != axis]
        corners = np.tile(normal * half, (4, 1))
        corners[:, others] = np.array([(-half, -half), (half, -half), (half, half), (-half, half)])
        brightness = 0.62 + 0.48 * max(0.0, float(normal @ light))
        faces.append(((corners @ view.T)[:, :2] * scale, brightness))
    edges = voxels.edge * scale > 14
    for i in np.argsort(-seen[:, 2], kind="stable"):
        for corners, brightness in faces:
            polygon = np.rint((at[i] + corners) * 16).astype(np.int32)
            cv2.fillConvexPoly(
                picture, polygon, np.minimum(colours[i] * brightness, 255).tolist(), cv2.LINE_8, 4
            )
            if edges:
                cv2.polylines(
                    picture, [polygon], True, (colours[i] * brightness * 0.72).tolist(), 2, cv2.LINE_AA, 4
                )
    return cv2.resize(picture, PANEL, interpolation=cv2.INTER_AREA)


def from_the_side(camera_pose: np.ndarray) -> np.ndarray:
    """(3, 3) viewer <- camera: a viewer 70 degrees round the table from the camera, 30 degrees above it."""
    up = camera_pose[2, :3]  # the table's z axis in the camera frame
    level = np.array([0.0, 0.0, 1.0]) - up[2] * up
    level /= np.linalg.norm(level)
    turn, tilt = np.radians(70), np.radians(30)
    forward = np.cos(turn) * level + np.sin(turn) * np.cross(up, level)
    forward = np.cos(tilt) * forward - np.sin(tilt) * up
    down = -(up - (up @ forward) * forward)
    down /= np.linalg.norm(down)
    return np.stack([np.cross(down, forward), down, forward])


def draw_depth(frame: Frame) -> np.ndarray:
    low, high = np.percentile(frame.depth[frame.depth > 0], (1, 99))
    unit = np.clip((frame.depth - low) / (high - low), 0, 1)
    return (matplotlib.colormaps["viridis_r"](unit)[:, :, :3] * 255).astype(np.uint8)


def draw_masks(frame: Frame) -> np.ndarray:
    labels = frame.label_image()
    grey = cv2.cvtColor(cv2.cvtColor(frame.rgb, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    tint = PALETTE[labels % len(PALETTE)]
    picture = np.where(
        (labels < 0)[:, :, None], grey // 2 + 70, (0.35 * frame.rgb + 0.65 * tint).astype(np.uint8)
    )
    for index in range(len(frame.object_ids())):
        outline, _ = cv2.findContours(
            (labels == index).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
        )
        cv2.drawContours(picture, outline, -1, PALETTE[index].tolist(), 2, cv2.LINE_AA)
    return picture


def crop(picture: np.ndarray) -> np.ndarray:
    """The middle of a frame's picture, enlarged: the scene fills the panel."""
    height, width = picture.shape[:2]
    middle = picture[height // 10 : height - height // 10, width // 10 : width - width // 10]
    return cv2.resize(middle, PANEL, interpolation=cv2.INTER_CUBIC)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out

    camera = SimulatedCamera(seed=SEED, num_objects=OBJECTS)
    frame, truth = camera.render(0)
    (coarse, fine), z_min = visible_octree(frame, (7, MAX_LOD))
    true = true_surface(truth.objects, z_min, MAX_LOD)
    view = from_the_side(truth.camera_pose)
    # From above, from the left and from behind the viewer.
    light = truth.camera_pose[2, :3] - 0.55 * view[0] - 0.35 * view[2]
    light /= np.linalg.norm(light)
    middle = (true.centres.min(axis=0) + true.centres.max(axis=0)) / 2
    spread = np.ptp((true.centres - middle) @ view.T, axis=0)
    scale = 0.9 * min(PANEL[0] / spread[0], PANEL[1] / spread[1])
    centre = middle + view.T @ np.append(
        (((true.centres - middle) @ view.T).max(0) + ((true.centres - middle) @ view.T).min(0))[:2] / 2, 0
    )
    panels = (
        (crop(frame.rgb), "RGB image", "simulated camera, 640 x 480"),
        (crop(draw_depth(frame)), "depth image", "near: yellow, far: violet"),
        (crop(draw_masks(frame)), "instance masks", f"{len(frame.object_ids())} objects"),
        (
            draw_voxels(coarse, centre, view, light, scale),
            "input octree, depth 7",
            f"{coarse.edge:g} mm nodes, seen from the side",
        ),
        (
            draw_voxels(fine, centre, view, light, scale),
            "input octree, depth 9",
            f"{fine.edge:g} mm: what the camera saw; hidden sides are open",
        ),
        (
            draw_voxels(true, centre, view, light, scale),
            "ground truth of the simulator",
            "whole surfaces: what a reconstruction must add",
        ),
    )
    plt.rcParams.update({"font.family": "DejaVu Sans"})
    figure, axes = plt.subplots(2, 3, figsize=(14.4, 8.2), dpi=85, facecolor="white")
    for axis, (picture, title, note) in zip(axes.flat, panels, strict=True):
        axis.imshow(picture, interpolation="antialiased")
        axis.set_xticks([])
        axis.set_yticks([])
        for spine in axis.spines.values():
            spine.set_color("#d0d0d8")
        axis.set_title(title, loc="left", fontsize=14, fontweight="bold", color="#22222a", pad=8)
        axis.set_xlabel(note, loc="left", fontsize=11.5, color="#55555f", labelpad=6)
    figure.subplots_adjust(left=0.01, right=0.99, top=0.955, bottom=0.04, wspace=0.025, hspace=0.2)
    figure.canvas.draw()
    image = Image.fromarray(np.asarray(figure.canvas.buffer_rgba())[:, :, :3])
    image.save(out, optimize=True)
    print(f"wrote {out} ({out.stat().st_size / 1e3:.0f} kB)")


if __name__ == "__main__":
    main()
