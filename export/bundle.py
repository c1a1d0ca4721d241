"""Writes a bundle: stages, reference outputs and manifest (read by `zerograsp_edge.runtime.bundle`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from zerograsp_edge.export.bundle_folder import bundle_folder, save_stage, versions, write_manifest
from zerograsp_edge.export.half_weights import rounded_to_half, store_half
from zerograsp_edge.export.image_encoder import IMAGE_MULTIPLE, MEAN, STD, image_encoder
from zerograsp_edge.export.network.zerograsp import ZeroGrasp
from zerograsp_edge.export.reference import reference_outputs
from zerograsp_edge.export.stages import decoder, octree_encoder
from zerograsp_edge.runtime.bundle import REFERENCE, ZEROGRASP, Bundle, Limits, load_bundle
from zerograsp_edge.runtime.frame import Frame

Progress = Callable[[str], None]


def build_stages(network: ZeroGrasp) -> Iterator[tuple[str, onnx.ModelProto]]:
    """Names and ONNX models of all stages, in the order in which they run."""
    state = {name: value.detach().cpu().numpy() for name, value in network.state_dict().items()}
    yield "image_encoder", image_encoder(state, network.config)
    yield "octree_encoder", octree_encoder(state, network.config)
    for d in network.config.depths:
        yield f"decoder_{d}", decoder(state, network.config, d)


def write_bundle(
    network: ZeroGrasp,
    path: str | Path,
    *,
    trained: bool,
    limits: Limits | None = None,
    provenance: dict[str, Any] | None = None,
    reference: Frame | None = None,
    progress: Progress = lambda step: None,
    overwrite: bool = False,
    half_weights: bool = False,
) -> Bundle:
    """Exports a network as a bundle; the folder appears complete or not at all.

    Args:
        network: put into eval mode here.
        path: the folder to make, usually `NAME.zgb`.
        trained: False marks random weights; every tool then says that shapes and grasps mean nothing.
        limits: sizes of the runtime's buffers. The default reference frame keeps within them.
        provenance: where the weights come from (checkpoint, hash, metrics), copied into the manifest.
        reference: frame for the reference outputs; by default a simulated one.
        progress: called with a line before each step.
        overwrite: replace an existing bundle; a folder that is no bundle is never removed.
        half_weights: round the weights to half precision and store them so (see `half_weights`).

    Raises:
        BundleError: the folder exists, or holds something else.
    """
    root = Path(path)
    with bundle_folder(root, ZEROGRASP, overwrite=overwrite) as folder:
        limits = limits or Limits()
        network.eval()
        if half_weights:
            network = rounded_to_half(network)
        stages = {}
        for name, model in build_stages(network):
            progress(f"stage {name}")
            if half_weights:
                store_half(model)
            stages[name] = save_stage(folder, name, model)
        progress("reference outputs")
        arrays: dict[str, Any] = reference_outputs(network, reference or _reference_frame(limits))
        np.savez_compressed(folder / REFERENCE, **arrays)
        content = {
            "trained": trained,
            "network": network.config.to_dict(),
            "image_multiple": IMAGE_MULTIPLE.get(network.config.image_encoder, 1),
            "limits": limits.to_dict(),
            "normalisation": {"mean": MEAN.tolist(), "std": STD.tolist(), "in_graph": True},
            "latent": "mean",
            "stages": stages,
            "provenance": {**versions(), **(provenance or {})},
        }
        write_manifest(folder, ZEROGRASP, content)
    return load_bundle(root, check=False)


def _reference_frame(limits: Limits) -> Frame:
    from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

    # Multiples of 32 suit every image encoder.
    width, height = (
        max(min(size, most // 32 * 32), 32)
        for size, most in ((640, limits.max_width), (480, limits.max_height))
    )
    return SimulatedCamera(seed=7, num_objects=min(4, limits.max_objects), width=width, height=height).read()
