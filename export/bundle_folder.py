"""What writers of every kind of bundle share: the folder, its stages, its manifest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import torch

from zerograsp_edge.runtime.bundle import MANIFEST, BundleError, BundleKind, is_bundle, seal, sha256


@contextmanager
def bundle_folder(root: Path, kind: BundleKind, *, overwrite: bool) -> Iterator[Path]:
    """A folder to write a bundle into; it becomes `root` when the block ends without an error, else nothing is left.

    Args:
        overwrite: replace an existing bundle; a folder that is no bundle of this kind is never removed.

    Raises:
        BundleError: the folder exists, or holds something else.
    """
    if root.exists():
        if not overwrite:
            raise BundleError(f"{root} exists; choose another name or pass --overwrite")
        if not is_bundle(root, kind):
            raise BundleError(f"{root} exists and is not a bundle; it was left alone, choose another name")
    # Names of this process alone: a folder of somebody else is never in the way.
    partial, replaced = (
        root.with_name(f".{root.name}.{os.getpid()}.{what}") for what in ("partial", "replaced")
    )
    partial.mkdir(parents=True)
    try:
        yield partial
        if root.exists():
            root.rename(replaced)
        partial.rename(root)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.exists() and not root.exists():
            replaced.rename(root)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def save_stage(folder: Path, name: str, model: onnx.ModelProto) -> dict[str, Any]:
    """Writes `<name>.onnx`; what the manifest says about it."""
    file = f"{name}.onnx"
    onnx.save(model, str(folder / file))
    return {
        "file": file,
        "precision": "fp32",
        "inputs": [_tensor(v) for v in model.graph.input],
        "outputs": [_tensor(v) for v in model.graph.output],
    }


def write_manifest(folder: Path, kind: BundleKind, content: dict[str, Any]) -> None:
    """Writes the manifest, the last file of a bundle: kind, versions, content, hashes of the files that are there."""
    manifest = {
        "format": kind.format,
        **kind.versions,
        **content,
        "files": {p.name: sha256(p) for p in sorted(folder.iterdir())},
    }
    (folder / MANIFEST).write_text(json.dumps(seal(manifest), indent=2) + "\n", encoding="utf-8")


def versions() -> dict[str, Any]:
    """When and with what a bundle is written."""
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


def _tensor(value: onnx.ValueInfoProto) -> dict[str, Any]:
    tensor = value.type.tensor_type
    return {
        "name": value.name,
        "dtype": onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name,
        "shape": [d.dim_param or d.dim_value for d in tensor.shape.dim],
    }
