"""The native training operations against PyTorch's and ocnn's: values, gradients, a whole step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("ocnn", reason="needs the extra `export`")
pytest.importorskip("zerograsp_edge.kernels._core", reason="needs the native core")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from ocnn.octree import Octree, Points, merge_octrees  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp, octree_ops, prepare_frame  # noqa: E402
from zerograsp_edge.export.network.layers import (  # noqa: E402
    ConvBnGelu,
    DownsampleBnGelu,
    ResidualBlock,
    UpsampleBnGelu,
)
from zerograsp_edge.export.network.occlusion import MaskHead  # noqa: E402
from zerograsp_edge.export.network.posterior import build_target_octree  # noqa: E402
from zerograsp_edge.export.network.preprocess import FrameInputs, build_input_octree  # noqa: E402

TINY = NetworkConfig.tiny()
DEPTH = 5


def clouds(seed: int, counts: tuple[int, ...] = (150, 90)) -> list[Any]:
    generator = torch.Generator().manual_seed(seed)
    return [(0.3 * torch.randn(n, 3, generator=generator)).clamp(-0.98, 0.98) for n in counts]


def ocnn_octree(points: list[Any], full_depth: int = 2) -> Octree:
    octrees = []
    for p in points:
        octrees.append(Octree(DEPTH, full_depth))
        octrees[-1].build_octree(Points(p))
    merged = merge_octrees(octrees)
    merged.construct_all_neigh()
    return merged


def results(module: Any, x: Any, *args: Any) -> dict[str, Any]:
    """Output, gradients and buffers after one pass in training mode, of a copy of everything."""
    module.zero_grad()
    x = x.clone().requires_grad_()
    y = module(x, *args)
    dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    y.backward(dy)
    found = {"y": y.detach(), "x": x.grad}
    found.update({name: p.grad.clone() for name, p in module.named_parameters()})
    found.update({name: b.clone() for name, b in module.named_buffers()})
    return found


def compare_with_float64(module: Any, x: Any, *args: Any, rtol: float = 2e-4) -> None:
    """The native float32 pass agrees with PyTorch and ocnn in float64."""
    state = {name: value.clone() for name, value in module.state_dict().items()}
    assert octree_ops.native(x, module.training)
    got = results(module, x, *args)
    module.load_state_dict(state)
    module.double()
    assert not octree_ops.native(x.double(), module.training)
    expected = results(module, x.double(), *args)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        size = value.abs().max().item() if value.numel() else 0.0
        torch.testing.assert_close(
            got[name].double(),
            value.double(),
            rtol=rtol,
            atol=rtol * size + 1e-7,
            msg=lambda m, n=name: f"{n}: {m}",
        )


SIZES = st.integers(1, 20)


@given(st.integers(0, 100), SIZES, SIZES)
@settings(max_examples=8, deadline=None)
def test_convolution(seed: int, cin: int, cout: int) -> None:
    torch.manual_seed(seed)
    octree = ocnn_octree(clouds(seed))
    compare_with_float64(ConvBnGelu(cin, cout), torch.randn(int(octree.nnum[DEPTH]), cin), octree, DEPTH)


@given(st.integers(0, 100), SIZES, SIZES)
@settings(max_examples=8, deadline=None)
def test_downsampling(seed: int, cin: int, cout: int) -> None:
    torch.manual_seed(seed)
    octree = ocnn_octree(clouds(seed))
    compare_with_float64(
        DownsampleBnGelu(cin, cout), torch.randn(int(octree.nnum[DEPTH]), cin), octree, DEPTH
    )


@given(st.integers(0, 100), SIZES, SIZES)
@settings(max_examples=8, deadline=None)
def test_upsampling(seed: int, cin: int, cout: int) -> None:
    torch.manual_seed(seed)
    octree, depth = ocnn_octree(clouds(seed)), DEPTH - 1
    compare_with_float64(UpsampleBnGelu(cin, cout), torch.randn(int(octree.nnum[depth]), cin), octree, depth)


@pytest.mark.parametrize("channels", [(8, 8), (12, 24), (20, 4)])
@pytest.mark.parametrize("points", [150, 3000])  # below and above the size from which products are native
def test_residual_block(channels: tuple[int, int], points: int) -> None:
    torch.manual_seed(0)
    octree = ocnn_octree(clouds(0, (points, points // 2)))
    block = ResidualBlock(*channels, bottleneck=4)
    compare_with_float64(block, torch.randn(int(octree.nnum[DEPTH]), channels[0]), octree, DEPTH)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_product(bias: bool, transposed: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 7, generator=generator)
    weight = torch.randn(*((9, 7) if transposed else (7, 9)), generator=generator)
    tensors = [x, weight] + ([torch.randn(9, generator=generator)] if bias else [])
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaves = [t.clone().to(dtype).requires_grad_() for t in tensors]
        b = leaves[2] if bias else None
        if dtype == torch.float32:
            y = octree_ops._product(leaves[0], leaves[1], b, transposed)
        else:
            y = leaves[0] @ (leaves[1].t() if transposed else leaves[1]) + (0 if b is None else b)
        y.square().sum().backward()
        gradients.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4 * b.abs().max().item())


def test_occlusion_cnn_with_empty_and_repeated_nodes() -> None:
    torch.manual_seed(0)
    flags = (torch.rand(9, 2, 4, 4, 4) < 0.3).float()
    flags[[0, 3, 8]] = 0
    for rows in (range(9), [0, 3], [1]):
        head = MaskHead(TINY)
        got = results_of_flags(head, flags[list(rows)])
        expected = results_of_flags(head.double(), flags[list(rows)].double())
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


def results_of_flags(head: MaskHead, flags: Any) -> list[Any]:
    head.zero_grad()
    y = head(flags)
    (y * torch.arange(y.numel()).view_as(y).to(y).sin()).sum().backward()
    return [y.detach(), *(p.grad.clone() for p in head.parameters())]


def test_batch_norm_keeps_pytorchs_rules() -> None:
    """Running statistics as PyTorch's; one row is refused; evaluation uses the running statistics."""
    torch.manual_seed(0)
    ours, theirs = torch.nn.BatchNorm1d(5, momentum=0.01), torch.nn.BatchNorm1d(5, momentum=0.01)
    for _ in range(3):
        x = 2 * torch.randn(40, 5) + 3
        torch.testing.assert_close(octree_ops.normalise(ours, x, "none"), theirs(x), rtol=1e-5, atol=1e-5)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        octree_ops.normalise(ours, x[:1], "gelu")
    ours.eval(), theirs.eval()
    with torch.no_grad():
        torch.testing.assert_close(octree_ops.normalise(ours, x, "gelu", x), F.gelu(theirs(x) + x))
    x.requires_grad_()
    a, b = (
        torch.autograd.grad(f.sum(), x)[0] for f in (octree_ops.normalise(ours, x, "elu"), F.elu(theirs(x)))
    )
    torch.testing.assert_close(a, b)


@given(st.integers(0, 1000), st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_octree_equals_ocnns(seed: int, counts: list[int], full_depth: int) -> None:
    points = clouds(seed, tuple(counts))
    expected = ocnn_octree(points, full_depth)
    octree, voxel, count = octree_ops.build_octree(points, DEPTH, full_depth)
    for name in ("nnum", "nnum_nempty", "batch_nnum", "batch_nnum_nempty"):
        assert torch.equal(getattr(octree, name), getattr(expected, name)), name
    for d in range(DEPTH + 1):
        assert torch.equal(octree.keys[d], expected.keys[d])
        assert torch.equal(octree.children[d], expected.children[d])
        if d > 0:
            assert torch.equal(octree_ops.neighbour_table(octree, d).t().long(), expected.neighs[d])
            assert torch.equal(octree_ops.neighbour_table(expected, d), octree_ops.neighbour_table(octree, d))
    torch.testing.assert_close(octree.points[DEPTH], expected.points[DEPTH])
    assert int(count.sum()) == sum(counts) == len(voxel)


def test_neighbour_table_follows_a_growing_octree() -> None:
    torch.manual_seed(0)
    octree = Octree.init_octree(4, 2, 2)
    for _ in range(2):  # the second time over the same depths, with other splits
        for d in (2, 3):
            octree.octree_split((torch.rand(int(octree.nnum[d])) < 0.3).long(), d)
            octree.octree_grow(d + 1)
            assert torch.equal(octree_ops.neighbour_table(octree, d + 1).t().long(), octree.neighs[d + 1])


def test_octrees_of_a_frame_average_as_ocnns_do(scene: Any) -> None:
    frame = prepare_frame(TINY, scene.rgb, scene.depth, scene.mask, scene.intrinsics)
    features = [torch.randn(len(p), 3, requires_grad=True) for p in frame.points]
    built = {name: build_input_octree(TINY, frame.points, features, training=name) for name in (False, True)}
    assert built[True].neighs[TINY.max_lod] is None and built[False].neighs[TINY.max_lod] is not None
    a, b = (o.get_input_feature("LF") for o in built.values())
    torch.testing.assert_close(a, b)
    for x in (a, b):
        x.square().sum().backward(inputs=features[:1])
    assert features[0].grad is not None and features[0].grad.any()


def step(network: ZeroGrasp, frame: FrameInputs, points: list[Any]) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    normals = [F.normalize(torch.randn(len(p), 3, generator=generator)) for p in points]
    signals = [torch.randn(len(p), 11, generator=generator) for p in points]
    target = build_target_octree(TINY, points, normals, signals)
    noise = torch.randn(len(points), TINY.latent, generator=generator)
    out = network.forward_train(frame, target, noise)
    loss = sum(F.cross_entropy(out.logits[d], out.split[d].long()) for d in TINY.depths)
    loss = loss + (out.signal - out.target_signal).square().mean() + out.prior[0].square().mean()
    network.zero_grad()
    loss.backward()
    return {
        "loss": loss.detach(),
        **{n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None},
    }


def test_a_whole_training_step_equals_ocnns(scene: Any) -> None:
    """Loss and gradients, native against ocnn in float32.

    BatchNorm over three objects in the latent heads amplifies rounding; their gradients say how much of it is noise,
    so the comparison is of each tensor's norm.
    """
    frame = prepare_frame(TINY, scene.rgb, scene.depth, scene.mask, scene.intrinsics)
    points = list(frame.points)
    torch.manual_seed(0)
    network = ZeroGrasp(TINY).train()
    got = step(network, frame, points)
    with octree_ops.backend("ocnn"):
        expected = step(network, frame, points)
    torch.testing.assert_close(got["loss"], expected["loss"], rtol=1e-5, atol=0)
    assert got.keys() == expected.keys()
    whole = torch.cat([g.flatten() for g in expected.values()]).norm().item()
    for name, gradient in expected.items():
        error = (got[name] - gradient).norm().item()
        assert error < 1e-3 * gradient.norm().item() + 1e-4 * whole, name


def test_inference_is_ocnns_unless_asked_for(scene: Any) -> None:
    """The reference for the runtime's kernels must not be the kernels themselves."""
    frame = prepare_frame(TINY, scene.rgb, scene.depth, scene.mask, scene.intrinsics)
    torch.manual_seed(0)
    network = ZeroGrasp(TINY).eval()
    x = torch.zeros(1)
    assert octree_ops.native(x, True) and not octree_ops.native(x, False)
    assert not octree_ops.native(x.double(), True)
    with torch.no_grad():
        expected = network(frame)
        assert expected.octree.neighs[TINY.max_lod] is not None
        with octree_ops.backend("native"):
            assert octree_ops.native(x, False)
            splits = {d: expected.split[d] for d in TINY.depths}
            got = network(frame, forced_splits=splits)
    assert got.octree.neighs[TINY.max_lod] is None
    for d in TINY.depths:
        torch.testing.assert_close(got.logits[d], expected.logits[d], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.signal, expected.signal, rtol=1e-4, atol=1e-4)
    with (
        pytest.raises(ValueError, match="expected one of auto, native, ocnn, got 'gpu'"),
        octree_ops.backend("gpu"),
    ):
        pass
    assert not octree_ops.native(x, False)
    assert np.isfinite(expected.signal.numpy()).all()
