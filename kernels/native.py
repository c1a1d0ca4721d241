"""The compiled core, `zerograsp_edge.kernels._core`, or an error that says how to get it."""

from __future__ import annotations

import importlib
from typing import Any

try:
    core: Any = importlib.import_module("zerograsp_edge.kernels._core")
except ImportError as error:
    raise ImportError(
        "the native core zerograsp_edge.kernels._core could not be loaded: it is built when the package is "
        "installed (`pip install .` in the repository; needs a C++17 compiler and CMake >= 3.18). "
        f"Cause: {error}"
    ) from error

__all__ = ["core"]
