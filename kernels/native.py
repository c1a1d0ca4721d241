"""The compiled core, `zerograsp_edge.kernels._core`, or an error that says how to get it."""

from __future__ import annotations

import importlib
import os
from typing import Any

WAIT_POLICY = "OMP_WAIT_POLICY"


def _load() -> Any:
    """Imports the core with OpenMP threads that sleep while they have no work.

    By default they spin for some milliseconds after each parallel region, on the very cores on which ONNX Runtime
    computes the next stage. libgomp reads the variable once, when it is loaded; a user's own setting is kept, and
    nothing is left behind for other libraries or child processes.
    """
    if WAIT_POLICY in os.environ:
        return importlib.import_module("zerograsp_edge.kernels._core")
    os.environ[WAIT_POLICY] = "passive"
    try:
        return importlib.import_module("zerograsp_edge.kernels._core")
    finally:
        del os.environ[WAIT_POLICY]


try:
    core: Any = _load()
except ImportError as error:
    raise ImportError(
        "the native core zerograsp_edge.kernels._core could not be loaded: it is built when the package is "
        "installed (`pip install .` in the repository; needs a C++17 compiler and CMake >= 3.18). "
        f"Cause: {error}"
    ) from error

__all__ = ["core"]
