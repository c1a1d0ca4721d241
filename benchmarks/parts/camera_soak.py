"""Half an hour of a camera that misbehaves, as fast as it goes: is everything counted, does anything grow or hang?"""

from __future__ import annotations

import threading
import time
from dataclasses import fields

import numpy as np
import psutil
from harness import Figure, figure
from parts.camera_faults import HEIGHT, WIDTH, WRONG_SIZE, FaultyFeed, stamp

from zerograsp_edge.runtime.camera.base import CameraCounters
from zerograsp_edge.runtime.camera.reader import MonotonicClock
from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.camera.software import Optics, SoftwareBackend
from zerograsp_edge.runtime.errors import CameraError, EndOfFrames

# A read that waits this long hangs, s.
HANG = 120.0
# Memory is looked at this often, frames; growth counts from a tenth of the frames on.
LOOK = 200


class SkippingClock(MonotonicClock):
    """Silences take no time: whoever sleeps is there at once."""

    def __init__(self) -> None:
        super().__init__()
        self._time = 0.0

    def now(self) -> float:
        return self._time

    def sleep(self, seconds: float) -> None:
        self._time += seconds


def soak(count: int) -> list[Figure]:
    """Every frame is read, through alignment of pictures that are 15 mm apart."""
    feed = FaultyFeed(count)
    process, seen, wrong, last = psutil.Process(), 0, 0, 0
    memory: list[tuple[int, float]] = []
    threads, began, cpu, errors = threading.active_count(), time.perf_counter(), time.process_time(), 0
    camera = open_camera(feed, keep_all=True)
    with camera:
        while True:
            try:
                frame = camera.read()
            except EndOfFrames:
                break
            except CameraError as error:
                print(f"read failed: {error}")
                errors += 1
                break
            number = int(frame.name)
            wrong += number <= last or not np.array_equal(frame.rgb[0, :8, 0], stamp(number))
            last, seen = number, seen + 1
            if seen % LOOK == 0:
                memory.append((seen, process.memory_info().rss / 2**20))
        counters = camera.counters
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    settled = np.array([entry for entry in memory if entry[0] >= seen / 10])
    slope = np.polyfit(settled[:, 0], settled[:, 1], 1)[0] * 10_000 if len(settled) > 2 else 0.0
    miscounted = [
        f"{f.name}: {getattr(counters, f.name)} counted, {getattr(feed.injected, f.name)} injected"
        for f in fields(CameraCounters)
        if getattr(counters, f.name) != getattr(feed.injected, f.name)
    ]
    for line in miscounted:
        print(line)
    kinds = ("duplicated", "corrupted", "reordered", "unpaired", "stalls", "lost")
    faults = sum(getattr(feed.injected, name) for name in kinds)
    return [
        figure("soak: frames read", seen, "frames", "higher"),
        figure("soak: frames read a second", seen / seconds, "1/s", "higher"),
        figure("soak: CPU time a frame", cpu / seen * 1000, "ms"),
        figure("soak: faults injected", faults, "faults", "higher"),
        figure("soak: kinds of events miscounted", len(miscounted), "kinds", asked=0),
        figure("soak: frames with wrong order or content", wrong, "frames", asked=0),
        figure("soak: reads that failed or hung", errors, "reads", asked=0),
        figure("soak: memory, first tenth to end", settled[-1, 1] - settled[0, 1], "MiB", asked=16),
        figure("soak: memory, trend", slope, "MiB per 10,000 frames", asked=1),
        figure("soak: threads left over", threading.active_count() - threads, "threads", asked=0),
    ]


def newest_wins(count: int) -> list[Figure]:
    """The same camera, faster than whoever reads it."""
    feed = FaultyFeed(count, seed=1)
    with open_camera(feed, keep_all=False) as camera:
        order: list[int] = []
        while True:
            try:
                order.append(int(camera.read().name))
            except EndOfFrames:
                break
        counters = camera.counters
    accounted = counters.frames + counters.superseded == feed.injected.frames
    same = ("duplicated", "corrupted", "reordered", "unpaired", "stalls", "lost")
    exact = all(getattr(counters, name) == getattr(feed.injected, name) for name in same)
    return [
        figure("newest wins: superseded", counters.superseded, f"of {feed.injected.frames} sound frames"),
        figure("newest wins: not accounted for", int(not (accounted and exact)), "runs", asked=0),
        figure("newest wins: out of order", int((np.diff(order) <= 0).sum()), "frames", asked=0),
    ]


def open_camera(feed: FaultyFeed, *, keep_all: bool) -> RealSenseCamera:
    apart = np.eye(4)
    apart[0, 3] = 0.015
    size = (WIDTH, HEIGHT)
    config = RealSenseConfig(width=WIDTH, height=HEIGHT, warm_up=0, clock="own", timeout=HANG)
    clock = SkippingClock()
    backend = SoftwareBackend(
        feed, Optics(feed.intrinsics, feed.intrinsics, size, size, apart), config, clock, other_sizes=[WRONG_SIZE]
    )
    return RealSenseCamera(config, backend=backend, clock=clock, keep_all=keep_all)


