"""The averaged network."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from zerograsp_edge.export.training.ema import WeightAverage


def test_the_average_follows_its_formula_including_statistics() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(network, 0.6)
    expected = {k: v.clone() for k, v in network.state_dict().items()}
    for step in range(8):
        network(torch.randn(5, 3))
        with torch.no_grad():
            network[0].weight.add_(torch.randn(2, 3))
        average.update(network, step)
        decay = min(0.6, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in average.network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    assert int(average.network[1].num_batches_tracked) == 8
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())


def test_a_decay_of_one_would_never_learn() -> None:
    with pytest.raises(ValueError, match="expected 0 <= decay < 1"):
        WeightAverage(nn.Linear(1, 1), 1.0)
