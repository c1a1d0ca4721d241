"""TensorRT engines in a bundle: which there are, which one fits, and how one is added.

An engine runs on the TensorRT version and the compute capability that it was built for, nowhere else, so the manifest
lists every engine with its key:

    "engines": [{
        "stage": "decoder_4", "tensorrt": "10.3.0", "capability": "8.7", "precision": "fp16",
        "file": "engines/10.3.0-sm87-fp16/decoder_4-1f0c9a5b.engine", "sha256": ...,
        "stage_sha256": ...,    the ONNX file it was built from
        "limits": {...},        the bundle's limits, which its optimisation profile covers
        "built": {...}          how, for people
    }]

The hash of an engine is checked when it is chosen, not when the bundle is loaded: a damaged engine is no reason not to
run on the CPU. `zerograsp_edge.export.tensorrt` builds engines.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zerograsp_edge.runtime.bundle import MANIFEST, Bundle, BundleError, load_bundle, seal, sha256

FOLDER = "engines"
SUFFIX = ".engine"


class EngineError(BundleError):
    """No engine of the bundle can run a stage here; the message says which there are and what to run."""


@dataclass(frozen=True, order=True)
class EngineKey:
    """What an engine is tied to.

    Attributes:
        tensorrt: `tensorrt.__version__`, for example `10.3.0`.
        capability: compute capability of the GPU, for example (8, 7).
        precision: the stage's precision in the manifest, for example `fp16`.
    """

    tensorrt: str
    capability: tuple[int, int]
    precision: str

    @property
    def folder(self) -> str:
        """Where engines with this key lie, below the bundle."""
        major, minor = self.capability
        return f"{FOLDER}/{self.tensorrt}-sm{major}{minor}-{self.precision}"

    def __str__(self) -> str:
        major, minor = self.capability
        return f"TensorRT {self.tensorrt}, compute capability {major}.{minor}, {self.precision}"


@dataclass(frozen=True)
class Engine:
    """One entry of the manifest; see the module."""

    stage: str
    key: EngineKey
    file: str
    sha256: str
    stage_sha256: str
    limits: dict[str, int]
    built: dict[str, Any]

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Engine:
        major, minor = (int(part) for part in entry["capability"].split("."))
        return cls(
            stage=entry["stage"],
            key=EngineKey(entry["tensorrt"], (major, minor), entry["precision"]),
            file=entry["file"],
            sha256=entry["sha256"],
            stage_sha256=entry["stage_sha256"],
            limits=dict(entry["limits"]),
            built=dict(entry["built"]),
        )

    def to_dict(self) -> dict[str, Any]:
        major, minor = self.key.capability
        return {
            "stage": self.stage,
            "tensorrt": self.key.tensorrt,
            "capability": f"{major}.{minor}",
            "precision": self.key.precision,
            "file": self.file,
            "sha256": self.sha256,
            "stage_sha256": self.stage_sha256,
            "limits": self.limits,
            "built": self.built,
        }


def engines_of(bundle: Bundle) -> list[Engine]:
    """All engines that the bundle lists, whether they fit or not.

    Raises:
        BundleError: an entry is malformed.
    """
    try:
        return [Engine.from_dict(entry) for entry in bundle.manifest.get("engines", [])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(
            f"{bundle.path / MANIFEST}: entry of engines missing or malformed: {error}; copy the bundle again, "
            f"or remove the entry and run `{build_command(bundle)}`"
        ) from error


def find_engine(bundle: Bundle, stage: str, key: EngineKey) -> Path:
    """The engine that runs a stage on this machine, its hash checked.

    Args:
        bundle: where to look.
        stage: its name in the bundle.
        key: this machine's TensorRT and GPU; precision as `bundle.stages[stage].precision`.

    Raises:
        EngineError: there is none with this key, or it was built from another version of the stage or for other
            limits, or its file is missing or damaged.
    """
    engines = [engine for engine in engines_of(bundle) if engine.stage == stage]
    fitting = next((engine for engine in engines if engine.key == key), None)
    build = f"run `{build_command(bundle)}` on this machine"
    if fitting is None:
        others = "; ".join(str(other) for other in sorted({engine.key for engine in engines}))
        there = (
            f"the bundle's engines are for {others}" if others else "the bundle has no engine of this stage"
        )
        raise EngineError(f"{bundle.path}: no engine runs {stage} here ({key}): {there}; {build}")
    where = f"{bundle.path}: the engine of {stage} for {key}"
    if fitting.stage_sha256 != bundle.manifest["files"][bundle.stages[stage].file]:
        raise EngineError(f"{where} was built from another version of {bundle.stages[stage].file}; {build}")
    if fitting.limits != bundle.limits.to_dict():
        raise EngineError(
            f"{where} was built for the limits {fitting.limits}, expected {bundle.limits.to_dict()}; {build}"
        )
    path = bundle.path / fitting.file
    if bundle.path.resolve() not in path.resolve().parents:
        raise EngineError(f"{bundle.path / MANIFEST}: {fitting.file} lies outside the bundle; do not use it")
    if not path.is_file():
        raise EngineError(f"{where} is missing ({fitting.file}); {build}")
    if sha256(path) != fitting.sha256:
        raise EngineError(f"{path}: its SHA-256 is not the manifest's: truncated or changed; {build}")
    return path


def build_command(bundle: Bundle) -> str:
    """The command that builds the engines which are missing."""
    return f"zerograsp-edge build {bundle.path}"


def store_engine(
    bundle: Bundle, stage: str, key: EngineKey, plan: bytes | memoryview, built: Mapping[str, Any]
) -> Bundle:
    """Adds an engine to a bundle, in place of one with the same stage and key; returns the bundle as it is then.

    Whoever reads the bundle meanwhile sees the old manifest with its files or the new one with its files. Two processes
    may store into one bundle.

    Args:
        bundle: what the engine was built from.
        stage: its name in the bundle.
        key: what the engine was built for.
        plan: the serialised engine.
        built: how it was built, for people (JSON values).

    Raises:
        EngineError: the folder cannot be written, or the stage has been replaced meanwhile.
    """
    digest = hashlib.sha256(plan).hexdigest()
    stage_file = bundle.stages[stage].file
    engine = Engine(
        stage=stage,
        key=key,
        # The name follows the content: the old manifest's file is never written over.
        file=f"{key.folder}/{stage}-{digest[:8]}{SUFFIX}",
        sha256=digest,
        stage_sha256=bundle.manifest["files"][stage_file],
        limits=bundle.limits.to_dict(),
        built=dict(built),
    )
    root = bundle.path
    try:
        with _locked(root):
            current = load_bundle(root, check=False)
            if current.manifest["files"].get(stage_file) != engine.stage_sha256:
                raise EngineError(f"{root / stage_file} was replaced while its engine was built; build again")
            _write(root / engine.file, plan)
            entries = current.manifest.get("engines", [])
            replaced = [e for e in engines_of(current) if (e.stage, e.key) == (stage, key)]
            kept = [entry for entry in entries if entry["file"] not in {e.file for e in replaced}]
            manifest = {**current.manifest, "engines": [*kept, engine.to_dict()]}
            text = json.dumps(seal(manifest), indent=2) + "\n"
            _write(root / MANIFEST, text.encode())
            for old in replaced:
                if old.file != engine.file:
                    with suppress(FileNotFoundError):
                        (root / old.file).unlink()
    except OSError as error:
        raise EngineError(
            f"{root}: cannot store the engine of {stage} ({error}); make the folder writable and free some "
            "space, or copy the bundle to a folder that is and build there"
        ) from error
    return load_bundle(root, check=False)


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Only one process at a time changes the bundle's manifest."""
    folder = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, content: bytes | memoryview) -> None:
    """A file that appears complete or not at all, also when the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
