"""Random inputs of the kernels' tests, shared by those of the CPU and of the CUDA kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Arguments = dict[str, Any]


@st.composite
def clouds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Points (P, 3) and counts (B,): random, on the borders of voxels and cube, repeated, in one voxel; empty
    objects."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_objects = draw(st.sampled_from([1, 2, 7, 40]))
    clouds = []
    for _ in range(num_objects):
        kind = draw(st.sampled_from(["empty", "one", "random", "border", "repeated", "one voxel", "walk"]))
        count = {"empty": 0, "one": 1}.get(kind, int(rng.integers(2, 800 // num_objects + 20)))
        cloud = rng.uniform(-1, np.nextafter(np.float32(1), np.float32(0)), (count, 3))
        if kind == "border":
            cloud = np.clip(np.round(cloud * 256) / 256, -1, 1 - 2**-20)
        elif kind == "repeated":
            cloud = cloud[rng.integers(0, 3, count) % max(count, 1)]
        elif kind == "one voxel":
            cloud = 0.3 + rng.uniform(0, 1e-4, (count, 3))
        elif kind == "walk":  # like a surface in raster order
            cloud = np.clip(np.cumsum(rng.normal(0, 0.002, (count, 3)), axis=0), -0.9, 0.9)
        clouds.append(cloud.astype(np.float32))
    return np.concatenate(clouds), np.array([len(c) for c in clouds], np.int32)


@st.composite
def key_pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two ascending key lists with common parts: complete sibling groups, single keys, or both."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    groups = rng.choice(1500, draw(st.sampled_from([0, 1, 40, 1400])), replace=False)
    sides = []
    for _ in range(2):
        share = draw(st.sampled_from([0.1, 0.5, 1.0]))
        mine = np.sort(groups[rng.random(len(groups)) < share])
        keys = (mine[:, None] * 8 + np.arange(8)).reshape(-1)
        if draw(st.booleans()):
            keys = keys[rng.random(len(keys)) < 0.7]
        sides.append((keys // 4000 << 48 | keys % 4000).astype(np.int64))
    return sides[0], sides[1]


def full_grid(num_objects: int, depth: int) -> np.ndarray:
    return (np.arange(8**depth) | (np.arange(num_objects)[:, None] << 48)).reshape(-1).astype(np.int64)


def random_scene(
    seed: int,
    *,
    nodes: int = 3,
    objects: int = 3,
    size: tuple[int, int] = (32, 40),
    resolution: int = 4,
    edge: float = 80.0,
    reach: tuple[float, float] = (200.0, 700.0),
) -> Arguments:
    """Blocks of random labels over a tilted, noisy surface with holes, and cubes around that surface.

    `reach` is the range of the cubes' z, behind the camera where negative; the surface is near 450 mm.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    block = int(rng.integers(1, 12))
    coarse = rng.integers(-1, objects, (height // block + 1, width // block + 1))
    labels = np.kron(coarse, np.ones((block, block), int))[:height, :width].astype(np.int32)
    v, u = np.mgrid[:height, :width]
    depth = 450 + rng.normal(0, 5, 2) @ [u.ravel() - width / 2, v.ravel() - height / 2]
    depth = depth.reshape(height, width) + rng.normal(0, rng.choice([0.1, 5, 60]), (height, width))
    depth[rng.random((height, width)) < 0.1] = rng.choice([0.0, 5.0, 10.0, np.nan, -3.0])
    focal = rng.uniform(0.5, 3) * width * np.array([1, rng.uniform(0.6, 1.6)])
    principal = rng.uniform(0.2, 0.8, 2) * [width, height]
    intrinsics = [[focal[0], 0, principal[0]], [0, focal[1], principal[1]], [0, 0, 1]]

    z = rng.uniform(*reach, nodes)
    pixels = rng.uniform(-0.2, 1.2, (nodes, 2)) * [width, height]  # some beside the image
    centres = np.column_stack([(pixels - principal) / focal * np.abs(z)[:, None], z])
    if rng.random() < 0.5:  # as the octree has them: corners on the optical axis, and exact ties
        centres = np.round(centres / (edge / 2)) * (edge / 2)
    adjacency = np.triu(rng.integers(0, 2, (objects, objects)), 1)
    return {
        "centres": centres.astype(np.float32),
        "object_index": rng.integers(0, objects, nodes).astype(np.int32),
        "depth": depth.astype(np.float32),
        "labels": labels,
        "adjacency": (adjacency + adjacency.T).astype(np.uint8),
        "intrinsics": np.array(intrinsics, np.float32),
        "edge": edge,
        "resolution": resolution,
    }


def features(rng: np.random.Generator, *shape: int) -> Floats:
    return rng.standard_normal(shape).astype(np.float32)


def weights(rng: np.random.Generator, taps: int, cin: int, cout: int) -> tuple[Floats, Floats]:
    weight = rng.standard_normal((taps, cin, cout)) / math.sqrt(taps * cin)
    return weight.astype(np.float32), features(rng, cout)


def table(rng: np.random.Generator, taps: int, nodes: int, rows: int, present: float) -> NDArray[np.int32]:
    indices = rng.integers(0, max(rows, 1), (taps, nodes))
    return np.where((rng.random((taps, nodes)) < present) & (rows > 0), indices, -1).astype(np.int32)


def residual_arguments(
    rng: np.random.Generator, cin: int, hidden: int, cout: int, projected: bool
) -> list[Any]:
    blocks = [(1, cin, hidden), (27, hidden, hidden), (1, hidden, cout if projected else cin)]
    arrays: list[Any] = [array for shape in blocks for array in weights(rng, *shape)]
    return [*arrays, weights(rng, 1, cin, cout)[0] if projected else None]


def random_rotations(rng: np.random.Generator, count: int) -> Floats:
    matrix, _ = np.linalg.qr(rng.standard_normal((count, 3, 3)))
    matrix[:, :, 2] *= np.linalg.det(matrix)[:, None]
    return np.ascontiguousarray(matrix, np.float32)


def axis_rotations(rng: np.random.Generator, count: int) -> Floats:
    """Signed permutations: grasp coordinates of points on a lattice are exact, so ties are."""
    out = np.zeros((count, 3, 3), np.float32)
    for matrix in out:
        matrix[np.arange(3), rng.permutation(3)] = rng.choice([-1, 1], 3)
        matrix[:, 2] *= np.linalg.det(matrix)
    return out


@st.composite
def frames(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Small frames: boxes of objects, holes, depths that leave the cube, NaN and infinity."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    num_objects = draw(st.sampled_from([1, 2, 5, 40]))
    labels = np.full((height, width), -1, np.int32)
    for i in range(num_objects):
        v, u = rng.integers(height), rng.integers(width)
        labels[v : v + rng.integers(1, 20), u : u + rng.integers(1, 20)] = i
    if draw(st.booleans()):
        labels[rng.random(labels.shape) < 0.3] = -1
    spread = draw(st.sampled_from([0.0, 3.0, 3000.0]))
    depth = (700 + spread * rng.standard_normal(labels.shape)).astype(np.float32)
    bad = rng.random(labels.shape)
    for value, share in [(np.nan, 0.05), (np.inf, 0.1), (-np.inf, 0.12), (0.0, 0.15), (10.0, 0.17)]:
        depth[bad < share * draw(st.sampled_from([0, 1]))] = value
    return depth, labels, num_objects
