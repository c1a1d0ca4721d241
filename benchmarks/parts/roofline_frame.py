"""A frame's real sizes: one run of the runtime on the CPU, with what every stage was given written down."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from parts import roofline_between as between
from parts.roofline_between import Sizes
from parts.roofline_count import Stage, Tables, count_stage
from parts.roofline_graph import Shape, load_graph

from zerograsp_edge import kernels
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.nms import non_maximum_suppression
from zerograsp_edge.runtime.grasp.refine import RefineConfig, refine_objects, scene_points, visible_points
from zerograsp_edge.runtime.network import node_limits
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Grasps, Result

ROUND = 256  # candidates that suppression takes at a time: kernels/cuda/grasp_suppression.cu


@dataclass
class Recording:
    """What the stages of a bundle were given for one frame.

    Attributes:
        shapes: stage -> input -> shape.
        tables: stage -> what neighbours exist.
    """

    shapes: dict[str, dict[str, Shape]] = field(default_factory=dict)
    tables: dict[str, Tables] = field(default_factory=dict)
    signal: np.ndarray = field(default_factory=lambda: np.empty((0, 2), np.float32))  # (N, 2) finest logits

    def stage(self, name: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        self.shapes[name] = {key: array.shape for key, array in inputs.items()}
        self.tables[name] = Tables(
            {
                key: a.copy()
                for key, a in inputs.items()
                if key == "neighbours" or key.startswith("split_neighbours")
            },
            {key: a.copy() for key, a in inputs.items() if key.startswith("children")},
        )
        if "signal" in outputs:
            self.signal = outputs["signal"][:, :2].copy()


@dataclass(frozen=True)
class CountedFrame:
    """A frame of a network, counted.

    Attributes:
        name: of network, frame and size.
        graphs: counts of the network's stages, in order.
        sizes: of what lies between them.
        capacity: nodes by depth that the bundle's limits allow.
        heads: of the multi-object encoder's attention.
    """

    name: str
    graphs: dict[str, Stage]
    sizes: Sizes
    capacity: dict[int, int]
    heads: int

    def stages(self, feature_bytes: int, *, dynamic: bool = True) -> Iterator[Stage]:
        """All stages in order.

        Args:
            feature_bytes: of an element of the feature map.
            dynamic: octree stages run at the frame's exact node counts and cannot be captured into a CUDA graph; else
                their launches cover the bundle's limits.
        """
        s = self.sizes
        yield between.upload(s)
        yield between.points(s)
        yield between.octree_build(s)
        yield self.graphs["image_encoder"]
        yield between.voxel_features(s, feature_bytes)
        for name, stage in self.graphs.items():
            if name != "image_encoder":
                yield stage if dynamic else replace(stage, graph=True, capacity=self._spare(name))
        yield replace(between.growth(s), graph=not dynamic)
        yield between.decode(s)
        yield between.refine(s)
        yield between.download(s)

    def _spare(self, stage: str) -> float:
        """Rows in the limits for every row of the frame."""
        if stage == "octree_encoder":
            finest = max(self.capacity)
            return self.capacity[finest] / self.sizes.input_nodes[finest]
        depth = int(stage.rpartition("_")[2])
        rows = (
            self.sizes.full_rows if depth == min(self.sizes.output_nodes) else self.sizes.output_nodes[depth]
        )
        return self.capacity[depth] / rows


def count_frame(name: str, bundle: Bundle, frame: Frame, threads: int = 2) -> CountedFrame:
    """Runs the bundle on the frame and counts its stages at the sizes that came up."""
    pipeline = Pipeline(bundle, threads=threads)
    recording = Recording()
    run = pipeline.executor.run

    def record(stage: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        run(stage, inputs, outputs)
        recording.stage(stage, inputs, outputs)

    pipeline.executor.run = record  # type: ignore[method-assign]
    taps: dict[str, np.ndarray] = {}
    result = pipeline.run(frame, taps=taps)
    graphs = {
        stage: _count(bundle.path / bundle.stages[stage].file, recording, stage) for stage in bundle.stages
    }
    graphs = {
        stage: count if stage == "image_encoder" else replace(count, graph=False)
        for stage, count in graphs.items()
    }
    sizes = _sizes(bundle, frame, result, recording, taps)
    heads = int(bundle.manifest["network"]["transformer_heads"])
    return CountedFrame(name, graphs, sizes, node_limits(bundle.geometry, bundle.limits), heads)


def _count(path: Path, recording: Recording, stage: str) -> Stage:
    graph = load_graph(path, recording.shapes[stage])
    given = recording.tables[stage]
    known = {key: t for key, t in given.neighbours.items() if key == "neighbours"}
    for node in graph.nodes:
        if node.op_type == "OctreeNeighbor":
            rank = given.children.get(node.input[1]) if len(node.input) > 1 else None
            known[node.output[0]] = kernels.expand_neighbours(given.neighbours[node.input[0]], rank)
    return count_stage(graph, Tables(known, given.children))


def _sizes(
    bundle: Bundle,
    frame: Frame,
    result: Result,
    recording: Recording,
    taps: dict[str, np.ndarray],
) -> Sizes:
    g = bundle.geometry
    encoder = recording.shapes["octree_encoder"]
    output = {d: len(taps[f"keys_{d}"]) for d in g.depths}
    splits = {d: output[d + 1] // 8 for d in g.depths if d < g.max_lod}
    splits[g.max_lod] = int((recording.signal[:, 1] > recording.signal[:, 0]).sum())
    objects = encoder["noise"][0]
    ids = frame.object_ids()
    seen = kernels.points_from_depth(
        frame.depth,
        frame.label_image(),
        frame.intrinsics,
        len(ids),
        g.grid_size,
        g.min_lod,
        z_margin=g.z_margin,
    )
    input_nodes = {d: encoder[f"children_{d}"][0] for d in g.depths}
    return Sizes(
        height=frame.height, width=frame.width, objects=objects, image_channels=g.image_channels,
        valid=int(seen.valid_counts.sum()), points=int(seen.counts.sum()), voxels=encoder["features"][0],
        input_nodes={g.full_depth: objects << (3 * g.full_depth), **input_nodes}, output_nodes=output, splits=splits,
        full_rows=recording.shapes[f"decoder_{g.min_lod}"]["source"][0], **_refinement(frame, result),
    )  # fmt: skip


def _refinement(frame: Frame, result: Result) -> dict[str, Any]:
    """Sizes of the refinement with its default configuration."""
    config = replace(RefineConfig(), nms_distance=0.0)
    visible = visible_points(frame.depth, frame.intrinsics, config.visible_stride)
    refined, counts = refine_objects(result.objects, visible, config)
    candidates = Grasps.concatenate([item.grasps for item in refined])
    order = np.argsort(-candidates.score, kind="stable")
    defaults = RefineConfig()
    kept = non_maximum_suppression(candidates, defaults.nms_distance, defaults.nms_angle)
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    ranks = np.sort(place[kept])
    # A thread stops at the first kept grasp that is like its own; those that are kept walk by all of them.
    pairs = sum(int((ranks < begin).sum()) for begin in range(0, len(order), ROUND))
    return {
        "grasps": counts.total, "candidates": len(order), "kept": len(kept), "suppression_pairs": pairs,
        "scene_points": len(scene_points(result.objects, visible)),
    }  # fmt: skip
