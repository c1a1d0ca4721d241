"""Checkpoints: what loads, and every way a file can fail to be one."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("ocnn", reason="needs the extra `export`")
pytest.importorskip("safetensors", reason="needs the extra `export`")

from safetensors.torch import load_file, save_file  # noqa: E402

from zerograsp_edge.export.checkpoint import (  # noqa: E402
    CheckpointError,
    load_network,
    load_state,
    read_state,
    save_network,
)
from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp  # noqa: E402

TINY = NetworkConfig.tiny()


@pytest.fixture(scope="module")
def network() -> ZeroGrasp:
    torch.manual_seed(0)
    return ZeroGrasp(TINY).eval()


@pytest.fixture
def lightning(network: ZeroGrasp, tmp_path: Path) -> Path:
    """A checkpoint of the published form, with the training state that Lightning keeps beside the weights."""
    optimizer = torch.optim.Adam(p for p in network.parameters() if p.requires_grad)
    content = {
        "epoch": 7,
        "global_step": 1234,
        "pytorch-lightning_version": "2.2.0",
        "state_dict": {f"model.{name}": value for name, value in network.state_dict().items()},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"last_epoch": 7}],
        "hyper_parameters": {"lr": 1e-3},
    }
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    return path


def rewrite(path: Path, change: Any) -> Path:
    """The Lightning file with its state dict changed by `change(state)`."""
    content = torch.load(path, weights_only=True)
    change(content["state_dict"])
    torch.save(content, path)
    return path


def assert_same(a: ZeroGrasp, b: ZeroGrasp) -> None:
    state = b.state_dict()
    assert list(a.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in a.state_dict().items())


def test_lightning_checkpoint_loads(network: ZeroGrasp, lightning: Path) -> None:
    loaded = load_network(lightning, TINY)
    assert_same(loaded, network)
    assert not loaded.training


def test_plain_state_dict_loads(network: ZeroGrasp, tmp_path: Path) -> None:
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    assert_same(load_network(tmp_path / "weights.pt", TINY), network)


def test_safetensors_carry_their_configuration(network: ZeroGrasp, tmp_path: Path) -> None:
    path = tmp_path / "edge.safetensors"
    save_network(network, path)
    loaded = load_network(path)
    assert loaded.config == TINY
    assert_same(loaded, network)
    assert os.listdir(tmp_path) == ["edge.safetensors"]


def test_suffix_does_not_matter(network: ZeroGrasp, lightning: Path, tmp_path: Path) -> None:
    save_network(network, tmp_path / "edge.bin")
    assert_same(load_network(tmp_path / "edge.bin"), network)
    assert_same(load_network(lightning.rename(tmp_path / "weights.safetensors"), TINY), network)


def test_saving_replaces_the_file_whole_or_not_at_all(
    network: ZeroGrasp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edge.safetensors"
    save_network(network, path)
    before = path.read_bytes()

    def fail(_state: Any, target: Path, _metadata: Any) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("zerograsp_edge.export.checkpoint.save_file", fail)
    with pytest.raises(OSError, match=r"disk full"):
        save_network(network, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["edge.safetensors"]


def test_training_checkpoint_loads_for_inference(network: ZeroGrasp, lightning: Path, tmp_path: Path) -> None:
    loaded = load_network(lightning, TINY.without_posterior())
    assert not any(name.startswith("posterior_") for name in loaded.state_dict())
    save_network(network, tmp_path / "full.safetensors")
    assert not load_network(tmp_path / "full.safetensors", TINY.without_posterior()).config.posterior


def test_stripped_checkpoint_loads_for_inference_only(lightning: Path) -> None:
    def strip(state: dict[str, Any]) -> None:
        for name in [name for name in state if name.startswith("model.posterior_")]:
            del state[name]

    rewrite(lightning, strip)
    load_network(lightning, TINY.without_posterior())
    with pytest.raises(
        CheckpointError, match=r"missing: posterior_conv1(.|\n)*load with config.without_posterior\(\)"
    ):
        load_network(lightning, TINY)


def test_everything_that_does_not_fit_is_named_at_once(lightning: Path) -> None:
    def spoil(state: dict[str, Any]) -> None:
        del state["model.conv1.bn.weight"], state["model.prior_head.0.fc.weight"]
        state["model.extra.weight"] = torch.zeros(1)
        state["loss.scale"] = torch.zeros(1)
        state["model.conv2.bn.bias"] = torch.zeros(3)
        state["model.conv2.bn.weight"] = torch.zeros(16, dtype=torch.int64)
        state["model.predict.0.1.linear.bias"][1] = float("nan")

    with pytest.raises(CheckpointError) as caught:
        load_network(rewrite(lightning, spoil), TINY)
    assert caught.value.problems == {
        "missing": ["conv1.bn.weight", "prior_head.0.fc.weight"],
        "unexpected": ["extra.weight", "loss.scale"],
        "of another shape": ["conv2.bn.bias (expected (16,), got (3,))"],
        "of another type": ["conv2.bn.weight (expected torch.float32, got torch.int64)"],
        "not finite": ["predict.0.1.linear.bias"],
    }
    for names in caught.value.problems.values():
        assert all(name in str(caught.value) for name in names)


def test_another_networks_checkpoint_is_listed_in_full_on_the_error(network: ZeroGrasp) -> None:
    wider = replace(TINY, residual_blocks=3)
    with pytest.raises(CheckpointError, match=r"and [0-9]+ more") as caught:
        load_state(ZeroGrasp(wider), network.state_dict())
    expected = set(ZeroGrasp(wider).state_dict()) - set(network.state_dict())
    assert set(caught.value.problems["missing"]) == expected


def test_a_failed_load_leaves_the_network_as_it_was(network: ZeroGrasp) -> None:
    other = ZeroGrasp(TINY)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    state = dict(network.state_dict())
    del state["conv1.bn.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing: conv1.bn.weight"):
        load_state(other, state)
    assert all(torch.equal(value, before[name]) for name, value in other.state_dict().items())


def test_an_entry_with_and_without_the_prefix_is_ambiguous(lightning: Path) -> None:
    rewrite(lightning, lambda state: state.update({"conv1.bn.weight": torch.ones(8)}))
    with pytest.raises(CheckpointError, match=r"'conv1.bn.weight' twice, with and without the prefix"):
        load_network(lightning, TINY)


def test_entries_that_are_no_tensors_are_named(lightning: Path) -> None:
    rewrite(lightning, lambda state: state.update({"model.note": "trained at night"}))
    with pytest.raises(CheckpointError, match=r"these entries are none: model\.note"):
        load_network(lightning, TINY)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, {"state_dict": None}])
def test_files_without_a_state_dict(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"expected a state dict"):
        load_network(tmp_path / "x.pt", TINY)


@pytest.mark.parametrize("kind", ["lightning", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_files(network: ZeroGrasp, lightning: Path, tmp_path: Path, kind: str, kept: float) -> None:
    path = lightning
    if kind == "safetensors":
        path = tmp_path / "edge.safetensors"
        save_network(network, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(CheckpointError, match=r"truncated"):
        load_network(path, TINY)


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04 not a zip at all", b"version https://git-lfs.github.com/spec/v1\n", b"{}" * 40]
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.ckpt: not a "):
        load_network(tmp_path / "x.ckpt", TINY)


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no such file"):
        load_network(tmp_path / "none.ckpt", TINY)


class Bomb:
    """Writes a file when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("container", ["zip", "legacy", "pickle"])
def test_pickled_objects_are_refused_and_never_run(
    network: ZeroGrasp, tmp_path: Path, container: str
) -> None:
    path, target = tmp_path / "bad.ckpt", tmp_path / "executed"
    content = {"state_dict": network.state_dict(), "callbacks": Bomb(target)}
    if container == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=container == "zip")
    with pytest.raises(CheckpointError, match=r"pickled objects other than tensors"):
        load_network(path, TINY)
    assert not target.exists()


def test_a_file_without_configuration_needs_one(lightning: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"carries no network configuration; .* NetworkConfig\.published\(\)"
    ):
        load_network(lightning)


def test_another_configuration_than_the_files_is_refused(network: ZeroGrasp, tmp_path: Path) -> None:
    path = tmp_path / "edge.safetensors"
    save_network(network, path)
    with pytest.raises(
        CheckpointError, match=r"another configuration: grid_size \(file 80\.0, asked for 40\.0\)"
    ):
        load_network(path, replace(TINY, grid_size=40.0))
    save_network(ZeroGrasp(TINY.without_posterior()), path)
    with pytest.raises(CheckpointError, match=r"posterior \(file False, asked for True\)"):
        load_network(path, TINY)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": "2"}, "format version '2', this package reads '1'"),
        ({"config": "{"}, "its network configuration is unreadable"),
        ({"config": json.dumps({"width": 3})}, "unknown fields of the network configuration: width"),
    ],
)
def test_unreadable_metadata(
    network: ZeroGrasp, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    path = tmp_path / "edge.safetensors"
    save_network(network, path)
    _, metadata = read_state(path)
    save_file(load_file(path), path, {**metadata, **changes})
    with pytest.raises(CheckpointError, match=message):
        load_network(path)


def test_half_precision_weights_load_into_single_precision(network: ZeroGrasp, lightning: Path) -> None:
    def halve(state: dict[str, Any]) -> None:
        for name, value in state.items():
            if value.is_floating_point():
                state[name] = value.half()

    loaded = load_network(rewrite(lightning, halve), TINY)
    assert torch.equal(loaded.conv1.conv.weights, network.conv1.conv.weights.half().float())


def test_published_checkpoint_loads(
    golden_state: dict[str, Any], published_network: ZeroGrasp, tmp_path: Path
) -> None:
    """The published layout: 1310 entries under `model.`, the posterior among them."""
    state = {f"model.{name}": value for name, value in published_network.state_dict().items()}
    assert golden_state.keys() <= state.keys() and len(state) == 1310
    torch.save({"state_dict": state, "optimizer_states": []}, tmp_path / "published.ckpt")
    assert_same(load_network(tmp_path / "published.ckpt", NetworkConfig.published()), published_network)
    load_network(tmp_path / "published.ckpt", NetworkConfig.published().without_posterior())
