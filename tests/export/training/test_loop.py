"""Training runs: they learn, stop, resume, and survive what goes wrong."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zerograsp_edge.export.checkpoint import load_network
from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp
from zerograsp_edge.export.training import loop
from zerograsp_edge.export.training.augment import Augmentation
from zerograsp_edge.export.training.checkpoints import TrainingState, TrainingStateError, load_state
from zerograsp_edge.export.training.dataset import DatasetError
from zerograsp_edge.export.training.loop import Trainer, TrainingError, TrainingSettings
from zerograsp_edge.export.training.progress import read_log
from zerograsp_edge.export.training.schedule import Budget, KlCycle, LearningRate

TINY = NetworkConfig.tiny()
SETTINGS = TrainingSettings(
    log_steps=1, validation_views=1, rate=LearningRate(2e-3, warmup_steps=2, cooldown=0), kl=KlCycle(steps=3)
)


def make_trainer(folder: Path, scenes: Path, steps: int, **options: object) -> Trainer:
    torch.manual_seed(0)
    values = {"settings": SETTINGS, **options}
    return Trainer(folder, ZeroGrasp(TINY), scenes, Budget(steps=steps), **values)  # type: ignore[arg-type]


def assert_same(a: TrainingState, b: TrainingState) -> None:
    assert (a.step, a.cursor, a.best) == (b.step, b.cursor, b.best)
    for one, other in ((a.network, b.network), (a.average, b.average)):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[k], other[k]) for k in one)
    for i, values in a.optimizer["state"].items():
        assert all(torch.equal(values[k], b.optimizer["state"][i][k]) for k in values)


def test_overfitting_one_view(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "scene.npz").write_bytes((scenes / "scene_0000.npz").read_bytes())
    settings = replace(
        SETTINGS, augmentation=Augmentation.none(), rate=LearningRate(1e-2, warmup_steps=5, cooldown=0.3)
    )
    settings = replace(settings, limits=replace(settings.limits, max_frames=1))
    trainer = make_trainer(tmp_path / "run", folder, 100, settings=settings)
    assert trainer.run()
    losses = [r["loss"] for r in read_log(tmp_path / "run") if r["event"] == "train"]
    assert len(losses) == 100
    assert losses[0] > 5 * losses[-1]


def test_resuming_is_bit_identical_to_never_stopping(scenes: Path, tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole", scenes, 7)
    assert whole.run()
    assert make_trainer(tmp_path / "parts", scenes, 3).run()
    torch.manual_seed(99)  # nothing may depend on the global generator
    resumed = Trainer(tmp_path / "parts", ZeroGrasp(TINY), scenes, Budget(steps=7), SETTINGS, resume=True)
    assert resumed.step == 3
    assert resumed.run()
    assert_same(load_state(tmp_path / "whole"), load_state(tmp_path / "parts"))
    logged = [
        [
            {k: v for k, v in r.items() if not k.startswith(("seconds", "minutes", "peak", "progress"))}
            for r in log
        ]
        for log in (
            [r for r in read_log(tmp_path / name) if r["event"] == "train"] for name in ("whole", "parts")
        )
    ]
    assert logged[0] == logged[1] and len(logged[0]) == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run(scenes: Path, tmp_path: Path, number: signal.Signals) -> None:
    trainer = make_trainer(tmp_path / "run", scenes, 1000)
    lines: list[str] = []

    def report(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    assert trainer.run(report) is False
    assert signal.getsignal(number) is before
    state = load_state(tmp_path / "run")
    assert state.step == trainer.step >= 3
    assert f"{number.name}: saved at step {state.step}" in lines[-1]
    resumed = make_trainer(tmp_path / "run", scenes, state.step + 1, resume=True)
    assert resumed.run() and resumed.step == state.step + 1


def test_the_best_network_is_kept_and_can_be_loaded(scenes: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    settings = replace(SETTINGS, validation_minutes=0.0)
    trainer = make_trainer(run, scenes, 3, settings=settings, validation=scenes)
    assert trainer.run()
    validations = [r for r in read_log(run) if r["event"] == "validation"]
    assert [r["step"] for r in validations] == [1, 2, 3]
    assert {"chamfer", "f1_10", "normal_consistency", "missed", "loss/sdf", "loss/kl"} <= validations[
        0
    ].keys()
    assert validations[0]["best"] and trainer.best == min(r["chamfer"] for r in validations)
    assert load_state(run).best == trainer.best
    network = load_network(run / "best.safetensors")
    assert network.config == TINY
    if validations[-1]["best"]:
        assert torch.equal(
            network.state_dict()["conv2.conv.weights"], trainer.average.network.conv2.conv.weights
        )
    # A resumed run does not take a worse network for the best.
    resumed = make_trainer(run, scenes, 4, settings=settings, validation=scenes, resume=True)
    resumed.best = -1.0
    written = (run / "best.safetensors").read_bytes()
    assert resumed.run()
    assert (run / "best.safetensors").read_bytes() == written


def test_a_step_that_is_not_finite_leaves_no_trace(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(tmp_path / "run", scenes, 3)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items() if v.is_floating_point()}
    real = loop.total_loss
    monkeypatch.setattr(loop, "total_loss", lambda *a: real(*a) * float("nan"))
    with trainer._stream:
        trainer._train_step(1e-3, loop._Window())
    assert trainer.skipped_steps == 1 and trainer.step == 1
    after = trainer.network.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())
    assert not trainer.optimizer.state


def test_training_ends_when_nothing_is_finite_any_more(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = loop.total_loss
    monkeypatch.setattr(loop, "total_loss", lambda *a: real(*a) * float("nan"))
    trainer = make_trainer(tmp_path / "run", scenes, 100, settings=replace(SETTINGS, max_bad_steps=3))
    with pytest.raises(TrainingError, match="3 steps in a row"):
        trainer.run()
    assert trainer.step == 2
    assert trainer._stream._thread is not None and not trainer._stream._thread.is_alive()


def test_losing_the_scenes_loses_nothing_that_was_learned(scenes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    scene = folder / "scene.npz"
    scene.write_bytes((scenes / "scene_0000.npz").read_bytes())
    settings = replace(SETTINGS, limits=replace(SETTINGS.limits, max_frames=1))
    trainer = make_trainer(tmp_path / "run", folder, 1000, settings=settings)
    with pytest.raises(DatasetError, match=r"none of [01] scenes can be used"):
        trainer.run(lambda _line: scene.unlink(missing_ok=True))
    assert load_state(tmp_path / "run").step == trainer.step >= 1


def test_a_run_is_not_overwritten_and_not_mixed_with_another(scenes: Path, tmp_path: Path) -> None:
    assert make_trainer(tmp_path / "run", scenes, 1).run()
    with pytest.raises(TrainingStateError, match="holds a run already; resume it"):
        make_trainer(tmp_path / "run", scenes, 2)
    other = ZeroGrasp(replace(TINY, latent=8))
    with pytest.raises(TrainingStateError, match=r"another network: latent \(run 4, asked for 8\)"):
        Trainer(tmp_path / "run", other, scenes, Budget(steps=2), resume=True)
    with pytest.raises(TrainingStateError, match="found none"):
        make_trainer(tmp_path / "new", scenes, 2, resume=True)


def test_a_longer_budget_can_start_from_before_the_cool_down(scenes: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, rate=LearningRate(2e-3, warmup_steps=2, cooldown=0.5))
    assert make_trainer(tmp_path / "run", scenes, 6, settings=settings).run()
    trunk = make_trainer(tmp_path / "run", scenes, 20, settings=settings, resume=True, from_trunk=True)
    assert trunk.step == 4  # step 3 is at half of the budget still
    last = make_trainer(tmp_path / "run", scenes, 20, settings=settings, resume=True)
    assert last.step == 6
    rates = [r["learning_rate"] for r in read_log(tmp_path / "run") if r["event"] == "train"]
    assert rates[:4] == pytest.approx([1e-3, 2e-3, 2e-3, 2e-3])
    assert rates[4] < 2e-3 and rates[5] < rates[4]


def test_a_network_without_posterior_trains_from_its_prior(scenes: Path, tmp_path: Path) -> None:
    network = ZeroGrasp(TINY.without_posterior())
    assert Trainer(tmp_path / "run", network, scenes, Budget(steps=1), SETTINGS).run()
    record = next(r for r in read_log(tmp_path / "run") if r["event"] == "train")
    assert "loss/kl" not in record and record["loss"] > 0


def test_norms_and_biases_do_not_decay() -> None:
    network = ZeroGrasp(TINY)
    decayed, free = loop._parameter_groups(network, 0.1)
    names = {id(p): n for n, p in network.named_parameters()}
    with_decay, without = ({names[id(p)] for p in group["params"]} for group in (decayed, free))
    kinds = {n: type(m) for n, m in network.named_modules()}
    for name in with_decay | without:
        module, parameter = name.rsplit(".", 1)
        is_norm = kinds[module] in (torch.nn.BatchNorm1d, torch.nn.LayerNorm)
        assert (name in without) == (is_norm or parameter == "bias"), name
    assert free["weight_decay"] == 0 and decayed["weight_decay"] == 0.1
