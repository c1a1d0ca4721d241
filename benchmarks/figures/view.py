"""docs/view.png: the browser's view of a live run on simulated frames, as a headless Chromium draws it.

The times in it are those of the run that made it: make it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from parts.browser import Browser

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.camera.simulated import SimulatedCamera
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig
from zerograsp_edge.runtime.grasp.refine import RefineConfig
from zerograsp_edge.runtime.live import LiveConfig, LivePipeline
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.segmentation.geometric import GeometricSegmenter
from zerograsp_edge.runtime.view import Viewer

OUT = Path(__file__).resolve().parents[2] / "docs" / "view.png"
SEED, OBJECTS, SIZE = 3, 6, (1500, 900)


class Unmasked(SimulatedCamera):
    """Without the masks that a real camera does not have."""

    def read(self) -> Frame:
        return replace(super().read(), mask=None, background=None)


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.1)


def settled(browser: Browser) -> bytes:
    """A picture that no longer changes: the CPU takes a while to draw WebGL."""
    before, now = b"", browser.screenshot()
    while now != before:
        time.sleep(3)
        before, now = now, browser.screenshot()
    return now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--frames", type=int, default=30)
    options = parser.parse_args()
    segmenter, refine = GeometricSegmenter(threads=2), RefineConfig(antipodal=AntipodalConfig())
    pipeline = Pipeline(load_bundle(EDGE_MODEL), threads=2, segmenter=segmenter, refine=refine)
    camera = Unmasked(SEED, OBJECTS, depth_noise=True)
    with tempfile.TemporaryDirectory() as profile, Viewer(port=0, mesh=True) as viewer:
        # First the run, then the browser: it would take the run's processor.
        LivePipeline(camera, pipeline, viewer, LiveConfig(frames=options.frames), watch=viewer.watch).run()
        with Browser(viewer.url, Path(profile), SIZE) as browser:
            until(lambda: viewer.drawn)
            until(lambda: browser.evaluate("document.querySelectorAll('.mantine-Notification-closeButton').length"))
            browser.evaluate("document.querySelector('.mantine-Notification-closeButton').click()")  # on slow WebGL
            options.out.write_bytes(settled(browser))
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
