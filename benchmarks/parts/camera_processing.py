"""What the way of a picture from librealsense to a frame costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from harness import Figure, figure
from parts.camera_faults import HEIGHT, WIDTH, FaultyFeed

from zerograsp_edge.runtime.camera.backend import DeviceInfo
from zerograsp_edge.runtime.camera.capture import Capture
from zerograsp_edge.runtime.camera.realsense.config import FilterConfig, RealSenseConfig
from zerograsp_edge.runtime.camera.realsense.library import librealsense
from zerograsp_edge.runtime.camera.realsense.session import Session
from zerograsp_edge.runtime.camera.software import Optics, Shot, SoftwareDevice
from zerograsp_edge.runtime.camera.vetting import corruption

# An alignment kernel of our own would be worth its while above this, ms.
ALIGNMENT_ASKED = 2.0


def processing(quick: bool) -> list[Figure]:
    repeats = 20 if quick else 200
    feed = FaultyFeed(100)
    shot = next(iter(feed))
    assert isinstance(shot, Shot) and shot.depth is not None and shot.colour is not None
    plain = _developed(feed, shot, RealSenseConfig(), 0.0)
    aligned = _developed(feed, shot, RealSenseConfig(), 0.015)
    filtered = _developed(feed, shot, RealSenseConfig(filters=FilterConfig(spatial=True, temporal=True)), 0.0)
    depth, colour = shot.depth, shot.colour
    vetting, registered, both, all_filters = (
        _fastest(action, repeats)
        for action in (
            lambda: corruption(depth, colour, depth.shape, colour.shape[:2]),  # type: ignore[arg-type]
            plain, aligned, filtered,
        )
    )  # fmt: skip
    return [
        figure("processing: sound or not, 640x480", vetting, "ms"),
        figure("processing: registered streams to a frame", registered, "ms"),
        figure("processing: librealsense's alignment", both - registered, "ms", asked=ALIGNMENT_ASKED),
        figure("processing: spatial and temporal filters", all_filters - registered, "ms"),
    ]


def _developed(feed: FaultyFeed, shot: Shot, config: RealSenseConfig, apart: float) -> Callable[[], object]:
    """Makes a frame's pictures of one capture, again and again."""
    rs, size, pose = librealsense(), (WIDTH, HEIGHT), np.eye(4)
    pose[0, 3] = apart
    device = SoftwareDevice(rs, Optics(feed.intrinsics, feed.intrinsics, size, size, pose), 30)
    session = Session(rs, device.device, DeviceInfo("software", "Software RealSense"), config)
    taken: Capture | None = None
    for number in range(1, 4):  # the syncer releases the first pair in halves
        device.push(Shot(number, number * 1000 / 30, shot.depth, shot.colour))
        while (came := session.poll()) is not None:
            taken = came
    assert taken is not None and taken.complete
    capture, develop = taken, session.streams.develop
    return lambda: (develop(capture), device)


def _fastest(action: Callable[[], object], repeats: int) -> float:
    """CPU time of all threads, ms: other load on the machine does not count."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return float(np.median(times)) * 1000
