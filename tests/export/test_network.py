"""The network without reference vectors: layers against dense twins, a synthetic scene, gradients."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("ocnn", reason="needs the extra `export`")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from ocnn.octree import Octree, Points  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from zerograsp_edge.export.network import (  # noqa: E402
    FrameInputs,
    NetworkConfig,
    NoObjectsError,
    ZeroGrasp,
    prepare_frame,
)
from zerograsp_edge.export.network.backbone import sample_features  # noqa: E402
from zerograsp_edge.export.network.layers import (  # noqa: E402
    ConvBnGelu,
    DownsampleBnGelu,
    ResidualBlock,
    UpsampleBnGelu,
    align_index,
    gather_rows,
)
from zerograsp_edge.export.network.posterior import build_target_octree  # noqa: E402
from zerograsp_edge.export.network.preprocess import (  # noqa: E402
    back_project,
    denormalise_points,
    near_plane,
    node_centres,
    normalise_points,
    object_adjacency,
    project,
)
from zerograsp_edge.export.network.transformer import RotaryEmbedding3d  # noqa: E402

TINY = NetworkConfig.tiny()


def checkerboard_flags(centres: Any, objects: Any, frame: FrameInputs, edge: float, resolution: int) -> Any:
    """Stands in for the occlusion kernel: flags that depend on the node, the object and the sub-voxel."""
    count = 2 * resolution**3
    index = torch.arange(count)[None] + (centres[:, :1] / edge).floor().long() + objects[:, None]
    return (index % 3 == 0).float().view(-1, 2, resolution, resolution, resolution)


@pytest.fixture(scope="module")
def frame(scene: Any) -> FrameInputs:
    return prepare_frame(TINY, scene.rgb, scene.depth, scene.mask, scene.intrinsics)


def make_network(config: NetworkConfig = TINY, seed: int = 0) -> ZeroGrasp:
    """Random weights with BatchNorm statistics that are not the identity."""
    torch.manual_seed(seed)
    network = ZeroGrasp(config)
    for name, value in network.state_dict().items():
        if name.endswith("running_mean"):
            value.normal_(0.0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return network.eval()


def calibrated(network: ZeroGrasp, frame: FrameInputs) -> ZeroGrasp:
    """The network with its heads' biases shifted so that a fifth of the nodes splits at every depth."""

    def shift(head: Any, _args: Any, output: Any) -> Any:
        threshold = (output[:, 1] - output[:, 0]).quantile(0.8)
        head[1].linear.bias.data[0] += threshold
        return torch.cat((output[:, :1] + threshold, output[:, 1:]), dim=1)

    handles = [head.register_forward_hook(shift) for head in network.predict]
    with torch.no_grad():
        network(frame, occlusion=checkerboard_flags)
    for handle in handles:
        handle.remove()
    return network


@pytest.fixture(scope="module")
def network(frame: FrameInputs) -> ZeroGrasp:
    """Not to be changed."""
    return calibrated(make_network(), frame)


def full_octree(depth: int) -> Any:
    return Octree.init_octree(depth + 1, depth, 1)


def to_dense(x: Any, octree: Any, depth: int) -> Any:
    """(N, C) features of a full depth to (1, C, x, y, z)."""
    i, j, k, _ = octree.xyzb(depth)
    dense = x.new_zeros(x.shape[1], 1 << depth, 1 << depth, 1 << depth)
    dense[:, i, j, k] = x.t()
    return dense[None]


# Layers


def test_convolution_equals_a_dense_one_on_a_full_octree() -> None:
    torch.manual_seed(0)
    octree, depth = full_octree(3), 3
    layer = ConvBnGelu(5, 7).eval()
    layer.bn.running_mean.normal_()
    layer.bn.running_var.uniform_(1e-3, 1.0)  # small enough that a wrong epsilon shows
    x = torch.randn(8**depth, 5)
    weight = layer.conv.weights.view(3, 3, 3, 5, 7).permute(4, 3, 0, 1, 2)
    dense = F.conv3d(to_dense(x, octree, depth), weight, padding=1)
    dense = F.gelu(
        F.batch_norm(
            dense, layer.bn.running_mean, layer.bn.running_var, layer.bn.weight, layer.bn.bias, eps=1e-3
        )
    )
    torch.testing.assert_close(to_dense(layer(x, octree, depth), octree, depth), dense, rtol=1e-4, atol=1e-4)


def test_upsampling_equals_a_dense_transposed_convolution() -> None:
    torch.manual_seed(0)
    octree = full_octree(2)
    octree.octree_grow(3)  # every node of depth 2 splits
    layer = UpsampleBnGelu(6, 4).eval()
    x = torch.randn(64, 6)
    weight = layer.deconv.weights.view(2, 2, 2, 4, 6).permute(4, 3, 0, 1, 2)
    dense = F.conv_transpose3d(to_dense(x, octree, 2), weight, stride=2) / (1 + 1e-3) ** 0.5
    torch.testing.assert_close(to_dense(layer(x, octree, 2), octree, 3), F.gelu(dense), rtol=1e-4, atol=1e-5)


def test_downsampling_equals_a_dense_strided_convolution_and_marks_empty_nodes() -> None:
    torch.manual_seed(0)
    octree = full_octree(2)
    split = torch.rand(64) < 0.5
    octree.octree_split(split.long(), 2)
    octree.octree_grow(3)
    layer = DownsampleBnGelu(6, 4).eval()
    layer.bn.running_mean.normal_()
    layer.bn.bias.data.normal_()
    x = torch.randn(int(split.sum()) * 8, 6)
    out = layer(x, octree, 3)

    def activate(conv: Any) -> Any:
        return F.gelu(layer.bn(conv))

    weight = layer.conv.weights.view(2, 2, 2, 6, 4).permute(4, 3, 0, 1, 2)
    i, j, k, _ = octree.xyzb(3)
    dense = x.new_zeros(1, 6, 8, 8, 8)
    dense[0, :, i, j, k] = x.t()
    i, j, k, _ = octree.xyzb(2)
    expected = F.conv3d(dense, weight, stride=2)[0, :, i, j, k].t()
    torch.testing.assert_close(out[split], activate(expected)[split], rtol=1e-4, atol=1e-5)
    empty = activate(torch.zeros(1, 4))
    assert empty.abs().max() > 0.01
    torch.testing.assert_close(out[~split], empty.expand(int((~split).sum()), 4))


@pytest.mark.parametrize("channels", [(8, 8), (12, 8)])
def test_residual_block_is_elu_of_branch_plus_shortcut(channels: tuple[int, int]) -> None:
    torch.manual_seed(0)
    octree = full_octree(2)
    block = ResidualBlock(*channels, bottleneck=4).eval()
    assert (block.conv1x1c is None) == (channels[0] == channels[1])
    x = torch.randn(64, channels[0])
    block.conv1x1b.bn.weight.data.zero_()
    shortcut = x if block.conv1x1c is None else x @ block.conv1x1c.conv.linear.weight.t() / (1 + 1e-5) ** 0.5
    torch.testing.assert_close(block(x, octree, 2), F.elu(shortcut), rtol=1e-5, atol=1e-6)


@given(st.sets(st.integers(0, 60), max_size=20), st.lists(st.integers(0, 60), max_size=20))
def test_alignment_finds_the_equal_key(source: set[int], target: list[int]) -> None:
    keys = sorted(source)
    index = align_index(torch.tensor(keys, dtype=torch.int64), torch.tensor(target, dtype=torch.int64))
    assert index.tolist() == [keys.index(t) if t in source else -1 for t in target]
    rows = gather_rows(torch.tensor(keys, dtype=torch.float32).view(-1, 1) + 1, index)
    assert rows.flatten().tolist() == [t + 1.0 if t in source else 0.0 for t in target]


def test_rotary_embedding_makes_scores_depend_on_the_offset_only() -> None:
    torch.manual_seed(0)
    rotary = RotaryEmbedding3d(head_dim=64, max_freq=32.0)
    torch.testing.assert_close(rotary.freqs.data, torch.linspace(1, 16, 10) * torch.pi)
    q, k = torch.randn(1, 1, 64), torch.randn(1, 1, 64)

    def score(a: Any, b: Any) -> Any:
        return (rotary(q, rotary.angles(a)) * rotary(k, rotary.angles(b))).sum()

    a, b, shift = torch.rand(1, 3), torch.rand(1, 3), torch.tensor([[0.25, -0.5, 0.125]])
    torch.testing.assert_close(score(a, b), score(a + shift, b + shift), rtol=1e-4, atol=1e-4)
    for axis in range(3):
        moved = b.clone()
        moved[0, axis] += 0.1
        assert (score(a, b) - score(a, moved)).abs() > 1e-3
    rotated = rotary(q, rotary.angles(a))
    torch.testing.assert_close(rotated[..., 60:], q[..., 60:], rtol=0, atol=0)


# Preprocessing


def test_projection_inverts_back_projection() -> None:
    intrinsics = np.array([[600.0, 0, 321.5], [0, 580.0, 239.25], [0, 0, 1]], np.float32)
    u, v = np.array([0, 17, 639]), np.array([0, 301, 479])
    depth = np.array([300.0, 512.0, 1200.0], np.float32)
    points = back_project(u, v, depth, intrinsics)
    assert points.dtype == np.float32 and np.array_equal(points[:, 2], depth)
    pixels = project(torch.from_numpy(points), torch.from_numpy(intrinsics)).numpy()
    np.testing.assert_allclose(pixels, np.stack([u, v], 1), atol=2e-3)


@pytest.mark.parametrize(
    ("min_z", "expected"), [(400.0, 0.0), (399.9, -80.0), (10.5, -400.0), (805.0, 400.0)]
)
def test_near_plane_is_five_nodes_before_the_nearest_point(min_z: float, expected: float) -> None:
    assert near_plane(NetworkConfig.published(), min_z) == expected


def test_normalisation_round_trip() -> None:
    points = torch.tensor([[-300.0, 10.0, 250.0], [12.5, -7.0, -30.0]])
    normalised = normalise_points(TINY, points, -160.0)
    torch.testing.assert_close(normalised[0, :2], torch.tensor([-300 / 320, 10 / 320]))
    torch.testing.assert_close(denormalise_points(TINY, normalised, -160.0), points, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("gap", "touch"), [(3, 1), (4, 0)])
def test_adjacency_is_overlap_after_a_5x5_dilation(gap: int, touch: int) -> None:
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 5:10, 2:8] = True
    masks[1, 5:10, 8 + gap : 15 + gap] = True
    assert object_adjacency(masks).tolist() == [[0, touch], [touch, 0]]


def test_sampling_places_pixel_centres_as_the_published_model_does() -> None:
    features = torch.arange(12.0).view(1, 3, 4)
    # 2 * (u / W - 0.5) with aligned corners stretches the image by (W - 1) / W: u = W / 2 falls between
    # columns 1 and 2.
    sampled = sample_features(features, torch.tensor([[2.0, 1.5], [0.0, 0.0], [-5.0, 0.0]]))
    torch.testing.assert_close(sampled.flatten(), torch.tensor([5.5, 0.0, 0.0]))


def test_frame_of_the_scene(scene: Any, frame: FrameInputs) -> None:
    assert frame.object_ids == (10, 20, 30) and frame.dropped_ids == ()
    assert frame.adjacency.tolist() == [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    assert frame.z_min == (scene.depth[scene.mask > 0].min() // 80) * 80 - 160
    for index, value in enumerate(frame.object_ids):
        assert np.array_equal(frame.labels.numpy() == index, scene.mask == value)
        assert len(frame.points[index]) == (scene.mask == value).sum()


def test_object_without_valid_points_is_dropped_everywhere_and_reported(scene: Any) -> None:
    depth = scene.depth.copy()
    depth[scene.mask == 10] = 10  # not above 10 mm
    frame = prepare_frame(TINY, scene.rgb, depth, scene.mask, scene.intrinsics)
    assert frame.object_ids == (20, 30) and frame.dropped_ids == (10,)
    assert frame.adjacency.tolist() == [[0, 0], [0, 0]]
    assert np.array_equal(frame.labels.numpy() == 0, scene.mask == 20)

    depth = scene.depth.astype(np.float32)
    depth[scene.mask == 30] = 5000.0  # valid, but behind the cube, whose place follows the nearest point
    frame = prepare_frame(TINY, scene.rgb, depth, scene.mask, scene.intrinsics)
    assert frame.object_ids == (10, 20) and frame.dropped_ids == (30,)
    assert (frame.labels[torch.from_numpy(scene.mask == 30)] == -1).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_depth_that_is_not_finite_is_invalid(scene: Any, bad: float) -> None:
    depth = scene.depth.astype(np.float32)
    depth[:, :64] = bad
    frame = prepare_frame(TINY, scene.rgb, depth, scene.mask, scene.intrinsics)
    assert all(torch.isfinite(p).all() for p in frame.points)
    assert (frame.labels[:, :64] == -1).all()


def test_frames_without_objects_are_refused(scene: Any) -> None:
    with pytest.raises(NoObjectsError, match="none besides the background"):
        prepare_frame(TINY, scene.rgb, scene.depth, np.zeros_like(scene.mask), scene.intrinsics)
    with pytest.raises(NoObjectsError, match=r"no object with valid depth: mask values \[10, 20, 30\]"):
        prepare_frame(TINY, scene.rgb, np.zeros_like(scene.depth), scene.mask, scene.intrinsics)
    aside = scene.intrinsics.copy()
    aside[0, 2] = -2000.0
    with pytest.raises(NoObjectsError, match="no object has a point inside the cube of 640 mm"):
        prepare_frame(TINY, scene.rgb, scene.depth, scene.mask, aside)


def test_inputs_of_the_wrong_form_are_named(scene: Any) -> None:
    with pytest.raises(ValueError, match="depth: expected shape"):
        prepare_frame(TINY, scene.rgb, scene.depth[:-1], scene.mask, scene.intrinsics)
    with pytest.raises(ValueError, match="mask: expected integers, got float64"):
        prepare_frame(TINY, scene.rgb, scene.depth, scene.mask.astype(float), scene.intrinsics)
    with pytest.raises(ValueError, match=r"rgb: expected \(H, W, 3\) uint8"):
        prepare_frame(TINY, scene.rgb.astype(np.float32), scene.depth, scene.mask, scene.intrinsics)
    with pytest.raises(ValueError, match=r"intrinsics: expected shape \(3, 3\)"):
        prepare_frame(TINY, scene.rgb, scene.depth, scene.mask, scene.intrinsics[:2])


# Inference


def test_inference_grows_where_split(network: ZeroGrasp, frame: FrameInputs) -> None:
    with torch.no_grad():
        prediction = network(frame, occlusion=checkerboard_flags)
    assert list(prediction.logits) == list(TINY.depths)
    assert prediction.logits[3].shape == (3 * 8**3, 2)
    for d in TINY.depths:
        keys, split = prediction.keys[d], prediction.split[d]
        assert (keys.diff() > 0).all()
        assert torch.equal(split, prediction.logits[d][:, 1] > prediction.logits[d][:, 0])
        assert 0.15 * len(keys) < split.sum() < 0.25 * len(keys)
        if d < TINY.max_lod:
            parents = prediction.keys[d + 1][::8]
            batch = parents >> 48
            assert torch.equal((batch << 48) | ((parents & ((1 << 48) - 1)) >> 3), keys[split])
    assert prediction.signal.shape == (int(prediction.split[6].sum()), 14)
    assert torch.equal(prediction.signal_keys, prediction.keys[6][prediction.split[6]])


def test_inference_is_deterministic_and_noise_moves_it(network: ZeroGrasp, frame: FrameInputs) -> None:
    noise = torch.randn(3, TINY.latent, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        mean, again = (network(frame, occlusion=checkerboard_flags) for _ in range(2))
        zero = network(frame, occlusion=checkerboard_flags, noise=torch.zeros(3, TINY.latent))
        sampled = network(frame, occlusion=checkerboard_flags, noise=noise)
    assert torch.equal(mean.logits[3], again.logits[3]) and torch.equal(mean.logits[3], zero.logits[3])
    assert (mean.logits[3] - sampled.logits[3]).abs().max() > 1e-4
    with pytest.raises(ValueError, match=r"noise: expected shape \(3, 4\) \(objects, latent\), got \(1, 4\)"):
        network(frame, occlusion=checkerboard_flags, noise=noise[:1])


def test_frames_of_a_batch_do_not_see_each_other(network: ZeroGrasp, scene: Any, frame: FrameInputs) -> None:
    other = prepare_frame(
        TINY, scene.rgb[::-1].copy(), scene.depth + 100, np.where(scene.mask == 20, 20, 0), scene.intrinsics
    )
    with torch.no_grad():
        batch = network([frame, other], occlusion=checkerboard_flags)
        first, second = (network(f, occlusion=checkerboard_flags) for f in (frame, other))
    assert batch.encoding.octree.batch_size == 4
    expected = torch.cat((first.logits[3], second.logits[3]))
    torch.testing.assert_close(batch.logits[3], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.encoding.mean, torch.cat((first.encoding.mean, second.encoding.mean)))


def test_objects_of_a_frame_do_see_each_other(scene: Any, frame: FrameInputs) -> None:
    """Only through attention: without it, object 30 alone gives the same logits."""
    alone = prepare_frame(TINY, scene.rgb, scene.depth, np.where(scene.mask == 30, 30, 0), scene.intrinsics)
    points = frame.points[2]
    alone = replace(alone, points=(points,), z_min=frame.z_min)

    def no_flags(centres: Any, objects: Any, frame: FrameInputs, edge: float, r: int) -> Any:
        return torch.zeros(len(centres), 2, r, r, r)

    for config, same in ((TINY, False), (replace(TINY, multi_object=False), True)):
        network = calibrated(make_network(config), frame)
        with torch.no_grad():
            together = network(frame, occlusion=no_flags).logits[3][2 * 512 :]
            single = network(alone, occlusion=no_flags).logits[3]
        assert torch.allclose(together, single, atol=1e-6) == same


def test_a_tie_means_empty_and_node_0_keeps_the_octree_alive(frame: FrameInputs) -> None:
    network = make_network()
    for head in network.predict:
        head[1].linear.weight.data.zero_()
        head[1].linear.bias.data.zero_()
    with torch.no_grad():
        prediction = network(frame, occlusion=checkerboard_flags)
    for d in (3, 4, 5):
        assert prediction.split[d].nonzero().tolist() == [[0]]
    assert not prediction.split[6].any()
    assert prediction.signal.shape == (0, 14) and prediction.signal_keys.shape == (0,)
    assert (prediction.octree.children[6] == -1).all()


def test_forced_splits_are_obeyed_and_checked(network: ZeroGrasp, frame: FrameInputs) -> None:
    split = torch.zeros(3 * 512, dtype=torch.bool)
    split[[5, 700]] = True
    with torch.no_grad():
        prediction = network(frame, occlusion=checkerboard_flags, forced_splits={3: split})
    assert torch.equal(prediction.split[3], split)
    assert prediction.keys[4].tolist() == [*range(40, 48), *((1 << 48 | (188 * 8)) + i for i in range(8))]
    with pytest.raises(ValueError, match=r"forced_splits\[3\]: expected \(1536,\) bool, got \(10,\)"):
        network(frame, occlusion=checkerboard_flags, forced_splits={3: split[:10]})


def test_flags_of_the_wrong_shape_are_named(network: ZeroGrasp, frame: FrameInputs) -> None:
    with pytest.raises(ValueError, match="occlusion flags: expected shape"):
        network(frame, occlusion=torch.zeros(1, 2, 4, 4, 4))


def test_one_point_is_enough(network: ZeroGrasp, scene: Any) -> None:
    mask = np.zeros_like(scene.mask)
    mask[48, 64] = 1
    frame = prepare_frame(TINY, scene.rgb, scene.depth, mask, scene.intrinsics)
    with torch.no_grad():
        prediction = network(frame, occlusion=checkerboard_flags)
    assert prediction.encoding.octree.nnum_nempty[6] == 1
    assert torch.isfinite(prediction.logits[3]).all()


def test_taps_are_complete_and_leave_no_hooks(network: ZeroGrasp, frame: FrameInputs) -> None:
    taps: dict[str, Any] = {}
    with torch.no_grad():
        prediction = network(frame, occlusion=checkerboard_flags, taps=taps)
    expected = {
        "backbone",
        "point_features",
        "in/features6",
        "in/input_feature",
        "conv1",
        "conv2",
        "mask_head",
    }
    expected |= {
        "ofe/flags",
        "d4_before_blocks",
        "prior/pooled",
        "prior/pm",
        "prior/lpv",
        "align3",
        "align3/found_index",
    }
    expected |= {f"{name}.{i}" for name in ("encoder_blks", "decoder_blks", "predict") for i in range(4)}
    expected |= {f"{name}.{i}" for name in ("downsample", "upsample") for i in range(3)}
    expected |= {"mae_encoder.encoders.0", "mae_encoder.encoders.1", "skip4", "skip5", "skip6"}
    assert set(taps) == expected
    assert torch.equal(taps["predict.0"], prediction.logits[3])
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize(
    "changes",
    [
        {"occlusion": False},
        {"multi_object": False},
        {"posterior": False},
        {"image_encoder": "small", "image_channels": 8},
        {"min_lod": 2, "max_lod": 5, "z_margin": 0},
        {"residual_blocks": 2, "bottleneck": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_size_follows_the_configuration(scene: Any, changes: dict[str, Any]) -> None:
    config = replace(TINY, **changes)
    frame = prepare_frame(config, scene.rgb, scene.depth, scene.mask, scene.intrinsics)
    network = calibrated(make_network(config), frame)
    with torch.no_grad():
        prediction = network(frame, occlusion=checkerboard_flags)
    assert prediction.logits[config.min_lod].shape == (3 * 8**config.min_lod, 2)
    assert prediction.signal.shape[1] == 14
    names = {name.partition(".")[0] for name in network.state_dict()}
    assert ("mask_head" in names) == config.occlusion
    assert ("mae_encoder" in names) == config.multi_object
    assert any(name.startswith("posterior_") for name in names) == config.posterior


def test_edge_preset_runs(scene: Any) -> None:
    config = NetworkConfig.edge()
    frame = prepare_frame(config, scene.rgb, scene.depth, scene.mask, scene.intrinsics)
    network = calibrated(make_network(config), frame)
    with torch.no_grad():
        prediction = network(frame, occlusion=checkerboard_flags)
    assert list(prediction.logits) == [3, 4, 5, 6, 7]
    assert len(prediction.signal) > 100


def test_unet_refuses_sizes_that_are_no_multiples_of_32(frame: FrameInputs) -> None:
    from zerograsp_edge.export.network.backbone import check_image_size

    check_image_size(NetworkConfig.published(), torch.zeros(3, 96, 128))
    with pytest.raises(ValueError, match="multiples of 32, got 128x90; crop to 128x64"):
        check_image_size(NetworkConfig.published(), torch.zeros(3, 90, 128))


# Training


def make_target(frame: FrameInputs, config: NetworkConfig = TINY) -> Any:
    """A target octree: the visible points themselves, with made-up normals and signals."""
    generator = torch.Generator().manual_seed(0)
    normals = [F.normalize(torch.randn(len(p), 3, generator=generator)) for p in frame.points]
    signals = [torch.randn(len(p), 11, generator=generator) for p in frame.points]
    return build_target_octree(config, frame.points, normals, signals)


def test_target_octree_averages_and_orders_the_signal(frame: FrameInputs) -> None:
    p = torch.tensor([[0.01, 0.01, 0.01], [0.015, 0.012, 0.011], [-0.5, 0.5, 0.5]])
    n = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    s = torch.arange(33.0).view(3, 11)
    target = build_target_octree(TINY, [p], [n], [s])
    x = target.get_input_feature("NF", nempty=True)
    assert x.shape == (2, 14)
    torch.testing.assert_close(x[0], torch.cat((n[2], s[2])))
    torch.testing.assert_close(x[1], torch.cat((torch.tensor([0.5**0.5, 0.5**0.5, 0]), (s[0] + s[1]) / 2)))


def test_teacher_forcing_follows_the_target(network: ZeroGrasp, frame: FrameInputs) -> None:
    target = make_target(frame)
    prediction = network.forward_train(frame, target, occlusion=checkerboard_flags)
    for d in TINY.depths:
        assert prediction.logits[d].shape == (int(target.nnum[d]), 2)
        assert torch.equal(prediction.keys[d], target.keys[d])
        assert torch.equal(prediction.split[d], target.children[d] >= 0)
    assert prediction.signal.shape == prediction.target_signal.shape == (int(target.nnum_nempty[6]), 14)
    assert prediction.posterior[0].shape == prediction.prior[0].shape == (3, TINY.latent)


def test_teacher_forcing_equals_inference_with_the_targets_splits(
    network: ZeroGrasp, frame: FrameInputs
) -> None:
    """The same decoder: with the same latent vector both passes give the same logits along the target."""
    target = make_target(frame)
    with torch.no_grad():
        trained = network.forward_train(frame, target, occlusion=checkerboard_flags)
        # Noise that moves the prior's mean onto the posterior's.
        noise = (trained.posterior[0] - trained.prior[0]) / (0.5 * trained.prior[1]).exp()
        splits = {d: target.children[d] >= 0 for d in TINY.depths}
        inferred = network(frame, noise=noise, occlusion=checkerboard_flags, forced_splits=splits)
    for d in TINY.depths:
        torch.testing.assert_close(inferred.logits[d], trained.logits[d], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(inferred.signal, trained.signal, rtol=1e-4, atol=1e-5)


def test_gradients_reach_every_parameter(frame: FrameInputs) -> None:
    config = replace(TINY, image_encoder="small", image_channels=8)
    network, target = make_network(config).train(), make_target(frame, config)
    noise = torch.randn(3, config.latent, generator=torch.Generator().manual_seed(0))
    out = network.forward_train(frame, target, noise, checkerboard_flags)
    loss = sum(F.cross_entropy(out.logits[d], out.split[d].long()) for d in config.depths)
    loss = loss + (out.signal - out.target_signal).abs().mean()
    (m0, v0), (m1, v1) = out.prior, out.posterior
    loss = loss + 0.5 * (v0 - v1 - 1 + ((m1 - m0) ** 2 + v1.exp()) / v0.exp()).sum(1).mean()
    loss.backward()
    without = [
        name
        for name, p in network.named_parameters()
        if p.requires_grad and (p.grad is None or not torch.isfinite(p.grad).all() or not p.grad.any())
    ]
    assert without == []


def test_overfitting_one_scene_lowers_the_loss(frame: FrameInputs) -> None:
    network, target = make_network().train(), make_target(frame)
    optimizer = torch.optim.Adam((p for p in network.parameters() if p.requires_grad), lr=5e-3)

    def step() -> float:
        out = network.forward_train(frame, target, occlusion=checkerboard_flags)
        loss = sum(F.cross_entropy(out.logits[d], out.split[d].long()) for d in TINY.depths)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    losses = [step() for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]


def test_targets_that_do_not_belong_are_refused(network: ZeroGrasp, frame: FrameInputs) -> None:
    other = build_target_octree(
        TINY, [frame.points[0]], [frame.points[0]], [torch.zeros(len(frame.points[0]), 11)]
    )
    with pytest.raises(
        ValueError, match=r"expected \(depth, full_depth, objects\) = \(6, 3, 3\), got \(6, 3, 1\)"
    ):
        network.forward_train(frame, other, occlusion=checkerboard_flags)
    with pytest.raises(ValueError, match=r"signals\[0\]: expected 11 channels, got 3"):
        build_target_octree(TINY, [frame.points[0]], [frame.points[0]], [frame.points[0]])
    bare = Octree(6, 3)
    bare.build_octree(Points(frame.points[0]))
    single = replace(frame, points=frame.points[:1], object_ids=(10,))
    with pytest.raises(ValueError, match="no normals or no features"):
        network.forward_train(single, bare, occlusion=checkerboard_flags)


def test_a_network_without_posterior_says_that_it_cannot_be_trained(frame: FrameInputs) -> None:
    network = make_network(TINY.without_posterior())
    with pytest.raises(ValueError, match="no posterior branch"):
        network.forward_train(frame, make_target(frame), occlusion=checkerboard_flags)


def test_node_centres_are_the_cube_grid() -> None:
    octree = full_octree(2)
    centres = node_centres(octree, 2)
    assert centres[0].tolist() == [-0.75, -0.75, -0.75] and centres[-1].tolist() == [0.75, 0.75, 0.75]
    assert centres[1].tolist() == [-0.75, -0.75, -0.25]  # z is the fastest axis of a key
