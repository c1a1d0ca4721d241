"""The live pipeline: capture, inference and consumption in three threads, the newest frame wins.

    with open_camera("realsense") as camera:
        live = LivePipeline(camera, pipeline, consume=lambda item: use(item.result))
        report = live.run()          # until the source ends, a limit is reached, or live.stop() from any thread
        print(report.ending, report.latency.p50, report.dropped)
"""

from __future__ import annotations

from zerograsp_edge.runtime.live.pipeline import LiveConfig, LivePipeline, LiveResult
from zerograsp_edge.runtime.live.report import Ending, LiveReport

__all__ = ["Ending", "LiveConfig", "LivePipeline", "LiveReport", "LiveResult"]
