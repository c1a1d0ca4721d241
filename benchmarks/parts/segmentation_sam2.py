"""How long SAM 2 (Hiera tiny, 1024x1024) takes on the CPU, beside Meta's PyTorch, and how far its stages are off that.

The weights are random: they change no time, and no accuracy can be told from them. Wall time, and CPU time of all
threads, which says more on a machine that does other things as well:

    PYTHONPATH=benchmarks python benchmarks/parts/segmentation_sam2.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from harness import machine
from rich.console import Console
from rich.table import Table

from zerograsp_edge.export.sam2.bundle import decode, encode, write_sam2_bundle
from zerograsp_edge.export.sam2.network import build_network
from zerograsp_edge.runtime.backends.onnxruntime import OnnxRuntimeExecutor
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.segmentation.mask_filters import candidates
from zerograsp_edge.runtime.segmentation.sam2 import Sam2Segmenter
from zerograsp_edge.runtime.segmentation.sam2_network import (
    OBJECT,
    Sam2Network,
    resize_picture,
    several_masks,
)

CONFIG = "configs/sam2.1/sam2.1_hiera_t.yaml"
THREADS, REPEATS, PROMPTS = 2, 2, 16


def measured(call: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU milliseconds, the least of each, after a first call that is not counted."""
    call()
    times = []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        times.append((1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)))
    walls, cpus = zip(*times, strict=True)
    return min(walls), min(cpus)


def main() -> None:
    console = Console()
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    frame = SimulatedCamera(seed=7, num_objects=6, width=640, height=480).read()
    network = build_network(CONFIG)
    with tempfile.TemporaryDirectory() as folder:
        bundle = write_sam2_bundle(network, Path(folder) / "tiny.zgb", config=CONFIG, trained=False)
        size = sum(file.stat().st_size for file in bundle.path.iterdir())
        executor = OnnxRuntimeExecutor(bundle, THREADS)
        stages = Sam2Network(bundle, executor, PROMPTS)
        segment = Sam2Segmenter(bundle, threads=THREADS, executor=executor)
    random = np.random.default_rng(0)
    points = random.uniform(0, 480, (PROMPTS, 1, 2)).astype(np.float32)
    labels = np.full((PROMPTS, 1), OBJECT, np.int32)
    square = resize_picture(frame.rgb, bundle.image_size).astype(np.uint8)
    stages.encode(frame.rgb)
    logits, iou = several_masks(*stages.decode(points, labels))
    embedding, details = encode(network, square)
    rows = {
        "resize 640x480": measured(lambda: resize_picture(frame.rgb, bundle.image_size)),
        "image encoder (with resizing)": measured(lambda: stages.encode(frame.rgb)),
        "image encoder, PyTorch": measured(lambda: encode(network, square)),
        f"mask decoder, {PROMPTS} prompts": measured(lambda: stages.decode(points, labels)),
        f"mask decoder, {PROMPTS} prompts, PyTorch": measured(
            lambda: decode(network, embedding, details, points, labels)
        ),
        f"masks at 640x480 of {len(logits)} candidates": measured(
            lambda: candidates(logits, iou, (480, 640), 0.0, 0.0, 1.0)
        ),
        f"a frame, {len(segment._geometry(frame).object_ids)} objects prompted by geometry": measured(
            lambda: segment(frame)
        ),
    }
    table = Table(title=f"SAM 2 Hiera tiny, {THREADS} threads, bundle {size / 1e6:.0f} MB", title_justify="left")
    for column in ("part", "wall ms", "CPU ms"):
        table.add_column(column, justify="left" if column == "part" else "right")
    for part, (wall, cpu) in rows.items():
        table.add_row(part, f"{wall:.0f}", f"{cpu:.0f}")
    console.print(table)
    differences = bundle.manifest["differences"]
    console.print("largest relative differences from PyTorch:", {n: f"{v:.1e}" for n, v in differences.items()})
    console.print(machine())


if __name__ == "__main__":
    main()
