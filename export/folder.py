"""The folder of a bundle while it is written: it appears complete, with its manifest, or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zerograsp_edge.runtime.bundle import (
    MANIFEST,
    ZEROGRASP,
    BundleError,
    BundleKind,
    is_bundle,
    seal,
    sha256,
)


@contextmanager
def bundle_folder(path: str | Path, *, overwrite: bool = False, kind: BundleKind = ZEROGRASP) -> Iterator[Path]:
    """A hidden folder to write to, which becomes `path` when the block ends without an exception.

    Args:
        overwrite: replace an existing bundle; a folder that is no bundle of that kind is never removed.

    Raises:
        BundleError: the folder exists, or holds something else.
    """
    root = Path(path)
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


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes the manifest with the hashes of the folder's other files, and its own; one that is there is replaced."""
    files = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
    text = json.dumps(seal({**manifest, "files": files}), indent=2) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")
