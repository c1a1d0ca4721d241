"""The GPU: memory, streams, events and CUDA graphs, on PyCUDA. No other module imports it.

PyCUDA is imported when a `Device` is made. The primary context is used, as by TensorRT and the CUDA runtime inside the
kernels' library; nothing is current outside of `with device:`, and any thread may enter, one at a time.

PyCUDA (looked at up to 2026.1) offers no stream capture, so `Graph` calls the driver for it, in the library
that PyCUDA has loaded.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
from collections.abc import Callable
from functools import cache
from types import TracebackType
from typing import Any

import numpy as np

from zerograsp_edge.runtime.errors import DeviceError
from zerograsp_edge.runtime.extras import require

DRIVER = "libcuda.so.1"
ALIGNMENT = 256  # bytes: of what starts inside a block of device memory
# CUDA's numbers.
_NON_BLOCKING = 1
_CAPTURE_THREAD_LOCAL = 1  # other threads may allocate meanwhile


class Device:
    """The GPU of this machine. Everything below is used inside `with device:`.

    Args:
        index: which one, as CUDA counts them.

    Attributes:
        name: as the driver calls it.
        capability: compute capability, (8, 7) on Jetson Orin.
        integrated: shares its memory with the CPU, as on every Jetson.

    Raises:
        MissingExtra: PyCUDA is not installed.
        DeviceError: there is no driver or no GPU.
    """

    def __init__(self, index: int = 0) -> None:
        cuda = self._cuda = _pycuda()
        try:
            cuda.init()
            count = cuda.Device.count()
            if index >= count:
                raise DeviceError(f"device {index}: expected one of the {count} GPUs of this machine")
            device = cuda.Device(index)
            attribute = cuda.device_attribute
            self.name: str = device.name()
            self.capability: tuple[int, int] = (
                device.get_attribute(attribute.COMPUTE_CAPABILITY_MAJOR),
                device.get_attribute(attribute.COMPUTE_CAPABILITY_MINOR),
            )
            self.integrated = bool(device.get_attribute(attribute.INTEGRATED))
            self.zero_copy = self.integrated and bool(device.get_attribute(attribute.CAN_MAP_HOST_MEMORY))
            self._context = _primary_context(cuda, index)
        except cuda.Error as error:
            raise _explained("the GPU cannot be used", error) from error

    def __enter__(self) -> Device:
        self._context.push()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.pop()

    def memory(self) -> tuple[int, int]:
        """Free and total device memory, bytes."""
        free, total = self._cuda.mem_get_info()
        return int(free), int(total)

    def allocate(self, nbytes: int, purpose: str) -> DeviceMemory:
        """Device memory; `purpose` completes "no memory for ..."."""
        try:
            return DeviceMemory(self._cuda.mem_alloc(max(nbytes, 1)), nbytes)
        except self._cuda.MemoryError as error:
            free, total = self.memory()
            raise DeviceError(
                f"no memory for {purpose}: {_megabytes(nbytes)} needed, {_megabytes(free)} of {_megabytes(total)} "
                "free; end other programs, or export with smaller limits (zerograsp-edge export --max-nodes, "
                "--max-objects)"
            ) from error
        except self._cuda.Error as error:
            raise _explained(f"no memory for {purpose}", error) from error

    def pinned(self, nbytes: int, purpose: str) -> HostMemory:
        """Page-locked host memory, which the device sees as well."""
        flags = self._cuda.host_alloc_flags.DEVICEMAP
        try:
            array = self._cuda.pagelocked_empty(max(nbytes, 1), np.uint8, mem_flags=flags)
            return HostMemory(array, int(array.base.get_device_pointer()))
        except self._cuda.Error as error:
            raise _explained(
                f"no page-locked host memory for {purpose} ({_megabytes(nbytes)})", error
            ) from error

    def stream(self) -> Stream:
        try:
            return Stream(self._cuda, self._cuda.Stream(_NON_BLOCKING))
        except self._cuda.Error as error:
            raise _explained("no stream", error) from error

    def event(self) -> Event:
        try:
            return Event(self._cuda, self._cuda.Event())
        except self._cuda.Error as error:
            raise _explained("no event", error) from error


class DeviceMemory:
    """A block of device memory; `address` is an integer."""

    def __init__(self, allocation: Any, nbytes: int) -> None:
        self._allocation = allocation
        self.address = int(allocation)
        self.nbytes = nbytes

    def free(self) -> None:
        self._allocation.free()


class HostMemory:
    """Page-locked host memory.

    Attributes:
        bytes: (n,) uint8.
        address: where the device sees it. On a Jetson that is the same DRAM: the device can use it in place, which
            spares a copy, but does not cache it, so that only what is read or written once gains.
    """

    def __init__(self, array: np.ndarray, address: int) -> None:
        self.bytes = array
        self.address = address

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """An array over a part of it."""
        return np.ndarray(shape, dtype, self.bytes.data, offset)


class Stream:
    """An order of work on the device. Calls return at once; host arrays must be page-locked and stay as they are."""

    def __init__(self, cuda: Any, stream: Any) -> None:
        self._cuda, self._stream = cuda, stream
        self.handle = int(stream.handle)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copies a host array to the device."""
        try:
            self._cuda.memcpy_htod_async(address, array, self._stream)
        except self._cuda.Error as error:
            raise _explained("a copy to the GPU failed", error) from error

    def download(self, array: np.ndarray, address: int) -> None:
        """Copies from the device to a host array."""
        try:
            self._cuda.memcpy_dtoh_async(array, address, self._stream)
        except self._cuda.Error as error:
            raise _explained("a copy from the GPU failed", error) from error

    def fill(self, address: int, value: int, nbytes: int) -> None:
        """Sets bytes of device memory."""
        try:
            self._cuda.memset_d8_async(address, value, nbytes, self._stream)
        except self._cuda.Error as error:
            raise _explained("clearing device memory failed", error) from error

    def synchronize(self) -> None:
        """Waits until everything that was enqueued is done.

        Raises:
            DeviceError: a kernel failed; the process's GPU context cannot be used any more.
        """
        try:
            self._stream.synchronize()
        except self._cuda.Error as error:
            raise _explained("work on the GPU failed", error) from error

    def capture(self, enqueue: Callable[[], None]) -> Graph:
        """What `enqueue` puts on this stream, as a graph; nothing of it runs yet.

        Raises:
            DeviceError: it did what a capture does not allow (allocate, wait, use another stream).
        """
        driver = _driver()
        _check(
            driver.cuStreamBeginCapture_v2(self.handle, _CAPTURE_THREAD_LOCAL), "a capture could not begin"
        )
        graph = ctypes.c_void_p()
        # A collection could free device memory that somebody has dropped, which a capture does not allow either.
        collecting = gc.isenabled()
        gc.disable()
        try:
            enqueue()
        finally:
            if collecting:
                gc.enable()
            # Also after an error: the stream must not stay in capture.
            result = driver.cuStreamEndCapture(self.handle, ctypes.byref(graph))
        _check(
            result,
            "a CUDA graph could not be captured: something in it allocated, waited or used another stream",
        )
        executable = ctypes.c_void_p()
        result = driver.cuGraphInstantiateWithFlags(ctypes.byref(executable), graph, 0)
        driver.cuGraphDestroy(graph)
        _check(result, "a captured CUDA graph could not be instantiated")
        return Graph(executable)


class Graph:
    """Captured work; launching it costs one call."""

    def __init__(self, executable: ctypes.c_void_p) -> None:
        self._executable = executable

    def launch(self, stream: Stream) -> None:
        _check(_driver().cuGraphLaunch(self._executable, stream.handle), "a CUDA graph could not be launched")

    def destroy(self) -> None:
        """Frees it; none of its launches may be under way."""
        _check(_driver().cuGraphExecDestroy(self._executable), "a CUDA graph could not be destroyed")


class Event:
    """A mark on a stream that knows when it was reached."""

    def __init__(self, cuda: Any, event: Any) -> None:
        self._cuda, self._event = cuda, event

    def record(self, stream: Stream) -> None:
        self._event.record(stream._stream)

    def wait(self) -> None:
        """Waits until it is reached, while what was enqueued after it goes on."""
        try:
            self._event.synchronize()
        except self._cuda.Error as error:
            raise _explained("work on the GPU failed", error) from error

    def milliseconds_since(self, start: Event) -> float:
        """Both must have been reached: synchronise the stream first."""
        try:
            return float(start._event.time_till(self._event))
        except self._cuda.Error as error:
            raise _explained("an event was not reached yet", error) from error


def aligned(nbytes: int) -> int:
    """`nbytes` rounded up to the alignment of parts of a block."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def _pycuda() -> Any:
    """PyCUDA's driver module; an error of the loader, as where libcuda is missing, is explained."""
    try:
        return require("pycuda.driver", "jetson", "use the GPU")
    except ImportError as error:
        if DRIVER.split(".")[0] in str(error):
            raise DeviceError(
                f"PyCUDA cannot load the NVIDIA driver ({DRIVER}): this machine has none, or the container was started "
                "without the GPU (docker run --runtime nvidia)"
            ) from error
        raise


@cache
def _primary_context(cuda: Any, index: int) -> Any:
    """Retained once and for the life of the process.

    PyCUDA's destructor of a primary context takes it for one of its own (cuCtxDetach) and fails; an explicit `detach`
    releases it as it should be.
    """
    context = cuda.Device(index).retain_primary_context()
    atexit.register(context.detach)
    return context


@cache
def _driver() -> ctypes.CDLL:
    driver = ctypes.CDLL(DRIVER)
    pointer, handle = ctypes.POINTER(ctypes.c_void_p), ctypes.c_void_p
    for name, arguments in (
        ("cuStreamBeginCapture_v2", [handle, ctypes.c_int]),
        ("cuStreamEndCapture", [handle, pointer]),
        ("cuGraphInstantiateWithFlags", [pointer, handle, ctypes.c_ulonglong]),
        ("cuGraphLaunch", [handle, handle]),
        ("cuGraphDestroy", [handle]),
        ("cuGraphExecDestroy", [handle]),
        ("cuGetErrorName", [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]),
    ):
        function = getattr(driver, name)
        function.argtypes, function.restype = arguments, ctypes.c_int
    return driver


def error_name(code: int) -> str:
    """CUDA's name of an error code; the runtime's and the driver's codes are the same."""
    text = ctypes.c_char_p()
    _driver().cuGetErrorName(code, ctypes.byref(text))
    return text.value.decode() if text.value else f"CUDA error {code}"


def _check(code: int, what: str) -> None:
    if code:
        raise DeviceError(f"{what}: {error_name(code)}; {_ADVICE}")


_ADVICE = (
    "restart the program; if it comes again, run `zerograsp-edge doctor` and look at the kernel's log (dmesg)"
)


def _explained(what: str, error: Exception) -> DeviceError:
    """PyCUDA's error as one of ours. After a failed kernel every later call fails as well."""
    cause = " ".join(str(error).split())
    return DeviceError(f"{what}: {cause}; {_ADVICE}")


def _megabytes(nbytes: int) -> str:
    return f"{nbytes / 1e6:.0f} MB"
