"""The training losses: reconstruction, grasps, and the divergence between posterior and prior.

The terms are those of the paper (arXiv 2504.10857): occupancy at every depth, normals and signed distance;
graspness, quality, closing direction, approach, depth and width as in economic supervision (arXiv
2407.08366), the latter four only where the label has a grasp; KL. Graspness and quality are regressed, not
classified: decoding takes the raw graspness as score. Every term is an average that is 0 for a perfect
prediction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.zerograsp import TrainingPrediction
from zerograsp_edge.runtime.grasp.decode import (
    APPROACH,
    CLOSING,
    DEPTH,
    GRASPNESS,
    NORMAL,
    QUALITY,
    SDF,
    WIDTH,
)

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class LossWeights:
    """Weight of every term; the KL's is a schedule of its own (`schedule.KlCycle`)."""

    occupancy: float = 1.0
    """Cross entropy of a depth, averaged over its nodes; the depths are summed."""
    split: float = 1.0
    """How much more a node that splits counts in it than an empty one. With w the network learns to split where
    the odds are 1 : w, so that hidden surfaces, of which it is less sure, are rather completed than left out."""
    normal: float = 1.0
    """1 - cos, plus `normal_length` times the squared error."""
    normal_length: float = 0.1
    sdf: float = 1.0
    """Smooth L1 of the distance in voxels."""
    graspness: float = 1.0
    quality: float = 1.0
    foreground: float = 4.0
    """How much more a node with a positive label counts in graspness and quality than one without."""
    closing: float = 0.5
    approach: float = 0.5
    depth: float = 0.5
    width: float = 0.5
    distillation: float = 1.0
    """Of all the teacher's terms together, see `distill`."""

    def __post_init__(self) -> None:
        for field in fields(self):
            if not getattr(self, field.name) >= 0:
                raise ValueError(f"{field.name}: expected a weight >= 0, got {getattr(self, field.name)!r}")


def loss_terms(
    config: NetworkConfig,
    prediction: TrainingPrediction,
    weights: LossWeights,
    labelled: Tensor | None = None,
) -> Terms:
    """Every term without its weight: scalars by name; `occupancy_<d>` per depth.

    `kl` is missing where the network has no posterior, the grasp terms where no object has grasp labels.

    Args:
        labelled: (S,) bool, rows of the signal whose object has grasp labels; None: all.
    """
    terms: Terms = {}
    for depth, logits in prediction.logits.items():
        terms[f"occupancy_{depth}"] = F.cross_entropy(
            logits, prediction.split[depth].long(), weight=logits.new_tensor([1.0, weights.split])
        )
    signal, target = prediction.signal, prediction.target_signal
    terms["normal"] = normal_loss(signal[:, NORMAL], target[:, NORMAL], weights.normal_length)
    voxel = config.cube_size / (1 << config.max_lod)
    terms["sdf"] = smooth_l1(signal[:, SDF] / voxel, target[:, SDF] / voxel).mean()
    if labelled is None or labelled.all():
        terms.update(grasp_terms(signal, target, weights.foreground))
    elif labelled.any():
        terms.update(grasp_terms(signal[labelled], target[labelled], weights.foreground))
    if prediction.posterior is not None:
        terms["kl"] = kl_divergence(prediction.posterior, prediction.prior).mean()
    return terms


def total_loss(terms: Mapping[str, Tensor], weights: LossWeights, kl_weight: float) -> Tensor:
    """The weighted sum that is minimised."""
    total = torch.zeros(())
    for name, value in terms.items():
        if name == "kl":
            weight = kl_weight
        elif name.startswith("occupancy_"):
            weight = weights.occupancy
        elif name.startswith("teacher_"):
            weight = weights.distillation
        else:
            weight = getattr(weights, name)
        # A term that is switched off adds nothing, not even 0 * inf.
        if weight:
            total = total + weight * value
    return total


def grasp_terms(signal: Tensor, target: Tensor, foreground: float) -> Terms:
    """Grasp terms of signals (S, 14); directions, depth and width count as much as the label's quality."""
    quality = target[:, QUALITY]
    closing = 1 - cosine(signal[:, CLOSING], target[:, CLOSING]).abs()
    approach = 1 - cosine(signal[:, APPROACH], target[:, APPROACH])
    return {
        "graspness": foreground_smooth_l1(signal[:, GRASPNESS], target[:, GRASPNESS], foreground),
        "quality": foreground_smooth_l1(signal[:, QUALITY], quality, foreground),
        "closing": weighted_mean(closing, quality),
        "approach": weighted_mean(approach, quality),
        "depth": weighted_mean((signal[:, DEPTH] - target[:, DEPTH]).abs(), quality),
        "width": weighted_mean((signal[:, WIDTH] - target[:, WIDTH]).abs(), quality),
    }


def normal_loss(predicted: Tensor, target: Tensor, length: float) -> Tensor:
    """1 - cos of (S, 3) normals, plus `length` * squared error, which keeps the raw vectors near unit length."""
    error = (predicted - target).square().sum(dim=1)
    return (1 - cosine(predicted, target) + length * error).mean()


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """(S,) cosines of rows (S, 3); 0 where a row is zero."""
    return F.cosine_similarity(a, b, dim=1, eps=1e-6)


def smooth_l1(predicted: Tensor, target: Tensor, width: float = 0.1) -> Tensor:
    """|error| with its tip rounded within `width`: error^2 / (2 width) there, |error| - width / 2 beyond."""
    return F.smooth_l1_loss(predicted, target, reduction="none", beta=width)


def foreground_smooth_l1(predicted: Tensor, target: Tensor, foreground: float) -> Tensor:
    """Mean smooth L1 of (S,) in which positive labels, far fewer, count `foreground` times."""
    weight = torch.where(target > 0, foreground, 1.0)
    return weighted_mean(smooth_l1(predicted, target), weight)


def weighted_mean(values: Tensor, weight: Tensor) -> Tensor:
    """sum(w v) / sum(w); 0 where all weights are 0."""
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


def kl_divergence(q: tuple[Tensor, Tensor], p: tuple[Tensor, Tensor]) -> Tensor:
    """KL(q || p) of diagonal Gaussians given as mean and log-variance (B, n): (B,) nats.

    1/2 sum(log s_p^2 - log s_q^2 + (s_q^2 + (m_q - m_p)^2) / s_p^2 - 1)
    """
    (mean_q, logvar_q), (mean_p, logvar_p) = q, p
    ratio = (logvar_q - logvar_p).exp()
    shift = (mean_q - mean_p).square() * (-logvar_p).exp()
    return 0.5 * (logvar_p - logvar_q + ratio + shift - 1).sum(dim=1)
