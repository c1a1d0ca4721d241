"""What float16 and int8 cost: the edge model in three precisions on simulated frames that calibration has not seen.

Converted here from the shipped bundle, int8 calibrated with simulated frames. Agreement of the predicted octrees is
that of their key sets, per depth, in free runs. Speed is this CPU's, where float16 is computed in float32: it says
nothing of a GPU. What it means for shapes: `reconstruction.py --ablation fp16=... --ablation int8=...`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from harness import Figure, figure, main

from zerograsp_edge.calibration.convert_command import check_frames
from zerograsp_edge.calibration.int8 import Int8Config, calibrate_int8, calibrate_ranges
from zerograsp_edge.export.convert import convert
from zerograsp_edge.kernels import PackedInt8, PackedWeight, octree_conv, octree_conv_int8
from zerograsp_edge.kernels.reference.convolution import quantize_weight
from zerograsp_edge.runtime.bundle import Bundle, load_bundle
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.verify import key_set_iou

SEED = 5000
CHANNELS = (12, 24, 48, 96)


def figures(quick: bool) -> list[Figure]:
    count, calibrated = (2, 2) if quick else (20, 16)
    frames = [SimulatedCamera(SEED + i, 3 + i % 6, 640, 480).read() for i in range(count)]
    single = load_bundle(EDGE_MODEL)
    results: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        calibration = calibrate_int8(single, list(check_frames(single, calibrated - 1)), Int8Config())
        bundles = {
            "fp32": single,
            "fp16": convert(single, Path(folder) / "half.zgb"),
            "int8": convert(single, Path(folder) / "int8.zgb", int8=calibration.to_convert()),
        }
        keys = {name: list(octrees(bundle, frames)) for name, bundle in bundles.items()}
        milliseconds = times(bundles, frames)
        for name, bundle in bundles.items():
            size = sum(f.stat().st_size for f in bundle.path.iterdir()) / 1e6
            results.append(figure(f"{name}: bundle", size, "MB"))
            results.append(
                figure(
                    f"{name}: frame, median",
                    milliseconds[name],
                    "ms",
                    peer="fp32",
                    peer_value=milliseconds["fp32"],
                )
            )
            for d in single.geometry.depths:
                if name == "fp32" or d == single.geometry.min_lod:
                    continue
                agreement = [key_set_iou(a[d], b[d]) for a, b in zip(keys["fp32"], keys[name], strict=True)]
                results.append(
                    figure(f"{name}: key-set IoU, depth {d}, mean", float(np.mean(agreement)), "", "higher")
                )
                results.append(figure(f"{name}: key-set IoU, depth {d}, worst", min(agreement), "", "higher"))
        stages = calibration.stages.values()
        layers, all_layers = sum(len(r.layers) for r in stages), sum(len(r.sensitivity) for r in stages)
        results.append(figure("int8: layers within the budget", layers, f"of {all_layers}", "higher"))
        results.extend(enough_frames(single, 2 if quick else 5))
    results.extend(convolutions(4 if quick else 40))
    return results


def octrees(bundle: Bundle, frames: list[Frame]) -> Iterator[dict[int, np.ndarray]]:
    """Per frame the keys of the predicted octree by depth."""
    pipeline = Pipeline(bundle)
    for frame in frames:
        taps: dict[str, np.ndarray] = {}
        pipeline.run(frame, taps=taps)
        yield {d: taps[f"keys_{d}"] for d in bundle.geometry.depths}


def times(bundles: dict[str, Bundle], frames: list[Frame]) -> dict[str, float]:
    """Median milliseconds of a frame, the precisions in turn."""
    pipelines = {name: Pipeline(bundle) for name, bundle in bundles.items()}
    measured: dict[str, list[float]] = {name: [] for name in bundles}
    for frame in [frames[0], *frames]:
        for name, pipeline in pipelines.items():
            start = time.perf_counter()
            pipeline(frame)
            measured[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(values[1:])) for name, values in measured.items()}  # the first one warms up


def enough_frames(bundle: Bundle, doublings: int) -> list[Figure]:
    """How far ranges move when the frames are doubled: the 90th percentile over all quantised activations."""
    frames = list(check_frames(bundle, 2**doublings - 1))
    ranges = []
    for i in range(doublings + 1):
        found = calibrate_ranges(bundle, frames[: 2**i], Int8Config())
        ranges.append({(stage, value): m for stage, values in found.items() for value, m in values.items()})
    moved = []
    for i, (few, more) in enumerate(pairwise(ranges)):
        change = [abs(more[v] / few[v] - 1) for v in more if few[v] > 0]
        name = f"int8: ranges move from {2**i} to {2 ** (i + 1)} frames, 90th percentile"
        moved.append(figure(name, 100 * float(np.percentile(change, 90)), "%"))
    return moved


def convolutions(repetitions: int) -> list[Figure]:
    """Octree convolution in int8 beside float32, one thread, on a spherical shell of 25 thousand nodes."""
    neighbours = shell()
    rng = np.random.default_rng(0)
    results = []
    for channels in CHANNELS:
        x = rng.standard_normal((neighbours.shape[1], channels)).astype(np.float32)
        w = rng.standard_normal((27, channels, channels)).astype(np.float32)
        bias = np.zeros(channels, np.float32)
        single, integer = PackedWeight(w, bias), PackedInt8(*quantize_weight(w), bias, 0.03)
        in_float = partial(octree_conv, x, neighbours, single, "gelu", trusted=True, threads=1)
        in_int8 = partial(octree_conv_int8, x, neighbours, integer, "gelu", trusted=True, threads=1)
        peer, ours = interleaved((in_float, in_int8), repetitions)
        name = f"int8 convolution, {channels} channels"
        results.append(figure(name, ours, "ms", peer="float32", peer_value=peer))
    return results


def interleaved(runs: tuple[Callable[[], object], ...], repetitions: int) -> list[float]:
    """Milliseconds of the fastest of each, measured in turn."""
    fastest = [np.inf] * len(runs)
    for _ in range(repetitions):
        for i, run in enumerate(runs):
            start = time.perf_counter()
            run()
            fastest[i] = min(fastest[i], 1e3 * (time.perf_counter() - start))
    return fastest


def shell() -> np.ndarray:
    """(27, N) neighbours of the nodes of a sphere's surface."""
    grid = np.indices((64,) * 3).reshape(3, -1).T
    nodes = grid[np.abs(np.linalg.norm(grid - 31.5, axis=1) - 25.5) < 1.5]
    rank = np.full((66,) * 3, -1, np.int32)
    rank[tuple(nodes.T + 1)] = np.arange(len(nodes), dtype=np.int32)
    shifts = np.indices((3, 3, 3)).reshape(3, -1).T
    return np.stack([rank[tuple((nodes + shift).T)] for shift in shifts])


if __name__ == "__main__":
    main("precision", __doc__ or "", figures)
