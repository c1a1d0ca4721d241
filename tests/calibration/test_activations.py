"""What float16 cannot hold is found by running frames, inside fused nodes too, and kept in float32."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")

from zerograsp_edge.calibration.activations import Range, activation_ranges, beyond_half, flushed_most  # noqa: E402
from zerograsp_edge.export.convert import convert  # noqa: E402
from zerograsp_edge.export.precision import Policy, uncast_weights  # noqa: E402
from zerograsp_edge.runtime.bundle import MANIFEST, Bundle, load_bundle, seal, sha256  # noqa: E402
from zerograsp_edge.runtime.cli import main  # noqa: E402
from zerograsp_edge.runtime.errors import ZeroGraspError  # noqa: E402
from zerograsp_edge.runtime.models import EDGE_MODEL  # noqa: E402
from zerograsp_edge.runtime.pipeline import Pipeline  # noqa: E402
from zerograsp_edge.runtime.verify import reference_frame  # noqa: E402


def with_scaled_weight(
    path: Path, stage: str, op: str, index: int, input_index: int, factor: float
) -> Bundle:
    """The edge model, one weight of the `index`-th node of a type multiplied."""
    shutil.copytree(EDGE_MODEL, path)
    file = path / f"{stage}.onnx"
    model = onnx.load(str(file))
    uncast_weights(model)
    node = [n for n in model.graph.node if n.op_type == op][index]
    for initialiser in model.graph.initializer:
        if initialiser.name == node.input[input_index]:
            array = onnx.numpy_helper.to_array(initialiser) * np.float32(factor)
            initialiser.CopyFrom(onnx.numpy_helper.from_array(array, initialiser.name))
    onnx.save(model, str(file))
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["files"][file.name] = sha256(file)
    (path / MANIFEST).write_text(json.dumps(seal(manifest)))
    return load_bundle(path)


def outputs(bundle: Bundle) -> dict[str, np.ndarray]:
    taps: dict[str, np.ndarray] = {}
    Pipeline(bundle, threads=2).run(reference_frame(bundle), taps=taps)
    return taps


def test_the_edge_model_fits(tmp_path: Path) -> None:
    bundle = load_bundle(EDGE_MODEL)
    ranges = activation_ranges(bundle, [reference_frame(bundle)], threads=2)
    assert beyond_half(bundle, ranges) == {}
    assert any(name.endswith(":conv") for name in ranges)  # inside residual blocks
    assert 1 < ranges["octree_encoder/tokens"].largest < 65504
    assert flushed_most(ranges, 1)[0][1].flushed > 0.1  # probabilities of attention


def test_a_tensor_that_overflows_is_found_and_kept(tmp_path: Path) -> None:
    """A skip feature beyond 65504: everything that makes or takes it, and the tensor between the stages."""
    bundle = with_scaled_weight(tmp_path / "a.zgb", "octree_encoder", "OctreeDownsample", 1, 2, 3e5)
    single = outputs(bundle)
    assert np.isfinite(single["octree_encoder/skip_5"]).all()
    blind = convert(bundle, tmp_path / "blind.zgb")
    try:
        ruined = not all(
            np.isfinite(a).all() for n, a in outputs(blind).items() if n.startswith("octree_encoder/")
        )
    except ZeroGraspError:
        ruined = True
    assert ruined
    ranges = activation_ranges(bundle, [reference_frame(bundle)], threads=2)
    found = beyond_half(bundle, ranges)
    node = next(n for n in found if "OctreeDownsample" in n)
    assert "reached" in found[node] and "in reference" in found[node]
    kept = convert(bundle, tmp_path / "kept.zgb", Policy(found))
    half = outputs(kept)
    for name in ("octree_encoder/skip_5", "octree_encoder/tokens"):
        error = np.abs(half[name] - single[name]).max() / np.abs(single[name]).max()
        assert error < 1e-2, (name, error)


def test_overflow_inside_a_fused_node_is_found(tmp_path: Path) -> None:
    bundle = with_scaled_weight(tmp_path / "a.zgb", "decoder_5", "OctreeResidual", 0, 2, 1e6)
    ranges = activation_ranges(bundle, [reference_frame(bundle)], threads=2)
    found = beyond_half(bundle, ranges)
    assert any(
        name.startswith("decoder_5/OctreeResidual") and ":a reached" in why for name, why in found.items()
    )


def test_values_too_small_for_half_are_found(tmp_path: Path) -> None:
    bundle = with_scaled_weight(tmp_path / "a.zgb", "decoder_5", "OctreeUpsample", 0, 2, 1.0)
    tiny = {
        "decoder_5/a": Range(3e-6, 10, 2, "f"),
        "decoder_5/b": Range(0.0),
        "decoder_5/c": Range(2.0, 4, 0, "f"),
    }
    model = onnx.load(str(bundle.stage_path("decoder_5")))
    made = model.graph.node[-2].output[0]
    found = beyond_half(bundle, {f"decoder_5/{made}": tiny["decoder_5/a"]})
    assert found and all("stayed below 3e-06" in why for why in found.values())
    assert beyond_half(bundle, {f"decoder_5/{made}": tiny["decoder_5/c"]}) == {}


def test_range_counts() -> None:
    r = Range()
    r.add(np.float32([0, 1, -3, 2**-25, 2**-24, 2**-26]), "first")
    assert (r.largest, r.nonzero, r.zeroed, r.frame) == (3.0, 5, 2, "first")
    with np.errstate(over="ignore"):
        assert np.float32([2**-25, 2**-24]).astype(np.float16).tolist() == [0.0, 2**-24]
    r.add(np.float32([np.inf]), "second")
    assert (r.largest, r.frame) == (np.inf, "second")
    r = Range()
    r.add(np.float32([np.nan]), "third")
    assert np.isnan(r.largest) and r.frame == "third"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "edge16.zgb"
    arguments = ["convert", str(EDGE_MODEL), str(out), "--frames", "1", "--keep", "decoder_7/*"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "65504 fit" in printed and "asked for" in printed
    bundle = load_bundle(out)
    assert {line["precision"] for line in bundle.manifest["stages"]["decoder_7"]["layers"]} == {"fp32"}
    assert main(["verify", str(out)]) == 0
    capsys.readouterr()


def test_command_refuses_what_exists(tmp_path: Path, failing_command: Callable[[list[str]], str]) -> None:
    (tmp_path / "there").mkdir()
    assert "exists" in failing_command(["convert", str(EDGE_MODEL), str(tmp_path / "there"), "--frames", "0"])


@pytest.fixture
def failing_command(capfd: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    def run(arguments: list[str]) -> str:
        capfd.readouterr()
        assert main(arguments) == 1
        return capfd.readouterr().err

    return run
