"""The TensorRT plugins with kernels for the CPU, and what TensorRT does with a plugin, call by call (host.cpp)."""

from __future__ import annotations

import ctypes
import os
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_library import KERNELS, REPOSITORY, SANITIZED, build, sources

from zerograsp_edge.kernels.tensorrt_plugins import (
    LIBRARY,
    PluginBuildError,
    build_library,
    find_headers,
    header_version,
)

HERE = Path(__file__).resolve().parent
BUILD, RUNTIME = 0, 1  # nvinfer1::TensorRTPhase
FLOAT32, INT32, CHAR = 1, 5, 6  # nvinfer1::PluginFieldType
LINEAR, CHW2 = 0, 1  # nvinfer1::TensorFormat
# nvinfer1::DataType
TYPES = {"float32": 0, "float16": 1, "int8": 2, "int32": 3, "bool": 4, "uint8": 5, "int64": 8}
NAMES = {number: name for name, number in TYPES.items()}
CANARY = 0xA5


def header_folders() -> dict[str, Path]:
    """Folders with TensorRT's headers by version, the oldest first: of $TENSORRT_INCLUDE_DIR (several with `:` between
    them), of .cache/tensorrt/*/include, and where there are neither, of the system."""
    given = os.environ.get("TENSORRT_INCLUDE_DIR", "").split(os.pathsep)
    folders = [Path(part) for part in given if part]
    folders += sorted((REPOSITORY / ".cache" / "tensorrt").glob("*/include"))
    if not folders:
        try:
            folders = [find_headers()]
        except PluginBuildError:
            return {}
    found = sorted((header_version(f), f) for f in folders if (f / "NvInferRuntime.h").is_file())
    return {".".join(map(str, version)): folder for version, folder in found}


HEADERS = dict(list(header_folders().items())[: 1 if SANITIZED else None])  # one version is enough the second time
NO_HEADERS = (
    "TensorRT's headers are missing: set TENSORRT_INCLUDE_DIR to their folder, or put them into "
    ".cache/tensorrt/NAME/include"
)


NO_NVCC = "nvcc is missing: install the CUDA toolkit and put its bin folder on the PATH"
ORIN = "87"  # compute capability
BUILDS = REPOSITORY / ".cache" / "tensorrt_build"


def compiled(version: str, architecture: str = ORIN) -> Path:
    """The library for a version of the headers, warnings being errors; only what changed is compiled again."""
    folder = BUILDS / f"sm_{architecture}"
    out = BUILDS / f"{version}-sm_{architecture}" / LIBRARY
    return build_library(out, HEADERS[version], architecture, build_folder=folder, warnings_as_errors=True)


def cuda_include() -> Path | None:
    """Folder of cuda_runtime_api.h, which TensorRT's headers include."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    nvcc = shutil.which("nvcc")
    if nvcc:
        homes.append(str(Path(nvcc).resolve().parents[1]))
    folders = [Path(home) / "include" for home in homes if home]
    folders += sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/*/include"))
    return next((f for f in folders if (f / "cuda_runtime_api.h").is_file()), None)


@cache
def _build(version: str) -> Path | AssertionError:
    include = cuda_include()
    assert include is not None
    host = {f"trt_{path.stem}": path.read_bytes() for path in sorted((KERNELS / "tensorrt").glob("*.cpp"))}
    host["trt_host"] = (HERE / "host.cpp").read_bytes()
    try:
        return build(sources(), host=host, host_flags=["-isystem", str(HEADERS[version]), "-isystem", str(include)])
    except AssertionError as error:
        return error


@cache
def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    for name, result, arguments in (
        ("log", ctypes.c_char_p, []),
        ("creators", ctypes.c_char_p, []),
        ("use_logger", None, [ctypes.c_int]),
        ("create", pointer, [ctypes.c_char_p, integer, *[pointer] * 4, integer]),
        ("destroy", None, [pointer]),
        ("clone", pointer, [pointer]),
        ("attach", pointer, [pointer]),
        ("reload", pointer, [pointer]),
        ("describe", ctypes.c_char_p, [pointer]),
        ("shape", ctypes.c_char_p, [pointer, integer, pointer, pointer]),
        ("type", integer, [pointer, integer, pointer]),
        ("supports", integer, [pointer, integer, pointer, integer]),
        ("configure", integer, [pointer, pointer, integer]),
        ("workspace", ctypes.c_size_t, [pointer, pointer, integer]),
        ("shapes_change", integer, [pointer, pointer, integer]),
        ("enqueue", integer, [pointer, pointer, integer, *[pointer] * 3]),
    ):
        function = getattr(library, f"host_{name}")
        function.restype, function.argtypes = result, arguments
    library.zg_tensorrt_version.restype = integer
    library.cuda_on_cpu_launches.restype = ctypes.c_ulong
    library.cuda_on_cpu_fault.restype = ctypes.c_char_p
    return library


def library(version: str) -> ctypes.CDLL:
    """Plugins, host and kernels, against one version of TensorRT's headers; skips where something is missing."""
    if not HEADERS:
        pytest.skip(NO_HEADERS)
    if cuda_include() is None:
        pytest.skip("cuda_runtime_api.h is missing: install the CUDA toolkit or the package nvidia-cuda-runtime")
    built = _build(version)
    if isinstance(built, AssertionError):
        raise built
    loaded = _loaded(built)
    loaded.host_use_logger(1)
    loaded.host_log()
    return loaded


class Refused(RuntimeError):
    """TensorRT was told no; the text is what the plugin logged."""


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32), ("format", ctypes.c_int32), ("rank", ctypes.c_int32),
        ("now", ctypes.c_int64 * 8), ("optimum", ctypes.c_int64 * 8), ("largest", ctypes.c_int64 * 8),
    )  # fmt: skip


Shape = Sequence[int]


@dataclass(frozen=True)
class Spec:
    """Type and shape of a tensor, and the largest shape of the profile (default: the same)."""

    dtype: str
    shape: Shape
    largest: Shape | None = None
    format: int = LINEAR

    @classmethod
    def of(cls, array: np.ndarray, largest: Shape | None = None) -> Spec:
        return cls(array.dtype.name, array.shape, largest)


def _tensors(specs: Sequence[Spec]) -> Any:
    tensors = (_Tensor * len(specs))()
    for tensor, spec in zip(tensors, specs, strict=True):
        tensor.type, tensor.format, tensor.rank = TYPES[spec.dtype], spec.format, len(spec.shape)
        tensor.now[: len(spec.shape)] = tensor.optimum[: len(spec.shape)] = list(spec.shape)
        tensor.largest[: len(spec.shape)] = list(spec.largest or spec.shape)
    return tensors


def _strings(words: Sequence[str]) -> Any:
    return (ctypes.c_char_p * len(words))(*(word.encode() for word in words))


Field = tuple[str, int, Any]  # name, type, value


def fields_of(attributes: Mapping[str, Any]) -> list[Field]:
    """As TensorRT's ONNX parser makes plugin fields of a node's attributes."""
    kinds = {str: CHAR, float: FLOAT32, int: INT32}
    return [(name, kinds[type(value)], value) for name, value in attributes.items()]


class Plugin:
    """A plugin in the hands of TensorRT."""

    def __init__(self, host: ctypes.CDLL, handle: int | None) -> None:
        self._host = host
        if not handle:
            raise Refused(host.host_log().decode())
        self.handle = handle

    @classmethod
    def create(
        cls, host: ctypes.CDLL, name: str, attributes: Mapping[str, Any] | Sequence[Field] = (), phase: int = BUILD
    ) -> Plugin:
        fields = fields_of(attributes) if isinstance(attributes, Mapping) else list(attributes)
        buffers: list[np.ndarray] = []
        for _, kind, value in fields:
            if kind == CHAR:  # without a terminator, as std::string's data()
                buffers.append(np.frombuffer(value.encode(), np.uint8))
            else:
                buffers.append(np.atleast_1d(np.array(value, np.float32 if kind == FLOAT32 else np.int32)))
        count = len(fields)
        return cls(
            host,
            host.host_create(
                name.encode(), count, _strings([f[0] for f in fields]),
                (ctypes.c_int32 * count)(*(f[1] for f in fields)), (ctypes.c_int32 * count)(*(b.size for b in buffers)),
                (ctypes.c_void_p * count)(*(b.ctypes.data for b in buffers)), phase,
            ),
        )  # fmt: skip

    def _told(self, ok: bool) -> None:
        if not ok:
            raise Refused(self._host.host_log().decode())

    def describe(self) -> list[str]:
        return self._host.host_describe(self.handle).decode().split("|")

    def shape(self, inputs: Sequence[str]) -> str:
        """The output's shape; shapes as text, "S, 27", where words that are no numbers are dynamic."""
        shapes = [[word.strip() for word in text.split(",") if word.strip()] for text in inputs]
        ranks = (ctypes.c_int32 * len(shapes))(*map(len, shapes))
        words = _strings([word for shape in shapes for word in shape])
        text = self._host.host_shape(self.handle, len(shapes), ranks, words)
        self._told(text is not None)
        return text.decode()

    def type(self, inputs: Sequence[str]) -> str:
        types = (ctypes.c_int32 * len(inputs))(*(TYPES[name] for name in inputs))
        number = self._host.host_type(self.handle, len(inputs), types)
        self._told(number >= 0)
        return NAMES[number]

    def supports(self, position: int, tensors: Sequence[Spec]) -> bool:
        return bool(self._host.host_supports(self.handle, position, _tensors(tensors), len(tensors) - 1))

    def configure(self, tensors: Sequence[Spec]) -> None:
        self._told(self._host.host_configure(self.handle, _tensors(tensors), len(tensors) - 1) == 0)

    def workspace(self, tensors: Sequence[Spec]) -> int:
        return self._host.host_workspace(self.handle, _tensors(tensors), len(tensors) - 1)

    def shapes_change(self, tensors: Sequence[Spec]) -> None:
        self._told(self._host.host_shapes_change(self.handle, _tensors(tensors), len(tensors) - 1) == 0)

    def enqueue(self, inputs: Sequence[np.ndarray], output: np.ndarray, workspace: np.ndarray) -> None:
        specs = [Spec.of(a) for a in (*inputs, output)]
        data = (ctypes.c_void_p * len(inputs))(*(a.ctypes.data if a.size else None for a in inputs))
        done = self._host.host_enqueue(
            self.handle, _tensors(specs), len(inputs), data, output.ctypes.data, workspace.ctypes.data
        )
        self._told(done == 0)

    def clone(self) -> Plugin:
        return Plugin(self._host, self._host.host_clone(self.handle))

    def attach(self) -> Plugin:
        return Plugin(self._host, self._host.host_attach(self.handle))

    def reload(self) -> Plugin:
        """The plugin that an engine file holds; this one is gone."""
        handle, self.handle = self.handle, 0
        return Plugin(self._host, self._host.host_reload(handle))

    def destroy(self) -> None:
        self._host.host_destroy(self.handle)
        self.handle = 0


def aligned(size: int) -> np.ndarray:
    """Bytes on a boundary of 256, as device memory is, with canaries behind."""
    buffer = np.full(size + 512, CANARY, np.uint8)
    start = -buffer.ctypes.data % 256
    return buffer[start : start + size + 64]


def build_and_run(
    host: ctypes.CDLL,
    name: str,
    inputs: Sequence[np.ndarray],
    attributes: Mapping[str, Any] | None = None,
    largest: Sequence[Shape] | None = None,
) -> np.ndarray:
    """Builds, stores, loads and runs a network of one node, checking on the way what every plugin owes.

    Args:
        inputs: as in kernels/README.md, without the optional ones that are absent.
        largest: shapes of the inputs at the profile's maximum; by default those of `inputs`.
    """
    plugin = Plugin.create(host, name, attributes or {})
    words = plugin.shape([", ".join(map(str, a.shape)) for a in inputs])
    shape = [int(word) for word in words.split(",")]
    dtype = plugin.type([a.dtype.name for a in inputs])
    specs = [Spec.of(a, big) for a, big in zip(inputs, largest or [a.shape for a in inputs], strict=True)]
    tensors = [*specs, Spec(dtype, shape)]
    assert all(plugin.supports(position, tensors) for position in range(len(tensors)))
    plugin.configure(tensors)

    clone = plugin.clone()
    plugin.destroy()
    loaded = clone.reload()
    # As a profile says; the engine's own workspace may be that of another layer, hence larger.
    needed = loaded.workspace(tensors)
    attached = loaded.attach()
    loaded.destroy()
    attached.shapes_change(tensors)
    workspace = aligned(needed)
    output = np.full((int(np.prod(shape)) + 16,), 77, dtype)
    result = output[: output.size - 16].reshape(shape)
    attached.enqueue(inputs, result, workspace)
    assert (output[output.size - 16 :] == 77).all(), "wrote behind the output"
    assert (workspace[needed:] == CANARY).all(), "wrote behind the workspace"
    attached.destroy()
    assert host.host_log() == b""
    return result
