"""The part of `pycuda.driver` that the runtime uses, on the driver's stand-in: for tests on machines without PyCUDA.

test_pycuda.py runs the same tests with the real one, so that the two cannot drift apart.
"""

from __future__ import annotations

import ctypes
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np


def make_modules(path: str) -> dict[str, ModuleType]:
    """`pycuda` and `pycuda.driver`, to be put into sys.modules."""
    library = ctypes.CDLL(path)

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class LogicError(Error):
        pass

    class RuntimeError(Error):
        pass

    class LaunchError(Error):
        pass

    def call(name: str, *arguments: Any) -> None:
        code = getattr(library, name)(*arguments)
        if code:
            text = ctypes.c_char_p()
            library.cuGetErrorString(code, ctypes.byref(text))
            # As PyCUDA sorts them: CUDAPP_CALL_GUARDED and its exception classes.
            kind = MemoryError if code == 2 else LaunchError if code in (700, 719) else LogicError
            raise kind(f"{name} failed: {(text.value or b'').decode()}")

    def address(buffer: Any) -> ctypes.c_void_p:
        assert buffer.flags.c_contiguous
        return ctypes.c_void_p(buffer.ctypes.data)

    class Device:
        def __init__(self, index: int) -> None:
            call("cuDeviceGet", ctypes.byref(ctypes.c_int()), index)

        @staticmethod
        def count() -> int:
            value = ctypes.c_int()
            call("cuDeviceGetCount", ctypes.byref(value))
            return value.value

        def name(self) -> str:
            text = ctypes.create_string_buffer(128)
            call("cuDeviceGetName", text, 128, 0)
            return text.value.decode()

        def get_attribute(self, attribute: int) -> int:
            value = ctypes.c_int()
            call("cuDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            return value.value

        def retain_primary_context(self) -> Context:
            handle = ctypes.c_void_p()
            call("cuDevicePrimaryCtxRetain", ctypes.byref(handle), 0)
            return Context(handle)

    class Context:
        def __init__(self, handle: ctypes.c_void_p) -> None:
            self._handle = handle

        def push(self) -> None:
            call("cuCtxPushCurrent_v2", self._handle)

        @staticmethod
        def pop() -> None:
            call("cuCtxPopCurrent_v2", None)

        def detach(self) -> None:
            call("cuDevicePrimaryCtxRelease_v2", 0)

    class Activated:
        """PyCUDA's objects push their context when they are freed while it is not current."""

        def __init__(self) -> None:
            self._context = ctypes.c_void_p()
            library.cuCtxGetCurrent(ctypes.byref(self._context))

        def _release(self, name: str, handle: Any) -> None:
            library.cuCtxPushCurrent_v2(self._context)
            getattr(library, name)(handle)
            library.cuCtxPopCurrent_v2(None)

    class Stream(Activated):
        def __init__(self, flags: int = 0) -> None:
            super().__init__()
            self._handle = ctypes.c_void_p()
            call("cuStreamCreate", ctypes.byref(self._handle), flags)

        @property
        def handle(self) -> int:
            return self._handle.value or 0

        def synchronize(self) -> None:
            call("cuStreamSynchronize", self._handle)

        def __del__(self) -> None:
            self._release("cuStreamDestroy_v2", self._handle)

    class Event(Activated):
        def __init__(self, flags: int = 0) -> None:
            super().__init__()
            self._handle = ctypes.c_void_p()
            call("cuEventCreate", ctypes.byref(self._handle), flags)

        def record(self, stream: Stream) -> Event:
            call("cuEventRecord", self._handle, stream._handle)
            return self

        def synchronize(self) -> Event:
            call("cuEventSynchronize", self._handle)
            return self

        def time_till(self, end: Event) -> float:
            value = ctypes.c_float()
            call("cuEventElapsedTime", ctypes.byref(value), self._handle, end._handle)
            return value.value

        def __del__(self) -> None:
            self._release("cuEventDestroy_v2", self._handle)

    class DeviceAllocation(Activated):
        def __init__(self, value: int) -> None:
            super().__init__()
            self._value, self._freed = value, False

        def __int__(self) -> int:
            return self._value

        def free(self) -> None:
            self._freed = True
            call("cuMemFree_v2", ctypes.c_ulonglong(self._value))

        def __del__(self) -> None:
            if not self._freed:
                self._release("cuMemFree_v2", ctypes.c_ulonglong(self._value))

    class PagelockedHostAllocation(Activated):
        def __init__(self, nbytes: int, flags: int) -> None:
            super().__init__()
            self._pointer = ctypes.c_void_p()
            call("cuMemHostAlloc", ctypes.byref(self._pointer), ctypes.c_size_t(nbytes), flags)
            self.__array_interface__ = {
                "data": (self._pointer.value, False), "shape": (nbytes,), "typestr": "|u1", "version": 3,
            }  # fmt: skip

        def get_device_pointer(self) -> int:
            value = ctypes.c_ulonglong()
            call("cuMemHostGetDevicePointer_v2", ctypes.byref(value), self._pointer, 0)
            return value.value

        def __del__(self) -> None:
            if self._pointer.value:
                self._release("cuMemFreeHost", self._pointer)

    def init(flags: int = 0) -> None:
        call("cuInit", flags)

    def mem_get_info() -> tuple[int, int]:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def mem_alloc(nbytes: int) -> DeviceAllocation:
        value = ctypes.c_ulonglong()
        call("cuMemAlloc_v2", ctypes.byref(value), ctypes.c_size_t(nbytes))
        return DeviceAllocation(value.value)

    def pagelocked_empty(shape: int, dtype: Any, order: str = "C", mem_flags: int = 0) -> np.ndarray:
        assert np.dtype(dtype) == np.uint8
        return np.asarray(PagelockedHostAllocation(shape, mem_flags))

    def memcpy_htod_async(dest: int, src: np.ndarray, stream: Stream) -> None:
        size = ctypes.c_size_t(src.nbytes)
        call("cuMemcpyHtoDAsync_v2", ctypes.c_ulonglong(dest), address(src), size, stream._handle)

    def memcpy_dtoh_async(dest: np.ndarray, src: int, stream: Stream) -> None:
        size = ctypes.c_size_t(dest.nbytes)
        call("cuMemcpyDtoHAsync_v2", address(dest), ctypes.c_ulonglong(src), size, stream._handle)

    def memset_d8_async(dest: int, data: int, size: int, stream: Stream) -> None:
        call(
            "cuMemsetD8Async",
            ctypes.c_ulonglong(dest),
            ctypes.c_ubyte(data),
            ctypes.c_size_t(size),
            stream._handle,
        )

    package, driver = ModuleType("pycuda"), ModuleType("pycuda.driver")
    offered = (
        Error, MemoryError, LogicError, RuntimeError, LaunchError, Device, Context, Stream, Event, init, mem_get_info,
        mem_alloc, pagelocked_empty, memcpy_htod_async, memcpy_dtoh_async, memset_d8_async,
    )  # fmt: skip
    for item in offered:
        setattr(driver, item.__name__, item)
    driver.device_attribute = SimpleNamespace(  # type: ignore[attr-defined]
        COMPUTE_CAPABILITY_MAJOR=75, COMPUTE_CAPABILITY_MINOR=76, INTEGRATED=18, CAN_MAP_HOST_MEMORY=19
    )
    driver.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)  # type: ignore[attr-defined]
    package.driver = driver  # type: ignore[attr-defined]
    return {"pycuda": package, "pycuda.driver": driver}
