"""A GPU that is none: PyCUDA, or its double, on the driver's stand-in."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver_double import CACHE, DriverDouble, build
from pycuda_double import make_modules

from zerograsp_edge.runtime import device as device_module

# Set by test_pycuda.py for the process in which it runs the other tests again: the stand-in that PyCUDA loads there.
REAL = os.environ.get("ZEROGRASP_DRIVER_DOUBLE")


@pytest.fixture(scope="session")
def loaded_double() -> DriverDouble:
    """One driver for the whole process, as in reality; beside other tests it has another name than the real one, so that no
    library takes it for a driver."""
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
