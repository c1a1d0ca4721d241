"""INT8 calibration: the range of every activation, the sensitivity of every layer, and the layers that a budget allows.

Ranges come from ONNX Runtime's calibrators on real frames, inside residual blocks too. Then every layer is quantised
alone and the error of its stage's outputs is measured; all are quantised together, and the most sensitive one goes back
to float16 until the stage's error is within the budget. Nothing is estimated: every number is a run of the stage.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper

from zerograsp_edge import kernels
from zerograsp_edge.calibration.activations import Arrays, Recorder
from zerograsp_edge.calibration.errors import CalibrationError
from zerograsp_edge.export.expand import expand_blocks
from zerograsp_edge.export.precision import uncast_weights, value_types
from zerograsp_edge.export.quantise import (
    CUSTOM,
    STANDARD,
    Int8Stage,
    activations,
    quantisable,
    quantise,
)
from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor
from zerograsp_edge.runtime.bundle import SEAL, Bundle
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline

Method = Literal["minmax", "entropy", "percentile"]
VERSION = 1


@dataclass(frozen=True)
class Int8Config:
    """How ranges are found and how much error is allowed."""

    method: Method = "percentile"
    """minmax: the largest magnitude. entropy: least information lost. percentile: a share of the magnitudes."""
    percentile: float = 99.99
    """Of the method `percentile`: share of the values that do not saturate, %."""
    budget: float = 0.02
    """Error that int8 may cause in any output of a stage, root mean square, relative to the output's own."""
    sensitivity_frames: int = 2
    """Frames, of all, on which errors are measured."""

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise CalibrationError(f"percentile: expected more than 0 to 100, got {self.percentile}")
        if not self.budget >= 0:
            raise CalibrationError(f"budget: expected 0 or more, got {self.budget}")
        if self.sensitivity_frames < 1:
            raise CalibrationError(f"sensitivity_frames: expected 1 or more, got {self.sensitivity_frames}")


@dataclass(frozen=True)
class StageResult:
    """One stage.

    Attributes:
        largest: per value the magnitude that becomes 127.
        sensitivity: per layer the error of quantising it alone.
        layers: those that are quantised.
        error: of all these together.
        error_of_all: if every layer were quantised.
    """

    largest: dict[str, float]
    sensitivity: dict[str, float]
    layers: tuple[str, ...]
    error: float
    error_of_all: float

    @property
    def kept(self) -> tuple[str, ...]:
        """Layers that the budget leaves in float16, the most sensitive first."""
        rest = [name for name in self.sensitivity if name not in self.layers]
        return tuple(sorted(rest, key=lambda name: -self.sensitivity[name]))


@dataclass(frozen=True)
class Int8Calibration:
    """Of a whole bundle; `key` says of which bundle, frames and configuration."""

    key: str
    stages: dict[str, StageResult] = field(default_factory=dict)

    def to_convert(self) -> dict[str, Int8Stage]:
        """What `export.convert` takes."""
        return {name: Int8Stage(r.layers, r.largest) for name, r in self.stages.items() if r.layers}

    def save(self, path: Path) -> None:
        content = {"version": VERSION, **asdict(self)}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Int8Calibration:
        """Raises CalibrationError for a file that is no calibration."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["version"] != VERSION:
                raise CalibrationError(
                    f"{path}: expected version {VERSION}, got {content['version']}; delete it"
                )
            stages = {
                name: StageResult(**{**stage, "layers": tuple(stage["layers"])})
                for name, stage in content["stages"].items()
            }
            return Int8Calibration(content["key"], stages)
        except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise CalibrationError(f"{path}: expected an int8 calibration ({error!r}); delete it") from error


def calibration_key(bundle: Bundle, frames: Iterable[Frame], config: Int8Config) -> str:
    """SHA-256 of everything that the result depends on."""
    import onnxruntime

    digest = hashlib.sha256()
    for part in (VERSION, bundle.manifest[SEAL], sorted(asdict(config).items()), onnxruntime.__version__):
        digest.update(repr(part).encode())
    for frame in frames:
        for array in (frame.rgb, frame.depth, frame.intrinsics, frame.mask):
            if array is not None:
                digest.update(repr((array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def calibrate_int8(
    bundle: Bundle,
    frames: Sequence[Frame],
    config: Int8Config | None = None,
    *,
    only: Collection[str] | None = None,
    threads: int = 0,
    progress: Callable[[str], None] = lambda step: None,
) -> Int8Calibration:
    """Ranges, sensitivities and the layers to quantise, stage by stage.

    Args:
        bundle: of float32 stages.
        frames: with masks; the more they are like those of the deployment, the better.
        only: stages to look at; None: all.

    Raises:
        CalibrationError: no frames, or the bundle is not float32.
    """
    config = config or Int8Config()
    recorded: dict[str, list[Arrays]] = {}

    def record(stage: str, inputs: Arrays) -> None:
        kept = recorded.setdefault(stage, [])
        if len(kept) < config.sensitivity_frames:
            kept.append({name: array.copy() for name, array in inputs.items()})

    largest = calibrate_ranges(
        bundle, frames, config, only=only, threads=threads, progress=progress, show=record
    )
    results = {
        name: _choose(
            _float_stage(bundle, name), name, values, recorded[name], bundle.stages[name].outputs, config, threads,
            progress,
        )
        for name, values in largest.items()
    }  # fmt: skip
    return Int8Calibration(calibration_key(bundle, frames, config), results)


def calibrate_ranges(
    bundle: Bundle,
    frames: Sequence[Frame],
    config: Int8Config,
    *,
    only: Collection[str] | None = None,
    threads: int = 0,
    progress: Callable[[str], None] = lambda step: None,
    show: Callable[[str, Arrays], None] = lambda stage, inputs: None,
) -> dict[str, dict[str, float]]:
    """Per stage with layers to quantise, and value, the magnitude that becomes 127.

    Args:
        show: gets the stages' inputs of every frame.

    Raises:
        CalibrationError: no frames, or the bundle is not float32.
    """
    if not frames:
        raise CalibrationError("int8: expected frames to calibrate with, got none")
    if others := sorted({s.precision for s in bundle.stages.values()} - {"fp32"}):
        raise CalibrationError(f"{bundle.path}: expected fp32 stages, got {', '.join(others)}")
    with tempfile.TemporaryDirectory() as folder:
        calibrators = {}
        for name in bundle.stages:
            model = _float_stage(bundle, name)
            if (only is None or name in only) and quantisable(model, name):
                calibrators[name] = _calibrator(model, Path(folder) / name, config)

        def collect(stage: str, inputs: Arrays) -> None:
            if stage in calibrators:
                with redirect_stdout(StringIO()):  # ONNX Runtime reports there
                    calibrators[stage].collect_data(_One(dict(inputs)))
                show(stage, inputs)

        pipeline = Pipeline(bundle, Recorder(OnnxRuntimeExecutor(bundle, threads), collect))
        for i, frame in enumerate(frames):
            progress(f"ranges: frame {i + 1} of {len(frames)}")
            pipeline(frame)
        return {name: _largest(calibrator) for name, calibrator in calibrators.items()}


def _float_stage(bundle: Bundle, name: str) -> onnx.ModelProto:
    model = onnx.load(str(bundle.stage_path(name)))
    uncast_weights(model)
    return model


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


class _One:
    """A data reader of one set of inputs: a histogram of a frame is merged before the next one is run."""

    def __init__(self, inputs: dict[str, np.ndarray]) -> None:
        self._inputs: dict[str, np.ndarray] | None = inputs

    def get_next(self) -> dict[str, np.ndarray] | None:
        inputs, self._inputs = self._inputs, None
        return inputs


def _calibrator(model: onnx.ModelProto, path: Path, config: Int8Config) -> Any:
    """One of ONNX Runtime's calibrators, in a session that knows the custom nodes."""
    from onnxruntime.quantization import calibrate

    expand_blocks(model)
    graph = model.graph
    types = value_types(graph)
    # Shape inference stops at custom nodes, and calibrators see declared values only.
    declared = {v.name for v in (*graph.input, *graph.output)}
    made = [n for node in graph.node for n in node.output if n not in declared]
    graph.value_info.extend(
        helper.make_tensor_value_info(n, TensorProto.FLOAT, None)
        for n in made
        if types[n] == TensorProto.FLOAT
    )
    file = path.with_suffix(".onnx")
    onnx.save(model, str(file))
    methods: dict[str, tuple[Any, dict[str, float]]] = {
        "minmax": (calibrate.MinMaxCalibrater, {}),
        "entropy": (calibrate.EntropyCalibrater, {"num_bins": 512}),
        "percentile": (
            calibrate.PercentileCalibrater,
            {"num_bins": 8192, "percentile": config.percentile},
        ),
    }
    base, options = methods[config.method]

    class WithCustomNodes(base):  # type: ignore[misc, valid-type]
        def create_inference_session(self) -> None:
            self.infer_session = _session(self.augmented_model_path, optimise=False)

    calibrator = WithCustomNodes(
        file, [*STANDARD, *CUSTOM], augmented_model_path=str(path.with_suffix(".augmented.onnx")),
        symmetric=True, **options,
    )  # fmt: skip
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator


def _largest(calibrator: Any) -> dict[str, float]:
    largest = {}
    with redirect_stdout(StringIO()):
        computed = calibrator.compute_data()
    for name, data in computed.items():
        low, high = data.range_value
        largest[name] = float(max(abs(np.max(high)), abs(np.min(low))))
    return largest


def _session(model: Any, threads: int = 0, *, optimise: bool) -> Any:
    """`optimise` off: Q and DQ stay what they say, with the layer between them in float32."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.register_custom_ops_library(str(kernels.ort_library()))
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _choose(
    model: onnx.ModelProto,
    stage: str,
    largest: dict[str, float],
    recorded: Sequence[Arrays],
    outputs: Sequence[str],
    config: Int8Config,
    threads: int,
    progress: Callable[[str], None],
) -> StageResult:
    """Sensitivities, then all layers together, without the most sensitive until the budget holds."""
    compared = [name for name in outputs if name != "latent_log_variance"]  # serves sampling only

    def run(changed: onnx.ModelProto) -> list[list[np.ndarray]]:
        session = _session(changed.SerializeToString(), threads, optimise=False)
        return [session.run(compared, dict(inputs)) for inputs in recorded]

    exact = run(model)

    def error(layers: Sequence[str]) -> float:
        changed = _copy(model)
        quantise(changed, largest, layers)
        return relative_error(exact, run(changed))

    names = quantisable(model, stage)
    sensitivity = {}
    for i, name in enumerate(names):
        progress(f"{stage}: sensitivity of layer {i + 1} of {len(names)}")
        sensitivity[name] = error([name])
    chosen = sorted(names, key=lambda name: sensitivity[name])
    together = of_all = error(chosen)
    while chosen and not together <= config.budget:
        progress(f"{stage}: {together:.2%} with {len(chosen)} layers in int8")
        chosen.pop()
        together = error(chosen) if chosen else 0.0
    used = {value for values in activations(model, names).values() for value in values}
    return StageResult(
        {name: largest[name] for name in sorted(used)},
        sensitivity,
        tuple(name for name in names if name in chosen),
        together,
        of_all,
    )


def relative_error(exact: Sequence[Sequence[np.ndarray]], other: Sequence[Sequence[np.ndarray]]) -> float:
    """The largest, over outputs, of the root mean square difference over all frames relative to the output's own."""
    worst = 0.0
    for i in range(len(exact[0])):
        difference = sum(float(((a[i] - b[i]) ** 2).sum()) for a, b in zip(exact, other, strict=True))
        own = sum(float((a[i] ** 2).sum()) for a in exact)
        worst = max(worst, float(np.sqrt(difference / own)) if own > 0 else float(difference > 0))
    return worst
