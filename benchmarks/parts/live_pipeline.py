"""Runs the live pipeline on frames rendered before, and says where its CPU time goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from itertools import count
from types import TracebackType

import numpy as np
import psutil
from harness import Figure, figure
from parts.thread_cpu import Probe, thread_seconds
from rich.console import Console

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.camera.base import CameraCounters, FrameSource, TimestampClock
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.camera.software import Shot
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.live import LiveConfig, LivePipeline, LiveReport, LiveResult
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.segmentation import Segmentation, Segmenter
from zerograsp_edge.runtime.segmentation.geometric import GeometricSegmenter

THREADS = 2
SEED, OBJECTS, RENDERED = 3, 5, 30
# Everything outside inference may take that share of a frame's time.
ASKED = 0.10
FEWEST = 8
# Frames before the memory is looked at for the first time.
WARM = 5


class Rendered:
    """Simulated frames without masks, rendered when it is made, delivered again and again."""

    live = False
    clock: TimestampClock = "own"
    name = "rendered frames"

    def __init__(self) -> None:
        camera = SimulatedCamera(SEED, OBJECTS, depth_noise=True)
        # There and back, so that the camera's motion never jumps.
        frames = [replace(camera.read(), mask=None, background=None) for _ in range(RENDERED)]
        self._frames = frames + frames[-2:0:-1]
        self._next = 0

    def read(self) -> Frame:
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        return replace(frame, timestamp=self._next / 30, name=f"{self._next:06d}")

    def shots(self) -> Iterator[Shot]:
        """The same frames as a device delivers them, endlessly; they cost next to nothing."""
        ready = [
            Shot(0, 0.0, np.rint(frame.depth).astype(np.uint16), np.ascontiguousarray(frame.rgb))
            for frame in self._frames
        ]
        for number in count(1):
            yield replace(ready[number % len(ready)], number=number, time=number * 1000 / 30)

    @property
    def counters(self) -> CameraCounters:
        return CameraCounters(frames=self._next)

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> Rendered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TimedSegmenter:
    """A segmenter whose CPU time is added up, its worker threads included."""

    def __init__(self, segmenter: GeometricSegmenter, probe: Probe) -> None:
        self._segmenter, self._probe = segmenter, probe
        self.seconds = 0.0

    def __call__(self, frame: Frame) -> Segmentation:
        before = self._probe()
        found = self._segmenter(frame)
        self.seconds += self._probe() - before
        return found

    def reset(self) -> None:
        self._segmenter.reset()


def live_pipeline(frames: int) -> list[Figure]:
    """Figures of `frames` frames that are all perceived, and of a third as many in real time."""
    feed = Rendered()
    figures = _all_perceived(feed, frames)
    return [*_real_time(feed, max(frames // 3, FEWEST)), *figures]


def _real_time(feed: Rendered, frames: int) -> list[Figure]:
    """Rate and latency: the camera at its 30 frames per second, the newest wins."""
    source, name = _camera(feed, real_time=True)
    pipeline = _pipeline(GeometricSegmenter(threads=THREADS))
    pipeline(feed.read())  # every buffer is touched before the clock starts
    memory: list[float] = []
    process = psutil.Process()

    def consume(item: LiveResult) -> None:
        memory.append(process.memory_info().rss / 2**20)

    report = LivePipeline(source, pipeline, consume, LiveConfig(frames=frames, newest_wins=True)).run()
    return [*_speed(report, name), *_memory("in real time", memory)]


def _all_perceived(feed: Rendered, frames: int) -> list[Figure]:
    """CPU time by stage and memory: the camera waits, so that each of its frames is one that is perceived."""
    # The camera's threads are those that appear while it is opened; then come the pipeline's own, and with the first
    # frame perception's workers.
    before = set(thread_seconds())
    source, _ = _camera(feed, real_time=False)
    camera_and_main = set(thread_seconds()) - before | {threading.get_native_id()}
    probe = Probe(set(camera_and_main))
    segmenter = TimedSegmenter(GeometricSegmenter(threads=THREADS), probe)
    pipeline = _pipeline(segmenter)
    pipeline(feed.read())  # every buffer is touched before the clock starts
    segmenter.seconds = probe.cost = 0.0
    memory: list[float] = []
    process = psutil.Process()
    end: dict[int, float] = {}

    def consume(item: LiveResult) -> None:
        probe.others.add(threading.get_native_id())
        memory.append(process.memory_info().rss / 2**20)
        if len(memory) == frames:  # while all threads are still there
            end.update(thread_seconds())

    live = LivePipeline(source, pipeline, consume, LiveConfig(frames=frames, newest_wins=False, tick=0.25))
    begin = thread_seconds()
    report = live.run()
    used = {thread: seconds - begin.get(thread, 0.0) for thread, seconds in end.items()}
    camera = sum(seconds for thread, seconds in used.items() if thread in camera_and_main)
    capture, consumer = report.cpu_seconds["capture"], report.cpu_seconds["consumer"]
    parts = {
        "inference": sum(used.values()) - camera - capture - consumer - segmenter.seconds - probe.cost,
        "segmentation": segmenter.seconds,
        "librealsense with its software device, reader, counting": camera,
        "capture thread": capture,
        "consumer thread": consumer,
    }
    return [*_shares(parts, report.perceived), *_memory("every frame perceived", memory)]


def _pipeline(segmenter: Segmenter) -> Pipeline:
    refine = RefineConfig(antipodal=AntipodalConfig())
    return Pipeline(load_bundle(EDGE_MODEL), threads=THREADS, segmenter=segmenter, refine=refine)


def _camera(feed: Rendered, *, real_time: bool) -> tuple[FrameSource, str]:
    """The software device, where librealsense is there, and what it is called in the table."""
    if find_spec("pyrealsense2") is None:
        Console(stderr=True).print("no pyrealsense2: rendered frames without librealsense", highlight=False)
        return feed, "rendered frames"
    from zerograsp_edge.runtime.camera.reader import MonotonicClock
    from zerograsp_edge.runtime.camera.realsense.camera import RealSenseCamera
    from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
    from zerograsp_edge.runtime.camera.software import Optics, SoftwareBackend

    first, clock = feed.read(), MonotonicClock()
    config = RealSenseConfig(
        width=first.width, height=first.height, warm_up=0, clock="monotonic" if real_time else "own", timeout=60.0
    )
    backend = SoftwareBackend(feed.shots(), Optics.registered(first), config, clock, real_time=real_time)
    return RealSenseCamera(config, backend=backend, clock=clock, keep_all=not real_time), "software device"


def _speed(report: LiveReport, name: str) -> list[Figure]:
    return [
        figure(f"{name}, 640x480, {OBJECTS} objects: frames per second", report.fps, "1/s", "higher"),
        figure("latency, exposure to consumer: p50", report.latency.p50, "ms"),
        figure("latency, exposure to consumer: p95", report.latency.p95, "ms"),
        *(
            figure(f"latency, {part}: p50", report.parts[part].p50, "ms")
            for part in ("capture", "waiting", "perception", "handover")
        ),
        figure("segmentation, part of perception: mean", report.timings.get("segmentation", 0.0), "ms"),
        figure("frames perceived", report.perceived, "", "higher"),
        figure("frames superseded before perception", report.dropped["camera"] + report.dropped["capture"], ""),
        figure("faults of camera, perception and consumer", sum(report.faults.values()), "", asked=0),
    ]


def _shares(parts: dict[str, float], frames: int) -> list[Figure]:
    """CPU time a frame, by stage; `parts` are seconds of all frames."""
    total = sum(parts.values())
    outside = total - parts["inference"] - parts["segmentation"]
    return [
        *(figure(f"CPU time a frame: {part}", 1e3 * seconds / frames, "ms") for part, seconds in parts.items()),
        *(figure(f"share of a frame's CPU time: {part}", seconds / total, "") for part, seconds in parts.items()),
        figure("share of a frame's CPU time: all outside inference and segmentation", outside / total, "", asked=ASKED),
    ]


def _memory(run: str, memory: list[float]) -> list[Figure]:
    """Resident set, MB after each frame, at the end of a run and how it grew."""
    if not memory:
        return []
    figures = [figure(f"{run}: resident set after {len(memory)} frames", memory[-1], "MB")]
    if len(memory) < 4 * WARM:
        return figures
    half = memory[len(memory) // 2 :]
    return [
        *figures,
        figure(f"{run}: its growth from frame {WARM} to {len(memory)}", memory[-1] - memory[WARM], "MB"),
        figure(f"{run}: its growth over the last {len(half)} frames", half[-1] - half[0], "MB", asked=1.0),
    ]
