"""SAM 2's stages against Meta's PyTorch network, at random weights: there are no others here."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.bundle import BundleError, load_bundle, sha256
from zerograsp_edge.runtime.cli import main

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("onnx", reason="needs the extra `export`")
if importlib.util.find_spec("sam2") is None:
    pytest.skip("needs the extra `sam2`", allow_module_level=True)

import cv2  # noqa: E402
import onnx  # noqa: E402

from zerograsp_edge.export.checkpoint import CheckpointError  # noqa: E402
from zerograsp_edge.export.sam2 import bundle as sam2_bundle  # noqa: E402
from zerograsp_edge.export.sam2 import network as sam2_network  # noqa: E402
from zerograsp_edge.export.sam2.bundle import TOLERANCE, compare, write_sam2_bundle  # noqa: E402
from zerograsp_edge.export.sam2.image_encoder import image_encoder  # noqa: E402
from zerograsp_edge.export.sam2.network import build_network, load_sam2, published_config  # noqa: E402
from zerograsp_edge.runtime.frame import Frame  # noqa: E402
from zerograsp_edge.runtime.network import Stopwatch  # noqa: E402
from zerograsp_edge.runtime.segmentation.mask_filters import box_nms  # noqa: E402
from zerograsp_edge.runtime.segmentation.sam2 import Sam2Config, Sam2Segmenter  # noqa: E402
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


def test_the_command_writes_a_bundle(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sam2_network, "build_network", lambda config: deepcopy(network))
    checkpoint, out = tmp_path / "small.pt", tmp_path / "small.zgb"
    torch.save({"model": network.state_dict()}, checkpoint)
    command = ["export-sam2", str(checkpoint), str(out), "--config", TINY]
    assert main(command) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"({TINY}, " in said and "of PyTorch next: zerograsp-edge run FOLDER --segment sam2:" in said
    bundle = load_sam2_bundle(out)
    assert bundle.trained and bundle.config == TINY and bundle.image_size == 256
    assert bundle.manifest["provenance"]["checkpoint_sha256"] == sha256(checkpoint)
    assert main(command) == 1
    assert "exists; choose another name or pass --overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sam2", None)
    assert main(["export-sam2", str(tmp_path / "some.pt"), str(tmp_path / "out.zgb")]) == 1
    said = capsys.readouterr().err
    assert "'sam2' is needed to export SAM 2" in said and "pip install 'zerograsp-edge[sam2]'" in said


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


def test_a_damaged_file_is_noticed(bundle: Sam2Bundle, tmp_path: Path) -> None:
    again = load_sam2_bundle(bundle.path)
    assert (again.path, again.stages, again.manifest) == (bundle.path, bundle.stages, bundle.manifest)
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy.zgb"))
    assert sorted(path.name for path in copy.iterdir()) == ["image_encoder.onnx", "manifest.json", "mask_decoder.onnx"]
    data = bytearray((copy / "mask_decoder.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "mask_decoder.onnx").write_bytes(data)
    with pytest.raises(BundleError, match=r"mask_decoder\.onnx: its SHA-256 is not the manifest's"):
        load_sam2_bundle(copy)
    (copy / "mask_decoder.onnx").unlink()
    with pytest.raises(BundleError, match=r"mask_decoder\.onnx is missing"):
        load_sam2_bundle(copy)


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


def test_masks_are_those_of_meta_s_generator(network: Any, tmp_path: Path) -> None:
    """The whole of it, from the picture to non-maximum suppression, on masks that mean nothing."""
    generator = pytest.importorskip("sam2.automatic_mask_generator")
    network = deepcopy(network)
    with torch.no_grad():  # masks of random weights fill the picture: these are patches of many sizes
        network.sam_mask_decoder.conv_s0.weight.mul_(3)
        drawn = torch.Generator().manual_seed(1)
        for mlp in network.sam_mask_decoder.output_hypernetworks_mlps:
            mlp.layers[-1].bias.normal_(-0.15, 0.1, generator=drawn)
    bundle = write_sam2_bundle(network, tmp_path / "patches.zgb", config=TINY, trained=False)
    random = np.random.default_rng(8)
    rgb = cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (200, 150), interpolation=cv2.INTER_CUBIC)
    frame = Frame(rgb, np.full((150, 200), 700, np.float32), np.array([[200, 0, 100], [0, 200, 75], [0, 0, 1.0]]))
    # Thresholds that a part of the masks of random weights passes.
    config = Sam2Config(
        points_per_side=5, min_iou=0.502, min_stability=0.1, stability_offset=0.05, box_nms=0.95, prompts="grid"
    )
    theirs = generator.SAM2AutomaticMaskGenerator(
        network, points_per_side=5, points_per_batch=25, pred_iou_thresh=config.min_iou,
        stability_score_thresh=config.min_stability, stability_score_offset=config.stability_offset,
        box_nms_thresh=config.box_nms,
    )  # fmt: skip
    theirs.predictor._bb_feat_sizes = [(64, 64), (32, 32), (16, 16)]  # it has those of 1024 pixels written in
    expected = theirs.generate(rgb)
    segmenter = Sam2Segmenter(bundle, config, threads=1)
    segmenter._network.encode(rgb)
    every = segmenter._grid(frame, Stopwatch())
    ours = every[box_nms(every.boxes, every.iou, config.box_nms)]
    assert 5 < len(expected) < len(every) < 3 * 25, "every rule has something to do"
    assert len(ours) == len(expected)
    for i, one in enumerate(expected):
        assert np.mean(ours.mask(i) != one["segmentation"]) < 1e-3
        assert ours.iou[i] == pytest.approx(one["predicted_iou"], abs=1e-5)
        assert ours.stability[i] == pytest.approx(one["stability_score"], abs=5e-3)


def test_run_segments_with_a_bundle(
    bundle: Sam2Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    depth, rgb = np.full((240, 320), 700, np.uint16), np.full((240, 320, 3), 90, np.uint8)
    depth[80:140, 60:120], rgb[80:140, 60:120] = 640, (160, 80, 40)
    cv2.imwrite(str(tmp_path / "box.rgb.png"), rgb)
    cv2.imwrite(str(tmp_path / "box.depth.png"), depth)
    (tmp_path / "camera.json").write_text('{"fx": 300, "fy": 300, "cx": 159.5, "cy": 119.5}')
    for kind in ("sam2", "sam2-grid"):
        options = ["--segment", f"{kind}:{bundle.path}", "--no-mesh", "--threads", "1", "--out", str(tmp_path / "out")]
        assert main(["run", str(tmp_path), *options]) == 1
        # Random weights are sure of nothing, which is neither an empty scene nor a mask.
        assert "no object found in frame 'box': no mask passed the thresholds" in capsys.readouterr().err
