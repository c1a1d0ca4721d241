"""A tiny network as a bundle, its pipeline, and frames to run it on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zerograsp_edge.runtime.bundle import MANIFEST, Limits, load_bundle, seal
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.result import Result

TINY_LIMITS = Limits(max_height=240, max_width=320, max_objects=8, max_nodes=16384)


def simulated_frame(seed: int, objects: int = 3) -> Frame:
    """A frame of 160x120 pixels."""
    return SimulatedCamera(seed, objects, 160, 120).read()


@pytest.fixture(scope="session")
def frame() -> Frame:
    """Three objects; not to be changed."""
    return simulated_frame(1)


@pytest.fixture(scope="session")
def other_frame() -> Frame:
    """Five objects of another scene; not to be changed."""
    return simulated_frame(2, 5)


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle of the tiny network with random weights; not to be changed."""
    pytest.importorskip("torch", reason="making a bundle needs the extra `export`")
    pytest.importorskip("ocnn", reason="making a bundle needs the extra `export`")
    pytest.importorskip("onnx", reason="making a bundle needs the extra `export`")
    from zerograsp_edge.export.bundle import write_bundle
    from zerograsp_edge.export.network import NetworkConfig, prepare_frame
    from zerograsp_edge.export.random_weights import random_network

    config = NetworkConfig.tiny()
    reference = simulated_frame(7, 4)
    assert reference.mask is not None
    inputs = prepare_frame(config, reference.rgb, reference.depth, reference.mask, reference.intrinsics)
    path = tmp_path_factory.mktemp("bundles") / "tiny.zgb"
    write_bundle(random_network(config, inputs), path, trained=False, limits=TINY_LIMITS, reference=reference)
    return path


@pytest.fixture(scope="session")
def pipeline(tiny_path: Path) -> Pipeline:
    """The tiny bundle on two threads, shared by all tests."""
    return Pipeline(load_bundle(tiny_path), threads=2)


@pytest.fixture
def bundle_copy(tiny_path: Path, tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may damage."""
    return Path(shutil.copytree(tiny_path, tmp_path / "copy.zgb"))


@pytest.fixture
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], object]], None]:
    """Changes a bundle's manifest as its author would: the hashes of files and manifest are renewed."""

    def edit(bundle: Path, change: Callable[[dict[str, Any]], object]) -> None:
        manifest = json.loads((bundle / MANIFEST).read_text())
        for name in manifest["files"]:
            if (bundle / name).is_file():
                manifest["files"][name] = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        change(manifest)
        (bundle / MANIFEST).write_text(json.dumps(seal(manifest)))

    return edit


@pytest.fixture
def frame_files(tmp_path: Path) -> Callable[..., list[str]]:
    """Writes a frame's files and returns the options of `zerograsp-edge run` that name them."""
    import cv2

    def write(frame: Frame, folder: Path | None = None, name: str = "scene") -> list[str]:
        folder = folder or tmp_path / "frames"
        folder.mkdir(exist_ok=True)
        assert frame.mask is not None
        cv2.imwrite(str(folder / f"{name}.rgb.png"), frame.rgb[:, :, ::-1])
        cv2.imwrite(str(folder / f"{name}.depth.png"), np.rint(frame.depth).astype(np.uint16))
        cv2.imwrite(str(folder / f"{name}.mask.png"), frame.mask.astype(np.uint8))
        (folder / "camera.json").write_text(json.dumps({"K": frame.intrinsics.astype(float).tolist()}))
        files = {kind: folder / f"{name}.{kind}.png" for kind in ("rgb", "depth", "mask")}
        options = [part for kind, path in files.items() for part in (f"--{kind}", str(path))]
        return [*options, "--intrinsics", str(folder / "camera.json")]

    return write


@pytest.fixture
def same_result() -> Callable[[Result, Result], None]:
    """Asserts that two results are bit-equal, object by object."""

    def compare(a: Result, b: Result) -> None:
        assert [o.object_id for o in a.objects] == [o.object_id for o in b.objects]
        assert a.z_min == b.z_min
        assert sum(len(o.points) for o in a.objects) > 0
        for x, y in zip(a.objects, b.objects, strict=True):
            for name in ("points", "normals", "sdf", "nodes"):
                np.testing.assert_array_equal(getattr(x, name), getattr(y, name), err_msg=name)
            np.testing.assert_array_equal(x.grasps.to_graspnet(), y.grasps.to_graspnet())

    return compare


@pytest.fixture
def failing_command(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[list[str]], str]]:
    """Runs the command line, which must fail with status 1 and one line on stderr; returns that line."""
    from zerograsp_edge.runtime.cli import main

    def run(arguments: list[str]) -> str:
        capfd.readouterr()
        assert main(arguments) == 1
        output, errors = capfd.readouterr()
        lines = errors.splitlines()
        assert len(lines) == 1, errors
        assert lines[0].startswith("error: ")
        assert "Traceback" not in output + errors
        return lines[0]

    yield run
