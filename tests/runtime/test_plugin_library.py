"""Where the plugin library is found, and what is said when it cannot be built. No compiler runs here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from zerograsp_edge.kernels import tensorrt_plugins
from zerograsp_edge.runtime import plugin_library
from zerograsp_edge.runtime.errors import DeviceError
from zerograsp_edge.runtime.plugin_library import build_library, cache_folder, find_library, libraries

SM87 = (8, 7)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tensorrt_plugins, "installed_library", lambda: None)
    return tmp_path / "zerograsp-edge"


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[str, str]]:
    """Stands for CMake and the headers of TensorRT 10.3; lists what it was called with."""
    calls = []

    def build(out: Path, headers: Path, architecture: str, *, progress: Callable[[str], None]) -> Path:
        calls.append((headers.name, architecture))
        out.parent.mkdir(parents=True)
        out.write_bytes(b"library")
        progress("done")
        return out

    monkeypatch.setattr(tensorrt_plugins, "find_headers", lambda: tmp_path / "include")
    monkeypatch.setattr(tensorrt_plugins, "header_version", lambda folder: (10, 3, 0))
    monkeypatch.setattr(tensorrt_plugins, "build_library", build)
    return calls


def test_a_library_is_built_once_for_each_tensorrt_and_gpu(
    cache: Path, compiler: list[tuple[str, str]]
) -> None:
    assert cache_folder() == cache
    assert find_library("10.3.0", SM87) is None
    lines: list[str] = []
    path = build_library("10.3.0", SM87, lines.append)
    assert (compiler, lines) == ([("include", "87")], ["done"])
    assert cache in path.parents
    assert find_library("10.3.0", SM87) == path
    assert find_library("10.16.1", SM87) is None
    assert find_library("10.3.0", (11, 0)) is None
    assert libraries() == [path]


def test_changed_sources_need_another_library(
    compiler: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "kernels"
    (package / "cuda").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "cuda" / "a.cu").write_text("int a;")
    monkeypatch.setattr(plugin_library.kernels, "__file__", str(package / "__init__.py"))
    build_library("10.3.0", SM87)
    assert find_library("10.3.0", SM87) is not None
    (package / "cuda" / "a.cu").write_text("int b;")
    assert find_library("10.3.0", SM87) is None


def test_a_library_of_the_installation_serves_its_major_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tensorrt_plugins, "installed_library", lambda: tmp_path / "lib.so")
    monkeypatch.setattr(tensorrt_plugins, "library_version", lambda path: (10, 3, 0))
    assert find_library("10.16.1", SM87) == tmp_path / "lib.so"
    assert find_library("11.1.0", SM87) is None

    def damaged(path: Path) -> tuple[int, int, int]:
        raise OSError("invalid ELF header")

    monkeypatch.setattr(tensorrt_plugins, "library_version", damaged)
    assert find_library("10.16.1", SM87) is None


def test_headers_of_another_version(compiler: list[tuple[str, str]]) -> None:
    with pytest.raises(
        DeviceError, match=r"of TensorRT 10\.3\.0, Python's module is 11\.1\.0: install headers"
    ):
        build_library("11.1.0", SM87)
    assert compiler == []


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TENSORRT_INCLUDE_DIR", str(tmp_path))
    with pytest.raises(DeviceError, match=r"cannot be built: \$TENSORRT_INCLUDE_DIR: expected a folder with"):
        build_library("10.3.0", SM87)


def test_a_cache_that_cannot_be_written(
    compiler: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match=r"cannot be written below .*set XDG_CACHE_HOME"):
        build_library("10.3.0", SM87)
