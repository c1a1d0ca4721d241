"""Float16 stages: which layers, which types at the boundaries, where the casts are, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from zerograsp_edge.export.convert import convert, precision_table  # noqa: E402
from zerograsp_edge.export.expand import expand_blocks  # noqa: E402
from zerograsp_edge.export.graph import GraphBuilder  # noqa: E402
from zerograsp_edge.export.precision import (  # noqa: E402
    KEPT,
    Policy,
    PrecisionError,
    passed_on,
    to_half,
    uncast_weights,
    value_types,
)
from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor  # noqa: E402
from zerograsp_edge.runtime.bundle import MANIFEST, Bundle, BundleError, load_bundle, seal  # noqa: E402
from zerograsp_edge.runtime.models import EDGE_MODEL  # noqa: E402
from zerograsp_edge.runtime.network import Network  # noqa: E402
from zerograsp_edge.runtime.pipeline import Pipeline  # noqa: E402
from zerograsp_edge.runtime.verify import verify  # noqa: E402

HALF, FLOAT = TensorProto.FLOAT16, TensorProto.FLOAT


@pytest.fixture(scope="module")
def edge() -> Bundle:
    return load_bundle(EDGE_MODEL)


@pytest.fixture(scope="module")
def half(edge: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return convert(edge, tmp_path_factory.mktemp("half") / "edge16.zgb")


def stage(bundle: Bundle, name: str) -> onnx.ModelProto:
    return onnx.load(str(bundle.stage_path(name)))


def test_verifies_against_the_float32_reference(edge: Bundle, half: Bundle) -> None:
    assert {s.precision for s in half.stages.values()} == {"fp16"}
    report = verify(Pipeline(half, threads=2))
    assert report.ok, report.failures
    assert half.reference_path.read_bytes() == edge.reference_path.read_bytes()
    # It is float16 that is measured, not float32 that was declared so.
    errors = {t.name: t.error for t in report.tensors}
    assert errors["octree_encoder/tokens"] > 2e-5 and errors["decoder_7/signal"] > 2e-5


def test_what_passes_between_stages_is_half_and_what_decides_is_not(half: Bundle) -> None:
    for name, s in half.stages.items():
        model = stage(half, name)
        types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
        for tensor, dtype in s.dtypes.items():
            assert helper.tensor_dtype_to_np_dtype(types[tensor]).name == dtype
            if tensor in ("logits", "signal", "noise", "positions", "centres", "depth", "intrinsics"):
                assert dtype == "float32", (name, tensor)
            if passed_on(name, tensor) is not None:
                assert dtype == "float16", (name, tensor)
    network = Network(half, OnnxRuntimeExecutor(half, 1))
    assert network._tokens.dtype == network._features.dtype == network._voxels.dtype == np.float16
    assert (
        {b.dtype for b in network._skips.values()}
        == {b.dtype for b in network._outputs.values()}
        == {np.dtype("float16")}
    )
    assert {b.dtype for b in network._logits.values()} == {np.dtype("float32")}


def test_kept_operators_compute_in_float32_and_others_in_half(half: Bundle) -> None:
    seen = set()
    for name in half.stages:
        graph = stage(half, name).graph
        types = value_types(graph)
        for node in graph.node:
            if node.op_type in KEPT and node.op_type != "Cast":
                floats = {types[n] for n in node.input if types.get(n) in (HALF, FLOAT)}
                assert floats == {FLOAT}, node.name
                seen.add(node.op_type)
            if node.op_type in (
                "OctreeConv",
                "OctreeResidual",
                "OctreeDownsample",
                "OctreeUpsample",
                "GridConv",
                "Conv",
            ):
                assert types[node.output[0]] == HALF, node.name
                seen.add(node.op_type)
    assert seen >= set(KEPT) - {"Cast"} | {"OctreeResidual", "GridConv"}


def test_every_node_has_inputs_of_one_type(half: Bundle) -> None:
    """What a strongly typed executor demands: no implicit conversion anywhere. Biases are float32."""
    biases = {"OctreeConv": [3], "OctreeDownsample": [3], "OctreeUpsample": [3], "OctreeResidual": [3, 5, 7],
              "OctreeMlp": [2, 4], "GridConv": [2], "Resize": [2]}  # fmt: skip
    for name in half.stages:
        graph = stage(half, name).graph
        types = value_types(graph)
        for node in graph.node:
            fixed = biases.get(node.op_type, [])
            for i in fixed:
                assert i >= len(node.input) or not node.input[i] or types[node.input[i]] == FLOAT, node.name
            rest = {types[n] for i, n in enumerate(node.input) if n and i not in fixed} & {HALF, FLOAT}
            assert len(rest) <= 1, (name, node.name)


def test_no_value_is_cast_twice_or_back_and_forth(half: Bundle) -> None:
    for name in half.stages:
        graph = stage(half, name).graph
        casts = {n.output[0]: n for n in graph.node if n.op_type == "Cast"}
        wanted = [(n.input[0], n.attribute[0].i) for n in casts.values()]
        assert len(wanted) == len(set(wanted)), name
        assert not any(
            n.input[0] in casts and casts[n.input[0]].name.startswith("cast_") for n in casts.values()
        )


def test_weights_are_stored_in_half(edge: Bundle, half: Bundle) -> None:
    large = [
        i.data_type
        for name in half.stages
        for i in stage(half, name).graph.initializer
        if i.data_type in (HALF, FLOAT) and np.prod(i.dims) >= 4096
    ]
    assert large.count(HALF) > 60
    # Those of heads and of what belongs to an object stay float32.
    assert large.count(FLOAT) < 0.2 * len(large)


def test_the_manifest_says_what_computes_in_what(half: Bundle) -> None:
    manifest = json.loads((half.path / MANIFEST).read_text())
    table = {line["layer"]: line for line in manifest["stages"]["octree_encoder"]["layers"]}
    by_op: dict[str, set[str]] = {}
    for line in table.values():
        by_op.setdefault(line["op"], set()).add(line["precision"])
        assert ("why" in line) == (line["precision"] == "fp32")
    assert by_op["LayerNormalization"] == by_op["Softmax"] == by_op["OcclusionField"] == {"fp32"}
    assert by_op["OctreeResidual"] == by_op["GridConv"] == {"fp16"}
    assert by_op["MatMul"] == {"fp16", "fp32"}
    assert manifest["provenance"]["converted"]["from_manifest_sha256"]
    stages = {line[0] for line in precision_table(half)}
    assert stages == set(half.stages)


def test_policy_keeps_layers_and_passed_tensors(edge: Bundle, tmp_path: Path) -> None:
    policy = Policy({"decoder_4/OctreeResidual_*": "asked for", "octree_encoder/skip_5": "asked for"})
    bundle = convert(edge, tmp_path / "a.zgb", policy)
    kept = [
        line for line in bundle.manifest["stages"]["decoder_4"]["layers"] if line.get("why") == "asked for"
    ]
    assert len(kept) == 2
    assert (
        bundle.stages["octree_encoder"].dtypes["skip_5"]
        == bundle.stages["decoder_5"].dtypes["skip"]
        == "float32"
    )
    assert bundle.stages["octree_encoder"].dtypes["skip_4"] == "float16"
    assert verify(Pipeline(bundle, threads=2)).ok


def test_a_weight_that_half_cannot_hold_keeps_its_layer() -> None:
    g = GraphBuilder("decoder_5")
    x = g.input("parent_features", "float32", ["N", 4])
    small, large = np.ones((4, 4), np.float32), np.full((4, 4), 7e4, np.float32)
    y = g.add("MatMul", g.add("MatMul", x, g.constant(small)), g.constant(large))
    g.output(y, "features", "float32", ["N", 4])
    model = g.model()
    first, second = to_half(model, "decoder_5")
    assert (first.precision, second.precision) == ("fp16", "fp32")
    assert "7e+04" in second.why
    kinds = {i.data_type for i in model.graph.initializer}
    assert kinds == {HALF, FLOAT}


def test_weights_stored_in_half_are_not_rounded_again(edge: Bundle) -> None:
    model = stage(edge, "decoder_4")
    stored = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == HALF}
    assert stored
    to_half(model, "decoder_4")
    after = [numpy_helper.to_array(i) for i in model.graph.initializer]
    for array in stored.values():
        assert any(a.shape == array.shape and (a == array).all() for a in after)
    assert sum(i.data_type == HALF for i in model.graph.initializer) > len(stored) / 2


def test_convolutions_of_an_image_and_their_normalisation() -> None:
    """An image encoder with convolutions: normalised in float32, then float16 to its output."""
    from zerograsp_edge.export.image_encoder import image_encoder
    from zerograsp_edge.export.network.config import NetworkConfig

    config = replace(NetworkConfig.tiny(), image_encoder="small", image_channels=12)
    rng = np.random.default_rng(0)
    widths = [3, 8, 8, config.image_channels]
    state = {}
    for layer, (cin, cout) in zip((0, 3, 6), pairwise(widths), strict=True):
        state[f"backbone.layers.{layer}.weight"] = rng.standard_normal((cout, cin, 3, 3)) / 5
        state[f"backbone.layers.{layer}.bias"] = rng.standard_normal(cout)
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            state[f"backbone.layers.{layer + 1}.{part}"] = np.full(cout, float(value))
    single, half = image_encoder(state, config), image_encoder(state, config)
    table = {line.name: line for line in to_half(half, "image_encoder")}
    kinds = {(line.op, line.precision) for line in table.values()}
    assert {("Conv", "fp16"), ("Resize", "fp16"), ("Sub", "fp32"), ("Erf", "fp16")} <= kinds
    import onnxruntime as ort

    rgb = rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)
    a, b = (
        ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, {"rgb": rgb}
        )[0]
        for m in (single, half)
    )
    assert (a.dtype, b.dtype) == (np.float32, np.float16)
    assert 0 < np.abs(a - b).max() < 3e-3 * np.abs(a).max()


def test_half_is_refused_as_a_source(half: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a bundle of fp32 stages to convert, got fp16"):
        convert(half, tmp_path / "again.zgb")
    with pytest.raises(PrecisionError, match="float16 tensors already"):
        to_half(stage(half, "decoder_4"), "decoder_4")
    assert list(tmp_path.iterdir()) == []


def test_stages_of_different_types_are_refused(half: Bundle, tmp_path: Path) -> None:
    import shutil

    path = shutil.copytree(half.path, tmp_path / "mixed.zgb")
    manifest = json.loads((path / MANIFEST).read_text())
    for tensor in manifest["stages"]["decoder_5"]["inputs"]:
        if tensor["name"] == "skip":
            tensor["dtype"] = "float32"
    (path / MANIFEST).write_text(json.dumps(seal(manifest)))
    with pytest.raises(BundleError, match="octree_encoder/skip_5 is float16, decoder_5/skip is float32"):
        load_bundle(path)
    manifest["stages"]["image_encoder"]["outputs"][0]["dtype"] = "int8"
    (path / MANIFEST).write_text(json.dumps(seal(manifest)))
    with pytest.raises(BundleError, match="image_features: expected float32 or float16, got int8"):
        load_bundle(path)


@pytest.mark.parametrize("name", ["octree_encoder", "decoder_3", "decoder_7"])
def test_expanded_blocks_compute_the_same(edge: Bundle, name: str) -> None:
    import onnxruntime as ort

    from zerograsp_edge import kernels
    from zerograsp_edge.calibration.activations import Recorder
    from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor
    from zerograsp_edge.runtime.verify import reference_frame

    model = stage(edge, name)
    uncast_weights(model)
    expand_blocks(model)
    assert not {"OctreeResidual", "OctreeMlp"} & {n.op_type for n in model.graph.node}
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernels.ort_library()))
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    fused = OnnxRuntimeExecutor(edge, 2)
    names = edge.stages[name].outputs
    compared = 0

    def compare(current: str, inputs: dict[str, np.ndarray]) -> None:
        nonlocal compared
        if current != name:
            return
        parts = session.run(list(names), dict(inputs))
        whole = {n: np.empty_like(a) for n, a in zip(names, parts, strict=True)}
        fused.run(name, dict(inputs), whole)
        for n, array in zip(names, parts, strict=True):
            np.testing.assert_allclose(array, whole[n], rtol=1e-4, atol=1e-4 * np.abs(array).max(), err_msg=n)
            compared += 1

    Pipeline(edge, Recorder(fused, compare))(reference_frame(edge))
    assert compared == len(names)
