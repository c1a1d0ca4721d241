"""Validation: the network free-running on fixed views of held-out scenes, judged like the benchmark judges it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.preprocess import FrameInputs
from zerograsp_edge.export.network.zerograsp import ZeroGrasp
from zerograsp_edge.runtime.grasp.decode import OctreeCube, decode

from .dataset import DatasetError, prepare_view, scene_names, unchanged
from .losses import LossWeights, loss_terms
from .metrics import Surface, compare, summarise
from .sample import SceneSample
from .targets import ObjectTarget, surface_in_camera, target_octree

_QUERIES = 3000


@dataclass(frozen=True, eq=False)
class ValidationView:
    """One view and the truth about its objects, in their order."""

    frame: FrameInputs
    targets: tuple[ObjectTarget, ...]
    surfaces: tuple[Surface, ...]
    """Complete, also outside the cube; camera frame, mm."""
    labelled: bool
    """Whether the scene has grasp labels."""


def load_views(config: NetworkConfig, folder: Path, count: int) -> tuple[ValidationView, ...]:
    """The first view of the first `count` scenes of a folder.

    Raises:
        DatasetError: the folder has no scene. SampleError, TargetError, NoObjectsError: one cannot be used.
    """
    names = scene_names(folder)[:count]
    if not names:
        raise DatasetError(f"{folder}: expected validation scenes (.npz), found none")
    views = []
    for name in names:
        scene = SceneSample.load(folder / name)
        view = scene.views[0]
        prepared = prepare_view(config, scene, view, unchanged(view))
        by_id = {o.object_id: o for o in scene.objects}
        surfaces = []
        for i in prepared.frame.object_ids:
            points, normals, _ = surface_in_camera(by_id[i], view.camera_pose)
            surfaces.append(Surface(points, normals))
        views.append(ValidationView(prepared.frame, prepared.targets, tuple(surfaces), prepared.labelled))
    return tuple(views)


@torch.no_grad()
def validate(
    network: ZeroGrasp, views: tuple[ValidationView, ...], weights: LossWeights, max_nodes: int
) -> dict[str, float]:
    """Means over all objects, as `metrics.summarise` takes them, and means of the loss terms over the views.

    Args:
        network: in evaluation mode.
        max_nodes: a view whose predicted octree would exceed as many nodes at any depth counts as missed (a
            network that has learned little may fill the whole cube).
    Returns:
        `chamfer`, `accuracy`, `completeness` (mm), `f1_5`, `f1_10`, `normal_consistency`, `normal_agreement`
        (percent), `missed` objects, `overgrown` views, `objects`, and `loss/<term>`, teacher-forced from the
        prior's mean.
    """
    scores, losses = [], []
    overgrown = 0
    config = network.config
    for view in views:
        objects = len(view.frame.object_ids)
        every = torch.ones(objects, dtype=torch.bool)
        trained = network.forward_train(view.frame, target_octree(config, view.targets), from_prior=every)
        labelled = torch.full((len(trained.signal),), view.labelled)
        losses.append({k: float(v) for k, v in loss_terms(config, trained, weights, labelled).items()})
        predicted = predict_surfaces(network, view.frame, max_nodes)
        if predicted is None:
            overgrown += 1
            nothing = torch.zeros(0, 3).numpy()
            predicted = (Surface(nothing, nothing),) * objects
        scores += [
            compare(p, truth, max_queries=_QUERIES) for p, truth in zip(predicted, view.surfaces, strict=True)
        ]
    summary = summarise(scores)
    means = {}
    for name in {k: None for row in losses for k in row}:
        values = [row[name] for row in losses if name in row]
        means[f"loss/{name}"] = sum(values) / len(values)
    return {
        **summary.means,
        "missed": summary.missed,
        "overgrown": overgrown,
        "objects": summary.count,
        **means,
    }


def predict_surfaces(network: ZeroGrasp, frame: FrameInputs, max_nodes: int) -> tuple[Surface, ...] | None:
    """The reconstructed surface of every object, mm; None when the octree would exceed `max_nodes` at a depth."""
    try:
        with _limited_growth(network, max_nodes):
            prediction = network(frame)
    except _Overgrown:
        return None
    config = network.config
    cube = OctreeCube(frame.z_min, config.grid_size, config.min_lod, config.max_lod)
    objects = decode(prediction.signal.numpy(), prediction.signal_keys.numpy(), cube, frame.object_ids)
    return tuple(Surface(o.points, o.normals) for o in objects)


class _Overgrown(Exception):
    """The predicted octree exceeds the limit."""


@contextmanager
def _limited_growth(network: ZeroGrasp, max_nodes: int) -> Iterator[None]:
    """While active, a forward pass ends with `_Overgrown` before it grows more nodes than allowed."""

    def check(_module: nn.Module, _inputs: tuple, logits: Tensor) -> None:
        if 8 * int((logits[:, 1] > logits[:, 0]).sum()) > max_nodes:
            raise _Overgrown

    handles = [head.register_forward_hook(check) for head in network.predict[:-1]]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
