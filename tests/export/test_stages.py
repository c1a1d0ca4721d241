"""The ONNX stages: what they are made of, and that ONNX Runtime computes with them what PyTorch computes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra `export`")
pytest.importorskip("ocnn", reason="needs the extra `export`")
onnx = pytest.importorskip("onnx", reason="needs the extra `export`")

import onnxruntime as ort  # noqa: E402

from zerograsp_edge.export.bundle import build_stages, write_bundle  # noqa: E402
from zerograsp_edge.export.folding import Weights  # noqa: E402
from zerograsp_edge.export.image_encoder import image_encoder  # noqa: E402
from zerograsp_edge.export.network import (  # noqa: E402
    FrameInputs,
    NetworkConfig,
    Prediction,
    ZeroGrasp,
    prepare_frame,
)
from zerograsp_edge.export.network.preprocess import normalise_image  # noqa: E402
from zerograsp_edge.export.random_weights import (  # noqa: E402
    COARSE_FRACTION,
    FRACTION,
    random_network,
    shift_occupancy,
)
from zerograsp_edge.runtime.bundle import Limits, load_bundle  # noqa: E402
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera  # noqa: E402
from zerograsp_edge.runtime.frame import Frame  # noqa: E402
from zerograsp_edge.runtime.network import Executor  # noqa: E402
from zerograsp_edge.runtime.pipeline import Pipeline  # noqa: E402
from zerograsp_edge.runtime.verify import verify  # noqa: E402

TOLERANCE = 1e-4  # of a stage's largest magnitude
TINY = NetworkConfig.tiny().without_posterior()
VARIANTS = {
    "tiny": TINY,
    "no occlusion": replace(TINY, occlusion=False),
    "one object at a time": replace(TINY, multi_object=False),
    "one object, no occlusion": replace(TINY, multi_object=False, occlusion=False),
    "small image encoder": replace(TINY, image_encoder="small", image_channels=8),
    "two residual blocks": replace(TINY, residual_blocks=2),
    # A coarsest grid of 4^3 nodes, on which two blocks leave no room for virtual nodes.
    "shallow": replace(
        TINY, min_lod=2, max_lod=4, grid_size=320.0, z_margin=1, channels=(16, 8, 8), residual_blocks=2
    ),
    "deep": replace(TINY, min_lod=4, max_lod=8, grid_size=40.0, channels=(16, 8, 8, 4, 4), residual_blocks=2),
    # Heads of 6 channels, all of which rotate.
    "other widths": replace(
        TINY, channels=(24, 16, 8, 12), transformer_heads=4, occlusion_resolution=2, occlusion_channels=(4, 6)
    ),
}  # fmt: skip


def scramble_norms(network: ZeroGrasp) -> None:
    """Parameters and statistics of every norm away from the identity, so that no fold is trivial."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            owner = network.get_submodule(name.rpartition(".")[0])
            if not isinstance(owner, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d | torch.nn.LayerNorm):
                continue
            if name.endswith(("running_mean", ".bias")):
                value += 0.1 * torch.randn(value.shape, generator=generator)
            elif name.endswith(("running_var", ".weight")):
                value *= 0.8 + 0.4 * torch.rand(value.shape, generator=generator)


def inputs_of(frame: Frame, config: NetworkConfig) -> FrameInputs:
    assert frame.mask is not None
    return prepare_frame(config, frame.rgb, frame.depth, frame.mask, frame.intrinsics)


@dataclass
class Run:
    """One frame in PyTorch, and in ONNX Runtime with PyTorch's splits."""

    config: NetworkConfig
    frame: Frame
    prediction: Prediction
    taps: dict[str, Any]
    pipeline: Pipeline
    outputs: dict[str, np.ndarray]
    models: dict[str, Any]


@pytest.fixture(scope="module")
def frame() -> Frame:
    return SimulatedCamera(
        seed=3, num_objects=3, width=170, height=121
    ).read()  # odd: the small encoder halves it twice


@pytest.fixture(scope="module", params=VARIANTS)
def run(
    request: pytest.FixtureRequest, frame: Frame, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Run]:
    config = VARIANTS[request.param]
    inputs = inputs_of(frame, config)
    network = random_network(config, inputs, seed=1)
    scramble_norms(network)
    shift_occupancy(network, inputs)
    taps: dict[str, Any] = {}
    with torch.no_grad():
        prediction = network(inputs, taps=taps)
    taps.setdefault("backbone", inputs.image[None])
    path = tmp_path_factory.mktemp("stages") / "variant.zgb"
    limits = Limits(max_height=160, max_width=320, max_objects=8, max_nodes=32768)
    bundle = write_bundle(network, path, trained=False, limits=limits, reference=frame)
    pipeline = Pipeline(bundle, threads=2)
    outputs: dict[str, np.ndarray] = {}
    forced = {d: split.numpy() for d, split in prediction.split.items()}
    pipeline.run(frame, forced_splits=forced, taps=outputs)
    models = {name: onnx.load(bundle.stage_path(name)) for name in bundle.stages}
    yield Run(config, frame, prediction, taps, pipeline, outputs, models)


def expected_outputs(run: Run) -> dict[str, Any]:
    """PyTorch's tensors by the names of the stages' outputs."""
    config, taps, prediction = run.config, run.taps, run.prediction
    low, high = config.min_lod, config.max_lod
    last = f"mae_encoder.encoders.{config.transformer_layers - 1}" if config.multi_object else "conv2"
    out = {
        "image_encoder/image_features": taps["backbone"][0].flatten(1).t(),
        "octree_encoder/tokens": taps[last],
        "octree_encoder/latent_mean": prediction.encoding.mean,
        "octree_encoder/latent_log_variance": prediction.encoding.logvar,
        f"decoder_{high}/signal": taps[f"predict.{high - low}"],
    }
    for d in range(low + 1, high + 1):
        out[f"octree_encoder/skip_{d}"] = prediction.encoding.features[d]
    for d in range(low, high):
        out[f"decoder_{d}/features"] = taps[f"decoder_blks.{d - low}"]
        out[f"decoder_{d}/logits"] = prediction.logits[d]
    return {name: tensor.numpy() for name, tensor in out.items()}


def test_octrees_are_those_of_pytorch(run: Run) -> None:
    source, grown = run.prediction.encoding.octree, run.prediction.keys
    for d in run.config.depths:
        np.testing.assert_array_equal(run.outputs[f"input_keys_{d}"], source.keys[d].numpy())
        np.testing.assert_array_equal(run.outputs[f"keys_{d}"], grown[d].numpy())


class FromPyTorch:
    """An executor whose stages begin with PyTorch's tensors in place of what the stage before computed."""

    def __init__(self, executor: Executor, config: NetworkConfig, expected: dict[str, Any]) -> None:
        self.name, self.threads = executor.name, executor.threads
        self._executor, self._config, self._expected = executor, config, expected

    def run(self, stage: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        if stage.startswith("decoder_"):
            depth = int(stage.removeprefix("decoder_"))
            if depth == self._config.min_lod:
                inputs["tokens"][...] = self._expected["octree_encoder/tokens"]
            else:
                inputs["skip"][...] = self._expected[f"octree_encoder/skip_{depth}"]
            # The coarsest decoder's rows are those of the active grid; its output stays.
            if depth > self._config.min_lod + 1:
                inputs["parent_features"][...] = self._expected[f"decoder_{depth - 1}/features"]
        self._executor.run(stage, inputs, outputs)


def assert_equal_outputs(outputs: dict[str, np.ndarray], expected: dict[str, Any]) -> None:
    assert {name for name in outputs if "/" in name} == set(expected)
    for name, tensor in expected.items():
        scale = np.abs(tensor).max()
        assert scale > 1e-2 and tensor.std() > 1e-3, f"{name} is trivial"
        assert outputs[name].shape == tensor.shape, name
        error = np.abs(outputs[name] - tensor).max() / scale
        assert error <= TOLERANCE, f"{name} differs by {error:.1e} of its maximum"


def test_every_stage_computes_what_pytorch_computes(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = expected_outputs(run)
    outputs: dict[str, np.ndarray] = {}
    network = run.pipeline.perception._network
    monkeypatch.setattr(network, "_executor", FromPyTorch(network._executor, run.config, expected))
    forced = {d: split.numpy() for d, split in run.prediction.split.items()}
    run.pipeline.run(run.frame, forced_splits=forced, taps=outputs)
    assert_equal_outputs(outputs, expected)


def test_all_stages_together_compute_what_pytorch_computes(run: Run) -> None:
    if run.config == VARIANTS["deep"]:
        # Its random weights amplify rounding from depth to depth: on processors with AVX-512, PyTorch's own float32
        # result is 1.4e-4 from its float64 one at the last stage (the stages' is 4.7e-5).
        pytest.skip("rounding alone exceeds the bound; its stages are compared one by one")
    assert_equal_outputs(run.outputs, expected_outputs(run))


def test_octree_is_neither_empty_nor_full(run: Run) -> None:
    """Or the parity above would say little."""
    for d in run.config.depths:
        share = run.prediction.split[d].float().mean().item()
        assert 0.005 < share < 0.9, (d, share)


def test_bundle_verifies(run: Run) -> None:
    assert verify(run.pipeline).ok


def test_nodes_and_versions(run: Run) -> None:
    """ONNX Runtime 1.17 and TensorRT 10.3 read opset 17 and IR 8; plugins are found by two attributes."""
    custom = 0
    for name, model in run.models.items():
        assert model.ir_version == 8, name
        opsets = {entry.domain: entry.version for entry in model.opset_import}
        assert opsets.pop("") == 17, name
        nodes = {node.domain for node in model.graph.node}
        assert nodes <= {"", "zerograsp"}, name
        assert opsets == ({"zerograsp": 1} if "zerograsp" in nodes else {}), name
        for node in model.graph.node:
            assert node.op_type != "BatchNormalization", name
            if node.domain == "zerograsp":
                custom += 1
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                assert attributes["plugin_version"] == b"1" and attributes["plugin_namespace"] == b"zerograsp"
    assert custom > 10


def test_constants_are_few_types_and_finite(run: Run) -> None:
    for model in run.models.values():
        for tensor in model.graph.initializer:
            array = onnx.numpy_helper.to_array(tensor)
            assert array.dtype in (np.float32, np.int64), tensor.name
            assert np.isfinite(array).all()


def test_manifest_names_the_graphs_tensors(run: Run) -> None:
    for name, stage in run.pipeline.bundle.stages.items():
        graph = run.models[name].graph
        assert stage.inputs == tuple(value.name for value in graph.input)
        assert stage.outputs == tuple(value.name for value in graph.output)


def test_random_network_splits_the_share_it_promises(frame: Frame) -> None:
    inputs = inputs_of(frame, TINY)
    with torch.no_grad():
        split = random_network(TINY, inputs)(inputs).split
    for d in TINY.depths:
        expected = COARSE_FRACTION if d == TINY.min_lod else FRACTION
        assert split[d].float().mean().item() == pytest.approx(expected, rel=0.1)


def test_random_network_depends_on_the_seed_only(frame: Frame) -> None:
    inputs = inputs_of(frame, TINY)
    torch.manual_seed(99)
    a = random_network(TINY, inputs, seed=4).state_dict()
    b = random_network(TINY, inputs, seed=4).state_dict()
    c = random_network(TINY, inputs, seed=5).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["conv1.conv.weights"], c["conv1.conv.weights"])


def test_mean_does_not_depend_on_the_variance(frame: Frame, tmp_path: Path) -> None:
    """exp of a large log-variance overflows, and 0 * inf is NaN."""
    inputs = inputs_of(frame, TINY)
    network = random_network(TINY, inputs)
    with torch.no_grad():
        head: Any = network.prior_head
        head[-1].bias[TINY.latent :] += 400.0
    limits = Limits(max_height=160, max_width=320, max_objects=8, max_nodes=16384)
    bundle = write_bundle(network, tmp_path / "a.zgb", trained=False, limits=limits, reference=frame)
    assert verify(Pipeline(bundle, threads=2)).ok


def run_image_encoder(model: Any, rgb: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"rgb": rgb})[0]


def test_unet_stage_equals_segmentation_models_pytorch() -> None:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs the extra `export`")
    torch.manual_seed(0)
    unet = smp.Unet("resnext50_32x4d", encoder_weights=None, in_channels=3, classes=32).eval()
    with torch.no_grad():
        for module in unet.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0.0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0.0, 0.1)
        # The last one of every residual branch is damped, or 16 blocks would blow the activations up.
        for name, value in unet.named_parameters():
            if name.startswith("encoder.layer") and name.endswith("bn3.weight"):
                value *= 0.3
        rgb = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
        expected = unet(normalise_image(rgb)[None]).numpy()
    state = {f"backbone.{name}": value.numpy() for name, value in unet.state_dict().items()}
    model = image_encoder(state, NetworkConfig.published())
    onnx.checker.check_model(model)
    assert model.ir_version == 8 and [(o.domain, o.version) for o in model.opset_import] == [("", 17)]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    actual = run_image_encoder(model, rgb)
    assert actual.shape == expected.shape == (1, 32, 64, 96)
    assert expected.std() > 0.01
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_rgb_stage_is_the_normalised_picture() -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (7, 5, 3), np.uint8)
    actual = run_image_encoder(image_encoder({}, TINY), rgb)
    np.testing.assert_allclose(actual[0], normalise_image(rgb).numpy(), atol=1e-6)


def test_folding_is_done_in_double_precision() -> None:
    """A scale far from 1 loses digits when the fold is rounded at every step."""
    rng = np.random.default_rng(0)
    state = {
        "block.conv.weights": rng.standard_normal((27, 4, 6)).astype(np.float32),
        "block.bn.weight": rng.uniform(0.5, 2, 6).astype(np.float32),
        "block.bn.bias": rng.standard_normal(6).astype(np.float32),
        "block.bn.running_mean": (1e3 * rng.standard_normal(6)).astype(np.float32),
        "block.bn.running_var": rng.uniform(1e-4, 2, 6).astype(np.float32),
    }
    weight, bias = Weights(state).conv("block", eps=1e-3)
    x = rng.standard_normal((27 * 4,))
    plain = x @ state["block.conv.weights"].astype(np.float64).reshape(108, 6)
    bn = {
        name.rpartition(".")[2]: value.astype(np.float64) for name, value in state.items() if ".bn." in name
    }
    expected = (plain - bn["running_mean"]) / np.sqrt(bn["running_var"] + 1e-3) * bn["weight"] + bn["bias"]
    np.testing.assert_allclose(x @ weight.reshape(108, 6) + bias, expected, rtol=1e-12)
    assert weight.dtype == bias.dtype == np.float64


def test_stages_come_in_the_order_in_which_they_run() -> None:
    network = ZeroGrasp(TINY)
    names = [name for name, _ in build_stages(network)]
    assert names == ["image_encoder", "octree_encoder", "decoder_3", "decoder_4", "decoder_5", "decoder_6"]


def test_bundle_reads_back(run: Run) -> None:
    bundle = load_bundle(run.pipeline.bundle.path)
    assert Path(bundle.reference_path).is_file()
    assert (bundle.geometry.occlusion, bundle.geometry.multi_object) == (
        run.config.occlusion,
        run.config.multi_object,
    )
