"""The CUDA kernels compiled for the CPU with cuda_on_cpu.h, and calls of them with NumPy arrays as device memory."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[2]
KERNELS = REPOSITORY / "kernels"
CUDA = KERNELS / "cuda"
CACHE = REPOSITORY / ".cache" / "cuda_on_cpu"
COMPILER = "g++"

# Set by test_sanitizers.py for the process in which it runs the other tests again.
SANITIZED = bool(os.environ.get("ZEROGRASP_SANITIZE"))
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
# As nvcc compiles them: decisions must not depend on fused multiply-adds.
FLAGS = [
    "-std=c++17", "-O1" if SANITIZED else "-O2", "-g1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall",
    "-Wextra", "-Werror",
]  # fmt: skip

# Seeds of the order in which blocks and threads run: ascending, and two shuffled ones.
SEEDS = (0, 1, 2)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


@cache
def _headers(*more: Path) -> bytes:
    folders = (CUDA, KERNELS / "core", HERE, *more)
    return b"".join(path.read_bytes() for folder in folders for path in sorted(folder.glob("*.h")))


def _compiled(source: bytes, name: str, flags: Sequence[str], *headers: Path) -> Path:
    """The object of a source; compiled once per content."""
    key = hashlib.sha256(b"\0".join([source, _headers(*headers), " ".join(flags).encode()])).hexdigest()[:16]
    path = CACHE / f"{name}-{key}.o"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        text, part = CACHE / f"{name}-{key}-{os.getpid()}.cpp", path.with_suffix(f".{os.getpid()}")
        text.write_bytes(source)
        _run([COMPILER, *flags, "-c", str(text), "-o", str(part)])
        text.unlink()
        part.rename(path)
    return path


def build(
    sources: dict[str, bytes],
    defines: Sequence[str] = (),
    overlays: Mapping[str, Path] | None = None,
    host: Mapping[str, bytes] | None = None,
    host_flags: Sequence[str] = (),
) -> Path:
    """A shared library of sources (name -> text) and the stand-in's control functions.

    overlays: by source, a folder whose headers come before those of kernels/.
    host: sources that are plain C++ and hold no kernels; they alone are compiled with host_flags.
    """
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is missing: apt-get install g++")
    flags = [f"-I{KERNELS}", f"-I{HERE}", *FLAGS, "-DZEROGRASP_CUDA_ON_CPU", *defines]
    flags += SANITIZERS if SANITIZED else []
    sources = {**sources, "control": (HERE / "control.cpp").read_bytes()}
    first = {name: [f"-I{folder}"] for name, folder in (overlays or {}).items()}
    objects = [_compiled(text, name, [*first.get(name, []), *flags]) for name, text in sources.items()]
    for name, text in (host or {}).items():
        objects.append(_compiled(text, name, [*flags, *host_flags], KERNELS / "tensorrt"))
    key = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    library = CACHE / f"library-{key}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        _run([COMPILER, "-shared", *(SANITIZERS if SANITIZED else []), *map(str, objects), "-o", str(part)])
        part.rename(library)
    return library


C_TYPES = {
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "size_t": ctypes.c_size_t,
    "int": ctypes.c_int,
    "float": ctypes.c_float,
}


def declarations() -> dict[str, tuple[Any, list[Any]]]:
    """Result and argument types of every function of api.h, as ctypes has them; pointers are void pointers."""
    text = re.sub(r"//.*", "", (CUDA / "api.h").read_text())
    found = {}
    for result, name, parameters in re.findall(r"ZG_API\s+([\w ]+?\*?)\s*(zg_\w+)\(([^)]*)\)", text):
        types = []
        for parameter in parameters.split(","):
            words = parameter.replace("const", "").split()
            if "*" in parameter:
                types.append(ctypes.c_void_p)
            elif words != ["void"]:
                types.append(C_TYPES[words[0]])
        found[name] = (ctypes.c_char_p if "*" in result else C_TYPES[result], types)
    return found


class CudaError(RuntimeError):
    """A launcher returned an error code; the text is what it, or the stand-in, says about it."""


class Library:
    """The kernels, by the names of api.h without `zg_cuda_`. The stream, every function's last argument, is
    left out in calls; arrays pass as pointers, None as null."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._declarations = declarations()
        self._library.cuda_on_cpu_fault.restype = ctypes.c_char_p
        self._library.zg_cuda_error.restype = ctypes.c_char_p

    def seed(self, seed: int) -> None:
        """Order of blocks and threads from now on; 0 is ascending."""
        self._library.cuda_on_cpu_seed(ctypes.c_uint(seed))

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, f"zg_cuda_{name}")
        function.restype, function.argtypes = self._declarations[f"zg_cuda_{name}"]
        launches = function.restype is ctypes.c_int and name != "describe"

        def call(*arguments: Any) -> Any:
            passed = [a.ctypes.data if isinstance(a, np.ndarray) else a for a in arguments]
            code = function(*passed, None) if launches else function(*passed)
            if launches and code != 0:
                text = self._library.zg_cuda_error() if code == 1 else self._library.cuda_on_cpu_fault()
                raise CudaError(f"{code}: {text.decode()}")
            return code

        return call


def sources() -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in sorted(CUDA.glob("*.cu"))}


@cache
def _build_once() -> Path | AssertionError:
    try:
        return build(sources())
    except AssertionError as error:
        return error


def library() -> Library:
    """The kernels as they are. Sources that do not compile fail each test, but are compiled once."""
    built = _build_once()
    if isinstance(built, AssertionError):
        raise built
    return _loaded(built)


@cache
def _loaded(path: Path) -> Library:
    return Library(path)


def planted(name: str, old: str, new: str, header: str | None = None) -> Library:
    """The library with one source changed: `old`, which must occur once, replaced by `new`.

    header: change this header in place of the source's own text, for that source alone.
    """
    changed = sources()
    text = changed[name].decode() if header is None else (CUDA / f"{header}.h").read_text()
    assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {header or name}"
    text = text.replace(old, new)
    if header is None:
        return Library(build({**changed, name: text.encode()}))
    folder = CACHE / f"planted-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    (folder / "cuda").mkdir(parents=True, exist_ok=True)
    (folder / "cuda" / f"{header}.h").write_text(text)
    return Library(build(changed, overlays={name: folder}))


def count_of(n: int) -> np.ndarray:
    """A count in device memory."""
    return np.array([n], np.int32)
