"""A teacher network's output along the same target octree as extra targets (Hinton et al. 2015, arXiv 1503.02531)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ocnn.octree import Octree
from torch.nn import functional as F

from zerograsp_edge.export.network.config import ConfigError, NetworkConfig
from zerograsp_edge.export.network.preprocess import FrameInputs
from zerograsp_edge.export.network.zerograsp import TrainingPrediction, ZeroGrasp
from zerograsp_edge.runtime.grasp.decode import APPROACH, CLOSING, GRASPNESS, NORMAL, QUALITY, SDF

from .losses import Terms, cosine, smooth_l1, weighted_mean

_GRID_FIELDS = ("min_lod", "max_lod", "grid_size", "z_margin")


class Teacher:
    """A trained network that answers for every node of a target octree.

    Raises:
        ConfigError: its octree is not the student's; names what differs.
    """

    def __init__(self, network: ZeroGrasp, student: NetworkConfig) -> None:
        different = [
            f"{name} (teacher {getattr(network.config, name)!r}, student {getattr(student, name)!r})"
            for name in _GRID_FIELDS
            if getattr(network.config, name) != getattr(student, name)
        ]
        if different:
            raise ConfigError(
                f"the teacher's octree is not the student's, so their nodes do not match: {', '.join(different)}"
            )
        self.network = network.eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, frames: Sequence[FrameInputs], target: Octree) -> TrainingPrediction:
        """What the teacher predicts, with the latent vector it has at inference."""
        every = torch.ones(target.batch_size, dtype=torch.bool)
        return self.network.forward_train(frames, target, from_prior=every)


def distillation_terms(
    config: NetworkConfig, student: TrainingPrediction, teacher: TrainingPrediction
) -> Terms:
    """How far a student is from its teacher, by part; names begin with `teacher_`. 0 where they agree.

    Occupancy: KL(teacher || student) per node, averaged per depth, summed. Surface: normals and signed
    distance. Grasps: graspness, quality and, weighted by the teacher's quality, directions, depth and width.
    """
    occupancy = torch.zeros(())
    for depth, logits in student.logits.items():
        reference = F.log_softmax(teacher.logits[depth], dim=1)
        divergence = F.kl_div(F.log_softmax(logits, dim=1), reference, reduction="none", log_target=True)
        occupancy = occupancy + divergence.sum(dim=1).mean()
    ours, theirs = student.signal, teacher.signal
    voxel = config.cube_size / (1 << config.max_lod)
    surface = (1 - cosine(ours[:, NORMAL], theirs[:, NORMAL])).mean()
    surface = surface + smooth_l1(ours[:, SDF] / voxel, theirs[:, SDF] / voxel).mean()
    quality = theirs[:, QUALITY].clamp(min=0)
    directions = 1 - cosine(ours[:, CLOSING], theirs[:, CLOSING]).abs()
    directions = directions + 1 - cosine(ours[:, APPROACH], theirs[:, APPROACH])
    sizes = (ours[:, 12:14] - theirs[:, 12:14]).abs().sum(dim=1)
    grasps = (
        smooth_l1(ours[:, GRASPNESS], theirs[:, GRASPNESS]).mean()
        + smooth_l1(ours[:, QUALITY], theirs[:, QUALITY]).mean()
        + weighted_mean(directions + sizes, quality)
    )
    return {"teacher_occupancy": occupancy, "teacher_surface": surface, "teacher_grasps": grasps}
