"""The network against the reference vectors, stage by stage, with the recorded occlusion flags and splits."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")

from zerograsp_edge.export.network import NetworkConfig  # noqa: E402
from zerograsp_edge.export.network.preprocess import denormalise_points, node_centres  # noqa: E402

Golden = dict[str, np.ndarray]

DEPTHS = range(4, 10)
TOLERANCE = 5e-5  # of the stage's max |x|; tight enough to see a wrong epsilon of a LayerNorm
NEAR_TIE = 1e-4  # nodes whose recorded logits lie closer may flip
FLAG_TOLERANCE = 1 / 5000

STAGES = [
    "point_features", "in/features9", "in/input_feature", "conv1", *(f"encoder_blks.{i}" for i in range(6)),
    *(f"downsample.{i}" for i in range(5)), "mask_head", "d4_before_blocks", "conv2",
    *(f"mae_encoder.encoders.{i}" for i in range(3)), *(f"decoder_blks.{i}" for i in range(6)),
    *(f"upsample.{i}" for i in range(5)), *(f"skip{d}" for d in range(5, 10)),
]  # fmt: skip


def int32_sha256(table: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(table.numpy(), np.int32).tobytes()).hexdigest()


def test_state_dict_has_the_published_names_shapes_and_types(
    frames_dir: Path, published_network: Any
) -> None:
    lines = (frames_dir.parent / "golden" / "state_dict_keys.txt").read_text().splitlines()
    published = {name: (shape, dtype) for name, shape, dtype in (line.split("\t") for line in lines)}
    ours = {
        f"model.{name}": (str(tuple(value.shape)), str(value.dtype).removeprefix("torch."))
        for name, value in published_network.state_dict().items()
    }
    assert ours == published


def test_parameter_count(published_network: Any) -> None:
    counts = {name: p.numel() for name, p in published_network.named_parameters()}
    assert round(sum(counts.values()) / 1e6, 1) == 39.9
    assert round(sum(n for name, n in counts.items() if not name.startswith("posterior_")) / 1e6, 1) == 37.8


def test_points_are_bit_exact(golden: Golden, golden_frame: Any) -> None:
    assert golden_frame.z_min == golden["z_min"][0]
    assert np.array_equal(golden_frame.object_ids, golden["obj_ids"])
    assert np.array_equal(torch.cat(golden_frame.points).numpy(), golden["points"])
    counts = [len(p) for p in golden_frame.points]
    assert np.array_equal(np.repeat(golden_frame.object_ids, counts), golden["labels"])


def test_masks_and_neighbour_masks_are_exact(golden: Golden, golden_frame: Any) -> None:
    labels = golden_frame.labels.numpy()
    own = labels[None] == np.arange(len(golden_frame.object_ids))[:, None, None]
    neighbours = np.einsum("ij,jhw->ihw", golden_frame.adjacency.numpy(), own.astype(np.uint8)) > 0
    assert np.array_equal(own.sum((1, 2)), golden["mask_self_count"])
    assert np.array_equal(neighbours.sum((1, 2)), golden["mask_neighbour_count"])
    assert hashlib.sha256(np.packbits(neighbours)).hexdigest() == str(golden["mask_neighbour_sha256"])


def test_image_and_backbone(golden: Golden, golden_frame: Any, golden_run: Any) -> None:
    v, u = golden["backbone/pixels_yx"].T
    np.testing.assert_allclose(golden_frame.image.numpy()[:, v, u].T, golden["rgb_norm/at_pixels"], atol=1e-6)
    stages = [
        name.removesuffix("/stat")
        for name in golden
        if name.startswith("backbone") and name.endswith("/stat")
    ]
    assert len(stages) == 10
    for name in stages:
        count, mean, std, largest = golden[f"{name}/stat"]
        assert golden_run.statistics[name][0] == count
        np.testing.assert_allclose(
            golden_run.statistics[name][1:], (mean, std, largest), rtol=1e-4, atol=1e-5
        )
    features = golden_run.taps["backbone"][0].numpy()[:, v, u].T
    assert np.abs(features - golden["backbone/val"]).max() <= TOLERANCE * golden["backbone/stat"][3]


def test_input_octree_is_exact(golden: Golden, golden_run: Any) -> None:
    octree = golden_run.prediction.encoding.octree
    assert np.array_equal(octree.nnum.numpy(), golden["in/nnum"])
    assert np.array_equal(octree.nnum_nempty.numpy(), golden["in/nnum_nempty"])
    assert np.array_equal(octree.batch_nnum.numpy(), golden["in/batch_nnum"])
    for d in range(3, 10):
        assert np.array_equal(octree.keys[d].numpy(), golden[f"in/keys{d}"]), d
        assert np.array_equal(octree.children[d].numpy(), golden[f"in/children{d}"]), d
        assert int32_sha256(octree.neighs[d]) == str(golden[f"in/neigh{d}_sha256_int32"]), d
    for d in (4, 5, 6):
        assert np.array_equal(octree.neighs[d].numpy(), golden[f"in/neigh{d}"])
    assert np.array_equal(octree.points[9].numpy(), golden["in/points9"])


def test_occlusion_flags(golden: Golden, golden_frame: Any, golden_run: Any, golden_flags: Any) -> None:
    from zerograsp_edge.export.network.occlusion import kernel_occlusion

    config = NetworkConfig.published()
    octree = golden_run.prediction.encoding.octree
    centres = denormalise_points(config, node_centres(octree, config.min_lod), golden_frame.z_min)
    flags = kernel_occlusion(
        centres, octree.batch_id(config.min_lod), golden_frame, config.grid_size, config.occlusion_resolution
    )
    assert flags.shape == golden_flags.shape
    for kind in (0, 1):
        different = (flags[:, kind] != golden_flags[:, kind]).float().mean().item()
        assert different <= FLAG_TOLERANCE, f"{['self', 'neighbour'][kind]} flags differ in {different:.2%}"


@pytest.mark.parametrize("stage", STAGES)
def test_stage(golden: Golden, golden_run: Any, stage: str) -> None:
    x = golden_run.taps[stage].numpy()
    count, _, _, largest = golden[f"{stage}/stat"]
    assert len(x) == count
    assert np.abs(x[golden[f"{stage}/rows"]] - golden[f"{stage}/val"]).max() <= TOLERANCE * largest
    assert abs(np.abs(x).max() - largest) <= TOLERANCE * largest


@pytest.mark.parametrize("stage", ["prior/pooled", "prior/pm", "prior/lpv"])
def test_prior(golden: Golden, golden_run: Any, stage: str) -> None:
    assert (
        np.abs(golden_run.taps[stage].numpy() - golden[stage]).max()
        <= TOLERANCE * np.abs(golden[stage]).max()
    )


def test_alignment_at_the_coarsest_depth(golden: Golden, golden_run: Any) -> None:
    found = golden["align4/found_index"]
    assert np.array_equal(golden_run.taps["align4/found_index"].numpy(), found)
    aligned = golden_run.taps["align4"].numpy()
    assert np.array_equal(aligned[found], golden_run.taps["mae_encoder.encoders.2"].numpy())
    assert not np.delete(aligned, found, axis=0).any()


def test_output_octree_is_exact(golden: Golden, golden_run: Any) -> None:
    prediction = golden_run.prediction
    for d in DEPTHS:
        assert np.array_equal(prediction.keys[d].numpy(), golden[f"out/keys{d}"]), d
    for d in (5, 6):
        assert int32_sha256(prediction.octree.neighs[d]) == str(golden[f"out/neigh{d}_sha256_int32"])
    assert np.array_equal(prediction.octree.nnum.numpy(), golden["out/nnum"])
    assert np.array_equal(prediction.octree.nnum_nempty.numpy(), golden["out/nnum_nempty"])


@pytest.mark.parametrize("depth", DEPTHS)
def test_logits_and_splits(golden: Golden, golden_run: Any, golden_splits: Any, depth: int) -> None:
    logits, recorded = golden_run.prediction.logits[depth].numpy(), golden[f"out/logits{depth}"]
    assert np.abs(logits - recorded).max() <= TOLERANCE * np.abs(recorded).max()
    differs = (logits[:, 1] > logits[:, 0]) != golden_splits[depth].numpy()
    near_tie = np.abs(recorded[:, 1] - recorded[:, 0]) < NEAR_TIE
    assert not (differs & ~near_tie).any()
    assert near_tie.sum() < 0.001 * len(recorded)


def test_signal(golden: Golden, golden_run: Any) -> None:
    prediction = golden_run.prediction
    assert np.array_equal(prediction.signal_keys.numpy(), golden["signal/keys"])
    expected = golden["signal"]
    for channel in range(expected.shape[1]):
        difference = np.abs(prediction.signal.numpy()[:, channel] - expected[:, channel]).max()
        assert difference <= TOLERANCE * np.abs(expected[:, channel]).max(), f"channel {channel}"
