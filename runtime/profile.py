"""Where the time of frames goes: percentiles per part, with the machine's state."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.machine import describe_machine
from zerograsp_edge.runtime.pipeline import Pipeline

WHOLE = "whole frame"


@dataclass(frozen=True)
class Percentiles:
    """Milliseconds of a part over the frames in which it ran."""

    p50: float
    p95: float
    p99: float
    mean: float
    most: float
    frames: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Percentiles:
        array = np.fromiter(values, float)
        p50, p95, p99 = np.percentile(array, (50, 95, 99)).tolist()
        return cls(p50, p95, p99, float(array.mean()), float(array.max()), len(array))


@dataclass(frozen=True)
class Profile:
    """What `profile` measured.

    Attributes:
        backend: `tensorrt` or `onnxruntime`.
        clock: what measured the parts.
        device: the GPU, with TensorRT's version; empty for the CPU.
        parts: in order of execution; the whole frame last: the time of the call, which waiting between parts
        is part of. sizes: of the first frame: pixels, objects, surface points. machine: before the frames
        ran; after: the same, afterwards.
    """

    backend: str
    clock: str
    device: dict[str, Any]
    precision: str
    parts: dict[str, Percentiles]
    sizes: dict[str, int]
    machine: dict[str, Any]
    after: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def profile(pipeline: Pipeline, frames: Iterable[Frame], warmup: int = 5) -> Profile:
    """Runs frames one after another, each alone, and keeps the times of all but the first ones.

    Args:
        pipeline: on any backend.
        frames: more than `warmup`.
        warmup: frames that are not counted: caches fill, and CUDA graphs are captured.

    Raises:
        ValueError: there are not more frames than `warmup`.
    """
    before = describe_machine()
    timings: list[dict[str, float]] = []
    sizes: dict[str, int] = {}
    count = 0
    for count, frame in enumerate(frames, start=1):
        start = time.perf_counter()
        result = pipeline(frame)
        whole = 1e3 * (time.perf_counter() - start)
        if count > warmup:
            timings.append({**result.timings, WHOLE: whole})
        sizes = sizes or {
            "width": frame.width,
            "height": frame.height,
            "objects": len(result.objects),
            "points": sum(len(item.points) for item in result.objects),
        }
    if not timings:
        raise ValueError(f"frames: expected more than the {warmup} of the warm-up, got {count}")
    names = list(dict.fromkeys(name for item in timings for name in item if name != WHOLE))
    parts = {name: Percentiles.of(item[name] for item in timings if name in item) for name in (*names, WHOLE)}
    on_gpu = pipeline.executor.name == "tensorrt"
    return Profile(
        backend=pipeline.executor.name,
        clock="CUDA events" if on_gpu else "CPU clock",
        device=pipeline.perception.describe(),
        precision=", ".join(sorted({stage.precision for stage in pipeline.bundle.stages.values()})),
        parts=parts,
        sizes=sizes,
        machine=before,
        after=describe_machine(),
    )
