"""Each loss term against what it must be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from zerograsp_edge.export.network import NetworkConfig
from zerograsp_edge.export.training.losses import (
    LossWeights,
    cosine,
    foreground_smooth_l1,
    grasp_terms,
    kl_divergence,
    loss_terms,
    normal_loss,
    total_loss,
)

TINY = NetworkConfig.tiny()


def make_target(n: int = 60) -> torch.Tensor:
    """(n, 14) with a grasp at every third row."""
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(n, 14, generator=generator)
    for columns in (slice(0, 3), slice(6, 9), slice(9, 12)):
        target[:, columns] = F.normalize(torch.randn(n, 3, generator=generator))
    target[torch.arange(n) % 3 != 0, 4:] = 0
    return target


def make_prediction(signal: torch.Tensor, target: torch.Tensor, confidence: float = 40.0) -> Any:
    """A prediction that knows every split with this confidence, and whose posterior is the prior."""
    generator = torch.Generator().manual_seed(1)
    split = {d: torch.rand(50, generator=generator) > 0.6 for d in TINY.depths}
    logits = {d: confidence * torch.stack((~s, s), dim=1).float() for d, s in split.items()}
    latent = (torch.randn(2, 4, generator=generator), torch.randn(2, 4, generator=generator))
    return SimpleNamespace(
        logits=logits, split=split, signal=signal, target_signal=target, prior=latent, posterior=latent
    )


def test_a_perfect_prediction_has_no_loss() -> None:
    target = make_target()
    terms = loss_terms(TINY, make_prediction(target, target), LossWeights())
    assert set(terms) == {f"occupancy_{d}" for d in TINY.depths} | {
        "normal", "sdf", "graspness", "quality", "closing", "approach", "depth", "width", "kl",
    }  # fmt: skip
    for name, value in terms.items():
        assert abs(float(value)) < 1e-6, name


def test_every_term_sees_its_own_channels() -> None:
    target = make_target()
    channels = {
        "normal": 0, "sdf": 3, "graspness": 4, "quality": 5, "closing": 6, "approach": 9, "depth": 12, "width": 13,
    }  # fmt: skip
    for name, channel in channels.items():
        signal = target.clone()
        signal[:, channel] += 0.7
        terms = loss_terms(TINY, make_prediction(signal, target), LossWeights())
        changed = {k for k, v in terms.items() if float(v) > 1e-4}
        assert changed == {name}


def test_occupancy_is_the_cross_entropy_of_the_splits() -> None:
    target = make_target()
    prediction = make_prediction(target, target, confidence=0.0)
    terms = loss_terms(TINY, prediction, LossWeights())
    for d in TINY.depths:
        assert float(terms[f"occupancy_{d}"]) == pytest.approx(0.6931, abs=1e-4)


def test_a_split_weight_moves_the_odds_at_which_a_node_splits() -> None:
    """Half of the nodes split and nothing tells them apart: the best logits have the odds of the weights."""
    split = {d: torch.arange(40) % 2 == 0 for d in TINY.depths}
    odds = torch.zeros((), requires_grad=True)
    target = make_target()
    prediction = make_prediction(target, target)
    optimizer = torch.optim.Adam([odds], 0.1)
    for _ in range(150):
        prediction.split = split
        prediction.logits = {d: torch.stack((torch.zeros(()), odds)).expand(40, 2) for d in TINY.depths}
        terms = loss_terms(TINY, prediction, LossWeights(split=3.0))
        optimizer.zero_grad()
        terms["occupancy_3"].backward()
        optimizer.step()
    assert float(odds.detach().exp()) == pytest.approx(3.0, rel=0.02)


def test_closing_direction_has_no_sign_and_approach_has() -> None:
    target = make_target()
    closing, approach = target.clone(), target.clone()
    closing[:, 6:9] *= -3
    approach[:, 9:12] *= -1
    assert float(grasp_terms(closing, target, 4)["closing"]) == pytest.approx(0, abs=1e-6)
    assert float(grasp_terms(approach, target, 4)["approach"]) == pytest.approx(2, abs=1e-5)


def test_directions_count_only_where_there_is_a_grasp_and_by_its_quality() -> None:
    target = make_target()
    without = target[:, 5] == 0
    signal = target.clone()
    signal[without, 6:] = torch.randn(int(without.sum()), 8, generator=torch.Generator().manual_seed(3))
    terms = grasp_terms(signal, target, 4)
    for name in ("closing", "approach", "depth", "width"):
        assert float(terms[name]) == pytest.approx(0, abs=1e-6)
    rows = torch.nonzero(~without).flatten()[:2]
    errors = torch.tensor([0.3, 0.1])
    signal = target.clone()
    signal[rows, 13] += errors
    expected = (errors * target[rows, 5]).sum() / target[:, 5].sum()
    assert float(grasp_terms(signal, target, 4)["width"]) == pytest.approx(float(expected), rel=1e-4)
    assert all(
        float(v) == 0 for k, v in grasp_terms(signal[without], target[without], 4).items() if k != "width"
    )


def test_objects_without_labels_say_nothing_about_grasps() -> None:
    target = make_target()
    labelled = torch.arange(len(target)) < 30
    signal = target.clone()
    signal[~labelled, 4:] += 1
    prediction = make_prediction(signal, target)
    some = loss_terms(TINY, prediction, LossWeights(), labelled)
    assert all(abs(float(v)) < 1e-6 for v in some.values())
    none = loss_terms(TINY, prediction, LossWeights(), torch.zeros(len(target), dtype=torch.bool))
    assert set(some) - set(none) == {"graspness", "quality", "closing", "approach", "depth", "width"}
    assert float(loss_terms(TINY, prediction, LossWeights())["graspness"]) > 0.1


def test_rare_positive_labels_count_more() -> None:
    target = torch.tensor([1.0, 0.0, 0.0, 0.0])
    predicted = torch.tensor([0.0, 0.0, 0.0, 0.0])
    plain = float(foreground_smooth_l1(predicted, target, 1.0))
    assert float(foreground_smooth_l1(predicted, target, 3.0)) == pytest.approx(plain * 4 * 3 / 6)


def test_normals_of_any_length_agree_but_for_the_length_term() -> None:
    n = F.normalize(torch.randn(8, 3, generator=torch.Generator().manual_seed(0)))
    assert float(normal_loss(5 * n, n, 0.0)) == pytest.approx(0, abs=1e-6)
    assert float(normal_loss(2 * n, n, 0.1)) == pytest.approx(0.1, abs=1e-5)
    assert float(normal_loss(-n, n, 0.0)) == pytest.approx(2, abs=1e-5)


def test_a_zero_vector_has_a_finite_gradient() -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    cosine(x, torch.ones(2, 3)).sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all()


def test_kl_is_its_monte_carlo_estimate() -> None:
    generator = torch.Generator().manual_seed(0)
    q = (torch.randn(3, 4, generator=generator), 0.5 * torch.randn(3, 4, generator=generator))
    p = (torch.randn(3, 4, generator=generator), 0.5 * torch.randn(3, 4, generator=generator))

    def log_density(x: torch.Tensor, mean: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return torch.distributions.Normal(mean, (0.5 * logvar).exp()).log_prob(x).sum(dim=-1)

    samples = q[0] + (0.5 * q[1]).exp() * torch.randn(200_000, 3, 4, generator=generator)
    estimate = (log_density(samples, *q) - log_density(samples, *p)).mean(dim=0)
    torch.testing.assert_close(kl_divergence(q, p), estimate, rtol=0.02, atol=0.02)
    assert (kl_divergence(q, p) > 0).all()
    torch.testing.assert_close(kl_divergence(q, q), torch.zeros(3))


def test_without_posterior_there_is_no_kl() -> None:
    target = make_target()
    prediction = make_prediction(target, target)
    prediction.posterior = None
    assert "kl" not in loss_terms(TINY, prediction, LossWeights())


def test_the_total_is_the_weighted_sum() -> None:
    terms = {
        "occupancy_3": torch.tensor(1.0), "occupancy_4": torch.tensor(2.0), "sdf": torch.tensor(3.0),
        "kl": torch.tensor(5.0), "teacher_grasps": torch.tensor(7.0), "width": torch.tensor(float("inf")),
    }  # fmt: skip
    weights = LossWeights(occupancy=2, sdf=10, distillation=0.5, width=0)
    assert float(total_loss(terms, weights, 0.1)) == pytest.approx(2 * 3 + 10 * 3 + 0.1 * 5 + 0.5 * 7)


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="sdf: expected a weight >= 0, got -1"):
        LossWeights(sdf=-1)
