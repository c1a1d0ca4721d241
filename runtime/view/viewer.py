"""The view in the browser, on viser: a consumer of live results that draws the newest ones."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from importlib.util import find_spec
from io import StringIO
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from zerograsp_edge.runtime.extras import require
from zerograsp_edge.runtime.live.pipeline import LiveResult
from zerograsp_edge.runtime.overlay import draw_masks, object_colour
from zerograsp_edge.runtime.view.charts import LINES, Times
from zerograsp_edge.runtime.view.drawing import (
    Viewpoint,
    chosen_grasps,
    cloud,
    grasp_lines,
    surface,
    viewpoint,
)

if TYPE_CHECKING:
    from zerograsp_edge.runtime.live.report import LiveReport

_MESHES, _POINTS, _NOTHING = "meshes", "points", "nothing"
_DISCS: dict[str, Any] = {"point_shape": "circle", "point_shading": "flat"}
# Of the browser's camera: a narrow one shows shapes with less distortion.
_FIELD_OF_VIEW = math.radians(50)


class Viewer:
    """Shows camera image with masks, point cloud, reconstructed surfaces, grasps and times; call it with live results.

    Thresholds are set in the browser and apply at once, to the last result, too. While no browser is connected nothing
    is drawn; results that come faster than `rate` are left out.

    Args:
        host: address that the page is served at; the default is reachable from this computer only.
        port: of the page; 0 takes a free one. Where it is taken, the next free one is used: see `url`.
        rate: pictures per second at most.
        mesh: show meshes at first; needs the extra `mesh`, without which there are surface points only.

    Raises:
        MissingExtra: viser is not installed (extra `view`).
    """

    def __init__(
        self, host: str = "127.0.0.1", port: int = 8080, *, rate: float = 10.0, mesh: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self._viser: Any = require("viser", "view", "show results in the browser")
        self._lock = threading.RLock()
        self._clock, self._period, self._shown = clock, 1 / rate, float("-inf")
        self._times = Times()
        self._last: LiveResult | None = None
        self._looking = False
        self._drawn: list[str] = []
        with redirect_stdout(StringIO()):  # viser announces itself whatever `verbose` says
            self._server = self._viser.ViserServer(host=host, port=port, label="zerograsp-edge", verbose=False)
        self.url = f"http://{self._server.get_host()}:{self._server.get_port()}"
        self.drawn = 0
        self._build(mesh)

    def __call__(self, item: LiveResult) -> None:
        """Show a result, if it is time for a new picture."""
        with self._lock:
            self._times.add(item)
            if self._hold.value:
                return
            self._last = item
            now = self._clock()
            if now - self._shown < self._period or not self._server.get_clients():
                return
            self._shown = now
            self._draw()

    def watch(self, report: LiveReport) -> None:
        """Show the counts of a live run."""
        dropped = " ".join(f"{stage} {count}" for stage, count in report.dropped.items())
        faults = " ".join(f"{stage} {count}" for stage, count in report.faults.items())
        trouble = f"\n\n**{_escaped(report.last_fault)}**" if report.last_fault else ""
        self._counts.content = f"dropped: {dropped}  \nfaults: {faults}{trouble}"

    def close(self) -> None:
        """Stop serving the page. Calling it twice is allowed."""
        server, self._server = self._server, None
        if server is not None:
            with redirect_stdout(StringIO()):
                server.stop()

    def __enter__(self) -> Viewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _build(self, mesh: bool) -> None:
        """Panel and empty scene."""
        server, gui = self._server, self._server.gui
        gui.configure_theme(
            dark_mode=True, show_logo=False, show_share_button=False, control_width="large",
            brand_color=(86, 180, 233),
        )  # fmt: skip
        gui.main_panel.dock_right()
        gui.set_panel_label("zerograsp-edge")
        # Every browser that connects gets what there is.
        server.on_client_connect(self._greet)
        self._image = gui.add_image(np.zeros((3, 4, 3), np.uint8), label="camera", format="jpeg")
        self._status = gui.add_markdown("waiting for the first frame")
        self._min_score = gui.add_slider("minimum score", 0.0, 1.0, 0.01, 0.3)
        self._per_object = gui.add_slider("grasps per object", 0, 20, 1, 3)
        meshes = all(find_spec(module) for module in ("skimage", "trimesh"))
        modes = (_MESHES, _POINTS, _NOTHING) if meshes else (_POINTS, _NOTHING)
        self._surfaces = gui.add_dropdown("surfaces", modes, initial_value=_MESHES if mesh and meshes else _POINTS)
        self._cloud = gui.add_checkbox("point cloud", True)
        self._hold = gui.add_checkbox("hold", False, hint="keep this frame")
        for control in (self._min_score, self._per_object, self._surfaces, self._cloud):
            control.on_update(lambda _: self._redraw())
        gui.add_button("look at the objects").on_click(lambda _: self._look())
        uplot = self._viser.uplot
        series = [uplot.Series(label="s")] + [
            uplot.Series(label=name, stroke=colour, width=2) for name, colour in LINES
        ]
        ink = "#c8ccd4"
        axes = [uplot.Axis(stroke=ink, grid={"stroke": "#3a3f4a"}) for _ in range(2)]
        self._plot = gui.add_uplot(
            tuple(np.zeros(1) for _ in range(1 + len(LINES))), tuple(series), title="ms per frame",
            scales={"x": uplot.Scale(time=False)}, axes=tuple(axes), aspect=2.2,
        )  # fmt: skip
        self._counts = gui.add_markdown("")

    def _greet(self, _: Any) -> None:
        with self._lock:
            if self._last is not None:
                self._draw()

    def _redraw(self) -> None:
        with self._lock:
            if self._last is not None and self._server is not None:
                self._draw()

    def _look(self) -> None:
        """Turn the browsers' cameras to the objects of now."""
        with self._lock:
            result = self._last.result if self._last is not None else None
            there = None if result is None else viewpoint(result)
            if there is None:
                return
            for client in self._server.get_clients().values():
                camera = client.camera
                camera.up_direction, camera.position, camera.look_at = there.up, there.position, there.look_at

    def _start_looking(self, there: Viewpoint) -> None:
        """Where every browser looks from until somebody moves its camera, those that connect later included."""
        self._server.scene.set_up_direction(there.up)
        camera = self._server.initial_camera
        camera.up, camera.position, camera.look_at = there.up, there.position, there.look_at
        camera.fov = _FIELD_OF_VIEW
        self._looking = True

    def _draw(self) -> None:
        assert self._last is not None
        item, result = self._last, self._last.result
        if result is not None and result.segmentation is not None and item.frame.mask is None:
            item = replace(item, frame=result.segmentation.apply(item.frame))
            self._last = item
        if not self._looking and result is not None and (there := viewpoint(result)) is not None:
            self._start_looking(there)
        with self._server.atomic():
            self._draw_panel(item)
            self._draw_scene(item)
        self.drawn += 1

    def _draw_panel(self, item: LiveResult) -> None:
        self._image.image = draw_masks(item.frame)
        text = f"**{self._times.rate():.1f} fps**, latency **{item.latency * 1e3:.0f} ms**, frame {item.number}"
        if item.result is None:
            text += f"  \n{_escaped(item.problem)}"
        else:
            grasps = sum(len(entry.grasps) for entry in item.result.objects)
            text += f"  \n{len(item.result.objects)} objects, {grasps} grasps"
        self._status.content = text
        self._plot.data = self._times.columns()

    def _draw_scene(self, item: LiveResult) -> None:
        scene, names = self._server.scene, []
        objects = () if item.result is None or self._surfaces.value == _NOTHING else item.result.objects
        shown = [entry for entry in objects if len(entry.points)]
        if self._cloud.value:
            # Measured points would be drawn on top of the surface that was made of them.
            points, colours = cloud(item.frame, without={entry.object_id for entry in shown})
            scene.add_point_cloud("/cloud", points, colours, point_size=0.0016, **_DISCS)
            names.append("/cloud")
        for entry in shown:
            name = f"/surfaces/{entry.object_id}"
            mesh = entry.mesh() if self._surfaces.value == _MESHES else None
            if mesh is not None and len(mesh.faces):
                scene.add_mesh_simple(
                    name, np.asarray(mesh.vertices, np.float32) / 1000, np.asarray(mesh.faces, np.uint32),
                    color=object_colour(entry.index), side="double", cast_shadow=False, receive_shadow=False,
                )  # fmt: skip
            else:
                points, colours = surface(entry)
                scene.add_point_cloud(name, points, colours, point_size=entry.voxel_size / 1000, **_DISCS)
            names.append(name)
        if item.result is not None:
            grasps = chosen_grasps(item.result, float(self._min_score.value), int(self._per_object.value))
            if len(grasps):
                lines, inks = grasp_lines(grasps)
                scene.add_line_segments("/grasps", lines, inks, thickness=0.0025)
                names.append("/grasps")
        for name in set(self._drawn) - set(names):
            scene.remove_by_name(name)
        self._drawn = names


def _escaped(text: str) -> str:
    """Text as it is, in Markdown."""
    return "".join(f"\\{c}" if c in "\\`*_{}[]()#+-.!|<>" else c for c in text)
