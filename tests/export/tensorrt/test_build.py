"""Every stage of a bundle becomes an engine: TensorRT for RTX builds them here, without a GPU, for an Ampere GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="needs the extra `export`")

from engine_graphs import Graph, convolution

from zerograsp_edge.export.bundle import write_bundle
from zerograsp_edge.export.convert import convert
from zerograsp_edge.export.engine_profile import Sizes, typical_sizes
from zerograsp_edge.export.network import NetworkConfig, prepare_frame
from zerograsp_edge.export.precision import uncast_weights
from zerograsp_edge.export.quantise import Int8Stage, activations, quantisable
from zerograsp_edge.export.random_weights import random_network
from zerograsp_edge.runtime.bundle import Bundle, Limits, load_bundle
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.engines import EngineKey, engines_of, find_engine

Rtx = Callable[..., Any]
LIMITS = Limits(max_height=240, max_width=320, max_objects=8, max_nodes=16384)


def check_built(rtx: Rtx, bundle: Path, sizes: Sizes, precision: str, **options: Any) -> dict[str, Any]:
    """Builds all engines of a bundle, in place, and looks at what is there afterwards."""
    answer = rtx("build", bundle=str(bundle), typical=sizes, stages=[], **options)
    loaded = load_bundle(bundle)
    assert list(answer["built"]) == list(loaded.stages)
    engines = {engine.stage: engine for engine in engines_of(loaded)}
    assert set(engines) == set(loaded.stages)
    for name, built in answer["built"].items():
        path = find_engine(loaded, name, EngineKey(answer["version"], (8, 6), precision))
        assert path.stat().st_size == built["bytes"] > 1000
        how = engines[name].built
        assert how["device"] == "none" and how["seconds"] >= 0 and not how["tf32"]
        for smallest, typical, largest in how["sizes"].values():
            assert 1 <= smallest <= typical <= largest
    return answer


def small_bundle(path: Path, config: NetworkConfig, limits: Limits = LIMITS) -> Bundle:
    """A bundle of a network with random weights."""
    width, height = (160, 128) if limits.max_width >= 160 else (limits.max_width, limits.max_height)
    frame = SimulatedCamera(7, 4, width, height).read()
    assert frame.mask is not None
    inputs = prepare_frame(config, frame.rgb, frame.depth, frame.mask, frame.intrinsics)
    return write_bundle(random_network(config, inputs), path, trained=False, limits=limits, reference=frame)


def all_int8(source: Bundle, path: Path) -> Bundle:
    """Every layer in int8 that can be, without calibration: what ranges are does not matter to TensorRT."""
    import onnx

    chosen = {}
    for name in source.stages:
        model = onnx.load(str(source.stage_path(name)))
        uncast_weights(model)
        layers = tuple(quantisable(model, name))
        largest = {value: 8.0 for values in activations(model, layers).values() for value in values}
        chosen[name] = Int8Stage(layers, largest)
    return convert(source, path, int8=chosen)


INT8_NODES = {"OctreeConvInt8", "OctreeDownsampleInt8", "OctreeUpsampleInt8", "OctreeResidualInt8"}


def check_built_in_int8(rtx: Rtx, bundle: Bundle, sizes: Sizes, **options: Any) -> None:
    """All stages, and every int8 node somewhere. TensorRT refuses biases that are quantised, to int32."""
    import onnx

    operators: set[str] = set()
    for name in bundle.stages:
        graph = onnx.load(str(bundle.stage_path(name))).graph
        operators |= {node.op_type for node in graph.node}
        int32 = {i.name for i in graph.initializer if i.data_type == onnx.TensorProto.INT32}
        assert not [n.name for n in graph.node if n.op_type == "DequantizeLinear" and n.input[0] in int32]
    assert operators >= INT8_NODES
    answer = rtx("build", bundle=str(bundle.path), typical=sizes, stages=[], **options)
    assert list(answer["built"]) == list(bundle.stages)
    loaded = load_bundle(bundle.path)
    for name, built in answer["built"].items():
        key = EngineKey(answer["version"], (8, 6), bundle.stages[name].precision)
        assert find_engine(loaded, name, key).stat().st_size == built["bytes"] > 1000
    # The edge model's image encoder has no layer to quantise.
    others = {stage.precision for name, stage in bundle.stages.items() if name != "image_encoder"}
    assert others == {"int8"}


def test_the_edge_model(rtx: Rtx, edge_copy: Path, edge_sizes: Sizes) -> None:
    answer = check_built(rtx, edge_copy, edge_sizes, "fp32")
    # TensorRT tells how far it is.
    starts, finishes = (
        [step.split(" ", 1)[1] for step in answer["progress"] if step.startswith(kind)]
        for kind in ("start", "finish")
    )
    assert sorted(starts) == sorted(finishes) and len(starts) > 7
    assert any(step.startswith("step ") for step in answer["progress"])
    # What is there is not built again, unless asked for.
    again = rtx("build", bundle=str(edge_copy), typical=edge_sizes, stages=[])
    assert set(again["built"].values()) == {None}
    again = rtx("build", bundle=str(edge_copy), typical=edge_sizes, stages=["decoder_3"], rebuild=True)
    assert list(again["built"]) == ["decoder_3"] and again["built"]["decoder_3"]["bytes"] > 1000


@pytest.mark.slow
def test_the_edge_model_with_the_plugins(
    rtx: Rtx, edge_copy: Path, edge_sizes: Sizes, library: Path, tmp_path: Path
) -> None:
    """With the C++ library, as on a device."""
    check_built(rtx, edge_copy, edge_sizes, "fp32", library=str(library))
    half = convert(load_bundle(edge_copy), tmp_path / "half.zgb")
    check_built(rtx, half.path, edge_sizes, "fp16", library=str(library))
    int8 = all_int8(load_bundle(edge_copy), tmp_path / "int8.zgb")
    check_built_in_int8(rtx, int8, edge_sizes, library=str(library))


def test_the_edge_model_in_float16(rtx: Rtx, edge_copy: Path, edge_sizes: Sizes, tmp_path: Path) -> None:
    half = convert(load_bundle(edge_copy), tmp_path / "half.zgb")
    check_built(rtx, half.path, edge_sizes, "fp16")


@pytest.mark.parametrize("encoder", ["rgb", "small"])
def test_a_tiny_network(rtx: Rtx, tmp_path: Path, encoder: str) -> None:
    config = NetworkConfig.tiny()
    if encoder != config.image_encoder:
        config = NetworkConfig.from_dict({**config.to_dict(), "image_encoder": encoder, "image_channels": 8})
    bundle = small_bundle(tmp_path / "tiny.zgb", config)
    sizes = typical_sizes(bundle)
    check_built(rtx, bundle.path, sizes, "fp32")
    # Engines do not come along: they are of the float32 stages.
    half = convert(load_bundle(bundle.path), tmp_path / "half.zgb")
    assert engines_of(half) == []
    check_built(rtx, half.path, sizes, "fp16")


@pytest.mark.slow
def test_the_published_network(rtx: Rtx, tmp_path: Path) -> None:
    """Its structure and default limits, with random weights."""
    bundle = small_bundle(tmp_path / "published.zgb", NetworkConfig.published().without_posterior(), Limits())
    sizes = typical_sizes(bundle, SimulatedCamera(7, 4, 160, 128).read())
    check_built(rtx, bundle.path, sizes, "fp32")
    half = convert(load_bundle(bundle.path), tmp_path / "half.zgb")
    check_built(rtx, half.path, sizes, "fp16")


def test_the_edge_model_in_int8(rtx: Rtx, edge_copy: Path, edge_sizes: Sizes, tmp_path: Path) -> None:
    """Standard layers between Q and DQ, int8 nodes whose weights are int8 constants."""
    check_built_in_int8(rtx, all_int8(load_bundle(edge_copy), tmp_path / "int8.zgb"), edge_sizes)


def test_a_tiny_network_in_int8(rtx: Rtx, tmp_path: Path) -> None:
    """With an image encoder that has convolutions to quantise."""
    config = {**NetworkConfig.tiny().to_dict(), "image_encoder": "small", "image_channels": 8}
    bundle = small_bundle(tmp_path / "tiny.zgb", NetworkConfig.from_dict(config))
    int8 = all_int8(bundle, tmp_path / "int8.zgb")
    assert int8.stages["image_encoder"].precision == "int8"
    check_built_in_int8(rtx, int8, typical_sizes(bundle))


def test_a_workspace_that_is_too_small(rtx: Rtx, edge_copy: Path, edge_sizes: Sizes) -> None:
    with pytest.raises(Exception, match=r"octree_encoder: no engine: .*--workspace") as caught:
        stages = ["decoder_3", "octree_encoder"]
        rtx("build", bundle=str(edge_copy), typical=edge_sizes, stages=stages, workspace=64)
    assert caught.value.kind == "BuildError"  # type: ignore[attr-defined]
    # What was finished before is kept.
    assert [engine.stage for engine in engines_of(load_bundle(edge_copy))] == ["decoder_3"]


def test_sizes_beyond_the_limits(rtx: Rtx, edge_copy: Path, edge_sizes: Sizes) -> None:
    sizes = {**edge_sizes, "decoder_3": {**edge_sizes["decoder_3"], "N3": 5000}}
    with pytest.raises(
        Exception, match=r"dimension N3 of decoder_3: expected 8 to 4096 .* has 5000; export with"
    ):
        rtx("build", bundle=str(edge_copy), typical=sizes, stages=["decoder_3"])


def test_a_stage_that_is_not_there(rtx: Rtx, edge_copy: Path, edge_sizes: Sizes) -> None:
    with pytest.raises(Exception, match=r"no stage is called decoder_9; the bundle has image_encoder"):
        rtx("build", bundle=str(edge_copy), typical=edge_sizes, stages=["decoder_9"])


def test_timings_are_kept(rtx: Rtx, tmp_path: Path) -> None:
    graph, cache = convolution(tmp_path / "g.onnx"), tmp_path / "cache" / "timing.cache"
    rtx("build_graph", **graph.task, timing_cache=str(cache))
    assert cache.stat().st_size > 0
    assert rtx("build_graph", **graph.task, timing_cache=str(cache))["bytes"] > 0
    # A damaged cache is replaced.
    cache.write_bytes(b"damaged")
    assert rtx("build_graph", **graph.task, timing_cache=str(cache))["bytes"] > 0
    assert cache.read_bytes() != b"damaged"


def test_a_graph_without_dynamic_sizes(rtx: Rtx, tmp_path: Path) -> None:
    graph = Graph(tmp_path / "g.onnx", [("Relu", ["x"], {})], {"x": ("float32", [4, 4])}, ("float32", [4, 4]))
    assert rtx("build_graph", **graph.task)["bytes"] > 0


def test_the_builder_imports_neither_pytorch_nor_onnx() -> None:
    code = (
        "import sys, zerograsp_edge.export.tensorrt, zerograsp_edge.export.build_command;"
        "print([m for m in ('torch', 'onnx', 'ocnn', 'tensorrt', 'pycuda', 'onnxruntime') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_the_command(
    rtx: Rtx,
    edge_copy: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    stages = ["image_encoder", "decoder_3"]
    answer = rtx("command", arguments=["build", str(edge_copy), "--stages", *stages, "--level", "0"])
    assert answer["status"] == 0
    # The plugin library is built for this TensorRT and GPU, and timings are kept beside it.
    assert answer["libraries"] == [[answer["version"], [8, 6]]]
    assert len(list((tmp_path / "cache").rglob("timing.cache"))) == 1
    engines = engines_of(load_bundle(edge_copy))
    assert [engine.stage for engine in engines] == stages
    assert {engine.built["device"] for engine in engines} == {"a test's GPU"}
    assert {engine.built["level"] for engine in engines} == {0}
    sizes = engines[1].built["sizes"]["R"]
    assert sizes[0] < sizes[1] < sizes[2]


def test_the_command_line_without_tensorrt(edge_copy: Path) -> None:
    if importlib.util.find_spec("tensorrt") is not None:
        pytest.skip("TensorRT is installed")
    command = [sys.executable, "-m", "zerograsp_edge.runtime.cli", "build", str(edge_copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "'tensorrt' is needed" in done.stderr and "sudo apt-get install python3-libnvinfer" in done.stderr
