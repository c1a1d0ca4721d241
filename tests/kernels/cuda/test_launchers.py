"""kernels/launchers.py: its signatures are those of api.h, and it checks what ctypes does not."""

from __future__ import annotations

import ctypes
import ctypes.util
import re
from pathlib import Path

import numpy as np
import pytest
from cuda_library import CUDA, declarations, library

from zerograsp_edge.kernels import launchers
from zerograsp_edge.kernels.launchers import LAUNCHERS, WORKSPACES, LaunchError, Launchers, Status, parameters


def declared_names() -> dict[str, list[str]]:
    """Parameter names of every function of api.h."""
    text = re.sub(r"//.*", "", (CUDA / "api.h").read_text())
    found = {}
    for name, declared in re.findall(r"ZG_API[\w \*]+?(zg_cuda_\w+)\(([^)]*)\)", text):
        found[name] = [re.findall(r"\w+", parameter)[-1] for parameter in declared.split(",")]
    return found


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_is_declared_as_in_the_header(name: str) -> None:
    result, types = declarations()[f"zg_cuda_{name}"]
    assert result is ctypes.c_int
    assert types == [*(launchers._TYPES[kind][0] for _, kind in parameters(LAUNCHERS[name])), ctypes.c_void_p]
    assert declared_names()[f"zg_cuda_{name}"] == [*(p for p, _ in parameters(LAUNCHERS[name])), "stream"]


@pytest.mark.parametrize("name", WORKSPACES)
def test_a_workspace_is_declared_as_in_the_header(name: str) -> None:
    result, types = declarations()[f"zg_cuda_{name}_workspace"]
    assert result is ctypes.c_size_t
    assert types == [launchers._TYPES[kind][0] for _, kind in parameters(WORKSPACES[name])]
    assert declared_names()[f"zg_cuda_{name}_workspace"] == [p for p, _ in parameters(WORKSPACES[name])]


def test_every_workspace_of_a_launcher_is_offered() -> None:
    assert {name for name, signature in LAUNCHERS.items() if "workspace*" in signature} == set(WORKSPACES)


def test_status_bits_are_those_of_the_header() -> None:
    text = (CUDA / "api.h").read_text()
    bits = {name: int(value) for name, value in re.findall(r"\bkZg(\w+) = (\d+)", text)}
    for name in ("SPLITS_EXCEEDED", "POINTS_EXCEEDED", "ROWS_EXCEEDED", "SIGNAL_NOT_FINITE"):
        assert getattr(Status, name) == bits[name.title().replace("_", "")]


@pytest.fixture(scope="module")
def on_cpu() -> Launchers:
    return Launchers(Path(library()._library._name))


def test_a_launch(on_cpu: Launchers) -> None:
    counts, table = np.array([5, 0, 9], np.int32), np.full(4, -7, np.int32)
    kept, kept_count = np.full(3, -7, np.int32), np.zeros(1, np.int32)
    on_cpu.keep_objects(
        0, counts=counts.ctypes.data, objects=np.int64(3), minimum=5, table=table.ctypes.data,
        kept=kept.ctypes.data, kept_count=kept_count.ctypes.data,
    )  # fmt: skip
    assert (table.tolist(), kept.tolist(), kept_count.tolist()) == ([-1, 0, -1, 1], [0, 2, -1], [2])
    assert on_cpu.workspace("grow", nodes=1) > 0
    assert "raise the limit of nodes" in on_cpu.describe(Status.SPLITS_EXCEEDED)


def test_arguments_are_checked(on_cpu: Launchers) -> None:
    fine = {"counts": None, "objects": 3, "minimum": 5, "table": None, "kept": None, "kept_count": None}
    with pytest.raises(LaunchError, match=r"keep_objects: .*expected device memory, got null"):
        on_cpu.keep_objects(0, **fine)
    with pytest.raises(TypeError, match="missing or unknown: minimum"):
        on_cpu.keep_objects(0, **{name: value for name, value in fine.items() if name != "minimum"})
    with pytest.raises(TypeError, match="missing or unknown: more"):
        on_cpu.keep_objects(0, **fine, more=1)
    with pytest.raises(ValueError, match="objects: expected -2147483648 to 2147483647, got 4294967297"):
        on_cpu.keep_objects(0, **{**fine, "objects": 2**32 + 1})
    with pytest.raises(TypeError):
        on_cpu.keep_objects(0, **{**fine, "objects": 3.5})
    with pytest.raises(AttributeError, match="no launcher 'nothing'; there are points_from_depth"):
        on_cpu.nothing(0)


def test_libraries_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "libzerograsp_cuda.so").write_bytes(b"")
    with pytest.raises(ImportError, match="cannot be used on this machine"):
        Launchers(tmp_path / "libzerograsp_cuda.so")
    with pytest.raises(ImportError, match=r"cannot be used .*zg_cuda_describe"):
        Launchers(Path(ctypes.util.find_library("c") or "libc.so.6"))
