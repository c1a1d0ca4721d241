"""The Python stand-ins of the plugins are what the C++ library is: creators, fields, types, shapes, refusals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="needs the extra `export`")

from engine_graphs import DOMAIN, Graph
from stand_ins import FEATURE, NODES, Node, output_shape

from zerograsp_edge.kernels.tensorrt_plugins import PLUGINS

SIZES = {"Cin": 8, "Cout": 16, "C": 8, "H": 4, "Co": 8, "O": 2, "K": 27, "r": 4, "B": 3}
ATTRIBUTES = {
    "activation": "gelu",
    "resolution": 4,
    "edge": 80.0,
    "x_scale": 0.5,
    "first_scale": 0.25,
    "second_scale": 0.125,
}


class _Numbers:
    """Arithmetic on ints, for `output_shape`."""

    def constant(self, value: int) -> int:
        return value

    def times(self, dimension: int, factor: int) -> int:
        return dimension * factor

    def value(self, dimension: int) -> int:
        return dimension


def graphs(folder: Path, name: str, node: Node) -> Iterator[Graph]:
    """One node as it should be, in both types and without what is optional, and then with one fault each."""
    numbers = count()

    def graph(
        dtypes: list[str], shapes: list[list[Any]], inputs: int = len(node.inputs), **changed: Any
    ) -> Graph:
        given = {
            tensor.name: (dtype, shape)
            for tensor, dtype, shape in zip(node.inputs[:inputs], dtypes, shapes, strict=False)
        }
        attributes = {key: ATTRIBUTES[key] for key in node.attributes}
        attributes = {key: value for key, value in {**attributes, **changed}.items() if value is not None}
        rank = len(node.output.shape.split())
        path = folder / f"{name}_{next(numbers)}.onnx"
        return Graph(path, [(name, list(given), {**DOMAIN, **attributes})], given, ("float32", [None] * rank))

    dtypes, half = ([t.dtype.replace(FEATURE, kind) for t in node.inputs] for kind in ("float32", "float16"))
    shapes: list[list[Any]] = [
        [int(word) if word.isdigit() else SIZES.get(word, word) for word in tensor.shape.split()]
        for tensor in node.inputs
    ]
    required = sum(not tensor.optional for tensor in node.inputs)
    yield graph(dtypes, shapes)
    yield graph(half, shapes)
    yield graph(dtypes, shapes, required)
    yield graph(dtypes, shapes, required - 1)
    yield graph(dtypes, shapes, required + 1)
    for i in range(len(node.inputs)):
        for other in ("float32", "float16", "int32", "int64"):
            yield graph([other if j == i else dtype for j, dtype in enumerate(dtypes)], shapes)
        yield graph(dtypes, [[*shape, 1] if j == i else shape for j, shape in enumerate(shapes)])
        for axis, size in enumerate(shapes[i]):
            if isinstance(size, int):
                changed = [size + 1 if a == axis else n for a, n in enumerate(shapes[i])]
                yield graph(dtypes, [changed if j == i else shape for j, shape in enumerate(shapes)])
    for key in node.attributes:
        for value in (None, 0.0, -1.0, 100, "swish", "float16"):
            yield graph(dtypes, shapes, **{key: value})


@pytest.mark.slow
def test_stand_ins_are_what_the_library_is(rtx: Callable[..., Any], library: Path, tmp_path: Path) -> None:
    made = [graph for name, node in NODES.items() for graph in graphs(tmp_path, name, node)]
    paths = [str(graph.path) for graph in made]
    real, stand_in = (rtx("parse", graphs=paths, library=which) for which in (str(library), None))
    assert real["creators"] == stand_in["creators"]
    differing = {
        Path(path).stem: (there, here)
        for path, there, here in zip(paths, real["answers"], stand_in["answers"], strict=True)
        if there != here
    }
    assert differing == {}
    accepted = sum(answer is not None for answer in real["answers"])
    assert len(NODES) * 2 < accepted < len(made) * 3 / 4


def test_there_is_a_stand_in_for_every_plugin() -> None:
    assert sorted(NODES) == sorted(PLUGINS)


@pytest.mark.parametrize(
    ("name", "shapes", "expected"),
    [
        ("OctreeConv", [[5, 8], [27, 40], [27, 8, 4], [4]], [40, 4]),
        ("OctreeUpsample", [[9, 8], [3], [8, 8, 4], [4], [11, 4], [24]], [24, 4]),
        ("OctreeUpsampleInt8", [[9, 8], [3], [8, 4, 8], [4], [4], [11, 4], [24]], [24, 4]),
        (
            "OctreeResidualInt8",
            [[9, 8], [27, 9], [2, 1, 8], [2], [2], [2, 27, 2], [2], [2], [5, 1, 2], [5], [5]],
            [9, 5],
        ),
        ("OctreeNeighbor", [[3, 27]], [27, 24]),
        ("GridConv", [[5, 4, 4, 4, 2], [27, 2, 3], [3]], [5, 4, 4, 4, 3]),
        ("OcclusionField", [[6, 3], [6], [7, 9], [7, 9], [2, 2], [3, 3]], [6, 2, 4, 4, 4]),
    ],
)
def test_shape_rules(name: str, shapes: list[list[int]], expected: list[int]) -> None:
    """As kernels/README.md says."""
    assert output_shape(NODES[name], {"resolution": 4}, shapes, _Numbers()) == expected


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="input skip_index: expected 8S = 24, got 25"):
        output_shape(NODES["OctreeUpsample"], {}, [[9, 8], [3], [8, 8, 4], [4], [11, 4], [25]], _Numbers())
