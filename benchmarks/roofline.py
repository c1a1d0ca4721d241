"""Predicted milliseconds of a frame on Jetson Orin: bytes and operations counted from the exported graphs.

Nothing here is a measurement. The sizes are real (frames run through the runtime on this machine, every stage's inputs
recorded), the operations and bytes are counted kernel by kernel, the modules' rates are NVIDIA's, and how much of them
is reached is assumed (`parts/roofline_model.py`); `zerograsp-edge profile` on the device replaces all of it.

The published network runs on the reference frames 000 and 007 with the reference weights where that data is present,
else on simulated frames with random weights; a frame of another size is resampled, colours by area, depth and masks by
nearest pixel, intrinsics with it. The edge model runs on simulated frames.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
from harness import SHARED, Figure, figure, machine, show
from parts.roofline_count import Stage
from parts.roofline_designs import DESIGNS, redesign
from parts.roofline_devices import DEVICES, Device, device
from parts.roofline_frame import CountedFrame, count_frame
from parts.roofline_model import ASSUMPTIONS, PRECISIONS, Precision, Values, assume, kernel_cost, stage_ms
from rich.console import Console
from rich.table import Table

from zerograsp_edge.runtime.bundle import Bundle, BundleError, load_bundle
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.frame import Frame

LARGE, SMALL = (1280, 1024), (640, 480)
ORIN, NANO = device("AGX Orin 64GB", "MAXN"), device("Orin Nano Super", "MAXN_SUPER")
# What was asked, in ms: (network, size, module)
ASKED = {("published", SMALL, ORIN): 60.0, ("edge", SMALL, ORIN): 15.0, ("edge", SMALL, NANO): 33.0}
PAPER_A100_MS = 212.0  # of the published network, ZeroGrasp (arXiv 2504.10857)


def resample(frame: Frame, size: tuple[int, int]) -> Frame:
    """The frame at (width, height) pixels."""
    import cv2

    if (frame.width, frame.height) == size:
        return frame
    assert frame.mask is not None
    scale = np.diag([size[0] / frame.width, size[1] / frame.height, 1.0]).astype(np.float32)
    return Frame(
        rgb=cv2.resize(frame.rgb, size, interpolation=cv2.INTER_AREA),
        depth=cv2.resize(frame.depth, size, interpolation=cv2.INTER_NEAREST),
        intrinsics=scale @ frame.intrinsics,
        mask=cv2.resize(frame.mask, size, interpolation=cv2.INTER_NEAREST),
        name=frame.name,
    )


def simulated(size: tuple[int, int], seed: int, objects: int) -> Frame:
    return SimulatedCamera(seed=seed, num_objects=objects, width=size[0], height=size[1]).read()


def reference_007() -> Frame:
    """Frame 007 as the reference vectors have it: rows 14 to 525."""
    from zerograsp_edge.runtime.camera.files import read_frame

    intrinsics = np.array([[504.250665, 0, 480], [0, 504.250665, 270], [0, 0, 1]], np.float32)
    folder = SHARED / "frames"
    frame = read_frame(folder / "007.rgb.png", folder / "007.depth.png", intrinsics, folder / "007.mask.png")
    return frame.crop(top=14, bottom=526)


def published_bundle() -> Bundle:
    """The published network, as benchmarks/pipeline.py makes it, or makes it now."""
    import pipeline

    try:
        return load_bundle(pipeline.bundle_path(quick=False))
    except BundleError:  # none yet, or of another version
        return pipeline.make_bundle(pipeline.network(quick=False), quick=False)


def frames(quick: bool) -> Iterator[tuple[str, tuple[int, int], CountedFrame]]:
    """(network, size, counted frame)"""
    from zerograsp_edge.runtime.models import EDGE_MODEL

    edge = load_bundle(EDGE_MODEL)
    for size in (SMALL,) if quick else (SMALL, LARGE):
        name = f"edge, simulated, {size[0]}x{size[1]}"
        yield "edge", size, count_frame(name, edge, simulated(size, seed=0, objects=5))
    if quick:
        return
    published = published_bundle()
    if (SHARED / "frames" / "000.rgb.png").exists():
        import pipeline

        sources = {"frame 000": pipeline.reference_frame(quick=False), "frame 007": reference_007()}
    else:
        sources = {"simulated": simulated(LARGE, seed=0, objects=7)}
    for source, frame in sources.items():
        for size in (SMALL, LARGE) if source != "frame 007" else (SMALL, (frame.width, frame.height)):
            scaled = "" if (frame.width, frame.height) == size else " scaled to"
            name = f"published, {source}{scaled} {size[0]}x{size[1]}"
            yield "published", size, count_frame(name, published, resample(frame, size))


def stages_of(
    frame: CountedFrame, precision: Precision, *, dynamic: bool = True, designs: Sequence[str] = ()
) -> list[Stage]:
    changes = [DESIGNS[name] for name in designs]
    return [redesign(s, *changes) for s in frame.stages(precision.feature, dynamic=dynamic)]


def total_ms(
    frame: CountedFrame, where: Device, precision: Precision, values: Values, *, graphs: bool = True,
    dynamic: bool = True, designs: Sequence[str] = (),
) -> float:  # fmt: skip
    stages = stages_of(frame, precision, dynamic=dynamic, designs=designs)
    return sum(stage_ms(s, where, precision, values, graphs=graphs) for s in stages)


LAUNCHES: dict[str, dict[str, bool]] = {
    "no CUDA graph": {"graphs": False},
    "CUDA graphs in every stage, at the limits' capacity": {"dynamic": False},
}
SCORE_BYTES = 4  # of the attention's scores, float32 for its softmax


def score_bytes(frame: CountedFrame, tokens: int) -> int:
    """Of the attention's scores in one layer, all heads, where they are written to memory."""
    return frame.heads * tokens * tokens * SCORE_BYTES


def figures(counted: Sequence[tuple[str, tuple[int, int], CountedFrame]]) -> Iterator[Figure]:
    guess, good, bad = assume(), assume("good"), assume("bad")
    for network, size, frame in counted:
        macs = {name: s.macs / 1e9 for name, s in frame.graphs.items()}
        yield figure(f"{frame.name}: counted, image encoder", macs["image_encoder"], "GMAC")
        yield figure(
            f"{frame.name}: counted, octree stages", sum(macs.values()) - macs["image_encoder"], "GMAC"
        )
        yield figure(f"{frame.name}: counted, kernels of a frame", kernels_of(frame), "launches")
        tokens = {
            "of this frame": min_nodes(frame),
            "at the bundle's limits": frame.capacity[min(frame.sizes.output_nodes)],
        }
        for which, count in tokens.items():
            yield figure(f"{frame.name}: counted, tokens {which}", count, "tokens")
            megabytes = score_bytes(frame, count) / 1e6
            yield figure(
                f"{frame.name}: counted, attention scores of a layer {which}, unfused", megabytes, "MB"
            )
        for where in DEVICES:
            for precision in PRECISIONS.values():
                asked = ASKED.get((network, size, where)) if precision.name == "fp16" else None
                name = f"predicted: {frame.name}, {where.name} {where.mode}, {precision.name}"
                peer = ("A100, the paper", PAPER_A100_MS) if network == "published" else (None, None)
                yield figure(
                    f"{name}: frame", total_ms(frame, where, precision, guess), "ms", "lower", asked, *peer
                )
                yield figure(f"{name}: frame, good end", total_ms(frame, where, precision, good), "ms")
                yield figure(f"{name}: frame, bad end", total_ms(frame, where, precision, bad), "ms")
                if where in (ORIN, NANO):
                    for stage in frame.stages(precision.feature):
                        yield figure(f"{name}: {stage.name}", stage_ms(stage, where, precision, guess), "ms")
                    for label, launches in LAUNCHES.items():
                        ms = total_ms(frame, where, precision, guess, **launches)
                        yield figure(f"{name}: frame, {label}", ms, "ms")
                    for design in DESIGNS:
                        ms = total_ms(frame, where, precision, guess, designs=[design])
                        yield figure(f"{name}: frame, {design}", ms, "ms")
                    ms = total_ms(frame, where, precision, guess, designs=list(DESIGNS))
                    yield figure(f"{name}: frame, all of these designs", ms, "ms")


def min_nodes(frame: CountedFrame) -> int:
    """Nodes of the input octree at the coarsest depth of the decoder: the tokens of the multi-object encoder."""
    return frame.sizes.input_nodes[min(frame.sizes.output_nodes)]


def kernels_of(frame: CountedFrame) -> int:
    return sum(len(s.kernels) for s in frame.stages(2))


# ---- tables ----


def show_stages(console: Console, frame: CountedFrame, where: Device, precision: Precision) -> None:
    guess, good, bad = assume(), assume("good"), assume("bad")
    table = Table(
        title=f"predicted, not measured: {frame.name}, {where.name} {where.mode}, {precision.name}",
        title_justify="left",
    )
    table.add_column("stage")
    for column in (
        "kernels",
        "GMAC",
        "present",
        "MB",
        "predicted ms",
        "range",
        "no graph",
        "all graphs",
        "bound by",
    ):
        table.add_column(column, justify="right")
    captured = stages_of(frame, precision, dynamic=False)
    for stage, graph in zip(stages_of(frame, precision), captured, strict=True):
        by: dict[str, float] = {}
        moved = 0
        for k in stage.kernels:
            cost = kernel_cost(k, where, precision, guess)
            by[cost.bound] = by.get(cost.bound, 0.0) + cost.ms
            element = precision.quantised if k.quantised else precision.feature
            moved += (k.features + k.weights) * element + k.fixed
        table.add_row(
            stage.name, str(len(stage.kernels)), f"{stage.macs / 1e9:.2f}", f"{stage.present / 1e9:.2f}",
            f"{(moved + 2 * stage.copies) / 1e6:.1f}", f"{stage_ms(stage, where, precision, guess):.2f}",
            f"{stage_ms(stage, where, precision, good):.2f} to {stage_ms(stage, where, precision, bad):.2f}",
            f"{stage_ms(stage, where, precision, guess, graphs=False):.2f}",
            f"{stage_ms(graph, where, precision, guess):.2f}",
            ", ".join(f"{name} {ms:.2f}" for name, ms in sorted(by.items(), key=lambda i: -i[1])[:3] if ms >= 0.01),
        )  # fmt: skip
    every = [total_ms(frame, where, precision, values) for values in (guess, good, bad)]
    table.add_row(
        "frame", str(kernels_of(frame)), "", "", "", f"{every[0]:.2f}", f"{every[1]:.2f} to {every[2]:.2f}",
        *(f"{total_ms(frame, where, precision, guess, **launches):.2f}" for launches in LAUNCHES.values()), "",
    )  # fmt: skip
    console.print(table)


def show_devices(console: Console, counted: Sequence[tuple[str, tuple[int, int], CountedFrame]]) -> None:
    guess = assume()
    for network, size, frame in counted:
        table = Table(title=f"predicted, not measured: {frame.name}, ms a frame", title_justify="left")
        for column in ("module", "mode", *PRECISIONS, "fp16, good to bad end", "asked at fp16"):
            table.add_column(column, justify="left" if column in ("module", "mode") else "right")
        for where in DEVICES:
            half = PRECISIONS["fp16"]
            ends = [total_ms(frame, where, half, assume(end)) for end in ("good", "bad")]
            asked = ASKED.get((network, size, where))
            table.add_row(
                where.name, where.mode, *(f"{total_ms(frame, where, p, guess):.1f}" for p in PRECISIONS.values()),
                f"{ends[0]:.1f} to {ends[1]:.1f}", "" if asked is None else f"{asked:g}",
            )  # fmt: skip
        console.print(table)


def show_designs(console: Console, counted: Sequence[tuple[str, tuple[int, int], CountedFrame]]) -> None:
    guess, half = assume(), PRECISIONS["fp16"]
    table = Table(
        title="predicted, not measured: ms a frame at fp16 with other kernels", title_justify="left"
    )
    for column in ("frame", "module", "as it is", *DESIGNS, "all of these"):
        table.add_column(column, justify="left" if column in ("frame", "module") else "right")
    for _, _, frame in counted:
        for where in (ORIN, NANO):
            choices = [[], *([d] for d in DESIGNS), list(DESIGNS)]
            ms = [total_ms(frame, where, half, guess, designs=c) for c in choices]
            table.add_row(frame.name, f"{where.name} {where.mode}", *(f"{m:.2f}" for m in ms))
    console.print(table)


def show_assumptions(console: Console) -> None:
    table = Table(title="assumptions", title_justify="left")
    for column in ("what", "value", "range", "unit", "source"):
        table.add_column(column)
    for a in ASSUMPTIONS:
        table.add_row(a.name, f"{a.value:g}", f"{a.good:g} to {a.bad:g}", a.unit, a.source)
    console.print(table)


def show_sensitivity(console: Console, frame: CountedFrame, where: Device, precision: Precision) -> None:
    """What each assumption does to the frame when it alone moves to an end of its range."""
    guess = assume()
    table = Table(
        title=f"predicted, not measured: ms a frame when one assumption moves ({frame.name}, {where.name}, "
        f"{precision.name}; all at their guess: {total_ms(frame, where, precision, guess):.2f})",
        title_justify="left",
    )  # fmt: skip
    for column in ("assumption", "good end", "bad end"):
        table.add_column(column, justify="left" if column == "assumption" else "right")
    for a in ASSUMPTIONS:
        ends = [total_ms(frame, where, precision, {**guess, a.name: v}) for v in (a.good, a.bad)]
        table.add_row(a.name, *(f"{ms:.2f}" for ms in ends))
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks/roofline.py", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="the edge model at 640x480 only, the same code: for CI"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    options = parser.parse_args()
    counted = list(frames(options.quick))
    console = Console()
    half = PRECISIONS["fp16"]
    show_assumptions(console)
    for network, size, frame in counted:
        for where in (ORIN, NANO):
            show_stages(console, frame, where, half)
        if size == SMALL:
            show_sensitivity(console, frame, ORIN if network == "published" else NANO, half)
    show_designs(console, counted)
    show_devices(console, counted)
    results = list(figures(counted))
    chosen = [f for f in results if f["asked"] is not None or "counted" in f["name"]]
    where = machine()
    show("predicted, not measured; the sizes were counted on", chosen, where)
    if options.json:
        content = {"benchmark": "roofline", "measured": False, "machine": where, "figures": results}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
