"""The stand-in for the CUDA driver (driver_double.cpp), compiled once per content, and its controls for tests."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).resolve().parent
CACHE = HERE.parents[2] / ".cache" / "cuda_on_cpu"
SOURCE = HERE / "driver_double.cpp"
COMPILER = "g++"


def build(folder: Path, soname: str, unexpected: str = "") -> Path:
    """The library, in `folder`; `unexpected` lists further entry points that exist but must not be called."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is missing: apt-get install g++")
    key = hashlib.sha256(SOURCE.read_bytes() + soname.encode() + unexpected.encode()).hexdigest()[:16]
    library = folder / key / soname
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        part = library.with_suffix(f".{os.getpid()}")
        command = [
            COMPILER,
            "-std=c++17",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{soname}",
        ]
        if unexpected:
            calls = library.parent / "unexpected.h"
            calls.write_text(unexpected)
            command.append(f'-DUNEXPECTED_CALLS="{calls}"')
        done = subprocess.run([*command, str(SOURCE), "-o", str(part)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        part.rename(library)
    return library


class DriverDouble:
    """What the driver was asked to do, and what it is to answer."""

    def __init__(self, path: Path, *, as_driver: bool = False) -> None:
        self.path = path
        # As the driver its entry points are those that other libraries of this process find.
        self.library = library = ctypes.CDLL(
            str(path), ctypes.RTLD_GLOBAL if as_driver else ctypes.DEFAULT_MODE
        )
        library.double_count.restype = ctypes.c_longlong
        library.double_used.restype = ctypes.c_longlong
        library.double_violation.restype = ctypes.c_char_p
        library.double_enqueue.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.double_capturing.argtypes = [ctypes.c_void_p]
        library.double_on_device.argtypes = [ctypes.c_ulonglong, ctypes.c_size_t]
        library.double_configure.argtypes = [ctypes.c_size_t, ctypes.c_int]
        self.errors: list[BaseException] = []
        self._callbacks: list[Any] = []

    def reset(self, memory: int = 32 << 30, integrated: bool = False) -> None:
        """Forgets counts, violations and faults; the device has `memory` bytes."""
        self.library.double_reset()
        self.library.double_configure(memory, integrated)
        self.errors.clear()

    def count(self, name: str) -> int:
        """Calls of an entry point; with ` bytes` behind a copy's name, the bytes."""
        return int(self.library.double_count(name.encode()))

    def counts(self, *names: str) -> dict[str, int]:
        return {name: self.count(name) for name in names}

    @property
    def violations(self) -> list[str]:
        found: list[str] = []
        while (text := self.library.double_violation(len(found))) is not None:
            found.append(text.decode())
        return found

    @property
    def used(self) -> int:
        """Bytes of device memory that are allocated."""
        return int(self.library.double_used())

    def fail(self, name: str, result: int) -> None:
        """The next call of an entry point returns `result`."""
        self.library.double_fail(name.encode(), result)

    def on_device(self, address: int, nbytes: int) -> bool:
        """Whether a range lies inside one allocation that the device can reach."""
        return bool(self.library.double_on_device(address, nbytes))

    def capturing(self, stream: int) -> bool:
        return bool(self.library.double_capturing(stream))

    def enqueue(self, stream: int, work: Callable[[], None]) -> int:
        """Puts a function on a stream, as a kernel would be; an exception in it fails the stream."""

        def run() -> int:
            try:
                work()
            except BaseException as error:
                self.errors.append(error)
                return 719  # CUDA_ERROR_LAUNCH_FAILED
            return 0

        callback = ctypes.CFUNCTYPE(ctypes.c_int)(run)
        self._callbacks.append(callback)  # the stream, or a graph, keeps its address
        return int(self.library.double_enqueue(stream, ctypes.cast(callback, ctypes.c_void_p)))
