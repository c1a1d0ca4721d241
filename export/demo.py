"""The bundle of `zerograsp-edge demo` until trained weights ship: the edge configuration, random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from zerograsp_edge.export.bundle import write_bundle
from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.preprocess import prepare_frame
from zerograsp_edge.export.random_weights import random_network
from zerograsp_edge.runtime.bundle import Bundle
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera


def write_demo_bundle(
    path: str | Path, config: NetworkConfig | None = None, progress: Callable[[str], None] = lambda step: None
) -> Bundle:
    """Exports a network with random weights (default: the edge configuration); its shapes are meaningless."""
    config = config or NetworkConfig.edge()
    frame = SimulatedCamera(seed=7, num_objects=4).read()
    assert frame.mask is not None
    progress("drawing weights")
    network = random_network(
        config, prepare_frame(config, frame.rgb, frame.depth, frame.mask, frame.intrinsics)
    )
    return write_bundle(
        network,
        path,
        trained=False,
        provenance={"weights": "random, seed 0"},
        reference=frame,
        progress=progress,
        overwrite=True,
    )
