"""RealSense cameras on the bus as the kernel sees them, without opening any: also those that may not be opened."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from zerograsp_edge.runtime.camera.backend import SetupFault

INTEL = "8086"
# Product numbers of the D400 family (librealsense, src/ds/d400/d400-private.h).
PRODUCTS = {
    "0ad3": "D415",
    "0b07": "D435",
    "0b3a": "D435i",
    "0b5b": "D405",
    "0b5c": "D455",
    "0adb": "D400 in recovery mode",
    "0adc": "D400 in recovery mode",
}
RECOVERY = ("0adb", "0adc")
UDEV_FOLDERS = ("etc/udev/rules.d", "lib/udev/rules.d", "usr/lib/udev/rules.d")
UDEV_FIX = (
    "sudo curl -fsSLo /etc/udev/rules.d/99-realsense-libusb.rules "
    "https://raw.githubusercontent.com/realsenseai/librealsense/master/config/99-realsense-libusb.rules "
    "&& sudo udevadm control --reload-rules && sudo udevadm trigger"
)


@dataclass(frozen=True)
class UsbCamera:
    """A camera on the bus.

    Attributes:
        model: such as `D435i`.
        megabits: speed of the link, Mbit/s: 480 is USB 2, 5000 and more USB 3.
        node: its device file.
        accessible: whether this user may open it.
    """

    model: str
    megabits: int
    node: Path
    accessible: bool
    recovery: bool

    @property
    def slow_link(self) -> bool:
        return 0 < self.megabits < 5000


def usb_cameras(root: Path = Path("/")) -> list[UsbCamera]:
    """The RealSense cameras on the bus, from /sys and /dev under `root`."""
    cameras = []
    for folder in sorted((root / "sys/bus/usb/devices").glob("*")):
        product = _text(folder / "idProduct").lower()
        if _text(folder / "idVendor").lower() != INTEL or product not in PRODUCTS:
            continue
        bus, device = (_number(folder / name) for name in ("busnum", "devnum"))
        node = root / f"dev/bus/usb/{bus:03d}/{device:03d}"
        cameras.append(
            UsbCamera(
                PRODUCTS[product],
                _number(folder / "speed"),
                node,
                os.access(node, os.R_OK | os.W_OK),
                product in RECOVERY,
            )
        )
    return cameras


def udev_rules(root: Path = Path("/")) -> list[Path]:
    """The rules that let users open RealSense cameras."""
    return [path for folder in UDEV_FOLDERS for path in sorted((root / folder).glob("*realsense*.rules"))]


def check_access(root: Path = Path("/")) -> None:
    """Raises SetupFault when a camera is on the bus that this user may not open."""
    refused = [camera for camera in usb_cameras(root) if not camera.accessible]
    if not refused:
        return
    camera = refused[0]
    if udev_rules(root):
        advice = "the udev rules are there: unplug the camera and plug it in again, so that they take effect"
    else:
        advice = f"install the udev rules: {UDEV_FIX}"
    raise SetupFault(f"a {camera.model} is connected, but this user may not open {camera.node}; {advice}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    try:
        return int(float(_text(path) or 0))
    except ValueError:
        return 0
