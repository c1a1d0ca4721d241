"""Real devices: what is connected, and streams of one of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo
from zerograsp_edge.runtime.camera.capture import Capture, Streams
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.camera.realsense.faults import explained
from zerograsp_edge.runtime.camera.realsense.library import librealsense
from zerograsp_edge.runtime.camera.realsense.session import Session
from zerograsp_edge.runtime.camera.realsense.usb import check_access

logger = logging.getLogger(__name__)


class LibrealsenseBackend:
    """The cameras that librealsense finds on this computer.

    Args:
        record: .db3 file that the pictures are written to as they come.
        root: file system root that /sys and /dev are read under.
    """

    def __init__(self, config: RealSenseConfig, record: Path | None = None, root: Path = Path("/")) -> None:
        self._rs = librealsense("read a RealSense camera")
        self._config, self._record, self._root = config, record, root
        self._context = self._rs.context()
        self._session: Session | None = None

    def devices(self) -> Sequence[DeviceInfo]:
        found = [describe(self._rs, device) for device in self._query()]
        if not found:
            check_access(self._root)
        return found

    def start(self, device: DeviceInfo) -> Streams:
        outdated = device.firmware and device.recommended_firmware and (
            version(device.firmware) < version(device.recommended_firmware)
        )  # fmt: skip
        if outdated:
            logger.warning(
                "%s has firmware %s, librealsense recommends %s: rs-fw-update -s %s -f SIGNED_IMAGE.bin",
                device, device.firmware, device.recommended_firmware, device.serial,
            )  # fmt: skip
        if device.slow_link:
            logger.warning("%s: a USB 2 link carries few pictures and may stall; use a USB 3 port", device)
        if self._record is not None and self._record.exists():
            raise DeviceFault(f"{device} stopped while it was recorded; {self._record} holds what came until then")
        self._session = Session(self._rs, self._find(device), device, self._config, self._record)
        return self._session.streams

    def wait(self, timeout: float) -> Capture | None:
        assert self._session is not None
        return self._session.wait(timeout)

    def stop(self) -> None:
        if self._session is not None:
            self._session.stop()
            self._session = None

    def reset(self, device: DeviceInfo) -> None:
        found = self._find(device)
        try:
            found.hardware_reset()
        except RuntimeError as error:
            raise explained(error, device) from error

    def _query(self) -> list[Any]:
        try:
            return list(self._context.query_devices())
        except RuntimeError as error:
            raise explained(error, None) from error

    def _find(self, info: DeviceInfo) -> Any:
        for device in self._query():
            if describe(self._rs, device).serial == info.serial:
                return device
        raise DeviceFault(f"{info} has just vanished")


def describe(rs: Any, device: Any) -> DeviceInfo:
    """What a `rs.device` says about itself."""

    def said(name: str) -> str:
        info = getattr(rs.camera_info, name)
        try:
            return device.get_info(info) if device.supports(info) else ""
        except RuntimeError:  # it was unplugged in this moment
            return ""

    return DeviceInfo(
        serial=said("serial_number") or said("firmware_update_id"),
        name=said("name") or "RealSense camera",
        firmware=said("firmware_version"),
        recommended_firmware=said("recommended_firmware_version"),
        usb=said("usb_type_descriptor"),
        port=said("physical_port"),
        recovery=bool(device.is_update_device()),
    )


def version(text: str) -> tuple[int, ...]:
    """5.16.0.1 as numbers that compare."""
    return tuple(int(part) for part in text.split(".") if part.isdigit())
