"""pyrealsense2, imported when it is needed, with an explanation where it cannot be."""

from __future__ import annotations

from types import ModuleType

from zerograsp_edge.runtime.errors import MissingExtra
from zerograsp_edge.runtime.extras import require

LIBUSB_FIX = "sudo apt-get install libusb-1.0-0"


def librealsense(purpose: str = "read a RealSense camera or recording") -> ModuleType:
    """The module `pyrealsense2`.

    Raises:
        MissingExtra: not installed, or a shared library that it links is not; the message says what to run.
    """
    try:
        rs = require("pyrealsense2", "camera", purpose)
    except MissingExtra as error:
        if "libusb" in str(error.__cause__):
            raise MissingExtra(f"pyrealsense2 is needed to {purpose} and lacks a library: {error.__cause__}; "
                               f"install it with: {LIBUSB_FIX}") from error  # fmt: skip
        raise
    # Built from source, the module lies one level deeper.
    return rs if hasattr(rs, "context") else require("pyrealsense2.pyrealsense2", "camera", purpose)
