"""The view in a headless Chromium: what arrives there, what it shows, and what its sliders do."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zerograsp_edge.runtime.live import LiveConfig, LivePipeline, LiveResult

pytest.importorskip("viser", reason="the view needs the extra `view`")
# The benchmarks are scripts: their folder is where they import from.
BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
from parts.browser import Browser, find_chromium  # noqa: E402

sys.path.remove(BENCHMARKS)
from zerograsp_edge.runtime.view import Viewer  # noqa: E402

needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium on the PATH (Debian: chromium)")


@pytest.fixture
def viewer() -> Iterator[Viewer]:
    with Viewer(port=0, rate=1e9) as opened:
        yield opened


def until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.1)


def test_served_on_this_computer_alone(viewer: Viewer) -> None:
    assert viewer.url.startswith("http://127.0.0.1:")


def test_nothing_is_drawn_for_nobody(viewer: Viewer, live_result: LiveResult) -> None:
    viewer(live_result)
    assert viewer.drawn == 0


def test_taken_port_gives_the_next(viewer: Viewer) -> None:
    port = int(viewer.url.rsplit(":", 1)[1])
    with Viewer(port=port) as second:
        assert second.url != viewer.url


def test_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    Viewer(port=0).close()
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@needs_chromium
def test_in_the_browser(
    viewer: Viewer, live_result: LiveResult, empty_result: LiveResult, tmp_path: Path
) -> None:
    """One browser for everything: it takes a while to start."""
    with Browser(viewer.url, tmp_path, size=(700, 500)) as browser:

        def text() -> str:
            return str(browser.evaluate("document.body.innerText"))

        until(lambda: viewer._server.get_clients())
        until(lambda: "waiting for the first frame" in text())
        viewer(live_result)
        assert viewer.drawn == 1
        until(lambda: "2 objects, 6 grasps" in text())
        assert "34 ms" in text() and "frame 7" in text()
        assert "minimum score" in text() and "grasps per object" in text() and "ms per frame" in text()
        until(lambda: browser.evaluate("document.querySelectorAll('img').length") > 0)
        assert viewer._drawn == ["/cloud", "/surfaces/1", "/surfaces/2", "/grasps"]

        # Thresholds apply to the frame that is there.
        viewer._min_score.value = 0.95
        until(lambda: "/grasps" not in viewer._drawn)
        viewer._min_score.value = 0.5
        until(lambda: "/grasps" in viewer._drawn)
        viewer._surfaces.value = "nothing"
        until(lambda: viewer._drawn == ["/cloud", "/grasps"])

        # A frame without a result says why, as it is and not as Markdown.
        viewer(empty_result)
        until(lambda: "nothing stands on the *table*" in text())
        assert viewer._drawn == ["/cloud"]

        viewer._hold.value = True
        drawn = viewer.drawn
        viewer(live_result)
        assert viewer.drawn == drawn

        assert browser.problems == []
        local = ("data:", "blob:", viewer.url)
        assert [url for url in browser.requests if not url.startswith(local)] == [], "nothing comes from elsewhere"


@pytest.mark.slow
@needs_chromium
def test_scene_is_drawn(viewer: Viewer, live_result: LiveResult, tmp_path: Path) -> None:
    """The first object's colour is to be seen, in the middle of the picture."""
    import cv2

    viewer(live_result)
    with Browser(viewer.url, tmp_path, size=(700, 400)) as browser:

        def orange() -> float:
            picture = cv2.imdecode(np.frombuffer(browser.screenshot(), np.uint8), cv2.IMREAD_COLOR)
            scene = picture[:, : 700 - 400].astype(int)  # beside the panel
            blue, red = scene[..., 0], scene[..., 2]
            return float(((red > 80) & (red > 2.5 * blue)).mean())

        until(lambda: viewer._server.get_clients() and viewer.drawn)
        until(lambda: orange() > 0.005)


def test_as_consumer_of_a_live_run(viewer: Viewer, live_result: LiveResult) -> None:
    class Frames:
        live, clock, name = False, "own", "frames"
        counters = __import__("zerograsp_edge.runtime.camera.base", fromlist=["x"]).CameraCounters()

        def read(self) -> object:
            return live_result.frame

        def close(self) -> None: ...

    report = LivePipeline(
        Frames(), lambda frame: replace(live_result.result), viewer,  # type: ignore[arg-type, type-var]
        LiveConfig(frames=3, tick=0.01), watch=viewer.watch,
    ).run()  # fmt: skip
    assert report.consumed == 3 and report.faults["consumer"] == 0
    assert "capture 0" in viewer._counts.content
