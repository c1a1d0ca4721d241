"""INT8 calibration: ranges, a sensitive layer found and kept, the budget held, the result kept and used again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")

from onnx import TensorProto, numpy_helper  # noqa: E402

from zerograsp_edge.calibration.errors import CalibrationError  # noqa: E402
from zerograsp_edge.calibration.int8 import (  # noqa: E402
    Int8Calibration,
    Int8Config,
    calibrate_int8,
    calibrate_ranges,
    calibration_key,
    relative_error,
)
from zerograsp_edge.export.convert import convert  # noqa: E402
from zerograsp_edge.export.graph import GraphBuilder  # noqa: E402
from zerograsp_edge.export.precision import to_half, uncast_weights  # noqa: E402
from zerograsp_edge.export.quantise import quantisable, quantise, quantise_weight  # noqa: E402
from zerograsp_edge.runtime.bundle import MANIFEST, Bundle, load_bundle, seal, sha256  # noqa: E402
from zerograsp_edge.runtime.cli import main  # noqa: E402
from zerograsp_edge.runtime.models import EDGE_MODEL  # noqa: E402
from zerograsp_edge.runtime.pipeline import Pipeline  # noqa: E402
from zerograsp_edge.runtime.verify import coarsest_before, reference_frame, verify  # noqa: E402

ONE_FRAME = Int8Config(sensitivity_frames=1)


@pytest.fixture(scope="module")
def edge() -> Bundle:
    return load_bundle(EDGE_MODEL)


@pytest.fixture(scope="module")
def calibration(edge: Bundle) -> Int8Calibration:
    return calibrate_int8(edge, [reference_frame(edge)], ONE_FRAME, threads=2)


def edit_stage(path: Path, stage: str, change: Callable[[onnx.ModelProto], None]) -> Bundle:
    """The edge model with one stage changed."""
    shutil.copytree(EDGE_MODEL, path)
    file = path / f"{stage}.onnx"
    model = onnx.load(str(file))
    uncast_weights(model)
    change(model)
    onnx.save(model, str(file))
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][file.name] = sha256(file)
    (path / MANIFEST).write_text(json.dumps(seal(manifest)))
    return load_bundle(path)


def scaled(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    for initialiser in model.graph.initializer:
        if initialiser.name == name:
            array = change(numpy_helper.to_array(initialiser).copy())
            initialiser.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))


def test_ranges_are_those_that_flow(edge: Bundle, calibration: Int8Calibration) -> None:
    """minmax on one frame is the largest magnitude, inside blocks too; a percentile is below, and not far."""
    from zerograsp_edge.calibration.activations import activation_ranges

    exact = activation_ranges(edge, [reference_frame(edge)], threads=2)
    stages = ("decoder_4", "decoder_6")
    config = Int8Config("minmax", budget=0.0, sensitivity_frames=1)
    largest = calibrate_int8(edge, [reference_frame(edge)], config, only=stages, threads=2)
    assert tuple(largest.stages) == stages
    values = 0
    for stage, result in largest.stages.items():
        for value, found in result.largest.items():
            assert found == pytest.approx(exact[f"{stage}/{value}"].largest, rel=1e-5)
            share = calibration.stages[stage].largest[value] / found
            assert 0.2 < share <= 1.001, value
            values += 1
        assert result.layers == () and result.error == 0  # no error is allowed: nothing is quantised
    assert values >= 14


def test_entropy_clips_a_long_tail(edge: Bundle) -> None:
    minmax, entropy = (
        calibrate_ranges(edge, [reference_frame(edge)], Int8Config(method), only=["decoder_5"], threads=2)[
            "decoder_5"
        ]
        for method in ("minmax", "entropy")
    )
    assert all(0.02 * minmax[v] < entropy[v] <= 1.01 * minmax[v] for v in minmax)
    assert any(entropy[v] < 0.9 * minmax[v] for v in minmax)


def test_the_budget_holds_and_what_is_left_out_is_the_most_sensitive(calibration: Int8Calibration) -> None:
    for result in calibration.stages.values():
        assert result.error <= ONE_FRAME.budget
        if result.kept:
            assert result.error_of_all > ONE_FRAME.budget
            assert min(result.sensitivity[k] for k in result.kept) >= max(
                (result.sensitivity[k] for k in result.layers), default=0
            )
    assert sum(len(r.layers) for r in calibration.stages.values()) > 10
    assert sum(len(r.kept) for r in calibration.stages.values()) > 0


def test_a_layer_with_an_outlier_channel_is_found_and_kept(
    calibration: Int8Calibration, tmp_path: Path
) -> None:
    """One hidden channel of a block is 3000, undone by the next weight, so that float32 hardly changes; but one step of
    int8 is now larger than what all other channels carry."""
    outlier = ""

    def plant(model: onnx.ModelProto) -> None:
        nonlocal outlier
        node = next(n for n in model.graph.node if n.op_type == "OctreeResidual")
        outlier = node.name

        def undo(w: np.ndarray) -> np.ndarray:
            w[:, 0, :] *= 1e-3
            return w

        scaled(model, node.input[3], lambda b: np.where(np.arange(len(b)) == 0, 3000.0, b))
        scaled(model, node.input[4], undo)

    bundle = edit_stage(tmp_path / "outlier.zgb", "decoder_6", plant)
    config = Int8Config("minmax", sensitivity_frames=1)
    found = calibrate_int8(bundle, [reference_frame(bundle)], config, only=["decoder_6"], threads=2)
    after = found.stages["decoder_6"]
    assert after.sensitivity[outlier] > 5 * calibration.stages["decoder_6"].sensitivity[outlier]
    assert after.error_of_all > config.budget >= after.error
    assert after.kept[0] == outlier and after.layers
    converted = convert(bundle, tmp_path / "int8.zgb", int8=found.to_convert())
    lines = converted.manifest["stages"]["decoder_6"]["layers"]
    table = {line["layer"]: line["precision"] for line in lines}
    assert table[outlier] == "fp16"
    assert "int8" in table.values()


def test_an_int8_bundle_verifies_and_says_what_is_int8(
    edge: Bundle, calibration: Int8Calibration, tmp_path: Path
) -> None:
    bundle = convert(edge, tmp_path / "int8.zgb", int8=calibration.to_convert())
    report = verify(Pipeline(bundle, threads=2))
    assert report.ok, report.failures
    assert max(t.error for t in report.tensors) > 2e-3  # it is int8 that ran
    kinds = {
        name: {line["precision"] for line in stage["layers"]}
        for name, stage in bundle.manifest["stages"].items()
    }
    for name, result in calibration.stages.items():
        table = {line["layer"]: line["precision"] for line in bundle.manifest["stages"][name]["layers"]}
        assert {layer for layer, precision in table.items() if precision == "int8"} == set(result.layers)
        assert bundle.stages[name].precision == ("int8" if result.layers else "fp16")
    assert kinds["octree_encoder"] == {"int8", "fp16", "fp32"}
    ops = {n.op_type for n in onnx.load(str(bundle.stage_path("octree_encoder"))).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops
    assert any(op.endswith("Int8") for op in ops)


def test_errors_are_handed_on(edge: Bundle, calibration: Int8Calibration, tmp_path: Path) -> None:
    """A float16 stage behind an int8 one cannot be more exact than what it is given."""
    encoder = {"octree_encoder": calibration.to_convert()["octree_encoder"]}
    bundle = convert(edge, tmp_path / "a.zgb", int8=encoder)
    coarsest = coarsest_before(bundle)
    assert bundle.stages["decoder_3"].precision == "fp16" and coarsest["decoder_3"] == "int8"
    assert coarsest["image_encoder"] == "fp16"


def test_is_reproducible_and_cached(edge: Bundle, calibration: Int8Calibration, tmp_path: Path) -> None:
    again = calibrate_int8(edge, [reference_frame(edge)], ONE_FRAME, only=["decoder_5"], threads=1)
    assert again.key == calibration.key
    for name, result in again.stages.items():
        assert result.layers == calibration.stages[name].layers
        assert result.largest == pytest.approx(calibration.stages[name].largest, rel=1e-4)
    calibration.save(tmp_path / "a.json")
    assert Int8Calibration.load(tmp_path / "a.json") == calibration
    frame = reference_frame(edge)
    keys = {
        calibration_key(edge, [frame], ONE_FRAME),
        calibration_key(edge, [frame, frame], ONE_FRAME),
        calibration_key(edge, [frame], Int8Config("minmax", sensitivity_frames=1)),
    }
    assert calibration.key in keys and len(keys) == 3


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"version": 99}', '{"version": 1, "key": "a"}'])
def test_what_is_no_calibration_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(CalibrationError, match=r"a\.json: expected .* delete it"):
        Int8Calibration.load(tmp_path / "a.json")


@pytest.mark.parametrize(
    "wrong", [{"percentile": 0}, {"percentile": 101}, {"budget": -0.1}, {"sensitivity_frames": 0}]
)
def test_configuration_is_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(CalibrationError, match=next(iter(wrong))):
        Int8Config(**wrong)  # type: ignore[arg-type]


def test_nothing_to_calibrate_with(edge: Bundle, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="expected frames to calibrate with, got none"):
        calibrate_int8(edge, [])
    half = convert(edge, tmp_path / "half.zgb")
    with pytest.raises(CalibrationError, match="expected fp32 stages, got fp16"):
        calibrate_int8(half, [reference_frame(edge)])


@pytest.mark.slow
def test_command_uses_what_it_has_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edge8.zgb"
    arguments = ["calibrate", "int8", str(EDGE_MODEL), str(out), "--count", "1", "--sensitivity-frames", "1"]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    assert "from" not in first.split("1 frames")[1].split("\n")[0]
    assert main(arguments) == 1  # the bundle exists
    assert main([*arguments, "--overwrite"]) == 0
    assert "ranges and sensitivities from" in " ".join(capsys.readouterr().out.split())
    assert load_bundle(out).stages["octree_encoder"].precision == "int8"


# Graphs


def matmul_model(rng: np.random.Generator) -> onnx.ModelProto:
    g = GraphBuilder("decoder_5")
    x = g.input("parent_features", "float32", ["N", 16])
    y = g.add("MatMul", x, g.constant(rng.standard_normal((16, 8)).astype(np.float32)))
    z = g.add("MatMul", x, g.constant(rng.standard_normal((16, 8)).astype(np.float32)))
    g.output(g.add("Add", y, z), "features", "float32", ["N", 8])
    return g.model()


def test_standard_layers_get_q_and_dq() -> None:
    import onnxruntime as ort

    rng = np.random.default_rng(0)
    model = matmul_model(rng)
    names = quantisable(model, "decoder_5")
    assert len(names) == 2
    weights = [numpy_helper.to_array(i) for i in model.graph.initializer]
    x = rng.standard_normal((50, 16)).astype(np.float32)
    largest = float(np.abs(x).max())
    quantise(model, {"parent_features": largest}, names)
    onnx.checker.check_model(model)
    ops = [n.op_type for n in model.graph.node]
    assert ops.count("QuantizeLinear") == 1 and ops.count("DequantizeLinear") == 3  # one input, two weights
    step = np.float32(largest / 127)
    rounded = np.clip(np.rint(x / step), -127, 127).astype(np.float64) * step
    exact = []
    for w in weights:
        scale = np.abs(w).max(0) / 127
        exact.append(rounded @ (np.rint(w / scale) * scale))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"parent_features": x})
    np.testing.assert_allclose(y, exact[0] + exact[1], rtol=1e-4, atol=1e-4)
    table = to_half(model, "decoder_5")
    assert [line.precision for line in table if line.op == "MatMul"] == ["int8", "int8"]
    assert [line.precision for line in table if line.op == "Add"] == ["fp16"]
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
    (half,) = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    ).run(None, {"parent_features": x.astype(np.float16)})
    assert half.dtype == np.float16
    np.testing.assert_allclose(half, y, atol=0.12)


def test_weights_are_quantised_by_output() -> None:
    w = np.float32([[[1, -2]], [[0, 0]], [[1e-3, 127e-3]]])
    values, scale = quantise_weight(w)
    np.testing.assert_array_equal(values, [[[64, -127]], [[0, 0]], [[1, 127]]])
    np.testing.assert_allclose(scale, [2 / 127, 1 / 127, 1e-3], rtol=1e-6)


def test_relative_error() -> None:
    a, b = np.float32([3, 4]), np.float32([3, 4.5])
    assert relative_error([[a, a]], [[a, b]]) == pytest.approx(0.1)
    assert relative_error([[a * 0]], [[a * 0]]) == 0 and relative_error([[a * 0]], [[a]]) == 1
