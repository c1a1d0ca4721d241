"""What the segmenter's masks cost in the reconstruction, beside exact ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from harness import Figure, figure
from parts.segmentation import TruthScene

from zerograsp_edge.export.training.generate import scene_path
from zerograsp_edge.export.training.metrics import Surface, compare
from zerograsp_edge.export.training.sample import SceneSample
from zerograsp_edge.export.training.truth import true_surfaces
from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.errors import ZeroGraspError
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.segmentation.geometric import GeometricSegmenter, SegmentationConfig


def reconstruction_cost(scenes: Sequence[TruthScene], count: int, samples: Path) -> list[Figure]:
    """Chamfer distance of the objects that both masks give a reconstruction of, over the first `count` scenes
    of each split
    whose true surfaces are in `samples`; and how many objects have none with the segmenter's masks."""
    bundle = load_bundle(EDGE_MODEL)
    pipeline = Pipeline(bundle, threads=1)
    segmenter = GeometricSegmenter(SegmentationConfig(max_objects=bundle.limits.max_objects), threads=1)
    taken: dict[str, int] = {}
    exact, segmented, lost, asked = [], [], 0, 0
    for scene in scenes:
        path = scene_path(samples, scene.split, scene.seed)  # type: ignore[arg-type]
        if taken.get(scene.split, 0) >= count or not path.exists():
            continue
        sample = SceneSample.load(path)
        view = sample.views[0]
        # Files keep depth in steps of 1/8 mm.
        if np.abs(view.depth - scene.frame.depth).max() > 0.1 or not np.allclose(view.camera_pose, scene.camera_pose):
            continue
        taken[scene.split] = taken.get(scene.split, 0) + 1
        truth = true_surfaces(sample, view)
        segmenter.reset()
        mask = segmenter(scene.frame).mask
        with_exact = _reconstruct(pipeline, scene, scene.truth.astype(np.int32))
        with_segments = _reconstruct(pipeline, scene, mask)
        for i in scene.asked:
            if i not in with_exact:
                continue
            asked += 1
            own = scene.truth == i
            ids, overlap = np.unique(mask[own], return_counts=True)
            iou = {int(k): n / np.count_nonzero(own | (mask == k)) for k, n in zip(ids, overlap, strict=True) if k}
            best = max(iou, key=lambda k: iou[k], default=0)
            if not best or iou[best] < 0.5 or best not in with_segments:
                lost += 1
                continue
            exact.append(compare(with_exact[i], truth[i]).chamfer)
            segmented.append(compare(with_segments[best], truth[i]).chamfer)
    if not exact:
        return []
    name = f"edge model, {len(exact)} objects in {sum(taken.values())} scenes"
    return [
        figure(f"{name}: Chamfer distance with the segmenter's masks", float(np.mean(segmented)), "mm",
               peer="exact masks", peer_value=float(np.mean(exact))),
        figure(f"{name}: median Chamfer distance with the segmenter's masks", float(np.median(segmented)), "mm",
               peer="exact masks", peer_value=float(np.median(exact))),
        figure(f"edge model: objects without a segment at IoU 0.5, of {asked}", lost / asked, "share"),
    ]  # fmt: skip


def _reconstruct(pipeline: Pipeline, scene: TruthScene, mask: np.ndarray) -> dict[int, Surface]:
    try:
        result = pipeline(scene.frame.with_mask(mask, background=0))
    except ZeroGraspError:
        return {}
    return {o.object_id: Surface(o.points, o.normals) for o in result.objects if len(o.points)}
