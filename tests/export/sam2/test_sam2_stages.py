"""SAM 2's stages against Meta's PyTorch network, at random weights: there are no others here."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.bundle import BundleError, load_bundle
from zerograsp_edge.runtime.cli import main

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("onnx", reason="needs the extra `export`")
if importlib.util.find_spec("sam2") is None:
    pytest.skip("needs the extra `sam2`", allow_module_level=True)

import onnx  # noqa: E402

from zerograsp_edge.export.checkpoint import CheckpointError  # noqa: E402
from zerograsp_edge.export.sam2 import bundle as sam2_bundle  # noqa: E402
from zerograsp_edge.export.sam2.bundle import TOLERANCE, compare, write_sam2_bundle  # noqa: E402
from zerograsp_edge.export.sam2.image_encoder import image_encoder  # noqa: E402
from zerograsp_edge.export.sam2.network import build_network, load_sam2, published_config  # noqa: E402
from zerograsp_edge.runtime.segmentation.sam2_bundle import Sam2Bundle, load_sam2_bundle  # noqa: E402

TINY = "configs/sam2.1/sam2.1_hiera_t.yaml"
# Hiera tiny's layout in a quarter of its picture and a sixth of its channels; windows that do not divide the
# picture, pooling in windowed blocks and global attention occur.
SMALL = (
    "++model.image_size=256",
    "++model.image_encoder.trunk.embed_dim=16",
    "++model.image_encoder.trunk.stages=[1,2,3,1]",
    "++model.image_encoder.trunk.global_att_blocks=[4]",
    "++model.image_encoder.neck.backbone_channel_list=[128,64,32,16]",
)


def random_network(config: str, overrides: tuple[str, ...] = (), seed: int = 0) -> Any:
    """What PyTorch leaves at zero, biases and positions, is drawn too: an error in it would not show otherwise."""
    torch.manual_seed(seed)
    network = build_network(config, overrides)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias") or "pos_embed" in name or "no_mem_embed" in name:
                parameter.normal_(0, 0.1)
    return network


@pytest.fixture(scope="module")
def network() -> Any:
    return random_network(TINY, SMALL)


@pytest.fixture(scope="module")
def bundle(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Sam2Bundle:
    path = tmp_path_factory.mktemp("sam2") / "small.zgb"
    return write_sam2_bundle(network, path, config=TINY, trained=False)


def test_stages_compute_what_pytorch_does(network: Any, bundle: Sam2Bundle) -> None:
    differences = compare(network, bundle, seed=3)
    assert set(differences) == {"image_embedding", "detail_4", "detail_8", "logits", "iou"}
    assert max(differences.values()) < 2e-5, differences


@pytest.mark.parametrize("seed", [1, 2])
def test_the_older_family_too(seed: int, tmp_path: Path) -> None:
    network = random_network("configs/sam2/sam2_hiera_t.yaml", SMALL, seed)
    bundle = write_sam2_bundle(network, tmp_path / "older.zgb", config=TINY, trained=False)
    assert max(compare(network, bundle, seed).values()) < 2e-5


@pytest.mark.slow
def test_hiera_tiny_at_full_size(tmp_path: Path) -> None:
    network = random_network(TINY)
    bundle = write_sam2_bundle(network, tmp_path / "tiny.zgb", config=TINY, trained=False)
    assert bundle.image_size == 1024
    assert max(bundle.manifest["differences"].values()) < TOLERANCE


def test_graphs_are_standard_nodes_of_opset_17(bundle: Sam2Bundle) -> None:
    for stage in bundle.stages:
        model = onnx.load(bundle.path / bundle.stages[stage].file)
        assert [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
        assert {node.domain for node in model.graph.node} == {""}


def test_a_difference_is_noticed_and_nothing_is_written(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(network: Any) -> onnx.ModelProto:
        model = image_encoder(network)
        weight = max(model.graph.initializer, key=lambda i: np.prod(i.dims))
        values = onnx.numpy_helper.to_array(weight) * np.float32(1.01)
        weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
        return model

    monkeypatch.setattr(sam2_bundle, "image_encoder", wrong)
    with pytest.raises(BundleError, match=r"the stages differ from PyTorch by more than 0\.001: .*nothing was written"):
        write_sam2_bundle(network, tmp_path / "wrong.zgb", config=TINY, trained=False)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_another_layout_is_refused(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.image_encoder.neck, "fpn_top_down_levels", [0, 1, 2, 3])
    with pytest.raises(ValueError, match="expected SAM 2's published layout, got detail levels that take from above"):
        image_encoder(network)


def test_the_configuration_is_read_off_the_weights(tmp_path: Path) -> None:
    patch, block = "image_encoder.trunk.patch_embed.proj.weight", "image_encoder.trunk.blocks.{}.norm1.weight"
    for channels, blocks, name in ((96, 12, "t"), (96, 16, "s"), (112, 24, "b+"), (144, 48, "l")):
        state = {patch: torch.zeros(channels, 3, 7, 7)}
        state |= {block.format(i): torch.zeros(1) for i in range(blocks)}
        assert published_config(state) == f"configs/sam2/sam2_hiera_{name}.yaml"
        state["no_obj_embed_spatial"] = torch.zeros(1)
        assert published_config(state) == f"configs/sam2.1/sam2.1_hiera_{name}.yaml"
    with pytest.raises(CheckpointError, match=r"expected one of SAM 2's published sizes .* got 7/48"):
        published_config({**state, patch: torch.zeros(7, 3, 7, 7)})


def test_a_published_checkpoint_is_read_as_it_is_stored(tmp_path: Path) -> None:
    # The published tiny network's weights at random, as Meta stores them.
    network = random_network(TINY)
    torch.save({"model": network.state_dict()}, tmp_path / "some.pt")
    loaded, config = load_sam2(tmp_path / "some.pt")
    assert config == TINY
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), network.parameters(), strict=True))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no checkpoint at all", "not a PyTorch checkpoint"),
        ({"state_dict": {}}, "expected a checkpoint of SAM 2"),
        ({"model": {"weight": 3}}, "expected a checkpoint of SAM 2"),
        ({"model": {}}, "expected a checkpoint of SAM 2; it has no entry"),
    ],
)
def test_what_is_no_checkpoint_is_one_line(
    content: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "some.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    assert main(["export-sam2", str(path), str(tmp_path / "out.zgb")]) == 1
    assert message in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["some.pt"]


def test_weights_of_another_size_are_refused(network: Any, tmp_path: Path) -> None:
    torch.save({"model": network.state_dict()}, tmp_path / "small.pt")
    with pytest.raises(CheckpointError, match="does not fit the configuration"):
        load_sam2(tmp_path / "small.pt", TINY)
    with pytest.raises(CheckpointError, match="expected a configuration of the package sam2"):
        load_sam2(tmp_path / "small.pt", "configs/nothing.yaml")


def test_the_two_kinds_of_bundles_are_told_apart(
    bundle: Sam2Bundle, network: Any, tmp_path: Path
) -> None:
    with pytest.raises(BundleError, match="expected the format 'zerograsp-edge bundle', got 'zerograsp-edge sam2"):
        load_bundle(bundle.path)
    other = tmp_path / "other.zgb"
    other.mkdir()
    (other / "manifest.json").write_text('{"format": "zerograsp-edge bundle", "version": 1}')
    with pytest.raises(BundleError, match="expected the format 'zerograsp-edge sam2 bundle', got"):
        load_sam2_bundle(other)
    with pytest.raises(BundleError, match="is not a bundle; it was left alone"):
        write_sam2_bundle(network, other, config=TINY, trained=False, overwrite=True)
    with pytest.raises(BundleError, match=r"no bundle at .*: make one with `zerograsp-edge export-sam2 CHECKPOINT"):
        load_sam2_bundle(tmp_path / "nothing.zgb")
