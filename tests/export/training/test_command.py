"""`zerograsp-edge train` from its arguments to the files of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zerograsp_edge.export.checkpoint import load_network, save_network
from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp
from zerograsp_edge.export.training.checkpoints import load_state
from zerograsp_edge.runtime.cli import main

TINY = NetworkConfig.tiny()
QUICK = ["--validation-views", "1", "--max-frames", "2"]


@pytest.fixture(autouse=True)
def _subnormals() -> Iterator[None]:
    """Training flushes subnormal numbers to zero, process-wide; other tests need them."""
    yield
    torch.set_flush_denormal(False)


def train(*arguments: object) -> int:
    return main(["train", *(str(a) for a in arguments), *QUICK])


def test_train_then_resume_with_what_the_run_knows(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(scenes, run, "--config", "tiny", "--no-occlusion", "--steps", 2, "--validation", scenes) == 0
    assert "next: zerograsp-edge export" in capsys.readouterr().out
    assert {"last.pt", "best.safetensors", "log.jsonl"} <= {p.name for p in run.iterdir()}
    assert load_network(run / "best.safetensors").config == replace(TINY, occlusion=False)
    assert train(scenes, run, "--resume", "--steps", 3) == 0
    assert load_state(run).step == 3
    assert train(scenes, run, "--config", "tiny", "--steps", 3) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_fine_tuning_starts_from_the_checkpoint_and_takes_all_of_it(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    network = ZeroGrasp(TINY)
    save_network(network, tmp_path / "init.safetensors")
    common = ("--steps", 1, "--learning-rate", 1e-9, "--warmup-steps", 1)
    assert train(scenes, tmp_path / "a", "--init", tmp_path / "init.safetensors", *common) == 0
    tuned = load_state(tmp_path / "a").network
    for name, value in network.named_parameters():
        torch.testing.assert_close(tuned[name], value, rtol=0, atol=1e-6)
    lightning = {"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}
    torch.save(lightning, tmp_path / "init.ckpt")
    assert train(scenes, tmp_path / "b", "--init", tmp_path / "init.ckpt", "--config", "tiny", *common) == 0
    assert train(scenes, tmp_path / "c", "--init", tmp_path / "init.ckpt", *common) == 1
    assert "does not fit the network" in capsys.readouterr().err
    without = ZeroGrasp(TINY.without_posterior())
    save_network(without, tmp_path / "deployed.safetensors")
    assert (
        train(
            scenes, tmp_path / "d", "--init", tmp_path / "deployed.safetensors", "--config", "tiny", *common
        )
        == 1
    )


def test_fine_tuning_may_leave_out_the_posterior_but_no_module_that_others_use(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(5)
    network = ZeroGrasp(TINY)
    save_network(network, tmp_path / "init.safetensors")
    common = ("--init", tmp_path / "init.safetensors", "--steps", 1, "--learning-rate", 1e-9)
    assert train(scenes, tmp_path / "a", "--no-posterior", *common) == 0
    state = load_state(tmp_path / "a")
    assert state.config == TINY.without_posterior().to_dict()
    kept = dict(network.named_parameters())
    assert len(state.network) < len(network.state_dict())
    for name, value in ZeroGrasp(TINY.without_posterior()).named_parameters():
        assert value.shape == state.network[name].shape
        torch.testing.assert_close(state.network[name], kept[name], rtol=0, atol=1e-6)
    for ablation in ("--no-occlusion", "--no-multi-object"):
        assert train(scenes, tmp_path / "b", ablation, *common) == 1
        assert "train these ablations from scratch" in capsys.readouterr().err


def test_a_configuration_file_and_named_settings_are_used(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(TINY, latent=3)
    (tmp_path / "net.json").write_text(json.dumps(config.to_dict()))
    run = tmp_path / "run"
    options = ("--settings", "sdf", 2.5, "flip_y", 0, "--prior-share", 1, "--no-posterior", "--threads", 1)
    threads = torch.get_num_threads()
    try:
        assert train(scenes, run, "--config", tmp_path / "net.json", "--steps", 1, *options) == 0
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    state = load_state(run)
    assert state.config == replace(config, posterior=False).to_dict()
    assert state.settings["losses"]["sdf"] == 2.5 and state.settings["augmentation"]["flip_y"] == 0
    assert train(scenes, tmp_path / "x", "--config", "tiny", "--settings", "sfd", 1) == 1
    assert "unknown sfd; known are approach, " in capsys.readouterr().err
    assert train(scenes, tmp_path / "y", "--config", "huge") == 1
    assert "expected edge, published, tiny" in capsys.readouterr().err
