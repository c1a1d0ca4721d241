"""A student learns from a teacher."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zerograsp_edge.export.network import ConfigError, NetworkConfig, ZeroGrasp
from zerograsp_edge.export.training.dataset import Batch, SceneStream
from zerograsp_edge.export.training.distill import Teacher, distillation_terms
from zerograsp_edge.export.training.loop import Trainer, TrainingSettings
from zerograsp_edge.export.training.progress import read_log
from zerograsp_edge.export.training.schedule import Budget

TINY = NetworkConfig.tiny()


@pytest.fixture(scope="module")
def batch(scenes: Path) -> Batch:
    with SceneStream(scenes, TINY, seed=0) as stream:
        return next(stream)


def make_network(seed: int, config: NetworkConfig = TINY) -> ZeroGrasp:
    torch.manual_seed(seed)
    return ZeroGrasp(config)


def test_the_gap_to_oneself_is_zero_and_closes_with_training(batch: Batch) -> None:
    wide = replace(TINY, channels=(24, 16, 16, 8)).without_posterior()
    teacher = Teacher(make_network(0, wide), TINY)
    taught = teacher(batch.frames, batch.target)
    assert taught.posterior is None and not taught.signal.requires_grad
    for name, value in distillation_terms(TINY, taught, taught).items():
        assert float(value) == pytest.approx(0, abs=1e-4), name

    student = make_network(1).train()
    optimizer = torch.optim.Adam(student.parameters(), 1e-2)
    every = torch.ones(batch.objects, dtype=torch.bool)
    gaps = []
    for _ in range(15):
        terms = distillation_terms(
            TINY, student.forward_train(batch.frames, batch.target, from_prior=every), taught
        )
        loss = sum(terms.values(), torch.zeros(()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        gaps.append(float(loss.detach()))
    assert gaps[-1] < 0.6 * gaps[0]


def test_a_teacher_with_another_octree_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"min_lod \(teacher 3, student 4\), max_lod \(teacher 6, student 9\), z_margin"
    ):
        Teacher(make_network(0), NetworkConfig.published())


def test_a_run_with_a_teacher_logs_and_uses_its_terms(scenes: Path, tmp_path: Path) -> None:
    losses = {}
    for name, teacher in (("alone", None), ("taught", make_network(1))):
        settings = TrainingSettings(log_steps=1)
        Trainer(tmp_path / name, make_network(0), scenes, Budget(steps=1), settings, teacher=teacher).run()
        losses[name] = next(r for r in read_log(tmp_path / name) if r["event"] == "train")
    extra = sum(losses["taught"][f"loss/teacher_{part}"] for part in ("occupancy", "surface", "grasps"))
    assert extra > 0
    assert losses["taught"]["loss"] == pytest.approx(losses["alone"]["loss"] + extra, rel=1e-4)
