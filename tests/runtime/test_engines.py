"""Engines in a bundle: stored atomically, found by key, refused with the command that builds them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zerograsp_edge.runtime.bundle import MANIFEST, BundleError, load_bundle, seal
from zerograsp_edge.runtime.engines import EngineError, EngineKey, engines_of, find_engine, store_engine
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline

EditManifest = Callable[[Path, Callable[[dict[str, Any]], object]], None]
KEY = EngineKey("10.3.0", (8, 7), "fp32")
PLAN = bytes(range(256)) * 4


def test_an_engine_is_found_again(bundle_copy: Path) -> None:
    bundle = store_engine(load_bundle(bundle_copy), "decoder_4", KEY, PLAN, {"seconds": 1.5})
    for reader in (bundle, load_bundle(bundle_copy)):
        path = find_engine(reader, "decoder_4", KEY)
        assert path.read_bytes() == PLAN
        assert path.parent == bundle_copy / "engines" / "10.3.0-sm87-fp32"
        (engine,) = engines_of(reader)
        assert (engine.stage, engine.key, engine.built) == ("decoder_4", KEY, {"seconds": 1.5})


def test_a_bundle_with_engines_still_runs_on_the_cpu(bundle_copy: Path, frame: Frame) -> None:
    bundle = store_engine(load_bundle(bundle_copy), "decoder_4", KEY, PLAN, {})
    find_engine(bundle, "decoder_4", KEY).write_bytes(b"damaged")
    assert Pipeline(load_bundle(bundle_copy), threads=2)(frame).objects


def test_no_engine(bundle_copy: Path) -> None:
    bundle = load_bundle(bundle_copy)
    with pytest.raises(EngineError) as caught:
        find_engine(bundle, "decoder_4", KEY)
    message = str(caught.value)
    assert "no engine runs decoder_4 here (TensorRT 10.3.0, compute capability 8.7, fp32)" in message
    assert "the bundle has no engine of this stage" in message
    assert f"`zerograsp-edge build {bundle_copy}`" in message


@pytest.mark.parametrize(
    "other",
    [
        replace(KEY, tensorrt="10.16.1"),
        replace(KEY, capability=(11, 0)),
        replace(KEY, precision="fp16"),
    ],
    ids=["version", "capability", "precision"],
)
def test_a_stale_engine_is_named_and_not_loaded(bundle_copy: Path, other: EngineKey) -> None:
    bundle = store_engine(load_bundle(bundle_copy), "decoder_4", other, PLAN, {})
    with pytest.raises(EngineError) as caught:
        find_engine(bundle, "decoder_4", KEY)
    assert f"the bundle's engines are for {other}" in str(caught.value)
    assert "zerograsp-edge build" in str(caught.value)
    # The one that fits is chosen among both.
    bundle = store_engine(bundle, "decoder_4", KEY, b"fits", {})
    assert find_engine(bundle, "decoder_4", KEY).read_bytes() == b"fits"
    assert find_engine(bundle, "decoder_4", other).read_bytes() == PLAN


def test_storing_again_replaces(bundle_copy: Path) -> None:
    bundle = store_engine(load_bundle(bundle_copy), "decoder_4", KEY, b"old", {})
    old = find_engine(bundle, "decoder_4", KEY)
    bundle = store_engine(bundle, "decoder_4", KEY, b"new", {})
    assert find_engine(bundle, "decoder_4", KEY).read_bytes() == b"new"
    assert not old.exists()
    assert len(engines_of(load_bundle(bundle_copy))) == 1
    # The same content again: the file is the old one's, and stays.
    bundle = store_engine(bundle, "decoder_4", KEY, b"new", {})
    assert find_engine(load_bundle(bundle_copy), "decoder_4", KEY).read_bytes() == b"new"


def test_an_engine_of_an_older_stage(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    store_engine(load_bundle(bundle_copy), "decoder_4", KEY, PLAN, {})
    with (bundle_copy / "decoder_4.onnx").open("ab") as file:
        file.write(b" ")
    edit_manifest(bundle_copy, lambda m: None)
    with pytest.raises(EngineError, match=r"built from another version of decoder_4\.onnx; run `zerograsp-"):
        find_engine(load_bundle(bundle_copy), "decoder_4", KEY)


def test_an_engine_for_other_limits(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    store_engine(load_bundle(bundle_copy), "decoder_4", KEY, PLAN, {})
    edit_manifest(bundle_copy, lambda m: m["limits"].update(max_objects=9))
    with pytest.raises(
        EngineError, match=r"built for the limits .*'max_objects': 8.*'max_objects': 9.* build"
    ):
        find_engine(load_bundle(bundle_copy), "decoder_4", KEY)


def test_a_damaged_engine(bundle_copy: Path) -> None:
    bundle = store_engine(load_bundle(bundle_copy), "decoder_4", KEY, PLAN, {})
    path = find_engine(bundle, "decoder_4", KEY)
    path.write_bytes(PLAN[:-1])
    with pytest.raises(EngineError, match="truncated or changed; run `zerograsp-edge build"):
        find_engine(bundle, "decoder_4", KEY)
    path.unlink()
    with pytest.raises(EngineError, match=r"is missing .*run `zerograsp-edge build"):
        find_engine(bundle, "decoder_4", KEY)


def test_an_engine_outside_the_bundle(bundle_copy: Path, edit_manifest: EditManifest) -> None:
    store_engine(load_bundle(bundle_copy), "decoder_4", KEY, PLAN, {})
    edit_manifest(bundle_copy, lambda m: m["engines"][0].update(file="../other.engine"))
    with pytest.raises(EngineError, match="lies outside the bundle"):
        find_engine(load_bundle(bundle_copy), "decoder_4", KEY)


@pytest.mark.parametrize(
    "damage",
    [
        lambda m: m["engines"][0].pop("sha256"),
        lambda m: m["engines"][0].update(capability="87"),
        lambda m: m.update(engines={"a": 1}),
    ],
    ids=["no hash", "capability", "no list"],
)
def test_a_malformed_entry(
    bundle_copy: Path, edit_manifest: EditManifest, damage: Callable[[dict[str, Any]], object]
) -> None:
    store_engine(load_bundle(bundle_copy), "decoder_4", KEY, PLAN, {})
    edit_manifest(bundle_copy, damage)
    with pytest.raises(BundleError, match="entry of engines missing or malformed"):
        engines_of(load_bundle(bundle_copy))


def test_an_engine_is_not_stored_for_a_stage_that_was_replaced(
    bundle_copy: Path, edit_manifest: EditManifest
) -> None:
    bundle = load_bundle(bundle_copy)
    with (bundle_copy / "decoder_4.onnx").open("ab") as file:
        file.write(b" ")
    edit_manifest(bundle_copy, lambda m: None)
    with pytest.raises(EngineError, match="was replaced while its engine was built"):
        store_engine(bundle, "decoder_4", KEY, PLAN, {})


def test_a_failure_leaves_the_bundle_as_it_was(bundle_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = store_engine(load_bundle(bundle_copy), "decoder_4", KEY, b"old", {})
    before = (bundle_copy / MANIFEST).read_bytes()
    rename = Path.replace

    def full(self: Path, target: Path) -> Path:
        if target.name == MANIFEST:
            raise OSError("No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(EngineError, match=r"cannot store the engine of decoder_4 .No space left"):
        store_engine(bundle, "decoder_4", KEY, b"new", {})
    monkeypatch.undo()
    assert (bundle_copy / MANIFEST).read_bytes() == before
    assert find_engine(load_bundle(bundle_copy), "decoder_4", KEY).read_bytes() == b"old"
    assert not list(bundle_copy.rglob("*.partial"))


def test_two_writers_and_a_reader(bundle_copy: Path) -> None:
    """Nothing is lost, and a reader never sees a manifest whose files are not there."""
    start = load_bundle(bundle_copy)
    stages = ["decoder_3", "decoder_4"]
    rounds = 20
    failures: list[BaseException] = []

    def write(stage: str) -> None:
        try:
            for i in range(rounds):
                store_engine(start, stage, replace(KEY, tensorrt=f"10.{i}.0"), f"{stage} {i}".encode(), {})
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(stage,)) for stage in stages]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        manifest = json.loads((bundle_copy / MANIFEST).read_text())
        assert seal(manifest) == manifest
        for entry in manifest.get("engines", []):
            assert (bundle_copy / entry["file"]).is_file()
    for thread in threads:
        thread.join()
    assert failures == []
    bundle = load_bundle(bundle_copy)
    for stage in stages:
        for i in range(rounds):
            path = find_engine(bundle, stage, replace(KEY, tensorrt=f"10.{i}.0"))
            assert path.read_text() == f"{stage} {i}"
