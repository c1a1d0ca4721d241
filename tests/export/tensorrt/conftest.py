"""TensorRT for RTX: parses ONNX and builds engines on a machine without a GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PACKAGES = ("tensorrt_rtx_libs", "tensorrt_rtx_bindings")
INSTALL = "pip install tensorrt-rtx-cu12-libs tensorrt-rtx-cu12-bindings"


class WorkerError(Exception):
    """What the worker raised: its text; `kind` is its type."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@pytest.fixture(scope="session")
def rtx(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Calls a function of rtx_worker.py in a new process.

    Raises:
        WorkerError: the function raised.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        pytest.skip(f"TensorRT for RTX is not installed ({', '.join(missing)}): {INSTALL}")
    spec = importlib.util.find_spec(PACKAGES[0])
    assert spec is not None and spec.submodule_search_locations
    libraries = Path(next(iter(spec.submodule_search_locations)))
    # A plugin node makes TensorRT load libtensorrt_rtx.so by a name that the wheel lacks, and abort if it cannot.
    folder = tmp_path_factory.mktemp("rtx")
    (folder / "libtensorrt_rtx.so").symlink_to(libraries / "libtensorrt_rtx.so.1")

    def call(function: str, **arguments: Any) -> Any:
        task = folder / "task.json"
        task.write_text(json.dumps({"function": function, **arguments}))
        paths = [str(folder), *os.environ.get("LD_LIBRARY_PATH", "").split(":")]
        done = subprocess.run(
            [sys.executable, str(HERE / "rtx_worker.py"), str(task)],
            env={**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and done.stdout, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
        answer = json.loads(done.stdout.splitlines()[-1])
        if "error" in answer:
            raise WorkerError(answer["type"], answer["error"])
        return answer["result"]

    return call


@pytest.fixture(scope="session")
def library(rtx: Callable[..., Any]) -> Path:
    """The C++ library: the installed one, else one compiled for this TensorRT for RTX's interfaces."""
    from plugin_host import HEADERS, NO_HEADERS, NO_NVCC, compiled

    from zerograsp_edge.kernels.tensorrt_plugins import installed_library

    if installed := installed_library():
        return installed
    if not HEADERS:
        pytest.skip(NO_HEADERS)
    if shutil.which("nvcc") is None:
        pytest.skip(NO_NVCC)
    major = rtx("interfaces")
    fitting = [version for version in HEADERS if version.split(".")[0] == str(major)]
    if not fitting:
        pytest.skip(
            f"this TensorRT for RTX needs headers of TensorRT {major}, there are {', '.join(HEADERS)}"
        )
    return compiled(fitting[-1])


@pytest.fixture(scope="session")
def edge_sizes() -> dict[str, dict[str, int]]:
    """Sizes of the edge model's tensors in a typical frame."""
    from zerograsp_edge.export.engine_profile import typical_sizes
    from zerograsp_edge.runtime.bundle import load_bundle
    from zerograsp_edge.runtime.models import EDGE_MODEL

    return typical_sizes(load_bundle(EDGE_MODEL))


@pytest.fixture
def edge_copy(tmp_path: Path) -> Path:
    """A copy of the shipped bundle without its engines, that engines may be added to."""
    from zerograsp_edge.runtime.models import EDGE_MODEL

    return Path(shutil.copytree(EDGE_MODEL, tmp_path / "edge.zgb", ignore=shutil.ignore_patterns("engines")))
