"""runtime/device.py on the driver's stand-in: which calls it makes, what it promises, what its errors say."""

from __future__ import annotations

import gc
import sys
from threading import Thread
from types import ModuleType

import numpy as np
import pytest
from driver_double import DriverDouble

from zerograsp_edge.runtime.device import Device, aligned
from zerograsp_edge.runtime.errors import DeviceError, MissingExtra

OUT_OF_MEMORY, ILLEGAL_ADDRESS, NO_DEVICE = 2, 700, 100


def test_attributes(driver: DriverDouble) -> None:
    device = Device()
    assert (device.name, device.capability, device.integrated, device.zero_copy) == (
        "Orin",
        (8, 7),
        False,
        False,
    )
    driver.reset(memory=1 << 30, integrated=True)
    device = Device()
    assert device.integrated and device.zero_copy
    with device:
        assert device.memory() == (1 << 30, 1 << 30)
    # Nothing stays current.
    assert driver.count("cuCtxPushCurrent_v2") == driver.count("cuCtxPopCurrent_v2")


def test_the_primary_context_is_retained_once(driver: DriverDouble) -> None:
    Device()
    retained = driver.count("cuDevicePrimaryCtxRetain")  # 0 where an earlier test has
    Device()
    assert driver.count("cuDevicePrimaryCtxRetain") == retained <= 1
    assert driver.count("cuDevicePrimaryCtxRelease_v2") == 0


def test_a_second_gpu_that_is_not_there(driver: DriverDouble) -> None:
    with pytest.raises(DeviceError, match="expected one of the 1 GPUs"):
        Device(1)


def test_copies_are_asynchronous_and_ordered(driver: DriverDouble) -> None:
    with Device() as device:
        stream, host, memory = device.stream(), device.pinned(64, "a test"), device.allocate(64, "a test")
        out = device.pinned(64, "a test")
        host.bytes[:] = np.arange(64)
        out.bytes[:] = 7
        stream.upload(memory.address, host.bytes)
        stream.fill(memory.address + 60, 0xFF, 4)
        stream.download(out.bytes[:62], memory.address)
        assert (out.bytes == 7).all(), "nothing has waited yet"
        stream.synchronize()
        assert out.bytes.tolist() == [*range(60), 255, 255, 7, 7]
        copies = "cuMemcpyHtoDAsync_v2", "cuMemcpyHtoDAsync_v2 bytes", "cuMemcpyDtoHAsync_v2 bytes"
        assert list(driver.counts(*copies, "cuStreamSynchronize").values()) == [1, 64, 62, 1]
        view = host.view(8, (2, 2), np.dtype(np.int32))
        assert view.shape == (2, 2) and view.ctypes.data == host.bytes.ctypes.data + 8
        used = driver.used
        memory.free()
        assert driver.used == used - 64


def test_from_another_thread(driver: DriverDouble) -> None:
    device = Device()
    done = []

    def work() -> None:
        with device:
            stream, memory = device.stream(), device.allocate(16, "a thread")
            stream.fill(memory.address, 1, 16)
            stream.synchronize()
            memory.free()
            del stream
            done.append(True)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    assert done == [True]


def test_events(driver: DriverDouble) -> None:
    with Device() as device:
        stream, memory = device.stream(), device.allocate(1 << 22, "a test")
        start, end = device.event(), device.event()
        start.record(stream)
        stream.fill(memory.address, 0, 1 << 22)
        end.record(stream)
        with pytest.raises(DeviceError, match="not reached yet"):
            end.milliseconds_since(start)
        stream.synchronize()
        assert 0 < end.milliseconds_since(start) < 1e3


def test_graphs(driver: DriverDouble) -> None:
    with Device() as device:
        stream, memory, host = device.stream(), device.allocate(4, "a test"), device.pinned(4, "a test")

        def enqueue() -> None:
            stream.fill(memory.address, 5, 2)
            driver.enqueue(stream.handle, lambda: calls.append(1))

        calls: list[int] = []
        stream.fill(memory.address, 1, 4)
        graph = stream.capture(enqueue)
        stream.synchronize()
        assert not calls, "captured work does not run"
        for _ in range(3):
            graph.launch(stream)
        stream.download(host.bytes, memory.address)
        stream.synchronize()
        assert len(calls) == 3 and host.bytes.tolist() == [5, 5, 1, 1]
        graph.destroy()


def test_garbage_is_not_collected_during_a_capture(driver: DriverDouble) -> None:
    """Dropped device memory in a reference cycle would be freed at any moment."""

    class Owner:
        pass

    with Device() as device:
        stream = device.stream()
        owner = Owner()
        owner.memory, owner.itself = device.allocate(64, "nobody"), owner  # type: ignore[attr-defined]
        del owner

        def enqueue() -> None:
            kept = [[] for _ in range(5000)]  # enough for a collection, if there were any
            assert len(kept) == 5000 and not gc.isenabled()

        stream.capture(enqueue).destroy()
        assert gc.isenabled()
        with pytest.raises(ZeroDivisionError):
            stream.capture(lambda: 1 // 0 and None)
        assert gc.isenabled()
        gc.collect()


@pytest.mark.parametrize("forbidden", ["allocate", "wait"])
def test_a_capture_refuses(driver: DriverDouble, forbidden: str) -> None:
    with Device() as device:
        stream = device.stream()
        act = {"allocate": lambda: device.allocate(8, "nothing"), "wait": stream.synchronize}[forbidden]
        with pytest.raises(DeviceError, match=r"no memory for nothing|work on the GPU failed"):
            stream.capture(lambda: act() and None)
        assert any("while a stream captures" in violation for violation in driver.violations)
        driver.library.double_reset()
        # The stream is usable again.
        stream.capture(lambda: None).destroy()


def test_no_memory_says_how_much(driver: DriverDouble) -> None:
    driver.reset(memory=100_000_000)
    with Device() as device:
        keep = device.allocate(60_000_000, "the first")
        with pytest.raises(
            DeviceError, match=r"no memory for the second: 50 MB needed, 40 MB of 100 MB free; .*--max-nodes"
        ):
            device.allocate(50_000_000, "the second")
        keep.free()


def test_a_failed_kernel_is_reported_where_it_shows(driver: DriverDouble) -> None:
    with Device() as device:
        stream = device.stream()
        driver.fail("cuStreamSynchronize", ILLEGAL_ADDRESS)
        with pytest.raises(DeviceError, match=r"work on the GPU failed: .*; restart the program.*dmesg"):
            stream.synchronize()
        driver.fail("cuGraphLaunch", ILLEGAL_ADDRESS)
        graph = stream.capture(lambda: None)
        with pytest.raises(DeviceError, match="could not be launched: CUDA_ERROR_ILLEGAL_ADDRESS"):
            graph.launch(stream)
        driver.fail("cuMemcpyHtoDAsync_v2", ILLEGAL_ADDRESS)
        with pytest.raises(DeviceError, match="a copy to the GPU failed"):
            stream.upload(0, device.pinned(4, "a test").bytes)
        graph.destroy()


def test_without_a_gpu(driver: DriverDouble) -> None:
    driver.fail("cuInit", NO_DEVICE)
    with pytest.raises(DeviceError, match="the GPU cannot be used"):
        Device()


def test_without_pycuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(MissingExtra, match=r"zerograsp-edge\[jetson\]"):
        Device()


def test_without_a_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    class Finder:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "pycuda.driver":
                raise ImportError("libcuda.so.1: cannot open shared object file: No such file or directory")

    package = ModuleType("pycuda")
    package.__path__ = []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pycuda", package)
    monkeypatch.delitem(sys.modules, "pycuda.driver", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(DeviceError, match="this machine has none, or the container"):
        Device()


def test_aligned() -> None:
    assert [aligned(n) for n in (0, 1, 256, 257)] == [0, 256, 256, 512]
