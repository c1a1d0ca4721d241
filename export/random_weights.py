"""A network with fixed random weights that behaves like a trained one in size.

For the demonstration until trained weights ship, and for tests and benchmarks. What it reconstructs is
meaningless.
"""

from __future__ import annotations

import torch
from torch import nn

from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.preprocess import FrameInputs
from zerograsp_edge.export.network.zerograsp import ZeroGrasp

COARSE_FRACTION = 0.03  # nodes of the coarsest grid that split: the surface of a few objects
FRACTION = 0.25  # nodes that split at every other depth: a surface meets about two of eight siblings
VARIANCE_FLOOR = 0.05


def random_network(config: NetworkConfig, frame: FrameInputs, seed: int = 0) -> ZeroGrasp:
    """Random weights whose occupancy heads are shifted so that the usual fraction of nodes splits on `frame`.

    Running statistics of BatchNorm are taken from the same frame, so that activations stay near unit scale.
    """
    torch.manual_seed(seed)
    network = ZeroGrasp(config).eval()
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    # Octree layers may be called with a single row per object, for which batch statistics do not exist (the
    # heads of the prior); those keep their initial statistics.
    for norm in norms:
        norm.register_forward_pre_hook(_take_statistics)
    forced: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        for i, depth in enumerate(config.depths):
            logits = network(frame, forced_splits=forced).logits[depth]
            difference = logits[:, 1] - logits[:, 0]
            fraction = COARSE_FRACTION if depth == config.min_lod else FRACTION
            shift = -torch.quantile(difference[torch.randperm(len(difference))[:100000]], 1.0 - fraction)
            network.get_parameter(f"predict.{i}.1.linear.bias")[1] += shift
            forced[depth] = difference + shift > 0
    for norm in norms:
        norm._forward_pre_hooks.clear()
    return network


def _take_statistics(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    x = inputs[0]
    if x.shape[0] * x[0, 0].numel() < 2:
        return
    dims = [0, *range(2, x.ndim)]
    norm.get_buffer("running_mean").copy_(x.mean(dims))
    # The floor keeps nearly constant channels from being amplified, which no trained network does.
    norm.get_buffer("running_var").copy_(x.var(dims).clamp_min(VARIANCE_FLOOR))
