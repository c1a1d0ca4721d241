"""The library of the TensorRT plugins on this machine: built once by `zerograsp-edge build`, kept in the user's cache.

It depends on TensorRT's major version, the GPU and the sources of this package, so that each combination has its own.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from zerograsp_edge import kernels
from zerograsp_edge.kernels import tensorrt_plugins
from zerograsp_edge.kernels.tensorrt_plugins import LIBRARY, PluginBuildError
from zerograsp_edge.runtime.errors import DeviceError

_SOURCES = ("core", "cuda", "tensorrt")


def cache_folder() -> Path:
    """Where this package keeps what it can make again: $XDG_CACHE_HOME or ~/.cache, below `zerograsp-edge`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zerograsp-edge"


def machine_folder(tensorrt: str, capability: tuple[int, int]) -> Path:
    """Where what is tied to this TensorRT and GPU is kept: the plugin library and the timing cache."""
    major, minor = capability
    return cache_folder() / f"tensorrt-{tensorrt}-sm{major}{minor}"


def find_library(tensorrt: str, capability: tuple[int, int]) -> Path | None:
    """The plugin library for a version of TensorRT and a GPU, None where it has not been built.

    Args:
        tensorrt: `tensorrt.__version__`.
        capability: compute capability of the GPU.
    """
    installed = tensorrt_plugins.installed_library()
    if installed is not None and _serves(installed, tensorrt):
        return installed
    path = _cached(tensorrt, capability)
    return path if path.is_file() else None


def libraries() -> list[Path]:
    """All libraries that were built from these sources, for whatever TensorRT and GPU."""
    cached = sorted(cache_folder().glob(f"tensorrt-*/{_digest()}/{LIBRARY}"))
    installed = tensorrt_plugins.installed_library()
    return cached if installed is None else [installed, *cached]


def build_library(
    tensorrt: str, capability: tuple[int, int], progress: Callable[[str], None] = lambda line: None
) -> Path:
    """Builds the plugin library into the cache; minutes on a Jetson.

    Args:
        tensorrt: `tensorrt.__version__`: the headers must be of the same major version.
        capability: compute capability of the GPU.
        progress: called with every line of the compiler.

    Raises:
        DeviceError: a tool or the headers are missing or of another version, or the compiler failed.
    """
    try:
        headers = tensorrt_plugins.find_headers()
        version = tensorrt_plugins.header_version(headers)
        if str(version[0]) != tensorrt.split(".")[0]:
            stated = ".".join(map(str, version))
            raise PluginBuildError(
                f"the headers in {headers} are of TensorRT {stated}, Python's module is {tensorrt}: install headers of "
                "the same version (libnvinfer-headers-dev), or set TENSORRT_INCLUDE_DIR to their folder"
            )
        major, minor = capability
        return tensorrt_plugins.build_library(
            _cached(tensorrt, capability), headers, f"{major}{minor}", progress=progress
        )
    except PluginBuildError as error:
        raise DeviceError(f"the plugin library cannot be built: {error}") from error
    except OSError as error:
        raise DeviceError(
            f"the plugin library cannot be written below {cache_folder()} ({error}); set XDG_CACHE_HOME to a folder "
            "with room"
        ) from error


def _cached(tensorrt: str, capability: tuple[int, int]) -> Path:
    return machine_folder(tensorrt, capability) / _digest() / LIBRARY


def _digest() -> str:
    """Eight digits that change with the sources."""
    folder = Path(kernels.__file__).parent
    digest = hashlib.sha256()
    for part in _SOURCES:
        for path in sorted((folder / part).glob("*")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:8]


def _serves(library: Path, tensorrt: str) -> bool:
    try:
        return str(tensorrt_plugins.library_version(library)[0]) == tensorrt.split(".")[0]
    except (OSError, AttributeError):
        return False
