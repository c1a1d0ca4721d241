"""libzerograsp_trt.so as the device builds it: compilers, exports, and what is said when something is missing."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cuda_library import KERNELS, REPOSITORY, declarations
from plugin_host import HEADERS, NO_HEADERS, NO_NVCC, compiled

from zerograsp_edge.kernels import tensorrt_plugins
from zerograsp_edge.kernels.tensorrt_plugins import (
    LIBRARY,
    PluginBuildError,
    build_library,
    find_headers,
    header_version,
    library_version,
)

THOR = "110"

slow = pytest.mark.slow
needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason=NO_NVCC)
needs_headers = pytest.mark.skipif(not HEADERS, reason=NO_HEADERS)


def dynamic_symbols(path: Path) -> set[str]:
    listed = subprocess.run(["nm", "-D", "--defined-only", str(path)], capture_output=True, text=True, check=True)
    return {line.split()[-1] for line in listed.stdout.splitlines()}


@slow
@needs_nvcc
@needs_headers
@pytest.mark.parametrize("version", HEADERS)
def test_orin(version: str) -> None:
    path = compiled(version)
    assert library_version(path) == header_version(HEADERS[version])
    # TensorRT's two entry points, the C functions of the kernels, and nothing of the CUDA runtime inside.
    assert dynamic_symbols(path) == {"getCreators", "setLoggerFinder", "zg_tensorrt_version", *declarations()}
    needed = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True).stdout
    libraries = set(re.findall(r"NEEDED.*\[(.*)\]", needed))
    assert libraries and not [n for n in libraries if n.startswith(("libnvinfer", "libcudart", "libcuda"))]


@slow
@needs_nvcc
@needs_headers
def test_thor() -> None:
    """Whose TensorRT is the newest; what differs from Orin is the kernels."""
    known = subprocess.run(["nvcc", "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout
    if f"compute_{THOR}" not in known:
        pytest.skip("this nvcc does not know sm_110 (CUDA 13 does)")
    assert "getCreators" in dynamic_symbols(compiled(list(HEADERS)[-1], THOR))


# ---- headers ----


def headers(folder: Path, text: str) -> Path:
    folder.mkdir()
    (folder / "NvInferRuntime.h").touch()
    (folder / "NvInferVersion.h").write_text(text)
    return folder


def test_version_of_the_headers(tmp_path: Path) -> None:
    old = "#define NV_TENSORRT_MAJOR 10 //!< x\n#define NV_TENSORRT_MINOR 3\n#define NV_TENSORRT_PATCH 0\n"
    new = (
        "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 16\n#define TRT_PATCH_ENTERPRISE 1\n"
        "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n#define NV_TENSORRT_MINOR TRT_MINOR_ENTERPRISE\n"
    )
    assert header_version(headers(tmp_path / "old", old)) == (10, 3, 0)
    assert header_version(headers(tmp_path / "new", new)) == (10, 16, 1)
    with pytest.raises(PluginBuildError, match="states no version of TensorRT"):
        header_version(headers(tmp_path / "none", "#define OTHER 1\n"))


def test_headers_are_found_where_they_are_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = headers(tmp_path / "there", "")
    assert find_headers(there) == there
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(there))
    assert find_headers() == there
    with pytest.raises(PluginBuildError, match=f"tensorrt_include: expected a folder with .*, got {tmp_path}"):
        find_headers(tmp_path)
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path))
    with pytest.raises(PluginBuildError, match=r"\$TENSORRT_INCLUDE_DIR: expected a folder"):
        find_headers()


# ---- what is missing ----


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with a cmake that fails, a compiler and an nvcc, and folders of headers."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, does in {"cmake": "echo configuring; echo it hurts >&2; exit 1", "g++": "", "nvcc": ""}.items():
        (folder / name).write_text(f"#!/bin/sh\n{does}\n")
        (folder / name).chmod(0o755)
    for variable in ("CUDACXX", "CUDA_HOME", "CUDA_PATH", "CXX", "TENSORRT_INCLUDE_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("PATH", f"{folder}:/bin")
    monkeypatch.setattr("sys.executable", str(folder / "python"))
    return folder


def test_a_failed_build_says_what_the_tool_said(tools: Path, tmp_path: Path) -> None:
    include, lines = headers(tmp_path / "include", ""), []
    with pytest.raises(PluginBuildError, match=r"(?s)could not be built; `.*cmake -S .*sm|it hurts") as told:
        build_library(tmp_path / "out" / LIBRARY, include, "sm_87", progress=lines.append)
    assert "configuring\nit hurts" in str(told.value) and lines == ["configuring", "it hurts"]
    assert "-DZEROGRASP_CUDA_ARCHITECTURES=87-real" in str(told.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [("cmake", "cmake is missing: install it"), ("g++", r"a C\+\+ compiler is missing"), ("nvcc", "nvcc is missing")],
)
def test_missing_tools_are_named(
    tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    which, hidden = shutil.which, {"g++": {"g++", "c++", "clang++"}}.get(missing, {missing})
    monkeypatch.setattr(
        tensorrt_plugins.shutil, "which", lambda n, path=None: None if Path(n).name in hidden else which(n, path=path)
    )
    with pytest.raises(PluginBuildError, match=message):
        build_library(tmp_path / LIBRARY, headers(tmp_path / "include", ""))


def test_missing_headers_are_named(tools: Path, tmp_path: Path) -> None:
    if any(Path("/usr/include").glob("**/NvInferRuntime.h")):
        pytest.skip("this machine has TensorRT's headers installed")
    with pytest.raises(PluginBuildError, match=r"apt-get install libnvinfer-headers-dev`, or set TENSORRT_INCLUDE_DIR"):
        build_library(tmp_path / LIBRARY)


@pytest.mark.parametrize("text", ["sm87", "8", "orin", "87,", "8.7.1"])
def test_capabilities_that_are_none(tools: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(PluginBuildError, match="cuda_arch: expected a compute capability such as 87"):
        build_library(tmp_path / LIBRARY, headers(tmp_path / "include", ""), text)


def test_every_source_is_built() -> None:
    listed = (KERNELS / "tensorrt" / "CMakeLists.txt").read_text()
    names = sorted(path.name for path in (KERNELS / "tensorrt").glob("*.cpp"))
    assert names == re.findall(r"^  (\w+\.cpp)", listed, re.M)


def test_nothing_of_tensorrt_is_in_the_repository() -> None:
    """Its headers belong to the device."""
    tracked = subprocess.run(["git", "ls-files"], cwd=REPOSITORY, capture_output=True, text=True)
    if tracked.returncode != 0:
        pytest.skip("this is no git checkout")
    assert not [name for name in tracked.stdout.splitlines() if Path(name).name.startswith(("NvInfer", "NvOnnx"))]
