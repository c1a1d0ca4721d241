"""One bundle into another of lower precision: from its float32 stages alone, without checkpoint or PyTorch."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import onnx

from zerograsp_edge.export.folder import bundle_folder, write_manifest
from zerograsp_edge.export.graph import describe_tensor
from zerograsp_edge.export.precision import Layer, Policy, to_half, uncast_weights
from zerograsp_edge.export.quantise import Int8Stage, quantise
from zerograsp_edge.runtime.bundle import REFERENCE, SEAL, Bundle, BundleError, load_bundle


def convert(
    source: Bundle,
    path: str | Path,
    policy: Policy | None = None,
    *,
    int8: Mapping[str, Int8Stage] | None = None,
    provenance: dict[str, Any] | None = None,
    progress: Callable[[str], None] = lambda step: None,
    overwrite: bool = False,
) -> Bundle:
    """Writes a float16 bundle, with some layers in int8 if asked for.

    Its reference outputs stay those of float32, so that `verify` shows the cost.

    The manifest gets, for every stage, `layers`: the precision of each, and why where it is float32.

    Args:
        source: a float32 bundle.
        path: the folder to make.
        policy: what stays in float32 beside the built-in rules.
        int8: per stage what is quantised.
        provenance: what the manifest notes beside the source.

    Raises:
        BundleError: the source is not float32, or the folder exists.
    """
    if others := sorted({s.precision for s in source.stages.values()} - {"fp32"}):
        raise BundleError(
            f"{source.path}: expected a bundle of fp32 stages to convert, got {', '.join(others)}"
        )
    with bundle_folder(path, overwrite=overwrite) as folder:
        stages = {}
        for name, stage in source.stages.items():
            progress(f"stage {name}")
            model = onnx.load(str(source.stage_path(name)))
            precision = "fp16"
            if int8 and name in int8 and int8[name].layers:
                uncast_weights(model)
                quantise(model, int8[name].largest, int8[name].layers)
                precision = "int8"
            table = to_half(model, name, policy)
            onnx.save(model, str(folder / stage.file))
            stages[name] = {
                "file": stage.file,
                "precision": precision,
                "inputs": [describe_tensor(v) for v in model.graph.input],
                "outputs": [describe_tensor(v) for v in model.graph.output],
                "layers": [describe_layer(layer) for layer in table],
            }
        shutil.copyfile(source.reference_path, folder / REFERENCE)
        notes = {
            "from": source.path.name,
            "from_manifest_sha256": source.manifest[SEAL],
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "onnx": onnx.__version__,
            **(provenance or {}),
        }
        manifest = {**source.manifest, "stages": stages}
        manifest.pop("engines", None)  # they were built of the source's stages
        manifest["provenance"] = {**source.manifest["provenance"], "converted": notes}
        write_manifest(folder, manifest)
    return load_bundle(path, check=False)


def describe_layer(layer: Layer) -> dict[str, str]:
    """A line of the manifest's table."""
    line = {"layer": layer.name, "op": layer.op, "precision": layer.precision}
    return {**line, "why": layer.why} if layer.why else line


def precision_table(bundle: Bundle) -> list[tuple[str, str, str, str]]:
    """(stage, precision, layers, why), for people: the layers of a stage that share a reason in one line."""
    lines: dict[tuple[str, str, str], Counter[str]] = {}
    for name, stage in bundle.manifest["stages"].items():
        for layer in stage.get("layers", ()):
            key = name, layer["precision"], layer.get("why", "")
            lines.setdefault(key, Counter())[layer["op"]] += 1
    return [
        (stage, precision, ", ".join(f"{n} {op}" for op, n in ops.items()), why)
        for (stage, precision, why), ops in lines.items()
    ]
