"""The counted roofline: shapes, operations and bytes of real graphs against sums by hand, and the model's ceilings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="reads ONNX graphs: needs the extra `export`")
from onnx import TensorProto, helper  # noqa: E402

# The benchmarks are scripts: their folder is where they import from.
BENCHMARKS = str(Path(__file__).resolve().parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
from parts import roofline_between as between  # noqa: E402
from parts.roofline_count import (  # noqa: E402
    TILE_ROWS,
    Kernel,
    Stage,
    Tables,
    count_stage,
    full_tiles,
    grid_neighbours,
)
from parts.roofline_designs import DESIGNS, redesign  # noqa: E402
from parts.roofline_devices import DEVICES, device  # noqa: E402
from parts.roofline_graph import Shape, load_graph  # noqa: E402
from parts.roofline_model import ASSUMPTIONS, PRECISIONS, assume, kernel_cost, stage_ms  # noqa: E402

sys.path.remove(BENCHMARKS)

ORIN = device("AGX Orin 64GB", "MAXN")
HALF = PRECISIONS["fp16"]

# Nodes by depth of a real frame, 1280x1024 with 7 objects; its multiply-adds are known: 222 G in the image encoder,
# 2.8 G in the octree encoder, 1.5 G in its 3D CNN, prior and transformer, 5.0, 1.5, 0.9, 1.5, 0.9 and 2.8 G in the
# decoders, the first of them on full grids.
INPUT = {4: 232, 5: 496, 6: 1200, 7: 3416, 8: 11160, 9: 39272}
OUTPUT = {4: 28672, 5: 6976, 6: 13608, 7: 26736, 8: 51120, 9: 95976}
CHANNELS = {4: 192, 5: 192, 6: 96, 7: 96, 8: 48, 9: 48}
OBJECTS = 7


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stages of the published network with untrained weights."""
    torch = pytest.importorskip("torch", reason="exporting a network needs the extra `export`")
    pytest.importorskip("ocnn", reason="exporting a network needs the extra `export`")
    pytest.importorskip("segmentation_models_pytorch", reason="exporting a network needs the extra `export`")
    from zerograsp_edge.export import stages
    from zerograsp_edge.export.image_encoder import image_encoder
    from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp

    config = NetworkConfig.published().without_posterior()
    torch.manual_seed(0)
    state = {name: tensor.numpy() for name, tensor in ZeroGrasp(config).state_dict().items()}
    folder = tmp_path_factory.mktemp("published")
    models = {
        "image_encoder": image_encoder(state, config),
        "octree_encoder": stages.octree_encoder(state, config),
    }
    models |= {f"decoder_{d}": stages.decoder(state, config, d) for d in config.depths}
    for name, model in models.items():
        onnx.save(model, str(folder / f"{name}.onnx"))
    return folder


def encoder_inputs() -> dict[str, Shape]:
    shapes: dict[str, Shape] = {
        "features": (9000, 35), "object": (INPUT[4],), "noise": (OBJECTS, 16), "centres": (INPUT[4], 3),
        "depth": (1024, 1280), "labels": (1024, 1280), "adjacency": (OBJECTS, OBJECTS), "intrinsics": (3, 3),
        "positions": (INPUT[4], 3),
    }  # fmt: skip
    for d, nodes in INPUT.items():
        shapes |= {f"children_{d}": (nodes,), f"split_neighbours_{d - 1}": (nodes // 8, 27)}
    return shapes


def decoder_inputs(depth: int) -> dict[str, Shape]:
    nodes = OUTPUT[depth]
    if depth == 4:
        return {"tokens": (INPUT[4], 192), "source": (nodes,), "neighbours": (27, nodes)}
    return {
        "parent_features": (OUTPUT[depth - 1], CHANNELS[depth - 1]), "split_rows": (nodes // 8,),
        "split_neighbours": (nodes // 8, 27), "keys": (nodes,), "skip": (INPUT[depth], CHANNELS[depth]),
        "skip_keys": (INPUT[depth],),
    }  # fmt: skip


def children() -> dict[str, np.ndarray]:
    """Nodes of the input octree, of which as many are split as the depth below has parents."""
    tables = {}
    for d in range(4, 9):
        split = np.full(INPUT[d], -1, np.int32)
        split[: INPUT[d + 1] // 8] = np.arange(INPUT[d + 1] // 8)
        tables[f"children_{d}"] = split
    return tables


def gmac(stage: Stage) -> float:
    return stage.macs / 1e9


def test_image_encoder_has_its_known_operations(published: Path) -> None:
    stage = count_stage(load_graph(published / "image_encoder.onnx", {"rgb": (1024, 1280, 3)}))
    assert gmac(stage) == pytest.approx(222, abs=0.5)
    small = count_stage(load_graph(published / "image_encoder.onnx", {"rgb": (480, 640, 3)}))
    assert small.macs * 1280 * 1024 == stage.macs * 640 * 480
    assert len(small.kernels) == len(stage.kernels)


def test_octree_encoder_has_its_known_operations(published: Path) -> None:
    graph = load_graph(published / "octree_encoder.onnx", encoder_inputs())
    stage = count_stage(graph, Tables(children=children()))
    assert gmac(stage) == pytest.approx(2.8 + 1.5, abs=0.1)
    # Without a table all children count as there.
    assert count_stage(graph).macs > stage.macs


@pytest.mark.parametrize(("depth", "expected"), [(4, 5.0), (5, 1.5), (6, 0.9), (7, 1.5), (8, 0.9), (9, 2.8)])
def test_decoder_has_its_known_operations(published: Path, depth: int, expected: float) -> None:
    graph = load_graph(published / f"decoder_{depth}.onnx", decoder_inputs(depth))
    assert gmac(count_stage(graph)) == pytest.approx(expected, abs=0.06)


def test_transformer_is_counted_as_its_sizes_say(published: Path) -> None:
    stage = count_stage(load_graph(published / "octree_encoder.onnx", encoder_inputs()))
    tokens, width, heads = INPUT[4], 192, 3
    products = [k for k in stage.kernels if k.name.startswith("MatMul")]
    scores = [k for k in products if k.macs == tokens * tokens * width]
    assert len(scores) == 2 * 3  # q k and scores v, of three layers
    # Scores are written in float32, and read by the softmax.
    assert all(k.fixed == 4 * heads * tokens * tokens for k in scores)
    softmax = [k for k in stage.kernels if k.name.startswith("Softmax")]
    assert [k.fixed for k in softmax] == [8 * heads * tokens * tokens] * 3
    hidden = [k for k in products if k.macs == tokens * width * 4 * width]
    assert len(hidden) == 2 * 3


def test_every_tensor_that_is_computed_is_written_once(published: Path) -> None:
    """Element-wise nodes that are joined do not write what only they read."""
    graph = load_graph(published / "octree_encoder.onnx", encoder_inputs())
    stage = count_stage(graph)
    gelu = [k for k in stage.kernels if "Erf" in k.name]
    size = INPUT[4] * 4 * 192
    assert [k.features for k in gelu] == [2 * size] * 3


def test_convolutions_take_residual_and_relu_along(published: Path) -> None:
    stage = count_stage(load_graph(published / "image_encoder.onnx", {"rgb": (64, 64, 3)}))
    names = [k.name.split()[0] for k in stage.kernels]
    assert names.count("Conv") == 64
    assert not any("Relu" in n or n == "Add" for n in names)


def model_of(nodes: list[onnx.NodeProto], inputs: dict[str, Shape], outputs: list[str]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "test",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_elementwise_nodes_do_not_join_across_other_kernels(tmp_path: Path) -> None:
    """b = relu(a); c = softmax(b); d = b + c: the sum waits for the softmax and cannot run in relu's kernel."""
    nodes = [
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Softmax", ["b"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["d"]),
    ]
    onnx.save(model_of(nodes, {"a": (8, 4)}, ["d"]), str(tmp_path / "m.onnx"))
    stage = count_stage(load_graph(tmp_path / "m.onnx", {"a": (8, 4)}))
    assert [k.name.split()[0] for k in stage.kernels] == ["Relu", "Softmax", "Add"]


def test_a_node_without_a_rule_is_refused(tmp_path: Path) -> None:
    onnx.save(
        model_of([helper.make_node("Tan", ["a"], ["b"])], {"a": (8, 4)}, ["b"]), str(tmp_path / "m.onnx")
    )
    with pytest.raises(ValueError, match="Tan"):
        count_stage(load_graph(tmp_path / "m.onnx", {"a": (8, 4)}))


def test_inputs_are_checked(published: Path) -> None:
    with pytest.raises(ValueError, match="rgb"):
        load_graph(published / "image_encoder.onnx", {})
    with pytest.raises(ValueError, match="3 dimensions"):
        load_graph(published / "image_encoder.onnx", {"rgb": (480, 640)})


# ---- tiles ----


def test_tiles_of_a_full_table_execute_what_they_have_to() -> None:
    tiles = full_tiles(27, 2 * TILE_ROWS, 32, 64)
    assert tiles.columns(2) == 64 and tiles.across(2) == 1
    assert tiles.chunks(2).tolist() == [27, 27]  # 32 halves are a chunk
    assert tiles.executed(2) == 2 * TILE_ROWS * 27 * 32 * 64
    assert tiles.gathered(2) == 2 * TILE_ROWS * 27 * 64 + 2 * 27 * 32 * 64 * 2


@pytest.mark.parametrize(("cin", "element", "chunks"), [(12, 2, 11), (12, 4, 21), (48, 2, 41), (35, 1, 15)])
def test_chunks_of_narrow_channels_hold_several_taps(cin: int, element: int, chunks: int) -> None:
    assert full_tiles(27, 1, cin, 16).chunks(element).tolist() == [chunks]
    assert chunks == -(-27 * cin * element // 64)


def test_taps_that_no_row_of_a_tile_has_are_left_out() -> None:
    table = np.full((27, 2 * TILE_ROWS), -1, np.int32)
    table[13] = 0  # every row has itself
    table[4, TILE_ROWS + 5] = 0  # one row of the second tile has a neighbour
    tiles = Tables({"t": table}).tiles("t", 27, 2 * TILE_ROWS, 32, 16)
    assert tiles.chunks(2).tolist() == [1, 2]
    assert tiles.present == 2 * TILE_ROWS + 1


def test_cells_of_a_grid_have_their_own_grids_neighbours() -> None:
    exists = grid_neighbours(3, 2)
    assert exists.shape == (27, 24)
    assert (exists.sum(0) == 8).all()  # a corner of a 2x2x2 grid has all eight cells
    assert grid_neighbours(1, 4).sum() == 10**3  # (3 * 4 - 2)^3


# ---- model ----


def test_every_ceiling_can_bind() -> None:
    values = assume()

    def bound(kernel: Kernel) -> str:
        return kernel_cost(kernel, ORIN, HALF, values).bound

    assert bound(Kernel("a")) == "start"
    assert bound(Kernel("a", fixed=10**9)) == "memory"
    assert bound(Kernel("a", "dense", executed=10**12)) == "arithmetic"
    assert bound(Kernel("a", "gather", tiles=full_tiles(27, 100_000, 96, 96))) == "arithmetic"
    assert bound(Kernel("a", "gather", tiles=full_tiles(27, 100, 192, 48))) == "latency"
    assert bound(Kernel("a", threads=10**9, work="float64")) == "float64"
    assert bound(Kernel("a", threads=10**7, executed=10**4, work="suppression")) == "latency"


def test_memory_bound_kernels_take_their_bytes_over_the_rate() -> None:
    kernel = Kernel("a", features=10**8, weights=10**6, fixed=10**7)
    ms = kernel_cost(kernel, ORIN, HALF, {**assume(), "memory": 1.0}).ms
    assert ms == pytest.approx((2 * (10**8 + 10**6) + 10**7) / 204.8e9 * 1e3)
    double = kernel_cost(kernel, ORIN, PRECISIONS["fp32"], {**assume(), "memory": 1.0}).ms
    assert double == pytest.approx((4 * (10**8 + 10**6) + 10**7) / 204.8e9 * 1e3)
    # INT8 is for layers that are quantised.
    assert kernel_cost(kernel, ORIN, PRECISIONS["int8"], {**assume(), "memory": 1.0}).ms == pytest.approx(ms)
    quantised = kernel_cost(
        replace(kernel, quantised=True), ORIN, PRECISIONS["int8"], {**assume(), "memory": 1.0}
    )
    assert quantised.ms == pytest.approx((10**8 + 10**6 + 10**7) / 204.8e9 * 1e3)


def test_rates_are_the_data_sheets() -> None:
    assert 2 * 2 * ORIN.tensor_macs("int8") / 1e12 == pytest.approx(170, abs=1)  # sparse TOPS of the GPU
    assert 2 * ORIN.cuda_macs / 1e12 == pytest.approx(5.3, abs=0.05)  # TFLOPS float32
    nano = device("Orin Nano Super", "MAXN_SUPER")
    assert 2 * 2 * nano.tensor_macs("int8") / 1e12 == pytest.approx(67, abs=0.5)
    with pytest.raises(ValueError, match="Orin Nano Super"):
        device("Xavier", "MAXN")


def test_launches_without_a_graph_hold_short_kernels_up() -> None:
    values = assume()
    stage = Stage("a", [Kernel("a")] * 10)
    launched = stage_ms(stage, ORIN, HALF, values, graphs=False)
    captured = stage_ms(stage, ORIN, HALF, values)
    assert launched == pytest.approx(1e-3 * (10 * values["launch"] + values["call"]))
    assert captured == pytest.approx(
        1e-3 * (10 * (values["start"] + values["graph node"]) + values["call"] + values["graph"])
    )
    assert stage_ms(replace(stage, graph=False), ORIN, HALF, values) == launched
    assert stage_ms(replace(stage, reads=2), ORIN, HALF, values) == pytest.approx(
        captured + 2e-3 * values["read"]
    )


def test_blocks_beyond_the_rows_cost_time() -> None:
    stage = Stage("a", [Kernel("a", "gather", tiles=full_tiles(27, 1000, 48, 48))])
    plain, covered = (stage_ms(s, ORIN, HALF, assume()) for s in (stage, replace(stage, capacity=100.0)))
    assert covered > plain


def test_ranges_of_assumptions_enclose_their_guess() -> None:
    for a in ASSUMPTIONS:
        assert min(a.good, a.bad) <= a.value <= max(a.good, a.bad), a.name
        assert a.source, a.name


def test_good_end_is_faster_and_bad_end_slower_everywhere(published: Path) -> None:
    stage = count_stage(load_graph(published / "octree_encoder.onnx", encoder_inputs()))
    for where in DEVICES:
        for precision in PRECISIONS.values():
            good, guess, bad = (
                stage_ms(stage, where, precision, assume(w)) for w in ("good", "value", "bad")
            )
            assert good < guess < bad


def test_designs_save_what_they_say(published: Path) -> None:
    stage = count_stage(load_graph(published / "decoder_9.onnx", decoder_inputs(9)))
    nodes = OUTPUT[9]

    def moved(s: Stage) -> int:
        return sum(2 * (k.features + k.weights) + k.fixed for k in s.kernels)

    saved = {name: moved(stage) - moved(redesign(stage, change)) for name, change in DESIGNS.items()}
    assert saved["OctreeMlp in one kernel"] == 2 * 2 * nodes * 256
    table = 4 * 27 * nodes
    assert saved["no expanded neighbour tables"] == table + table // 8 + 2 * (table * 7 // 8)
    assert saved["OctreeResidual's last layer in its convolution"] == 2 * 2 * 2 * nodes * 12


def test_stages_between_grow_with_their_frame() -> None:
    sizes = between.Sizes(
        height=480, width=640, objects=5, image_channels=32, valid=60_000, points=60_000, voxels=4000,
        input_nodes={3: 2560, 4: 200, 5: 400, 6: 1600}, output_nodes={4: 20480, 5: 800, 6: 2400},
        splits={4: 100, 5: 300, 6: 900}, full_rows=3000, grasps=900, candidates=300, kept=50, suppression_pairs=60,
        scene_points=20_000,
    )  # fmt: skip
    large = replace(sizes, height=960, width=1280, points=240_000, valid=240_000)
    for stage in (between.upload, between.points, between.octree_build):
        few, many = (stage_ms(stage(s), ORIN, HALF, assume("bad")) for s in (sizes, large))
        assert few < many
    assert between.growth(sizes).reads == 3
    # depth, sum, write and a memset for each depth, neighbours between them, and three kernels of the full grid
    assert len(between.growth(sizes).kernels) == 3 + 4 * 3 + 2


def test_quick_run_labels_every_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, BENCHMARKS)
    try:
        import roofline

        from zerograsp_edge.runtime.bundle import load_bundle
        from zerograsp_edge.runtime.models import EDGE_MODEL

        frame = roofline.simulated((320, 240), seed=1, objects=2)
        counted = roofline.count_frame("edge, test", load_bundle(EDGE_MODEL), frame, threads=1)
        results = list(roofline.figures([("edge", (320, 240), counted)]))
        roofline.show_stages(roofline.Console(), counted, roofline.NANO, HALF)
        resampled = roofline.resample(frame, (160, 120))
    finally:
        sys.path.remove(BENCHMARKS)
    for f in results:
        assert ("predicted" in f["name"]) == (f["unit"] == "ms"), f["name"]
        assert f["value"] >= 0 and np.isfinite(f["value"])
    assert "predicted, not measured" in " ".join(capsys.readouterr().out.split())
    assert resampled.intrinsics[0, 0] == frame.intrinsics[0, 0] / 2
    assert set(np.unique(resampled.mask)) <= set(np.unique(frame.mask))
    # Present neighbours are fewer than the layers' definitions have, and never more.
    for stage in counted.graphs.values():
        assert 0 <= stage.present <= stage.macs
    assert counted.sizes.points <= counted.sizes.valid
    assert counted.sizes.kept <= counted.sizes.candidates <= counted.sizes.grasps
