"""A GPU that is none: PyCUDA, or its double, on the driver's stand-in."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cuda_library import library
from driver_double import CACHE, DriverDouble, build
from gpu_double import DeferredLaunchers, Gpu, add_engines
from pycuda_double import make_modules
from tensorrt_double import make_module

from zerograsp_edge.runtime import device as device_module
from zerograsp_edge.runtime.bundle import Bundle, load_bundle
from zerograsp_edge.runtime.gpu import perception as device_perception

# Set by test_pycuda.py for the process in which it runs the other tests again: the stand-in that PyCUDA loads there.
REAL = os.environ.get("ZEROGRASP_DRIVER_DOUBLE")


@pytest.fixture(scope="session")
def loaded_double() -> DriverDouble:
    """One driver for the whole process, as in reality.

    Beside other tests it has another name than the real one, so that no library takes it for a driver.
    """
    if REAL:
        return DriverDouble(Path(REAL), as_driver=True)
    return DriverDouble(build(CACHE, "libzerograsp_driver_double.so"))


@pytest.fixture
def driver(loaded_double: DriverDouble, monkeypatch: pytest.MonkeyPatch) -> Iterator[DriverDouble]:
    """The stand-in, as new; when the test ends nothing may have violated CUDA's rules, or failed on a stream."""
    if not REAL:
        for name, module in make_modules(str(loaded_double.path)).items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.setattr(device_module, "DRIVER", str(loaded_double.path))
    device_module._driver.cache_clear()
    loaded_double.reset()
    yield loaded_double
    violations, errors = loaded_double.violations, list(loaded_double.errors)
    loaded_double.reset()
    device_module._driver.cache_clear()
    if errors:
        raise errors[0]
    assert not violations


@pytest.fixture(scope="session")
def cuda_on_cpu() -> Path:
    """The CUDA kernels, compiled for the CPU."""
    return Path(library()._library._name)


@pytest.fixture
def gpu(driver: DriverDouble, cuda_on_cpu: Path, monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """This machine has a GPU, with TensorRT and the kernels."""
    tensorrt = make_module(driver)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt)
    launchers = DeferredLaunchers(cuda_on_cpu, driver)
    monkeypatch.setattr(device_perception, "find_library", lambda version, capability: cuda_on_cpu)
    monkeypatch.setattr(device_perception, "Launchers", lambda path: launchers)
    return Gpu(driver, tensorrt, launchers)


@pytest.fixture(scope="session")
def tiny_with_engines(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny bundle, with engines; not to be changed."""
    path = tmp_path_factory.mktemp("engines") / "tiny.zgb"
    shutil.copytree(tiny_path, path)
    return add_engines(load_bundle(path))
