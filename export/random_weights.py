"""A network with fixed random weights that behaves like a trained one in size.

For the demonstration until trained weights ship, and for tests and benchmarks. What it reconstructs is meaningless.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.preprocess import FrameInputs
from zerograsp_edge.export.network.zerograsp import ZeroGrasp

COARSE_FRACTION = 0.03  # nodes of the coarsest grid that split: the surface of a few objects
FRACTION = 0.25  # nodes that split at every other depth: a surface meets about two of eight siblings
VARIANCE_FLOOR = 0.05
NEVER = -1e6  # a logit with which no node splits


def random_network(config: NetworkConfig, frame: FrameInputs, seed: int = 0) -> ZeroGrasp:
    """Random weights whose occupancy heads are shifted so that the usual fraction of nodes splits on `frame`.

    Running statistics of BatchNorm are taken from the same frame, so that activations stay near unit scale.
    """
    torch.manual_seed(seed)
    network = ZeroGrasp(config).eval()
    # Octree layers may be called with a single row per object, for which batch statistics do not exist (the
    # heads of the prior); those keep their initial statistics.
    handles = [
        norm.register_forward_pre_hook(_take_statistics)
        for norm in network.modules()
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
    ]
    shift_occupancy(network, frame)
    for handle in handles:
        handle.remove()
    return network


def shift_occupancy(network: ZeroGrasp, frame: FrameInputs) -> None:
    """Shifts the biases of the occupancy heads, depth by depth, until the usual fraction of nodes splits on `frame`."""
    config = network.config
    heads: Any = network.predict
    biases = [head[1].linear.bias for head in heads]
    forced: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        initial = [bias[1].clone() for bias in biases]
        for bias in biases:
            bias[1] = NEVER  # no time is spent on the octree below the depth in hand
        for bias, value, depth in zip(biases, initial, config.depths, strict=True):
            bias[1] = value
            logits = network(frame, forced_splits=forced).logits[depth]
            difference = logits[:, 1] - logits[:, 0]
            shift = -_threshold(difference, COARSE_FRACTION if depth == config.min_lod else FRACTION)
            bias[1] += shift
            forced[depth] = difference + shift > 0


def _threshold(values: torch.Tensor, fraction: float) -> torch.Tensor:
    """A number that about `fraction` of the values exceed.

    It lies in the widest gap between values near there: many coarse nodes see the same empty surroundings, and rounding
    alone would decide about a value at the threshold.
    """
    ordered = values.sort(descending=True).values
    rank = fraction * len(ordered)
    low = int(0.9 * rank)
    gaps = ordered[low : int(1.1 * rank) + 1] - ordered[low + 1 : int(1.1 * rank) + 2]
    at = low + int(gaps.argmax())
    if gaps.max() < 1e-5 * ordered.std():  # all equal but for rounding: the nearest clear gap
        wide = (ordered[:-1] - ordered[1:] > 1e-3 * ordered.std()).nonzero().flatten()
        at = int(wide[(wide - rank).abs().argmin()])
    return (ordered[at] + ordered[at + 1]) / 2


def _take_statistics(norm: Any, inputs: tuple[torch.Tensor, ...]) -> None:
    x = inputs[0]
    if x.shape[0] * x[0, 0].numel() < 2:
        return
    dims = [0, *range(2, x.ndim)]
    norm.running_mean.copy_(x.mean(dims))
    # The floor keeps nearly constant channels from being amplified, which no trained network does.
    norm.running_var.copy_(x.var(dims).clamp_min(VARIANCE_FLOOR))
