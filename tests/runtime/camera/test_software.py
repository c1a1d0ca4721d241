"""librealsense's own code on a software device: syncer, alignment, filters, lens, options, notifications."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2", reason="needs the extra `camera` and libusb-1.0", exc_type=ImportError)

from zerograsp_edge.runtime.camera.backend import DeviceFault, DeviceInfo, SetupFault  # noqa: E402
from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera  # noqa: E402
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig, RealSenseConfig  # noqa: E402
from zerograsp_edge.runtime.camera.realsense.lens import rectification  # noqa: E402
from zerograsp_edge.runtime.camera.realsense.session import Session  # noqa: E402
from zerograsp_edge.runtime.camera.recovery import RecoveryConfig  # noqa: E402
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera  # noqa: E402
from zerograsp_edge.runtime.camera.software import (  # noqa: E402
    Optics,
    Shot,
    Silence,
    SoftwareBackend,
    SoftwareCamera,
    SoftwareDevice,
    _intrinsics,
    shots,
)
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames  # noqa: E402
from zerograsp_edge.runtime.frame import Frame  # noqa: E402

from .conftest import FakeClock  # noqa: E402

W, H = 96, 64
K = np.array([[90.0, 0, 47.5], [0, 90.0, 31.5], [0, 0, 1]], np.float32)
RNG = np.random.default_rng(0)
COLOUR = np.clip(RNG.normal(120, 3, (H, W, 3)), 0, 255).astype(np.uint8)
DEPTH = np.tile(np.linspace(600, 900, W).astype(np.uint16), (H, 1))
CONFIG = RealSenseConfig(width=W, height=H, warm_up=0, clock="own", timeout=30)
REGISTERED = Optics(K, K, (W, H), (W, H), np.eye(4))


class WakingClock(FakeClock):
    def wake(self) -> None: ...


def shot(number: int, depth: np.ndarray | None = DEPTH, colour: np.ndarray | None = COLOUR) -> Shot:
    return Shot(number, number * 1000 / 30, depth, colour)


def camera(
    feed: Sequence[Shot | Silence], optics: Optics = REGISTERED, config: RealSenseConfig = CONFIG, **more: object
) -> RealSenseCamera:
    clock = WakingClock()
    backend = SoftwareBackend(feed, optics, config, clock, **more)  # type: ignore[arg-type]
    return RealSenseCamera(config, backend=backend, clock=clock, keep_all=True)  # type: ignore[arg-type]


def read_all(source: RealSenseCamera) -> list[Frame]:
    frames = []
    while True:
        try:
            frames.append(source.read())
        except EndOfFrames:
            return frames


def single(optics: Optics, depth: np.ndarray, filters: FilterConfig | None = None) -> Frame:
    config = replace(CONFIG, filters=filters or FilterConfig(), depth_width=depth.shape[1], depth_height=depth.shape[0])
    with camera([shot(1, depth)], optics, config) as source:
        return source.read()


def test_the_simulated_camera_comes_through_unchanged() -> None:
    expected = SimulatedCamera(3, 4, 160, 120, num_frames=4)
    with SoftwareCamera(SimulatedCamera(3, 4, 160, 120, num_frames=4)) as source:
        frames = read_all(source)
        assert source.counters.frames == 4 and source.counters.dropped == 0
    assert len(frames) == 4
    for frame in frames:
        truth = expected.read()
        assert np.array_equal(frame.rgb, truth.rgb)
        assert np.array_equal(frame.depth, np.rint(truth.depth))
        assert np.array_equal(frame.intrinsics, truth.intrinsics)
        assert frame.timestamp == truth.timestamp


def test_depth_units_of_a_d405() -> None:
    with SoftwareCamera(SimulatedCamera(3, 4, 160, 120, num_frames=1), depth_units=0.0001) as source:
        frame = source.read()
    truth = SimulatedCamera(3, 4, 160, 120).read()
    assert np.abs(frame.depth - truth.depth).max() <= 0.0501


def test_depth_that_does_not_fit_is_refused() -> None:
    far = Frame(COLOUR, np.full((H, W), 7000, np.float32), K)

    class Far:
        def read(self) -> Frame:
            return far

    with pytest.raises(CameraError, match=r"16 bits of 0\.0001 m"):
        next(shots(Far(), None, 0.0001))  # type: ignore[arg-type]


def test_real_time_frames_are_of_the_monotonic_clock() -> None:
    before = time.monotonic()
    with SoftwareCamera(SimulatedCamera(1, 1, 32, 24), real_time=True) as source:
        frames = [source.read() for _ in range(3)]
        assert source.live and source.clock == "monotonic"
    stamps = [frame.timestamp for frame in frames]
    assert before - 1e-3 <= stamps[0] < stamps[1] < stamps[2] <= time.monotonic()


def test_registered_streams_are_not_aligned() -> None:
    noisy = RNG.integers(800, 950, (H, W)).astype(np.uint16)
    assert np.array_equal(single(REGISTERED, noisy).depth, noisy)


def test_alignment_against_the_definition() -> None:
    """A plane parallel to the picture: each point of it is seen where projection says."""
    size, k = (80, 56), np.array([[60.0, 0, 39.5], [0, 60.0, 27.5], [0, 0, 1]])
    pose = np.eye(4)
    pose[0, 3] = 0.015
    depth = np.full((56, 80), 800, np.uint16)
    depth[20:30, 30:40] = 500
    frame = single(Optics(k, K, size, (W, H), pose), depth)
    expected = np.full((H, W), np.inf)
    for v in range(56):
        for u in range(80):
            z = depth[v, u] / 1000
            # The square of a pixel, from corner to corner, as librealsense fills it.
            corners = [
                K[:2, :2] @ ((np.array([u + s, v + s]) - k[:2, 2]) / 60 * z + pose[:2, 3]) / z + K[:2, 2]
                for s in (-0.5, 0.5)
            ]
            (x0, y0), (x1, y1) = ((int(np.floor(c[0] + 0.5)), int(np.floor(c[1] + 0.5))) for c in corners)
            if x0 < 0 or y0 < 0 or x1 >= W or y1 >= H:
                continue
            expected[y0 : y1 + 1, x0 : x1 + 1] = np.minimum(expected[y0 : y1 + 1, x0 : x1 + 1], depth[v, u])
    expected[np.isinf(expected)] = 0
    # The last column apart, which librealsense's vector code lets squares reach that lie partly outside.
    assert (frame.depth == expected)[:, :-1].mean() > 0.999
    assert np.isin(frame.depth, (0, 500, 800)).all() and (frame.depth == 500).sum() > 150
    assert np.array_equal(frame.intrinsics, K)


@pytest.mark.parametrize(
    "filters",
    [
        FilterConfig(spatial=True, temporal=True),
        FilterConfig(decimation=2),
        FilterConfig(decimation=2, range=(0.2, 2), spatial=True, temporal=True, holes="farthest"),
    ],
)
def test_filters_keep_size_and_surface(filters: FilterConfig) -> None:
    frame = single(REGISTERED, DEPTH, filters)
    assert frame.depth.shape == (H, W)
    inner = np.s_[8:-8, 8:-8]
    valid = frame.depth[inner] > 0
    assert valid.mean() > 0.95
    assert np.abs(frame.depth[inner] - DEPTH[inner])[valid].max() < 12


def test_range_filter_removes_what_is_outside() -> None:
    frame = single(REGISTERED, DEPTH, FilterConfig(range=(0.1, 0.75)))
    assert frame.depth.max() <= 750 and (frame.depth[DEPTH < 749] > 0).all()


def test_holes_are_filled_only_on_request() -> None:
    holed = DEPTH.copy()
    holed[30:34, 40:44] = 0
    assert (single(REGISTERED, holed).depth[30:34, 40:44] == 0).all()
    assert (single(REGISTERED, holed, FilterConfig(holes="nearest")).depth[30:34, 40:44] > 0).all()


@pytest.mark.parametrize("model", ["inverse_brown_conrady", "brown_conrady", "modified_brown_conrady"])
def test_the_lens_is_librealsenses(model: str) -> None:
    intrinsics = _intrinsics(rs, K, (W, H), (-0.12, 0.08, 0.004, -0.003, -0.02))
    intrinsics.model = getattr(rs.distortion, model)
    places = rectification(intrinsics)
    assert places is not None and places.shape == (2, H, W)
    for u, v in ((0, 0), (95, 63), (10, 50), (47, 31)):
        point = [(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], 1.0]
        assert places[:, v, u] == pytest.approx(rs.rs2_project_point_to_pixel(intrinsics, point), abs=1e-3)


def test_a_lens_that_does_nothing_is_left_alone() -> None:
    assert rectification(_intrinsics(rs, K, (W, H), (0, 0, 0, 0, 0))) is None
    assert rectification(_intrinsics(rs, K, (W, H), (1e-4, 0, 0, 0, 0))) is None


def test_distorted_colour_becomes_a_pinhole_picture() -> None:
    """A vertical line that the lens bends is straight again, and depth moves with it."""
    coefficients = (-0.3, 0.0, 0.0, 0.0, 0.0)
    k, size = np.array([[300.0, 0, 159.5], [0, 300.0, 119.5], [0, 0, 1]]), (320, 240)
    places = rectification(_intrinsics(rs, k, size, coefficients))
    assert places is not None
    line = 290  # column in the pinhole picture
    colour, depth = np.full((240, 320, 3), 30, np.uint8), np.full((240, 320), 900, np.uint16)
    for v in range(240):
        for du in np.linspace(-4, 4, 33):
            u, w = places[:, v, line] + (du, 0)
            colour[round(float(w)), round(float(u))] = 200
            depth[round(float(w)), round(float(u))] = 600
    config = replace(CONFIG, width=320, height=240)
    optics = Optics(k, k, size, size, np.eye(4), distortion=coefficients)
    with camera([shot(1, depth, colour)], optics, config) as source:
        frame = source.read()
    rows = slice(10, 230)
    bright = np.array([row[250:].argmax() for row in (frame.rgb[rows, :, 0] > 115)])
    raw = np.array([row[250:].argmax() for row in (colour[rows, :, 0] > 115)])
    assert np.ptp(raw) > 2 >= np.ptp(bright)
    assert (frame.depth[rows, line] == 600).mean() > 0.98


def test_faults_of_every_kind_are_counted() -> None:
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 2**16, (H, W), np.uint16)
    small = np.full((48, 64), 700, np.uint16)
    feed: list[Shot | Silence] = [
        shot(1), shot(2), shot(2), shot(3), Silence(0.3), shot(5), shot(4), shot(6, DEPTH * 0), shot(7, noise),
        shot(8, small), shot(9, colour=COLOUR * 0), shot(10), Silence(0.9), shot(11), shot(11), shot(14), shot(15),
    ]  # fmt: skip
    with camera(feed, other_sizes=[(64, 48)]) as source:
        names = [int(frame.name) for frame in read_all(source)]
        counters = source.counters
    assert names == [1, 2, 3, 5, 10, 11, 14, 15]
    assert (counters.duplicated, counters.reordered, counters.corrupted, counters.stalls) == (2, 1, 4, 1)
    assert (counters.lost, counters.restarts, counters.unpaired, counters.superseded) == (2, 1, 0, 0)


def test_an_end_after_a_restart_is_an_end() -> None:
    config = replace(CONFIG, recovery=RecoveryConfig(restarts=9))
    with camera([shot(1), Silence(5.0), shot(2)], config=config) as source:
        assert [frame.name for frame in read_all(source)] == ["000001", "000002"]
        assert source.counters.restarts >= 1


def opened(config: RealSenseConfig, usb: str = "3.2") -> Session:
    device = SoftwareDevice(rs, REGISTERED, 30)
    session = Session(rs, device.device, DeviceInfo("42", "D4", usb=usb), config)
    session.software = device  # type: ignore[attr-defined]
    return session


def test_profiles_that_do_not_exist() -> None:
    with pytest.raises(SetupFault, match=r"no depth stream 640x480 at 30 .* it offers 96x64$"):
        opened(replace(CONFIG, width=640, height=480))
    with pytest.raises(SetupFault, match=r"96x64 at 90 .* at this size it offers 30"):
        opened(replace(CONFIG, fps=90))
    with pytest.raises(SetupFault, match=r"USB 2.1 link.*use a USB 3 port"):
        opened(replace(CONFIG, fps=90), usb="2.1")


def test_options_that_do_not_exist() -> None:
    with pytest.raises(SetupFault, match="visual_preset"):
        opened(replace(CONFIG, preset="high_accuracy"))
    with pytest.raises(SetupFault, match="inter_cam_sync_mode"):
        opened(replace(CONFIG, sync="master"))


def test_a_device_is_free_after_a_failed_start() -> None:
    device = SoftwareDevice(rs, REGISTERED, 30)
    info = DeviceInfo("42", "D4")
    with pytest.raises(SetupFault):
        Session(rs, device.device, info, replace(CONFIG, fps=90))
    session = Session(rs, device.device, info, CONFIG)
    session.stop()
    Session(rs, device.device, info, CONFIG).stop()


@pytest.mark.parametrize(("said", "fatal"), [("Asic Temperature Warning", False), ("Depth stream start failure", True)])
def test_only_notifications_that_stop_the_pictures_are_faults(said: str, fatal: bool) -> None:
    session = opened(CONFIG)
    session._notified(SimpleNamespace(description=said))  # the software device's own notifications hold no text
    if fatal:
        with pytest.raises(DeviceFault, match="start failure"):
            session.wait(0.01)
    assert session.wait(0.01) is None
    session.stop()
