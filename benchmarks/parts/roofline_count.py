"""What a stage's kernels compute and move, counted node by node from its exported graph.

Octree nodes are counted as `kernels/cuda` runs them: tiles of 128 rows, taps that no row of a tile has left out,
channels padded to whole chunks. Standard nodes are grouped as TensorRT fuses them, on the careful side: a convolution
or matrix product takes its bias, residual sum and ReLU along, neighbouring element-wise nodes become one kernel, views
cost nothing, and everything else, concatenations included, is a kernel of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from parts.roofline_graph import DOMAIN, Graph, attribute

TILE_ROWS = 128  # kernels/cuda/convolution_tile.h
CHUNK_BYTES = 64  # of a row, that a block loads at a time
COLUMNS = (64, 32, 16, 48, 96)  # outputs of a tile, in the order in which convolution.cu considers them


@dataclass(frozen=True)
class Tiles:
    """The implicit matrix product of an octree convolution, tile by tile.

    Attributes:
        taps: (tiles,) how many tiles have which taps: bit k is set where some row has neighbour k.
        rows: rows of the product.
        present: pairs (row, tap) that exist.
        count, cin, cout: taps, channels.
        children: outputs of a row (8 for upsampling).
        extra: channels of a second operand (projected shortcut), 0 without one.
    """

    taps: NDArray[np.uint32]
    rows: int
    present: int
    count: int
    cin: int
    cout: int
    children: int = 1
    extra: int = 0
    _walked: dict[int, NDArray[np.int64]] = field(default_factory=dict, repr=False, compare=False)

    def columns(self, element: int) -> int:
        """Outputs of a tile, chosen as kernels/cuda/convolution.cu does."""
        allowed = COLUMNS if element < 4 else COLUMNS[:3]
        return min(allowed, key=lambda c: -(-self.cout // c) * (c + 32))

    def across(self, element: int) -> int:
        """Blocks that share the rows of a tile."""
        return -(-self.cout // self.columns(element)) * self.children

    def chunks(self, element: int) -> NDArray[np.int64]:
        """(tiles,) chunks that a block of each tile walks through, one after another."""
        if element not in self._walked:
            depth = CHUNK_BYTES // element
            main = -(-self.count * self.cin // depth)
            walked = np.zeros(len(self.taps), np.int64)
            for chunk in range(main):
                first, last = chunk * depth // self.cin, (chunk * depth + depth - 1) // self.cin
                window = sum(1 << tap for tap in range(first, min(last, self.count - 1) + 1))
                walked += (self.taps & np.uint32(window)) != 0
            self._walked[element] = walked + -(-self.extra // depth)
        return self._walked[element]

    def executed(self, element: int) -> int:
        """Multiply-adds that are executed, padding included."""
        depth = CHUNK_BYTES // element
        return (
            int(self.chunks(element).sum()) * depth * TILE_ROWS * self.columns(element) * self.across(element)
        )

    def gathered(self, element: int) -> int:
        """Bytes that blocks fetch from the second-level cache: rows, again for every block across, and weights."""
        chunks = int(self.chunks(element).sum()) * self.across(element)
        rows = (self.present * self.cin + self.rows * self.extra) * element * self.across(element)
        return rows + chunks * CHUNK_BYTES * self.columns(element)

    def blocks(self, element: int) -> int:
        return len(self.taps) * self.across(element)


@dataclass(frozen=True)
class Kernel:
    """One kernel launch.

    Attributes:
        kind: `dense` (TensorRT's convolution or matrix product), `gather` (octree convolution, see `tiles`) or `other`.
        macs: multiply-adds by the layer's definition; `present`: those whose neighbour exists.
        executed: of a dense kernel, with channels padded to what tensor cores multiply.
        features: elements read and written in the network's precision.
        weights: elements of weights, read once.
        fixed: bytes read and written whatever the precision: indices, masks, what is kept in float32.
        quantised: runs in INT8 where the network does.
        threads: of a kernel that is bound by neither of those: how many, each with `work` of the model's assumptions.
    """

    name: str
    kind: str = "other"
    macs: int = 0
    present: int = 0
    executed: int = 0
    features: int = 0
    weights: int = 0
    fixed: int = 0
    quantised: bool = False
    threads: int = 0
    work: str = ""
    tiles: Tiles | None = None


@dataclass(frozen=True)
class Stage:
    """The kernels of a stage, and what else holds it up.

    Attributes:
        copies: bytes between host and device memory.
        reads: sizes that the host waits for.
        graph: may be captured into a CUDA graph.
        calls: functions that the host calls for all of it when it is no graph.
        engine: a TensorRT engine, whose context prepares an execution with new shapes on the host.
        capacity: rows that launches cover, of those there are; blocks without rows end at once.
    """

    name: str
    kernels: list[Kernel]
    copies: int = 0
    reads: int = 0
    graph: bool = True
    calls: int = 1
    engine: bool = False
    capacity: float = 1.0

    @property
    def macs(self) -> int:
        return sum(k.macs for k in self.kernels)

    @property
    def present(self) -> int:
        return sum(k.present for k in self.kernels)


Table = NDArray[np.int32]


@dataclass
class Tables:
    """Which neighbours exist, for the nodes of one stage; without a table all of them do.

    Attributes:
        neighbours: tensor -> (taps, N) int32, -1 where there is none: of `OctreeNeighbor` outputs and inputs like it.
        children: tensor -> (N,) int32, -1 for a node that is not split.
    """

    neighbours: Mapping[str, Table] = field(default_factory=dict)
    children: Mapping[str, Table] = field(default_factory=dict)

    def tiles(self, table: str, taps: int, rows: int, cin: int, cout: int) -> Tiles:
        known = self.neighbours.get(table)
        if known is None:
            return full_tiles(taps, rows, cin, cout)
        return _tiles(known >= 0, cin, cout)


def full_tiles(taps: int, rows: int, cin: int, cout: int, children: int = 1, extra: int = 0) -> Tiles:
    """A product all of whose rows have all taps."""
    masks = np.full(-(-rows // TILE_ROWS), (1 << taps) - 1, np.uint32)
    return Tiles(masks, rows, rows * taps, taps, cin, cout, children, extra)


def _tiles(exists: NDArray[np.bool_], cin: int, cout: int) -> Tiles:
    taps, rows = exists.shape
    padded = np.zeros((taps, -(-rows // TILE_ROWS) * TILE_ROWS), bool)
    padded[:, :rows] = exists
    some = padded.reshape(taps, -1, TILE_ROWS).any(-1)
    masks = (some * (np.uint32(1) << np.arange(taps, dtype=np.uint32))[:, None]).sum(0, dtype=np.uint32)
    return Tiles(masks, rows, int(exists.sum()), taps, cin, cout)


def grid_neighbours(grids: int, r: int) -> NDArray[np.bool_]:
    """(27, grids r^3): is the neighbour of a cell inside its own grid?"""
    cell = np.stack(np.meshgrid(*[np.arange(r)] * 3, indexing="ij"), -1).reshape(-1, 3)
    step = np.stack(np.meshgrid(*[np.arange(-1, 2)] * 3, indexing="ij"), -1).reshape(-1, 3)
    at = cell[None] + step[:, None]
    return np.tile(((at >= 0) & (at < r)).all(-1), (1, grids))


def count_stage(graph: Graph, tables: Tables | None = None) -> Stage:
    """The kernels of a graph in order of execution."""
    return Stage(graph.name, list(_Counter(graph, tables or Tables()).kernels()), engine=True)


# ---- grouping of standard nodes ----

_VIEWS = {"Reshape", "Unsqueeze", "Squeeze", "Split", "Shape", "Identity"}
_ELEMENTWISE = {
    "Add", "Sub", "Mul", "Div", "Min", "Max", "Relu", "Erf", "Exp", "Cos", "Sin", "Equal", "Cast", "Sqrt",
    "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip
_ALONE = {
    "Transpose", "Concat", "Gather", "Resize", "Range", "ReduceMean", "ReduceSum", "MaxPool", "Softmax",
    "LayerNormalization",
}  # fmt: skip
_PRODUCTS = {"Conv", "MatMul"}
# Computed and handed over in float32 in every precision.
_PRECISE_NODES = {"Softmax", "LayerNormalization", "Cos", "Sin"}
_PRECISE_TENSORS = {
    "signal", "logits", "latent_mean", "latent_log_variance", "noise", "positions", "centres", "depth", "intrinsics",
}  # fmt: skip


def _padded(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class _Counter:
    def __init__(self, graph: Graph, tables: Tables) -> None:
        self.graph, self.tables = graph, tables
        self.made = {name: n for n in graph.nodes for name in n.output}
        self.users: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.nodes:
            for name in set(node.input):
                self.users.setdefault(name, []).append(node)
        self.precise = set(_PRECISE_TENSORS)
        for node in graph.nodes:
            if node.op_type in _PRECISE_NODES:
                self.precise.update(self._moving(node.input), node.output)

    def kernels(self) -> Iterator[Kernel]:
        for group in self._groups():
            yield from self._count(group)

    def _groups(self) -> list[list[onnx.NodeProto]]:
        """Nodes by the kernel that computes them, in order."""
        groups: list[list[onnx.NodeProto]] = []
        group_of: dict[int, list[onnx.NodeProto]] = {}  # by id of a node
        epoch: dict[str, int] = {}  # of a tensor: how many kernels that are not element-wise lie before it
        place = {id(n): i for i, n in enumerate(self.graph.nodes)}
        for node in self.graph.nodes:
            passing = node.op_type in _ELEMENTWISE | _VIEWS
            now = max((epoch.get(name, 0) for name in node.input), default=0) + (not passing)
            epoch.update(dict.fromkeys(node.output, now))
            if node.op_type in _VIEWS or id(node) in group_of:
                continue
            if node.domain != DOMAIN and node.op_type not in _ELEMENTWISE | _ALONE | _PRODUCTS:
                raise ValueError(f"{self.graph.name}: no rule counts a node of type {node.op_type}")
            group = [node]
            for name in self._moving(node.input) if node.op_type in _ELEMENTWISE else ():
                before = group_of.get(id(self.made.get(name)))
                if (
                    before is not None
                    and before is not group
                    and before[0].op_type in _ELEMENTWISE
                    and epoch[name] == now
                ):
                    groups = [g for g in groups if g is not before and g is not group]
                    group = before + group
                    group_of.update({id(n): group for n in group})
            groups.append(group)
            if node.op_type in _PRODUCTS:
                group.extend(self._epilogue(node, place))
            group_of.update({id(n): group for n in group})
        return groups

    def _epilogue(self, node: onnx.NodeProto, place: Mapping[int, int]) -> Iterator[onnx.NodeProto]:
        """What a product's kernel does on the way out: a bias or residual that is ready by then, and ReLU."""
        current, added = node, False
        while True:
            users = self.users.get(current.output[0], [])
            if len(users) != 1 or current.output[0] in self.graph.outputs:
                return
            user = users[0]
            if user.op_type == "Relu":
                yield user
                return
            if user.op_type != "Add" or added:
                return
            for other in user.input:
                maker = self.made.get(other)
                if other != current.output[0] and maker is not None and place[id(maker)] > place[id(node)]:
                    return
                if (
                    node.op_type == "MatMul"
                    and other != current.output[0]
                    and other not in self.graph.constants
                ):
                    return
            yield user
            current, added = user, True

    # ---- counting ----

    def _moving(self, names: Iterable[str]) -> list[str]:
        return [n for n in names if n and n not in self.graph.constants]

    def _traffic(self, reads: Iterable[str], writes: Iterable[str]) -> dict[str, int]:
        features = fixed = 0
        for name in [*reads, *writes]:
            size = self.graph.size(name)
            if name in self.graph.integer:
                fixed += size * self.graph.integer[name]
            elif name in self.precise:
                fixed += size * 4
            else:
                features += size
        return {"features": features, "fixed": fixed}

    def _count(self, group: list[onnx.NodeProto]) -> Iterator[Kernel]:
        head = group[0]
        if head.domain == DOMAIN:
            yield from _CUSTOM[head.op_type](self, head)
            return
        inside = {name for n in group for name in n.output}
        reads = {r for n in group for r in self._moving(n.input)} - inside
        writes = {
            w for w in inside
            if w in self.graph.outputs or any(all(u is not n for n in group) for u in self.users.get(w, []))
        }  # fmt: skip
        weights = sum(self.graph.size(c) for n in group for c in n.input if c in self.graph.constants)
        moved = self._traffic(reads, writes)
        name = f"{head.op_type} {head.output[0]}"
        if head.op_type == "Conv":
            yield Kernel(name, "dense", quantised=True, weights=weights, **moved, **self._convolution(head))
        elif head.op_type == "MatMul":
            yield Kernel(name, "dense", weights=weights, **moved, **self._product(head))
        else:
            yield Kernel("+".join(n.op_type for n in group) + f" {head.output[0]}", weights=weights, **moved)

    def _convolution(self, node: onnx.NodeProto) -> dict[str, int]:
        out, weight = self.graph.shapes[node.output[0]], self.graph.shapes[node.input[1]]
        groups = int(attribute(node, "group", 1))  # type: ignore[call-overload]
        pixels, taps = out[0] * out[2] * out[3], weight[2] * weight[3]
        cin, cout = weight[1], weight[0] // groups
        macs = pixels * taps * cin * cout * groups
        # A tensor-core fragment is 16 inputs x 8 outputs; a tile without groups has 32 outputs at least.
        wide = _padded(cout, 8 if groups > 1 else 32)
        executed = (
            pixels * groups * wide * (_padded(taps * cin, 16) if groups == 1 else taps * _padded(cin, 16))
        )
        return {"macs": macs, "present": macs, "executed": executed}

    def _product(self, node: onnx.NodeProto) -> dict[str, int]:
        a, out = self.graph.shapes[node.input[0]], self.graph.shapes[node.output[0]]
        rows = int(np.prod(out[:-1]))
        batches = int(np.prod(out[:-2])) if len(out) > 2 else 1
        macs = rows * out[-1] * a[-1]
        tile_rows = batches * _padded(rows // batches, 32)
        return {
            "macs": macs,
            "present": macs,
            "executed": tile_rows * _padded(out[-1], 32) * _padded(a[-1], 16),
        }

    # ---- nodes of the domain ----

    def _tiled(self, name: str, tiles: Tiles, features: int, fixed: int = 0) -> Kernel:
        taps, pairs = tiles.count, tiles.cin * tiles.cout * tiles.children
        extra = tiles.rows * tiles.extra * tiles.cout
        weights = (taps * tiles.cin * tiles.children + tiles.extra) * tiles.cout
        return Kernel(
            name, "gather", macs=tiles.rows * taps * pairs + extra, present=tiles.present * pairs + extra,
            features=features, weights=weights, fixed=fixed + 4 * tiles.cout, quantised=True, tiles=tiles,
        )  # fmt: skip

    def _precise(self, tensor: str) -> bool:
        return tensor in self.precise

    def neighbour(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        yield Kernel(
            f"OctreeNeighbor {node.output[0]}", **self._traffic(self._moving(node.input), node.output)
        )

    def align(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        yield Kernel(f"OctreeAlign {node.output[0]}", **self._traffic(node.input, node.output))

    def conv(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        table, weight = (self.graph.shapes[i] for i in node.input[1:3])
        tiles = self.tables.tiles(node.input[1], table[0], table[1], weight[1], weight[2])
        moved = self._traffic([node.input[0], node.input[1]], node.output)
        yield self._tiled(f"OctreeConv {node.output[0]}", tiles, moved["features"], moved["fixed"])

    def downsample(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        rows, weight = self.graph.shapes[node.input[1]][0], self.graph.shapes[node.input[2]]
        children = self.tables.children.get(node.input[1])
        if children is None:
            tiles = full_tiles(8, rows, weight[1], weight[2])
        else:
            tiles = _tiles(np.broadcast_to(children >= 0, (8, rows)), weight[1], weight[2])
        moved = self._traffic(node.input[:2], node.output)
        kernel = self._tiled(f"OctreeDownsample {node.output[0]}", tiles, moved["features"], moved["fixed"])
        yield replace(kernel, macs=kernel.present)  # a node without children has nothing to sum

    def upsample(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        _, cin, cout = self.graph.shapes[node.input[2]]
        rows = self.graph.shapes[node.input[1]][0]
        index = node.input[5]
        # Skip rows are read by the nodes that have one: no more than there are.
        moved = self._traffic([node.input[1], node.input[4], index], node.output)
        tiles = full_tiles(1, rows, cin, cout, children=8)
        yield self._tiled(
            f"OctreeUpsample {node.output[0]}", tiles, moved["features"] + rows * cin, moved["fixed"]
        )

    def residual(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        (rows, cin), (taps, _) = self.graph.shapes[node.input[0]], self.graph.shapes[node.input[1]]
        hidden, cout = self.graph.shapes[node.input[2]][2], self.graph.shapes[node.input[6]][2]
        name = f"OctreeResidual {node.output[0]}"
        projected = len(node.input) > 8 and bool(node.input[8])
        yield self._tiled(f"{name} first", full_tiles(1, rows, cin, hidden), rows * (cin + hidden))
        yield self._tiled(
            f"{name} conv", self.tables.tiles(node.input[1], taps, rows, hidden, hidden), 2 * rows * hidden,
            4 * taps * rows,
        )  # fmt: skip
        last = full_tiles(1, rows, hidden, cout, extra=cin if projected else 0)
        yield self._tiled(f"{name} last", last, rows * (hidden + cin + cout))

    def mlp(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        rows, cin = self.graph.shapes[node.input[0]]
        hidden, cout = self.graph.shapes[node.input[1]][2], self.graph.shapes[node.input[3]][2]
        name, out = f"OctreeMlp {node.output[0]}", rows * cout
        yield self._tiled(f"{name} first", full_tiles(1, rows, cin, hidden), rows * (cin + hidden))
        full = self._precise(node.output[0])
        yield self._tiled(
            f"{name} last",
            full_tiles(1, rows, hidden, cout),
            rows * hidden + (0 if full else out),
            4 * out * full,
        )

    def grid(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        x, weight = self.graph.shapes[node.input[0]], self.graph.shapes[node.input[1]]
        reads = [node.input[0], *([node.input[3]] if len(node.input) > 3 else [])]
        tiles = _tiles(grid_neighbours(x[0], x[1]), weight[1], weight[2])
        moved = self._traffic(reads, node.output)
        yield self._tiled(f"GridConv {node.output[0]}", tiles, moved["features"], moved["fixed"])

    def occlusion(self, node: onnx.NodeProto) -> Iterator[Kernel]:
        shapes = self.graph.shapes
        pixels, objects = int(np.prod(shapes[node.input[2]])), shapes[node.input[4]][0]
        flags = self.graph.size(node.output[0])
        # Pyramids of smallest depths in cells of 4, 8 and 16 pixels a side, of every object's mask and neighbour mask.
        pyramid = 4 * objects * sum(-(-pixels // cell) for cell in (16, 64, 256))
        name = "OcclusionField"
        yield Kernel(f"{name} base", fixed=8 * pixels + pyramid)
        yield Kernel(f"{name} coarse", fixed=pyramid)
        yield Kernel(f"{name} neighbours", fixed=(objects + 1) * pyramid)
        yield Kernel(
            f"{name} field",
            features=flags,
            fixed=2 * pyramid + 8 * pixels,
            threads=flags // 2,
            work="sub-voxel",
        )


_CUSTOM: dict[str, Callable[[_Counter, onnx.NodeProto], Iterator[Kernel]]] = {
    "OctreeNeighbor": _Counter.neighbour,
    "OctreeAlign": _Counter.align,
    "OctreeConv": _Counter.conv,
    "OctreeDownsample": _Counter.downsample,
    "OctreeUpsample": _Counter.upsample,
    "OctreeResidual": _Counter.residual,
    "OctreeMlp": _Counter.mlp,
    "GridConv": _Counter.grid,
    "OcclusionField": _Counter.occlusion,
}
