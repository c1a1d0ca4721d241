"""What the recovery of a camera needs of a driver: librealsense with a real or a software device, or a double."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from zerograsp_edge.runtime.errors import CameraError

if TYPE_CHECKING:
    from zerograsp_edge.runtime.camera.capture import Capture, Streams


class DeviceFault(CameraError):
    """The device or its driver failed; another attempt, or a reset, may help."""


class SetupFault(CameraError):
    """Something a person has to change: permission, cable, profile, firmware. Trying again does not help."""


@dataclass(frozen=True)
class DeviceInfo:
    """A camera that is connected.

    Attributes:
        firmware, recommended_firmware: versions; empty when not known.
        usb: of the link, such as `3.2` or `2.1`; empty when not known.
        port: where it is plugged in.
        recovery: it waits for a firmware and cannot stream.
    """

    serial: str
    name: str
    firmware: str = ""
    recommended_firmware: str = ""
    usb: str = ""
    port: str = ""
    recovery: bool = False

    def __str__(self) -> str:
        details = [f"serial number {self.serial}"]
        details += [f"USB {self.usb}"] if self.usb else []
        return f"{self.name} ({', '.join(details)})"

    @property
    def slow_link(self) -> bool:
        """On a USB 2 link, which offers few profiles at low rates."""
        return self.usb.startswith(("1", "2"))


class Backend(Protocol):
    """Called from one thread."""

    def devices(self) -> Sequence[DeviceInfo]:
        """What is connected now. Raises SetupFault when a camera is there that may not be opened."""
        ...

    def start(self, device: DeviceInfo) -> Streams:
        """Open and start its streams. Raises DeviceFault or SetupFault; nothing is left open then."""
        ...

    def wait(self, timeout: float) -> Capture | None:
        """The next delivery; None when nothing has come within `timeout` s.

        Raises:
            DeviceFault: the device has reported a fault, or the driver failed.
            EndOfFrames: of a finite source.
        """
        ...

    def stop(self) -> None:
        """Stop and close. Never raises; does nothing when nothing is open."""

    def reset(self, device: DeviceInfo) -> None:
        """Reset the hardware: the device vanishes and comes back. Raises DeviceFault when it cannot be asked to."""


def choose_device(devices: Sequence[DeviceInfo], serial: str | None) -> DeviceInfo | None:
    """The device with that serial number, or the only one; None when it is not there.

    Raises:
        SetupFault: several cameras and none named, or another one than is wanted, or it waits for a firmware.
    """
    there = "; ".join(map(str, devices))
    if serial is None and len(devices) > 1:
        raise SetupFault(f"expected one RealSense camera, found {len(devices)}: {there}; choose by serial number")
    found = next((device for device in devices if serial in (None, device.serial)), None)
    if found is None and devices:
        raise SetupFault(f"no RealSense camera with serial number {serial}; connected: {there}")
    if found is not None and found.recovery:
        raise SetupFault(
            f"{found} is in recovery mode and waits for a firmware; run: rs-fw-update -r -f SIGNED_IMAGE.bin"
        )
    return found
