"""Learning rate, KL weight and budget over a run."""

from __future__ import annotations

import pytest

from zerograsp_edge.export.training.schedule import Budget, KlCycle, LearningRate


def test_the_rate_warms_up_stays_and_cools_down() -> None:
    rate = LearningRate(peak=1.0, warmup_steps=10, cooldown=0.2, final=0.01)
    assert [rate.at(s, 0) for s in (0, 4, 9, 10, 5000)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert rate.at(99, 0.8) == 1
    assert rate.at(99, 0.9) == pytest.approx(0.505)
    assert rate.at(99, 1.0) == pytest.approx(0.01)
    falling = [rate.at(99, 0.8 + 0.01 * i) for i in range(21)]
    assert falling == sorted(falling, reverse=True)
    assert not rate.cooling(0.8) and rate.cooling(0.81)


def test_before_the_cool_down_the_budget_does_not_matter() -> None:
    rate = LearningRate(warmup_steps=10, cooldown=0.25)
    short, long = Budget(steps=1000), Budget(steps=5000)
    for step in (0, 5, 300, 749):
        assert rate.at(step, short.progress(step, 0)) == rate.at(step, long.progress(step, 0))
    assert rate.at(900, short.progress(900, 0)) < rate.at(900, long.progress(900, 0))


def test_without_cool_down_the_rate_stays() -> None:
    assert LearningRate(peak=2.0, cooldown=0).at(1000, 1.0) == 2.0


def test_the_kl_weight_rises_in_every_cycle() -> None:
    kl = KlCycle(weight=2.0, steps=100, rise=0.5)
    assert [kl.at(s) for s in (0, 25, 50, 99, 100, 125)] == pytest.approx([0, 1, 2, 2, 0, 1])
    assert KlCycle(weight=2.0, steps=100, rise=0).at(0) == 2.0


def test_a_budget_is_time_or_steps() -> None:
    assert Budget(minutes=2).progress(10**6, 30) == 0.25
    assert Budget(steps=4).progress(1, 1e9) == 0.25
    assert Budget(steps=4).progress(9, 0) == 1
    for values in ({}, {"minutes": 1, "steps": 1}, {"steps": 0}, {"minutes": -1}):
        with pytest.raises(ValueError, match="budget"):
            Budget(**values)
