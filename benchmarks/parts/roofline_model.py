"""From counts to predicted milliseconds: every kernel takes as long as its tightest ceiling.

The ceilings are memory, second-level cache, arithmetic and, for octree convolutions, latency: a block walks through its
chunks one after another, however few blocks there are. All assumptions are in `ASSUMPTIONS`, each with the range over
which it is varied; nothing here has been measured on a Jetson by this project.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from parts.roofline_count import Kernel, Stage
from parts.roofline_devices import Device

RESIDENT = 3  # blocks of a convolution on a multiprocessor: cuda_resources in benchmarks/README.md
ORIN_MHZ = 1300.5  # the clock of the sources' AGX Orin; latencies in cycles scale with the clock

Values = Mapping[str, float]


@dataclass(frozen=True)
class Assumption:
    """A number that is not counted: best guess, the range that is tried, and where it comes from."""

    name: str
    value: float
    good: float
    bad: float
    unit: str
    source: str


# Others' measurements on an AGX Orin: 152.8 of 204.8 GB/s read, 33.4 to 34.1 of 42.6 TFLOPS in large BF16 matrix
# products, 4.8 to 5.2 of 5.3 TFLOPS of float32 multiply-adds; https://github.com/infinigence/ApxInf/pull/74
_ORIN = "measured on an AGX Orin, ApxInf pull request 74"
# 6.4 us a launch; 15 us a graph and 0.58 us a node of it: https://github.com/ahrefs/ocannl/issues/488
_LAPTOP = "on an x86-64 laptop, ocannl issue 488; guess for a slower host"

ASSUMPTIONS = tuple(
    Assumption(*row)
    for row in (
        ("memory", 0.70, 0.75, 0.55, "of the pins' rate", f"0.75 {_ORIN}; camera and host share it"),
        (
            "dense",
            0.45,
            0.65,
            0.25,
            "of tensor cores' peak",
            f"guess below the 0.79 of large products {_ORIN}",
        ),
        (
            "gather",
            0.25,
            0.40,
            0.12,
            "of tensor cores' peak",
            "guess: two stages of cp.async, no persistent blocks",
        ),
        ("gather fp32", 0.35, 0.50, 0.20, "of float32 peak", f"guess far below the 0.9 to 0.98 {_ORIN}"),
        ("l2", 0.40, 0.60, 0.25, "of 64 B a clock and SM", "guess"),
        (
            "reread",
            1.5,
            1.0,
            3.0,
            "x",
            "guess: rows beyond the cache that Morton order fetches more than once",
        ),
        (
            "chunk",
            0.50,
            0.35,
            0.90,
            "us at 1300 MHz",
            "guess: a load from L2, two barriers, a multiplication",
        ),
        ("start", 2.0, 1.5, 4.0, "us at 1300 MHz", "guess: a kernel with almost no work"),
        ("graph node", 1.0, 0.6, 2.0, "us", f"0.58 us {_LAPTOP}"),
        ("graph", 20, 15, 40, "us", f"15 us {_LAPTOP}"),
        ("launch", 9.0, 6.4, 15.0, "us", f"6.4 us {_LAPTOP}"),
        (
            "empty block",
            0.3,
            0.15,
            0.6,
            "us at 1300 MHz",
            "guess: a block beyond the last row, three at a time on an SM",
        ),
        ("call", 25, 10, 60, "us", "guess: Python and its binding on a Cortex-A78AE; a graph is one call"),
        ("engine", 80, 40, 200, "us", "guess: TensorRT's host work for an execution with new shapes"),
        ("read", 40, 25, 80, "us", "guess: 4 bytes to the host, and the host wakes and goes on"),
        ("sub-voxel", 1500, 500, 6000, "instructions", "guess: down three levels, for each of two masks"),
        ("grasp", 15000, 5000, 40000, "instructions", "guess: some 40 columns of 8 to 64 points"),
        ("instructions", 0.25, 0.5, 0.12, "of one a clock and lane", "guess: divergent warps"),
        (
            "float64",
            2,
            2,
            1,
            "a clock and SM",
            "CUDA programming guide; that conversions are no slower is a guess",
        ),
        ("load", 16, 32, 8, "lanes a clock and SM", "guess: half of 32 load/store lanes"),
        ("atomic", 16, 32, 6, "a clock", "guess: neighbouring points meet in the same rows"),
        (
            "suppression pair",
            0.15,
            0.08,
            0.4,
            "us at 1300 MHz",
            "guess: two dependent loads, partly overlapped",
        ),
        (
            "suppression turn",
            0.12,
            0.08,
            0.25,
            "us at 1300 MHz",
            "guess: two barriers of 8 warps, a comparison",
        ),
    )
)


def assume(which: str = "value") -> dict[str, float]:
    """All assumptions at their best guess, or all at the `good` or `bad` end of their range."""
    return {a.name: getattr(a, which) for a in ASSUMPTIONS}


@dataclass(frozen=True)
class Precision:
    """How many bytes an element has, and what multiplies it.

    Attributes:
        feature: bytes of features and weights; `quantised`: of layers that run in INT8.
        dense, gather: tensor-core rate of TensorRT's and of our kernels, None: float32 outside of tensor cores.
    """

    name: str
    feature: int
    quantised: int
    dense: str
    gather: str | None
    quantised_dense: str
    quantised_gather: str | None


# TensorRT multiplies float32 in TF32 unless told not to; our own float32 kernels do not use tensor cores.
PRECISIONS = {
    "fp32": Precision("fp32", 4, 4, "tf32", None, "tf32", None),
    "fp16": Precision("fp16", 2, 2, "fp16", "fp16", "fp16", "fp16"),
    "int8": Precision("int8", 2, 1, "fp16", "fp16", "int8", "int8"),
}


@dataclass(frozen=True)
class Cost:
    """Milliseconds of one kernel, and which ceiling they come from."""

    ms: float
    bound: str


def kernel_cost(kernel: Kernel, device: Device, precision: Precision, values: Values) -> Cost:
    """What the GPU is busy with, without the launch."""
    scale = ORIN_MHZ / device.gpu_mhz
    element = precision.quantised if kernel.quantised else precision.feature
    features = kernel.features * element
    if kernel.tiles is not None and features > device.l2_mb * 1e6:
        features += (values["reread"] - 1) * kernel.tiles.rows * kernel.tiles.cin * element
    moved = features + kernel.weights * element + kernel.fixed
    ceilings = {
        "start": 1e-6 * values["start"] * scale,
        "memory": moved / (values["memory"] * device.memory_gb_s * 1e9),
    }
    if kernel.kind == "dense":
        rate = device.tensor_macs(precision.quantised_dense if kernel.quantised else precision.dense)
        ceilings["arithmetic"] = kernel.executed / (values["dense"] * rate)
    if kernel.tiles is not None:
        tiles = kernel.tiles
        unit = precision.quantised_gather if kernel.quantised else precision.gather
        if unit is None:
            rate = values["gather fp32"] * device.cuda_macs
        else:
            rate = values["gather"] * device.tensor_macs(unit)
        chunks = tiles.chunks(element)
        waves = math.ceil(tiles.blocks(element) / (RESIDENT * device.multiprocessors))
        longest = float(chunks.max(initial=0)) if waves <= 1 else float(chunks.mean()) * waves
        ceilings["arithmetic"] = tiles.executed(element) / rate
        ceilings["cache"] = tiles.gathered(element) / (values["l2"] * device.l2_bytes)
        ceilings["latency"] = 1e-6 * scale * (values["start"] + values["chunk"] * longest)
    if kernel.work in ("sub-voxel", "grasp"):
        rate = values["instructions"] * device.cuda_macs
        ceilings["instructions"] = kernel.threads * values[kernel.work] / rate
    elif kernel.work in ("float64", "load"):  # `threads` counts the operations of all threads
        rate = values[kernel.work] * device.multiprocessors * device.gpu_mhz * 1e6
        ceilings[kernel.work] = kernel.threads / rate
    elif kernel.work == "atomic":
        ceilings["atomic"] = kernel.threads / (values["atomic"] * device.gpu_mhz * 1e6)
    elif kernel.work == "suppression":
        # `executed`: kept grasps that the one block walks by, over all its rounds of 256 candidates.
        serial = kernel.executed * values["suppression pair"] + kernel.threads * values["suppression turn"]
        ceilings["latency"] = 1e-6 * scale * serial
    bound = max(ceilings, key=lambda k: ceilings[k])
    return Cost(1e3 * ceilings[bound], bound)


def stage_ms(
    stage: Stage, device: Device, precision: Precision, values: Values, *, graphs: bool = True
) -> float:
    """Predicted milliseconds of a stage.

    Args:
        graphs: launches are those of a CUDA graph, where the stage may be one; else the host launches kernel by kernel,
            and a kernel that is shorter than a launch waits for the next one. Nothing that the host does is hidden
            behind the GPU's work: an upper bound.
    """
    costs = [kernel_cost(k, device, precision, values).ms for k in stage.kernels]
    if graphs and stage.graph:
        host = values["call"] + values["graph"]
        busy = sum(c + 1e-3 * values["graph node"] for c in costs)
    else:
        host = values["call"] * stage.calls + values["engine"] * stage.engine
        busy = sum(max(c, 1e-3 * values["launch"]) for c in costs)
    if stage.capacity > 1:
        element = precision.quantised
        blocks = sum(k.tiles.blocks(element) for k in stage.kernels if k.tiles is not None) * (
            stage.capacity - 1
        )
        busy += (
            1e-3
            * values["empty block"]
            * (ORIN_MHZ / device.gpu_mhz)
            * blocks
            / (RESIDENT * device.multiprocessors)
        )
    copied = (
        1e3 * 2 * stage.copies / (values["memory"] * device.memory_gb_s * 1e9)
    )  # memory is shared: read and written
    return busy + copied + 1e-3 * (host + values["read"] * stage.reads)
