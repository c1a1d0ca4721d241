"""Figures of grasp refinement for `benchmarks/kernels.py`: a frame's grasps, and the kernel beside brute force."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
from harness import SHARED, Figure, figure
from numpy.typing import NDArray
from parts.occlusion import rendered_scene

from zerograsp_edge import kernels
from zerograsp_edge.kernels import Fit, Hand
from zerograsp_edge.runtime.grasp.decode import OctreeCube, decode
from zerograsp_edge.runtime.grasp.refine import RefineConfig, refine_objects, scene_points, visible_points
from zerograsp_edge.runtime.result import Grasps, ObjectReconstruction

PEER = "NumPy, every point against every grasp"
ASKED_MS, ASKED_SPEEDUP = 60.0, 200.0
PER_OBJECT = 1000
# The peer decides grasps whose points lie on a face of the hand by another rounding.
SAME_SHARE = 0.999

Float = NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """Decoded objects of a frame and what the camera saw of it."""

    name: str
    objects: tuple[ObjectReconstruction, ...]
    depth: Float
    intrinsics: Float


def recorded_scene() -> Scene | None:
    """Frame 000 with the published code's signal: a grasp at each of the 28,418 surface points of 7 objects."""
    golden, image = SHARED / "golden" / "case_000.npz", SHARED / "frames" / "000.depth.png"
    if not (golden.exists() and image.exists()):
        return None
    case = np.load(golden)
    cube = OctreeCube(float(case["z_min"][0]))
    objects = decode(case["signal"], case["signal/keys"], cube, case["obj_ids"].tolist())
    depth = np.asarray(cv2.imread(str(image), cv2.IMREAD_UNCHANGED), np.float32)
    return Scene("frame 000", objects, depth, case["K"])


def substitute_scene() -> Scene:
    """Spheres on a table with a grasp at each of 4,000 points of each; where the recorded frame is absent."""
    rendered, rng = rendered_scene(480, 640), np.random.default_rng(0)
    objects = []
    for index in range(int(rendered.labels.max()) + 1):
        centre = rendered.centres[rendered.object_index == index].mean(axis=0)
        directions = rng.standard_normal((4000, 3))
        directions /= np.linalg.norm(directions, axis=1)[:, None]
        normals = directions.astype(np.float32)
        points = centre + 40 * normals
        approach = -normals
        closing = np.cross(approach, rng.standard_normal((len(points), 3)))
        closing /= np.linalg.norm(closing, axis=1)[:, None]
        grasps = Grasps(
            score=rng.random(len(points), np.float32),
            width=np.full(len(points), 0.085, np.float32),
            depth=np.full(len(points), 0.03, np.float32),
            rotation=np.stack([approach, closing, np.cross(approach, closing)], 2).astype(np.float32),
            translation=(points / 1000).astype(np.float32),
            object_id=np.full(len(points), index + 1, np.int32),
        )
        nodes, sdf = np.zeros((len(points), 3), np.int32), np.zeros(len(points), np.float32)
        item = ObjectReconstruction(
            index + 1,
            index,
            points.astype(np.float32),
            normals,
            sdf,
            nodes,
            np.zeros(3, np.float32),
            2.5,
            grasps,
        )
        objects.append(item)
    return Scene("rendered 640x480", tuple(objects), rendered.depth, rendered.intrinsics)


def figures(quick: bool) -> list[Figure]:
    threads = int(os.environ["OMP_NUM_THREADS"])
    scene = recorded_scene() or substitute_scene()
    repeats = 3 if quick else 20
    best = tuple(replace(item, grasps=item.grasps.top(PER_OBJECT)) for item in scene.objects)
    results = []
    for objects, kind in ((scene.objects, "all"), (best, f"the best {PER_OBJECT} of each object:")):
        for config, path in (
            (RefineConfig(), ""),
            (RefineConfig(approach_distance=None), ", without the path"),
        ):
            count = sum(len(item.grasps) for item in objects)
            elapsed = _median_ms(lambda o=objects, c=config: _refine(scene, o, c, threads), repeats)
            name = (
                f"refinement, collision, NMS of {kind} {count} grasps{path} ({scene.name}, {threads} threads)"
            )
            results.append(figure(name, elapsed, "ms", asked=ASKED_MS))
    return [*results, *_beside_brute_force(scene, quick, threads, repeats)]


def _refine(
    scene: Scene, objects: tuple[ObjectReconstruction, ...], config: RefineConfig, threads: int
) -> None:
    refine_objects(objects, visible_points(scene.depth, scene.intrinsics), config, threads=threads)


def _beside_brute_force(scene: Scene, quick: bool, threads: int, repeats: int) -> list[Figure]:
    """Contact constraints and collision of one object's best grasps; the outcomes are compared as well."""
    grasps = scene.objects[0].grasps.top(50 if quick else PER_OBJECT)
    points = scene_points(scene.objects, visible_points(scene.depth, scene.intrinsics))
    arguments = grasps.rotation, grasps.translation, grasps.width, grasps.depth
    elapsed = _median_ms(lambda: kernels.refine_grasps(*arguments, points, threads=threads), repeats)
    got = kernels.refine_grasps(*arguments, points, threads=threads)
    start = time.perf_counter()
    collides, width, depth = brute_force(grasps, points)
    peer = 1e3 * (time.perf_counter() - start)
    same = (collides == (got.fit != Fit.FITS)) & (np.abs(width - got.width) < 1e-5)
    same &= np.abs(depth - got.depth) < 1e-5
    if same.mean() < SAME_SHARE:
        raise AssertionError(f"kernel and brute force agree on {same.sum()} of {len(same)} grasps only")
    name = f"refine_grasps, {len(grasps)} grasps, {len(points)} points ({scene.name}, {threads} threads)"
    return [
        figure(f"{name}: time", elapsed, "ms", peer=PEER, peer_value=peer),
        figure(f"{name}: speed-up", peer / elapsed, "x", "higher", ASKED_SPEEDUP, PEER),
    ]


def brute_force(grasps: Grasps, points: Float) -> tuple[NDArray[np.bool_], Float, Float]:
    """Collision, width and depth as anyone would write them first: one matrix product and masks per grasp."""
    hand = Hand()
    half_height, base = hand.finger_height / 2, -hand.finger_base
    collides = np.zeros(len(grasps), bool)
    width, depth = grasps.width.copy(), grasps.depth.copy()
    for i in range(len(grasps)):
        x, y, z = ((points - grasps.translation[i]) @ grasps.rotation[i]).T
        half, outer = grasps.width[i] / 2, grasps.width[i] / 2 + np.float32(hand.finger_thickness)
        slab = np.abs(z) < half_height
        inner = slab & (x > base) & (x < grasps.depth[i]) & (np.abs(y) <= half)
        beside = np.where(inner, y, np.float32(0))
        left, right = (half + beside).argmin(), (half - beside).argmin()
        contact = min(half + beside[left], half - beside[right])
        width[i] += 2 * (min(max(contact, hand.min_clearance), hand.max_clearance) - contact)
        depth[i] = max(min(max(x[left], x[right]), depth[i]), 0)
        finger = slab & (x > base) & (x < depth[i]) & (np.abs(y) > half) & (np.abs(y) < outer)
        palm = slab & (x > base - hand.palm_thickness) & (x <= base) & (np.abs(y) < outer)
        collides[i] = inner.sum() < hand.min_inner_points or finger.any() or palm.any()
    return collides, width, depth


def _median_ms(function: Callable[[], object], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)
