"""What a person has to put right: the bus as the kernel shows it, librealsense's messages, configuration, clocks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo, SetupFault
from zerograsp_edge.runtime.camera.capture import Stamp
from zerograsp_edge.runtime.camera.opening import open_camera
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig, RealSenseConfig
from zerograsp_edge.runtime.camera.realsense.faults import explained, no_profile
from zerograsp_edge.runtime.camera.realsense.host_time import HostTime
from zerograsp_edge.runtime.camera.realsense.library import librealsense
from zerograsp_edge.runtime.camera.realsense.usb import check_access, usb_cameras
from zerograsp_edge.runtime.doctor import diagnose
from zerograsp_edge.runtime.errors import CameraError, ConfigError, MissingExtra

from .conftest import D435


def plug(root: Path, product: str, speed: str, *, device: int = 7, readable: bool = True, vendor: str = "8086") -> None:
    """A device on the bus, as /sys and /dev show it."""
    folder = root / f"sys/bus/usb/devices/2-{device}"
    folder.mkdir(parents=True)
    for name, value in (("idVendor", vendor), ("idProduct", product), ("speed", speed), ("busnum", "2"),
                        ("devnum", str(device))):  # fmt: skip
        (folder / name).write_text(value + "\n")
    node = root / f"dev/bus/usb/002/{device:03d}"
    node.parent.mkdir(parents=True, exist_ok=True)
    if readable:
        node.touch()


def test_cameras_on_the_bus(tmp_path: Path) -> None:
    plug(tmp_path, "0b3a", "5000")
    plug(tmp_path, "0B5B", "480", device=8)
    plug(tmp_path, "0adb", "5000", device=9, readable=False)
    plug(tmp_path, "0b07", "5000", device=10, vendor="046d")  # another maker's
    plug(tmp_path, "1234", "480", device=11)  # another product
    found = usb_cameras(tmp_path)
    assert [(c.model, c.slow_link, c.recovery, c.accessible) for c in found] == [
        ("D435i", False, False, True), ("D405", True, False, True), ("D400 in recovery mode", False, True, False),
    ]  # fmt: skip


def test_permission_is_explained(tmp_path: Path) -> None:
    check_access(tmp_path)
    plug(tmp_path, "0b5c", "5000", readable=False)
    with pytest.raises(SetupFault, match=r"D455 .* may not open .*002/007; install the udev rules: sudo curl"):
        check_access(tmp_path)
    rules = tmp_path / "etc/udev/rules.d"
    rules.mkdir(parents=True)
    (rules / "99-realsense-libusb.rules").touch()
    with pytest.raises(SetupFault, match="plug it in again"):
        check_access(tmp_path)


@pytest.mark.parametrize(
    ("product", "speed", "readable", "status", "words"),
    [
        ("0ad3", "5000", True, "ok", "D415, link of 5000 Mbit/s"),
        ("0b07", "480", True, "warn", "USB 3 port"),
        ("0b07", "5000", False, "warn", "udevadm"),
        ("0adb", "5000", True, "warn", "rs-fw-update -r"),
    ],
)
def test_doctor_sees_the_camera(
    tmp_path: Path, product: str, speed: str, readable: bool, status: str, words: str
) -> None:
    plug(tmp_path, product, speed, readable=readable)
    check = next(c for c in diagnose(tmp_path) if c.name == "device")
    assert check.status == status and words in check.detail + check.fix


def test_doctor_explains_a_missing_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "pyrealsense2"
    package.mkdir()
    (package / "__init__.py").write_text(
        "raise ImportError('libusb-1.0.so.0: cannot open shared object file: No such file or directory')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "pyrealsense2"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtra, match=r"lacks a library: libusb.* apt-get install libusb-1.0-0"):
        librealsense()
    check = next(c for c in diagnose(tmp_path) if c.name == "pyrealsense2")
    assert check.status == "missing" and "libusb" in check.detail and "apt-get install libusb" in check.fix


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(MissingExtra, match=r"zerograsp-edge\[camera\]"):
        open_camera("realsense")


@pytest.mark.parametrize(
    ("said", "kind", "advice"),
    [
        ("failed to open usb interface: 0, error: RS2_USB_STATUS_ACCESS", SetupFault, "udev"),
        ("xioctl(VIDIOC_S_FMT) failed, errno=16 Last Error: Device or resource busy", DeviceFault, "another program"),
        ("hwmon command 0x10( 0 0 0 0 ) failed (response -7= HW not ready)", DeviceFault, "rs-fw-update"),
        ("failed to set power state", DeviceFault, "cable"),
        ("No device connected", DeviceFault, "USB 3 port"),
        ("something new", DeviceFault, "something new"),
    ],
)
def test_messages_of_librealsense_are_explained(said: str, kind: type[CameraError], advice: str) -> None:
    fault = explained(RuntimeError(said), D435)
    assert type(fault) is kind
    assert said in str(fault) and advice in str(fault) and "111" in str(fault)


def test_a_missing_profile_names_what_there_is() -> None:
    offered = {(640, 480, 15), (640, 480, 6), (1280, 720, 6)}
    slow = DeviceInfo("9", "D435", usb="2.1")
    said = str(no_profile(slow, "depth", (640, 480), 30, offered))
    assert "offers 6, 15 frames per second; it is on a USB 2.1" in said
    assert str(no_profile(D435, "depth", (848, 480), 30, offered)).endswith("it offers 640x480, 1280x720")
    assert "no such stream" in str(no_profile(D435, "colour", (848, 480), 30, set()))


@pytest.mark.parametrize(
    "bad",
    [
        {"width": 0}, {"depth_width": 640}, {"preset": "fast"}, {"sync": "both"}, {"warm_up": -1}, {"timeout": 0.0},
        {"clock": "wall"}, {"advanced": Path("/nowhere.json")},
    ],
)  # fmt: skip
def test_configuration_is_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        RealSenseConfig(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"decimation": 9}, {"range": (2.0, 1.0)}, {"holes": "all"}])
def test_filters_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        FilterConfig(**bad)  # type: ignore[arg-type]


def test_sources_by_name(tmp_path: Path) -> None:
    with open_camera("sim:4") as camera:
        assert camera.name == "simulated scene 4" and not camera.live and camera.clock == "own"
        assert camera.counters.frames == 0
    for bad, said in (("sim:x", "number"), ("webcam", "expected realsense"), (str(tmp_path / "a.mp4"), "expected")):
        with pytest.raises(CameraError, match=said):
            open_camera(bad)


def test_wall_clock_timestamps_become_monotonic() -> None:
    convert = HostTime()
    stamp = Stamp(1, 1_700_000_000_000.0, "global_time")
    assert convert(stamp, arrival=50.0, wall=1_700_000_000.02) == pytest.approx(49.98)
    # The estimate of the device's clock is a little ahead: a picture is not taken after it came.
    assert convert(stamp, arrival=50.0, wall=1_699_999_999.99) == 50.0


def test_a_hardware_clock_is_placed_by_the_least_delayed_frame() -> None:
    convert = HostTime()
    delays = [0.030, 0.012, 0.050, 0.012]
    taken = [convert(Stamp(n, n * 100.0), 1000 + n / 10 + delay) for n, delay in enumerate(delays)]
    assert taken[0] == pytest.approx(1000.030)  # nothing better is known yet
    assert taken[1:] == pytest.approx([1000.112, 1000.212, 1000.312], abs=1e-4)


def test_a_hardware_clock_that_wraps() -> None:
    convert, period = HostTime(), 2**32 / 1000
    before = convert(Stamp(1, period - 50), 5000.0)
    assert convert(Stamp(2, 50.0), 5000.1) - before == pytest.approx(0.1)
