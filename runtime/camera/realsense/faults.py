"""librealsense's error messages, put into words that say what to do, and whether trying again can help."""

from __future__ import annotations

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo, SetupFault
from zerograsp_edge.runtime.camera.realsense.usb import UDEV_FIX

# Part of a message (lower case), whether a person has to act, and the advice.
_KNOWN: tuple[tuple[tuple[str, ...], bool, str], ...] = (
    (
        ("permission denied", "errno=13", "status_access", "rs2_usb_status_access"),
        True,
        f"this user may not open it; install the udev rules and plug it in again: {UDEV_FIX}",
    ),
    (
        ("busy", "errno=16", "already opened", "device or resource"),
        False,
        "another program has it; close realsense-viewer and the like (fuser -v /dev/bus/usb/*/* shows who)",
    ),
    (
        ("hwmon", "hw_monitor", "firmware", "asic"),
        False,
        "its firmware did not answer; if that repeats: rs-fw-update -l shows the version, "
        "rs-fw-update -s SERIAL -f SIGNED_IMAGE.bin installs the recommended one",
    ),
    (
        ("power state", "no device", "disconnected", "no such device", "status_no_device", "i/o error", "status_io"),
        False,
        "the link broke; use the cable that came with it, on a USB 3 port of the computer itself",
    ),
)
# Of realsense-ros: after these notifications only a hardware reset brings the pictures back.
_FATAL_NOTIFICATIONS = ("ic2 config error", "stream start failure", "motion module force pause")


def explained(error: Exception, device: DeviceInfo | None) -> DeviceFault | SetupFault:
    """The fault that an exception of librealsense stands for."""
    said = " ".join(str(error).split())
    who = f"{device}: " if device is not None else ""
    for parts, permanent, advice in _KNOWN:
        if any(part in said.lower() for part in parts):
            return (SetupFault if permanent else DeviceFault)(f"{who}{said}; {advice}")
    return DeviceFault(f"{who}{said}")


def is_fatal(notification: str) -> bool:
    """Whether pictures stop for good after the device has said this."""
    return any(part in notification.lower() for part in _FATAL_NOTIFICATIONS)


def no_profile(
    device: DeviceInfo, kind: str, size: tuple[int, int], fps: int, offered: set[tuple[int, int, int]]
) -> SetupFault:
    """A stream that the device does not offer.

    Args:
        offered: (width, height, fps).
    """
    same = sorted(rate for width, height, rate in offered if (width, height) == size)
    if same:
        advice = f"at this size it offers {', '.join(map(str, same))} frames per second"
    elif offered:
        nearest = sorted(offered, key=lambda o: abs(o[0] * o[1] - size[0] * size[1]))
        sizes = list(dict.fromkeys(f"{w}x{h}" for w, h, _ in nearest))
        advice = f"it offers {', '.join(sizes[:6])}"
    else:
        advice = "it has no such stream"
    link = (
        f"; it is on a USB {device.usb} link, where it offers little: use a USB 3 port and the cable that came with it"
        if device.slow_link
        else ""
    )
    return SetupFault(f"{device}: no {kind} stream {size[0]}x{size[1]} at {fps} frames per second; {advice}{link}")
