"""Writes a bundle: stages, reference outputs and manifest (read by `zerograsp_edge.runtime.bundle`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from zerograsp_edge.export.image_encoder import IMAGE_MULTIPLE, MEAN, STD, image_encoder
from zerograsp_edge.export.network.zerograsp import ZeroGrasp
from zerograsp_edge.export.reference import reference_outputs
from zerograsp_edge.export.stages import decoder, octree_encoder
from zerograsp_edge.runtime.bundle import (
    CUSTOM_OP_VERSION,
    FORMAT,
    MANIFEST,
    REFERENCE,
    VERSION,
    Bundle,
    BundleError,
    Limits,
    load_bundle,
    sha256,
)
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
) -> Bundle:
    """Exports a network as a bundle; the folder appears complete or not at all.

    Args:
        network: put into eval mode here.
        path: the folder to make, usually `NAME.zgb`.
        trained: False marks random weights; every tool then says that shapes and grasps mean nothing.
        limits: sizes of the runtime's buffers.
        provenance: where the weights come from (checkpoint, hash, metrics), copied into the manifest.
        reference: frame for the reference outputs; by default a simulated one.
        progress: called with a line before each step.
        overwrite: replace an existing bundle; a folder that is no bundle is never removed.

    Raises:
        BundleError: the folder exists, or holds something else.
    """
    root = Path(path)
    if root.exists():
        if not overwrite:
            raise BundleError(f"{root} exists; choose another name or pass --overwrite")
        if not (root / MANIFEST).is_file():
            raise BundleError(
                f"{root} exists and is not a bundle (no {MANIFEST}); it was left alone, choose another name"
            )
    network.eval()
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        stages = {}
        for name, model in build_stages(network):
            progress(f"stage {name}")
            file = f"{name}.onnx"
            onnx.save(model, str(partial / file))
            stages[name] = {
                "file": file,
                "precision": "fp32",
                "inputs": [_tensor(v) for v in model.graph.input],
                "outputs": [_tensor(v) for v in model.graph.output],
            }
        progress("reference outputs")
        arrays = reference_outputs(network, reference or _reference_frame())
        np.savez_compressed(partial / REFERENCE, **arrays)  # type: ignore[arg-type]
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "custom_op_version": CUSTOM_OP_VERSION,
            "trained": trained,
            "network": network.config.to_dict(),
            "image_multiple": IMAGE_MULTIPLE.get(network.config.image_encoder, 1),
            "limits": (limits or Limits()).to_dict(),
            "normalisation": {"mean": MEAN.tolist(), "std": STD.tolist(), "in_graph": True},
            "latent": "mean",
            "stages": stages,
            "files": {p.name: sha256(p) for p in sorted(partial.iterdir())},
            "provenance": {**_versions(), **(provenance or {})},
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        if root.exists():
            shutil.rmtree(root)
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return load_bundle(root, check=False)


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
    }


def _reference_frame() -> Frame:
    from zerograsp_edge.runtime.camera.simulated import SimulatedCamera

    return SimulatedCamera(seed=7, num_objects=4, width=640, height=480).read()


def _versions() -> dict[str, Any]:
    try:
        version = metadata.version("zerograsp-edge")
    except metadata.PackageNotFoundError:
        version = "source tree"
    return {
        "exported": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "zerograsp_edge": version,
        "torch": torch.__version__,
        "onnx": onnx.__version__,
    }
