"""What a user installs: the wheel that is built from the source distribution, and its requirements."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from email.parser import HeaderParser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("export", "runtime", "kernels", "calibration")
SOURCE_SUFFIXES = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp", ".cmake"}
EXPORT_ONLY = {
    "torch",
    "torchvision",
    "ocnn",
    "segmentation-models-pytorch",
    "onnx",
    "onnxscript",
    "safetensors",
}
BUILD_MODULES = ("scikit_build_core", "nanobind")
INSTRUCTION_SETS = (
    "-march", "-mcpu", "-mtune", "-mavx", "-msse", "-mfma", "-mbmi", "-mf16c", "-mpopcnt", "-mlzcnt",
)  # fmt: skip

slow = pytest.mark.slow


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `sdist/`, `wheel/` (made from the sdist) and `build/`, the build's own folder."""
    for module in BUILD_MODULES:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install 'zerograsp-edge[dev]'")
    folder = tmp_path_factory.mktemp("packaging")
    program = f"from scikit_build_core.build import build_sdist; build_sdist({str(folder / 'sdist')!r})"
    run([sys.executable, "-c", program], ROOT)
    (sdist,) = (folder / "sdist").iterdir()
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked")
    (unpacked,) = (folder / "unpacked").iterdir()
    settings = [f"build-dir={folder / 'build'}", "cmake.define.CMAKE_EXPORT_COMPILE_COMMANDS=ON"]
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    for setting in settings:
        command += ["--config-settings", setting]
    run([*command, "--wheel-dir", str(folder / "wheel"), str(unpacked)], folder)
    return folder


def run(command: list[str], folder: Path) -> None:
    # The interpreter's own tools first: cmake and ninja of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="module")
def wheel(build: Path) -> zipfile.ZipFile:
    (path,) = (build / "wheel").iterdir()
    return zipfile.ZipFile(path)


def metadata(wheel: zipfile.ZipFile) -> Message:
    (name,) = (n for n in wheel.namelist() if n.endswith(".dist-info/METADATA"))
    return HeaderParser().parsestr(wheel.read(name).decode())


@slow
def test_wheel_has_every_module_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    names = {n for n in wheel.namelist() if ".dist-info/" not in n}
    modules = {
        f"zerograsp_edge/{path.relative_to(ROOT).as_posix()}"
        for part in PACKAGES
        for path in (ROOT / part).rglob("*.py")
    }
    markers = {f"zerograsp_edge/{part}/py.typed" for part in PACKAGES}
    libraries = {n for n in names if n.endswith(".so")}
    model = {
        f"zerograsp_edge/{path.relative_to(ROOT).as_posix()}"
        for path in (ROOT / "runtime/models/edge.zgb").iterdir()
    }
    # What a device compiles against its TensorRT.
    plugins = {
        f"zerograsp_edge/{path.relative_to(ROOT).as_posix()}"
        for part in ("core", "cuda", "tensorrt")
        for path in (ROOT / "kernels" / part).iterdir()
    }
    assert len(model) > 5 and not [n for n in names if n.endswith(".safetensors")]
    assert len(plugins) > 30 and names - libraries == modules | markers | model | plugins
    assert {Path(n).name.split(".")[0] for n in libraries} == {"_core", "libzerograsp_ort"}
    assert {Path(n).parent.as_posix() for n in libraries} == {"zerograsp_edge/kernels"}


@slow
def test_wheel_is_lean(wheel: zipfile.ZipFile) -> None:
    required = {
        line.split(";")[0].strip().split(">")[0].split("=")[0].strip().lower()
        for line in metadata(wheel).get_all("Requires-Dist", [])
        if "extra ==" not in line
    }
    assert {"numpy", "onnxruntime", "opencv-python-headless"} <= required
    assert not required & EXPORT_ONLY


@slow
def test_wheel_metadata(wheel: zipfile.ZipFile) -> None:
    described = metadata(wheel)
    assert described["Name"] == "zerograsp-edge"
    assert described["License-Expression"] == "Apache-2.0"
    assert described["Requires-Python"] == ">=3.10"
    names = wheel.namelist()
    assert any(n.endswith("/LICENSE") for n in names)
    (entry_points,) = (n for n in names if n.endswith("entry_points.txt"))
    assert "zerograsp-edge=zerograsp_edge.runtime.cli:main" in wheel.read(entry_points).decode().replace(
        " ", ""
    )


@slow
def test_sdist_builds_alone_and_leaves_tests_out(build: Path) -> None:
    (path,) = (build / "sdist").iterdir()
    with tarfile.open(path) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    for needed in ("pyproject.toml", "CMakeLists.txt", "kernels/CMakeLists.txt", "LICENSE", "README.md"):
        assert needed in names
    sources = {p.relative_to(ROOT).as_posix() for p in (ROOT / "kernels").rglob("*.cpp")}
    assert sources <= names
    assert not {n.split("/")[0] for n in names} & {"tests", "benchmarks", ".ci", "docs"}
    assert not [n for n in names if n.endswith((".so", ".pyc"))]


@slow
def test_only_the_chosen_translation_unit_uses_more_than_the_baseline(build: Path) -> None:
    """A wheel must run on every processor of the architecture: wider code is picked at run time."""
    commands = json.loads((build / "build" / "compile_commands.json").read_text())
    assert len(commands) > 10
    for entry in commands:
        wider = [flag for flag in shlex.split(entry["command"]) if flag.startswith(INSTRUCTION_SETS)]
        if wider:
            assert "convolution_avx2" in entry["command"], entry["command"]
            # All three are asked of the processor before (cpu/convolution.cpp).
            assert set(wider) <= {"-mavx2", "-mfma", "-mf16c"}, entry["command"]
