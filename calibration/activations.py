"""What flows through a bundle's float32 stages on real frames, inside fused nodes too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from zerograsp_edge import kernels
from zerograsp_edge.export.expand import PART, expand_blocks
from zerograsp_edge.export.precision import LARGEST_HALF, passed_on, uncast_weights, value_types
from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.network import Executor
from zerograsp_edge.runtime.pipeline import Pipeline

Arrays = Mapping[str, np.ndarray]
SMALLEST_HALF = 2.0**-24  # subnormal; half of it and less becomes zero
NORMAL_HALF = 2.0**-14


class Recorder:
    """An executor that shows every stage's inputs, while they are valid, to a function."""

    def __init__(self, executor: Executor, show: Callable[[str, Arrays], None]) -> None:
        self.name, self.threads = executor.name, executor.threads
        self._executor = executor
        self._show = show

    def run(self, stage: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        self._executor.run(stage, inputs, outputs)
        self._show(stage, inputs)


class Probe:
    """A float32 stage with fused nodes as parts, and every float value as an output."""

    def __init__(self, bundle: Bundle, stage: str, threads: int = 0) -> None:
        import onnxruntime as ort

        self.stage = stage
        self.model = onnx.load(str(bundle.stage_path(stage)))
        uncast_weights(self.model)
        expand_blocks(self.model)
        graph = self.model.graph
        types = value_types(graph)
        made = [name for node in graph.node for name in node.output]
        declared = {v.name for v in graph.output}
        self.values = [name for name in made if types[name] == onnx.TensorProto.FLOAT]
        extra = [name for name in self.values if name not in declared]
        graph.output.extend(helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in extra)
        self.inputs = [v.name for v in graph.input if types[v.name] == onnx.TensorProto.FLOAT]
        options = ort.SessionOptions()
        options.register_custom_ops_library(str(kernels.ort_library()))
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = ort.InferenceSession(
            self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, inputs: Arrays) -> Iterator[tuple[str, np.ndarray]]:
        """Every float value of a run, and its name: the stage's inputs first."""
        yield from ((name, inputs[name]) for name in self.inputs)
        yield from zip(self.values, self._session.run(self.values, dict(inputs)), strict=True)


@dataclass
class Range:
    """Magnitudes that a value had over all frames.

    Attributes:
        largest: the largest.
        flushed: share of the values other than zero that float16 makes zero.
        frame: name of the frame with the largest.
    """

    largest: float = 0.0
    nonzero: int = 0
    zeroed: int = 0
    frame: str = ""

    @property
    def flushed(self) -> float:
        return self.zeroed / self.nonzero if self.nonzero else 0.0

    def add(self, values: np.ndarray, frame: str) -> None:
        magnitude = np.abs(values)
        largest = float(magnitude.max(initial=0.0))
        if not largest <= self.largest:
            self.largest, self.frame = largest, frame
        self.nonzero += int(np.count_nonzero(magnitude))
        self.zeroed += int(np.count_nonzero((magnitude > 0) & (magnitude <= SMALLEST_HALF / 2)))


def activation_ranges(
    bundle: Bundle,
    frames: Iterable[Frame],
    *,
    threads: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> dict[str, Range]:
    """Runs the frames and takes the range of every float value, `<stage>/<value>`; parts of a node are `<node>:<part>`.

    Args:
        bundle: of float32 stages.
        frames: with masks.
    """
    ranges: dict[str, Range] = {}
    probes: dict[str, Probe] = {}
    current = ""

    def show(stage: str, inputs: Arrays) -> None:
        if stage not in probes:
            probes[stage] = Probe(bundle, stage, threads)
        for name, values in probes[stage](inputs):
            ranges.setdefault(f"{stage}/{name}", Range()).add(values, current)

    pipeline = Pipeline(bundle, Recorder(OnnxRuntimeExecutor(bundle, threads), show))
    for i, frame in enumerate(frames):
        current = frame.name or f"frame {i}"
        progress(f"frame {i + 1}: {current}")
        pipeline(frame)
    return ranges


def beyond_half(bundle: Bundle, ranges: Mapping[str, Range]) -> dict[str, str]:
    """Layers and passed tensors that float16 cannot hold, `<stage>/<name>`, and why: what `Policy.keep` takes.

    A value beyond 65504 keeps the layers that make and take it in float32; so does one that is subnormal throughout,
    of which float16 would keep fewer than ten bits.
    """
    keep: dict[str, str] = {}
    for stage in bundle.stages:
        values = {n.split("/", 1)[1]: r for n, r in ranges.items() if n.startswith(f"{stage}/")}
        bad: dict[str, str] = {}
        for name, r in values.items():
            if not r.largest <= LARGEST_HALF:
                bad[name] = f"{name} reached {r.largest:.3g} in {r.frame}"
            elif 0 < r.largest < NORMAL_HALF:
                bad[name] = f"{name} stayed below {r.largest:.3g}"
        if not bad:
            continue
        model = onnx.load(str(bundle.stage_path(stage)))
        uncast_weights(model)
        expand_blocks(model)
        for node in model.graph.node:
            for name in (*node.input, *node.output):
                if name in bad:
                    keep.setdefault(f"{stage}/{node.name.split(PART)[0]}", bad[name])
        for name, why in bad.items():
            if (passed := passed_on(stage, name)) is not None:
                keep[passed] = why
    return keep


def flushed_most(ranges: Mapping[str, Range], count: int = 5) -> list[tuple[str, Range]]:
    """The values of which float16 makes the largest share zero."""
    some: list[tuple[str, Range]] = [(n, r) for n, r in ranges.items() if r.zeroed]
    return sorted(some, key=lambda item: -item[1].flushed)[:count]
