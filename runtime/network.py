"""The stages of a bundle in order, with the growth of the octree between them, on buffers that are allocated once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from zerograsp_edge import kernels
from zerograsp_edge.runtime.bundle import Bundle, Geometry, Limits
from zerograsp_edge.runtime.errors import DecodeError
from zerograsp_edge.runtime.grasp.decode import OctreeCube, node_coordinates

Taps = dict[str, np.ndarray]


class Executor(Protocol):
    """Runs the stages of a bundle between arrays of the caller; see `backends.onnxruntime`."""

    name: str
    threads: int

    def run(self, stage: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None: ...


class Stopwatch:
    """Milliseconds per named part of a frame, in order of execution; a part that comes again is added up."""

    def __init__(self) -> None:
        self.timings: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[part] = self.timings.get(part, 0.0) + 1e3 * (time.perf_counter() - start)


@dataclass(frozen=True)
class Scene:
    """What the network sees of a frame, B objects.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32, mm.
        intrinsics: (3, 3) float32.
        labels: (H, W) int32, object index at valid pixels, -1 elsewhere.
        adjacency: (B, B) uint8, objects whose dilated masks overlap.
        points: (P, 3) float32, normalised to the cube, grouped by object.
        counts: (B,) int32 points of each object, all positive.
        z_min: mm.
    """

    rgb: np.ndarray
    depth: np.ndarray
    intrinsics: np.ndarray
    labels: np.ndarray
    adjacency: np.ndarray
    points: np.ndarray
    counts: np.ndarray
    z_min: float


@dataclass(frozen=True)
class Surface:
    """The occupied nodes of the finest depth: signal (n, 14) float32 and keys (n,) int64, ascending."""

    signal: np.ndarray
    keys: np.ndarray


def node_limits(geometry: Geometry, limits: Limits) -> dict[int, int]:
    """Most nodes per depth that buffers hold: `max_nodes` at the finest, `max_tokens` at depth min_lod.

    A surface has about a quarter of the nodes one depth up; half is kept, and at coarse depths, where it
    costs little, more.
    """
    floor = min(limits.max_nodes, 32768)
    nodes = {
        d: min(limits.max_objects << (3 * d), max(limits.max_nodes >> (geometry.max_lod - d), floor))
        for d in range(geometry.full_depth, geometry.max_lod + 1)
    }
    return {**nodes, geometry.min_lod: min(nodes[geometry.min_lod], limits.max_tokens)}


class Network:
    """Runs a bundle's stages on scenes, one at a time.

    Args:
        bundle: geometry, limits and stages.
        executor: what runs a stage.
    """

    def __init__(self, bundle: Bundle, executor: Executor) -> None:
        self.geometry = g = bundle.geometry
        self.limits = limits = bundle.limits
        self._executor = executor
        self._workspace = kernels.Workspace()
        multiple = g.image_multiple
        height, width = (-(-n // multiple) * multiple for n in (limits.max_height, limits.max_width))
        nodes = node_limits(g, limits)
        full_rows = (limits.max_objects << (3 * g.min_lod)) + (2 * g.residual_blocks + 1) ** 3

        def dtype(stage: str, tensor: str) -> np.dtype:
            return np.dtype(bundle.stages[stage].dtypes[tensor])

        # Memory that no frame has needed yet is not resident: these are upper bounds.
        self._padded = np.empty((height, width, 3), np.uint8)
        self._features = np.empty(g.image_channels * height * width, dtype("image_encoder", "image_features"))
        points = limits.max_height * limits.max_width
        self._octree = kernels.Octree.allocate(limits.max_objects, g.max_lod, g.full_depth, nodes, points)
        self._voxels = np.empty((nodes[g.max_lod], 3 + g.image_channels), dtype("octree_encoder", "features"))
        self._tokens = np.empty(
            (nodes[g.min_lod], g.channels_at(g.min_lod)), dtype("octree_encoder", "tokens")
        )
        self._skips = {
            d: np.empty((nodes[d], g.channels_at(d)), dtype("octree_encoder", f"skip_{d}"))
            for d in g.depths
            if d > g.min_lod
        }
        self._latent = np.empty((2, limits.max_objects, g.latent), np.float32)
        self._grid = kernels.ActiveGrid.allocate(limits.max_objects, g.min_lod, full_rows)
        grid_nodes = limits.max_objects << (3 * g.min_lod)
        morton = np.arange(1 << (3 * g.min_lod), dtype=np.int64)
        self._grid_keys = (np.arange(limits.max_objects, dtype=np.int64)[:, None] << 48 | morton).ravel()
        rows = {d: full_rows if d == g.min_lod else nodes[d] for d in g.depths}
        self._outputs = {
            d: np.empty((rows[d], g.channels_at(d)), dtype(f"decoder_{d}", "features"))
            for d in g.depths
            if d < g.max_lod
        }
        heads = {d: 2 + (g.signal_channels if d == g.max_lod else 0) for d in g.depths}
        self._logits = {d: np.empty((rows[d], heads[d]), np.float32) for d in g.depths}
        self._growth = {
            d: kernels.Growth.allocate(
                grid_nodes if d == g.min_lod else nodes[d], nodes[d] if d == g.max_lod else nodes[d + 1] // 8
            )
            for d in g.depths
        }

    def cube(self, z_min: float) -> OctreeCube:
        g = self.geometry
        return OctreeCube(z_min, g.grid_size, g.min_lod, g.max_lod)

    def run(
        self,
        scene: Scene,
        watch: Stopwatch,
        *,
        noise: np.ndarray | None = None,
        forced_splits: Mapping[int, np.ndarray] | None = None,
        taps: Taps | None = None,
    ) -> Surface:
        """One scene through all stages.

        Args:
            noise: (B, latent) float32 standard normal for a sample of the latent vector; without it the prior's mean.
            forced_splits: per depth (N_d,) bool in place of the predicted occupancy (verification).
            taps: receives copies of the stages' outputs as `<stage>/<tensor>` and the octree's keys as `keys_<d>`.

        Raises:
            kernels.CapacityError: a limit of the bundle is exceeded.
            DecodeError: the logits of a depth hold NaN.
        """
        features = self._encode_image(scene.rgb, watch, taps)
        tokens, keys = self._encode_octree(scene, features, noise, watch, taps)
        return self._decode(scene, tokens, keys, forced_splits or {}, watch, taps)

    def _encode_image(self, rgb: np.ndarray, watch: Stopwatch, taps: Taps | None) -> np.ndarray:
        g = self.geometry
        height, width = rgb.shape[:2]
        multiple = g.image_multiple
        with watch("image_encoder"):
            padded = (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
            if padded != (height, width):
                # The border's pixels are repeated, so that no edge appears where the picture ends.
                buffer = self._padded.reshape(-1)[: padded[0] * padded[1] * 3].reshape(*padded, 3)
                buffer[:height, :width] = rgb
                buffer[:height, width:] = rgb[:, -1:]
                buffer[height:] = buffer[height - 1]
                rgb = buffer
            size = g.image_channels * padded[0] * padded[1]
            features = self._features[:size].reshape(1, g.image_channels, *padded)
            self._executor.run(
                "image_encoder", {"rgb": np.ascontiguousarray(rgb)}, {"image_features": features}
            )
        if taps is not None:
            taps["image_encoder/image_features"] = features[0].reshape(g.image_channels, -1).T.copy()
        return features[0]

    def _encode_octree(
        self,
        scene: Scene,
        features: np.ndarray,
        noise: np.ndarray | None,
        watch: Stopwatch,
        taps: Taps | None,
    ) -> tuple[np.ndarray, dict[int, np.ndarray]]:
        """Tokens (N, C) of depth min_lod and the input octree's keys by depth; skip features go to their buffers."""
        g = self.geometry
        threads, workspace = self._executor.threads, self._workspace
        objects = len(scene.counts)
        with watch("octree_build"):
            octree = kernels.build_octree(
                scene.points,
                scene.counts,
                g.max_lod,
                g.full_depth,
                out=self._octree,
                workspace=workspace,
                threads=threads,
            )
        with watch("voxel_features"):
            voxels = kernels.voxel_features(
                scene.points, octree.voxel, int(octree.nnum_split[g.max_lod]), features, scene.intrinsics, scene.z_min,
                scene.depth.shape, grid_size=g.grid_size, min_lod=g.min_lod, max_lod=g.max_lod, out=self._voxels,
                workspace=workspace, threads=threads,
            )  # fmt: skip
        with watch("octree_encoder"):
            low = octree.keys[g.min_lod]
            nodes, object_index = node_coordinates(low)
            inputs = {
                "features": voxels,
                "object": object_index,
                "noise": np.zeros((objects, g.latent), np.float32) if noise is None else noise,
            }
            for d in g.depths:
                inputs[f"children_{d}"] = octree.children[d]
                inputs[f"split_neighbours_{d - 1}"] = octree.split_neighbours[d - 1]
            if g.occlusion:
                inputs["centres"] = self.cube(scene.z_min).node_centres(nodes, g.min_lod)
                inputs["depth"], inputs["labels"] = scene.depth, scene.labels
                inputs["adjacency"] = scene.adjacency.view(np.bool_)
                inputs["intrinsics"] = scene.intrinsics
            if g.multi_object:
                inputs["positions"] = (nodes.astype(np.float32) + np.float32(0.5)) * np.float32(
                    2.0 ** (1 - g.min_lod)
                ) - 1
            tokens = _rows(self._tokens, len(low), f"nodes of the input octree at depth {g.min_lod}")
            latent = self._latent.reshape(2, -1)[:, : objects * g.latent].reshape(2, objects, g.latent)
            outputs = {"tokens": tokens, "latent_mean": latent[0], "latent_log_variance": latent[1]}
            outputs |= {f"skip_{d}": skip[: len(octree.keys[d])] for d, skip in self._skips.items()}
            self._executor.run("octree_encoder", inputs, outputs)
        if taps is not None:
            taps.update({f"octree_encoder/{name}": array.copy() for name, array in outputs.items()})
            taps.update({f"input_keys_{d}": octree.keys[d].copy() for d in g.depths})
        return tokens, octree.keys

    def _decode(
        self, scene: Scene, tokens: np.ndarray, input_keys: dict[int, np.ndarray],
        forced_splits: Mapping[int, np.ndarray], watch: Stopwatch, taps: Taps | None,
    ) -> Surface:  # fmt: skip
        g = self.geometry
        threads, workspace = self._executor.threads, self._workspace
        objects = len(scene.counts)
        with watch("growth"):
            grid = kernels.active_grid(
                input_keys[g.min_lod],
                objects,
                g.min_lod,
                g.residual_blocks,
                out=self._grid,
                workspace=workspace,
                threads=threads,
            )
        keys = self._grid_keys[: objects << (3 * g.min_lod)]
        rows: np.ndarray | None = grid.rows
        parents: np.ndarray | int | None = g.min_lod
        inputs = {"tokens": tokens, "source": grid.source, "neighbours": grid.neighbours}
        growth = None
        for d in g.depths:
            count = len(grid.source) if d == g.min_lod else len(keys)
            logits = _rows(self._logits[d], count, f"nodes of the output octree at depth {d}")
            last = d == g.max_lod
            outputs = {"signal": logits} if last else {"features": self._outputs[d][:count], "logits": logits}
            with watch(f"decoder_{d}"):
                self._executor.run(f"decoder_{d}", inputs, outputs)
            if taps is not None:
                expand = slice(None) if rows is None else rows
                taps.update({f"decoder_{d}/{name}": array[expand].copy() for name, array in outputs.items()})
                taps[f"keys_{d}"] = keys.copy()
            with watch("growth"):
                growth = kernels.grow(
                    logits, rows, keys, None if last else parents, forced=forced_splits.get(d), out=self._growth[d],
                    workspace=workspace, threads=threads,
                )  # fmt: skip
            check_finite_logits(d, growth.nan_count, len(keys))
            if last:
                break
            keys, parents, rows = growth.next_keys, growth.split_neighbours, None
            inputs = {
                "parent_features": outputs["features"],
                "split_rows": growth.split_rows,
                "split_neighbours": growth.split_neighbours,
                "keys": keys,
                "skip": self._skips[d + 1][: len(input_keys[d + 1])],
                "skip_keys": input_keys[d + 1],
            }
        assert growth is not None
        return Surface(self._logits[g.max_lod][growth.split_rows, 2:], keys[growth.split_rows])


def _rows(buffer: np.ndarray, count: int, limit: str) -> np.ndarray:
    """The first `count` rows of a buffer."""
    if count > len(buffer):
        raise kernels.CapacityError(limit, count, len(buffer))
    return buffer[:count]


def check_finite_logits(depth: int, nan_count: int, nodes: int) -> None:
    """Raises DecodeError when some of a depth's nodes have logits that are NaN."""
    if nan_count:
        raise DecodeError(
            f"decoder_{depth}: the logits of {nan_count} of {nodes} nodes are NaN; "
            "run `zerograsp-edge verify`, and export the checkpoint again if it fails"
        )
