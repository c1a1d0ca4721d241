"""Figures of the occlusion field for `benchmarks/kernels.py`: the native kernel beside a plain port."""

from __future__ import annotations

import ctypes
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from harness import figure
from numpy.typing import NDArray

from zerograsp_edge.kernels.occlusion import occlusion_field

EDGE, RESOLUTION = 80.0, 8
PEER = "plain C++ port, one item per (sub-voxel, triangle)"
ASKED_SPEEDUP = 20.0
SHARED = Path(os.environ.get("ZEROGRASP_SHARED", Path(__file__).resolve().parents[3] / "shared"))


@dataclass(frozen=True)
class Scene:
    """Arguments of `occlusion_field` for one frame."""

    name: str
    centres: NDArray[np.float32]
    object_index: NDArray[np.int32]
    depth: NDArray[np.float32]
    labels: NDArray[np.int32]
    adjacency: NDArray[np.uint8]
    intrinsics: NDArray[np.float32]

    @classmethod
    def from_frame(
        cls, name: str, depth: NDArray[np.float32], labels: NDArray[np.int32], intrinsics: NDArray[np.float32]
    ) -> Scene:
        """Nodes and neighbours as the network has them: the 8 children of each 160 mm cube with points."""
        v, u = np.nonzero((labels >= 0) & (depth > 10))
        z = depth[v, u]
        x = (u - intrinsics[0, 2]) / intrinsics[0, 0] * z
        y = (v - intrinsics[1, 2]) / intrinsics[1, 1] * z
        points = np.column_stack([x, y, z])
        z_min = np.floor(z.min() / EDGE) * EDGE - 5 * EDGE
        parents = np.floor((points - [0, 0, z_min]) / (2 * EDGE)).astype(np.int64)
        parents = np.unique(np.column_stack([labels[v, u], parents]), axis=0)
        siblings = np.stack(np.meshgrid(*[[0.5, 1.5]] * 3, indexing="ij"), -1).reshape(8, 3) * EDGE
        centres = (parents[:, None, 1:] * 2 * EDGE + siblings + [0, 0, z_min]).reshape(-1, 3)

        count = int(labels.max()) + 1
        kernel = np.ones((5, 5), np.uint8)
        wide = [np.asarray(cv2.dilate((labels == i).astype(np.uint8), kernel), bool) for i in range(count)]
        touch = np.array([[(a & b).any() for b in wide] for a in wide])
        adjacency = touch & ~np.eye(count, dtype=bool)
        return cls(
            name,
            np.ascontiguousarray(centres, np.float32),
            np.repeat(parents[:, 0], 8).astype(np.int32),
            depth,
            labels,
            adjacency.astype(np.uint8),
            intrinsics,
        )


def rendered_scene(height: int, width: int, objects: int = 6) -> Scene:
    """Spheres on a table, seen from above: the stand-in where no recorded frame is at hand."""
    focal = 0.525 * width
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    v, u = np.mgrid[:height, :width]
    rays = np.stack([(u - width / 2) / focal, (v - height / 2) / focal, np.ones((height, width))], -1)
    depth = np.full((height, width), 700.0)
    labels = np.full((height, width), -1, np.int32)
    angles = 2 * np.pi * np.arange(objects) / objects
    for i, angle in enumerate(angles):
        radius = 35.0 + 8 * (i % 3)
        centre = np.array([90 * np.cos(angle), 90 * np.sin(angle), 700 - radius])
        a, b = (rays**2).sum(-1), rays @ centre
        root = b**2 - a * (centre @ centre - radius**2)
        near = (b - np.sqrt(np.maximum(root, 0))) / a
        hit = (root > 0) & (near < depth)
        depth[hit], labels[hit] = near[hit], i
    return Scene.from_frame(f"rendered {width}x{height}", depth.astype(np.float32), labels, intrinsics)


def recorded_scene() -> Scene | None:
    """Frame 000 of the reference data; None where that data is absent."""
    frames = SHARED / "frames"
    if not (frames / "000.depth.png").exists():
        return None
    depth = np.asarray(cv2.imread(str(frames / "000.depth.png"), cv2.IMREAD_UNCHANGED), np.float32)
    palette = np.asarray(cv2.imread(str(frames / "000.mask.png"), cv2.IMREAD_COLOR), np.uint8)
    # PASCAL VOC palette: the bits of object n are the highest bits of R, G, B.
    labels = (palette >> 7) @ np.array([4, 2, 1]) - 1
    projection = yaml.safe_load((frames / "000.meta.yml").read_text())["left_p"]
    intrinsics = np.ascontiguousarray(np.array(projection, np.float32).reshape(3, -1)[:, :3])
    return Scene.from_frame("frame 000, 1280x1024", depth, labels.astype(np.int32), intrinsics)


def compile_port(folder: Path) -> Callable[[Scene, int], NDArray[np.float32]]:
    """Builds the plain port with the system's g++ and returns it as a function of (scene, threads)."""
    library = folder / "occlusion_port.so"
    source = Path(__file__).parents[1] / "peers" / "occlusion_port.cpp"
    flags = ["-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC"]
    subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
    function = ctypes.CDLL(str(library)).occlusion_port

    def port(scene: Scene, threads: int) -> NDArray[np.float32]:
        out = np.empty((len(scene.centres), 2, *[RESOLUTION] * 3), np.float32)
        height, width = scene.depth.shape
        function(
            _pointer(scene.centres), _pointer(scene.object_index), len(scene.centres),
            _pointer(scene.depth), _pointer(scene.labels), height, width,
            _pointer(scene.adjacency), len(scene.adjacency), _pointer(scene.intrinsics),
            ctypes.c_float(EDGE), RESOLUTION, threads, _pointer(out),
        )  # fmt: skip
        return out

    return port


def native(scene: Scene, threads: int, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    return occlusion_field(
        scene.centres,
        scene.object_index,
        scene.depth,
        scene.labels,
        scene.adjacency,
        scene.intrinsics,
        EDGE,
        RESOLUTION,
        threads=threads,
        out=out,
    )


def figures(quick: bool) -> list[dict[str, Any]]:
    """Time per frame, speed-up over the port, flags that differ from it; the two take turns."""
    if quick:
        scenes = [rendered_scene(240, 320)]
    else:
        scenes = [rendered_scene(1024, 1280)]
        recorded = recorded_scene()
        if recorded is not None:
            scenes.insert(0, recorded)
    threads = min(2, os.cpu_count() or 1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        port = compile_port(Path(folder))
        for scene in scenes:
            out = native(scene, threads)
            different = int((out != port(scene, threads)).sum())
            ours, theirs = [], []
            for _ in range(3 if quick else 7):
                theirs.append(_milliseconds(lambda: port(scene, threads)))  # noqa: B023
                ours += [_milliseconds(lambda: native(scene, threads, out)) for _ in range(5)]  # noqa: B023
            mine, peer = statistics.median(ours), statistics.median(theirs)
            label = f"occlusion field, {scene.name}, {len(scene.centres)} nodes, {threads} threads"
            rows += [
                figure(f"{label}: time", mine, "ms", "lower", None, PEER, peer),
                figure(f"{label}: speed-up", peer / mine, "x", "higher", ASKED_SPEEDUP, PEER, 1.0),
                figure(f"{label}: differing flags", different / out.size, "share", "lower", 1 / 5000, PEER),
            ]
    return rows


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return array.ctypes.data_as(ctypes.c_void_p)


def _milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1e3 * (time.perf_counter() - start)
