"""`zerograsp-edge run`: frames of a camera through the pipeline as they come, or frames from files into a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.camera.realsense.config import RealSenseConfig
from zerograsp_edge.runtime.commands.report import (
    UNTRAINED,
    describe_segmentation,
    print_result,
    print_timings,
)
from zerograsp_edge.runtime.errors import ConfigError, FrameError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.models import EDGE_MODEL

if TYPE_CHECKING:
    from rich.console import Console

    from zerograsp_edge.runtime.camera.correction import CameraCalibration
    from zerograsp_edge.runtime.camera.files import FrameFolder
    from zerograsp_edge.runtime.pipeline import Pipeline


@dataclass
class Run:
    """Reconstruct frames: of a camera live (--camera), with a line of figures and, with --view, in the browser; or from
    files: points.ply, mesh.glb, grasps.npz, overlay.png and timings.json per frame."""

    camera: str | None = None
    """Live: realsense, realsense:SERIAL, sim, sim:SEED, software:SEED (simulated, through librealsense's software
    device), a recording (.db3, .bag) or a folder of frames. Nothing is written but --json."""
    seconds: Annotated[float | None, tyro.conf.arg(metavar="S")] = None
    """End the live run after that long."""
    frames: Annotated[int | None, tyro.conf.arg(metavar="N")] = None
    """End the live run after N frames."""
    json: Path | None = None
    """Write the figures of the live run to this file."""
    view: bool = False
    """Show the live run in the browser, at an address of this computer alone (needs the extra `view`)."""
    port: int = 8080
    """Port of the view; 0 takes a free one."""
    refine: bool = True
    """Live: refine grasps by the reconstructed surface, and leave out those that collide; --no-refine: as the network
    predicts them."""
    speed: float | None = None
    """Play a recording at this speed, 1 is as recorded, and drop what is not perceived in time; default: every frame,
    as fast as perception goes."""
    folder: tyro.conf.Positional[Path | None] = None
    """Folder of frames (NAME.rgb.png, NAME.depth.png, NAME.mask.png and a camera file), instead of single files."""
    bundle: Path = EDGE_MODEL
    """The bundle to run; default: the trained edge model that ships with the package."""
    out: Path = Path("out/run")
    """Folder for the results; with several frames one sub-folder each."""
    rgb: Path | None = None
    """Colour image of a single frame."""
    depth: Path | None = None
    """Depth image of a single frame: 16-bit PNG or .npy."""
    mask: Path | None = None
    """Instance masks of a single frame: PNG or .npy of object ids; without them see --segment."""
    segment: str = "geometric"
    """What finds the objects of a frame without masks: geometric (supports and what stands on them, by depth and
    colour); sam2:BUNDLE (SAM 2 from export-sam2, prompted by geometry) or sam2-grid:BUNDLE (by a grid of points);
    shm:NAME or zmq:ADDRESS (another process: MaskPublisher); folder:PATH (NAME.mask.png); or none: such a frame is an
    error."""
    intrinsics: Path | None = None
    """Camera file (JSON or YAML with K, fx/fy/cx/cy or a projection matrix); overrides a folder's own."""
    calibration: Path | None = None
    """File of `calibrate camera` with refined intrinsics and a depth correction, applied to every frame."""
    frame: str | None = None
    """Only the frame of this name from the folder."""
    depth_scale: float | None = None
    """Millimetres per unit of the depth image; default: what the camera file says, else 1."""
    crop: tuple[int, int, int, int] | None = None
    """Keep rows TOP to BOTTOM and columns LEFT to RIGHT (ends exclusive) of the pictures; the camera file is for the
    pictures before cropping."""
    backend: Literal["auto", "onnxruntime", "tensorrt"] = "auto"
    """What runs the stages; auto: TensorRT where it can be used."""
    threads: int = 0
    """CPU threads; 0 takes all cores."""
    mesh: bool = True
    """Also write mesh.glb (needs the extra `mesh`)."""
    repeat: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Run every frame N times and report the fastest time of each stage."""
    quiet: bool = field(default=False)
    """Print nothing but errors."""
    realsense: RealSenseConfig = field(default_factory=RealSenseConfig)

    def execute(self) -> int:
        from rich.console import Console

        from zerograsp_edge.runtime.pipeline import Pipeline
        from zerograsp_edge.runtime.segmentation.choice import open_segmenter

        self._check_mode()
        console = Console(quiet=self.quiet)
        if self.camera is not None:
            return self._live(console)
        bundle = load_bundle(self.bundle)
        frames = self._frames()
        calibration = self._calibration(frames)
        with open_segmenter(
            self.segment, max_objects=bundle.limits.max_objects, threads=self.threads
        ) as segmenter:
            with console.status(f"loading {self.bundle}"):
                pipeline = Pipeline(bundle, self.backend, threads=self.threads, segmenter=segmenter)
            self._run(pipeline, frames, calibration, console)
        return 0

    def _check_mode(self) -> None:
        """No option that means nothing in the mode that is asked for."""
        live = {
            "--seconds": self.seconds is not None, "--frames": self.frames is not None, "--json": self.json is not None,
            "--view": self.view, "--speed": self.speed is not None,
        }  # fmt: skip
        files = {
            "a folder": self.folder is not None, "--rgb": self.rgb is not None, "--depth": self.depth is not None,
            "--mask": self.mask is not None, "--intrinsics": self.intrinsics is not None,
            "--frame": self.frame is not None, "--crop": self.crop is not None,
            "--depth-scale": self.depth_scale is not None, "--repeat": self.repeat != 1,
        }  # fmt: skip
        wrong = ", ".join(name for name, given in (live if self.camera is None else files).items() if given)
        if wrong and self.camera is None:
            raise ConfigError(f"{wrong}: for a live run; expected --camera too: realsense, sim, a recording, a folder")
        if wrong:
            raise ConfigError(
                f"{wrong}: for frames from files; expected --camera {self.camera} without it "
                "(a file with the camera's intrinsics is given by --intrinsics)"
            )
        if self.speed is not None and Path(self.camera or "").suffix.lower() not in (".db3", ".bag"):
            raise ConfigError(f"--speed is for recordings (.db3, .bag), got --camera {self.camera}")

    def _live(self, console: Console) -> int:
        from zerograsp_edge.runtime.camera.opening import open_camera
        from zerograsp_edge.runtime.commands.live import LiveOptions, run_live
        from zerograsp_edge.runtime.grasp.antipodal import AntipodalConfig
        from zerograsp_edge.runtime.grasp.refine import RefineConfig
        from zerograsp_edge.runtime.live.report import Ending
        from zerograsp_edge.runtime.pipeline import Pipeline
        from zerograsp_edge.runtime.segmentation.choice import open_segmenter

        assert self.camera is not None
        bundle = load_bundle(self.bundle)
        if not bundle.trained:
            console.print(f"[yellow]{UNTRAINED}[/]")
        refine = RefineConfig(antipodal=AntipodalConfig()) if self.refine else None
        options = LiveOptions(
            self.seconds, self.frames, None if self.speed is None else True, self.json, self.view, self.port, self.mesh
        )
        with open_segmenter(
            self.segment, max_objects=bundle.limits.max_objects, threads=self.threads
        ) as segmenter:
            with console.status(f"loading {self.bundle}"):
                pipeline = Pipeline(
                    bundle, self.backend, threads=self.threads, refine=refine, segmenter=segmenter
                )
            with console.status(f"opening {self.camera}"):
                source = open_camera(
                    self.camera, self.realsense, speed=self.speed, calibration=self.calibration
                )
            report = run_live(pipeline, source, options, console)
        return 0 if report.ending.ok else 130 if report.ending is Ending.STOPPED else 1

    def _run(
        self,
        pipeline: Pipeline,
        frames: FrameFolder | list[Frame],
        calibration: CameraCalibration | None,
        console: Console,
    ) -> None:
        from rich.progress import track

        from zerograsp_edge.runtime.outputs import write_outputs

        bundle = pipeline.bundle
        if not bundle.trained:
            console.print(f"[yellow]{UNTRAINED}[/]")
        single = len(frames) == 1
        for frame in track(frames, description="frames", console=console, transient=True, disable=single):
            frame = frame if calibration is None else calibration.apply(frame)
            frame = frame if self.crop is None else frame.crop(*self.crop)
            out = self.out if single else self.out / frame.name
            result = pipeline(frame)
            if result.segmentation is not None:
                frame = result.segmentation.apply(frame)
                console.print(describe_segmentation(result.segmentation))
            for _ in range(self.repeat - 1):
                again = pipeline(frame).timings
                result.timings.update({k: min(v, again.get(k, v)) for k, v in result.timings.items()})
            with console.status("writing results" if not self.mesh else "extracting meshes, writing results"):
                files = write_outputs(out, frame, result, mesh=self.mesh)
            print_result(console, result)
            print_timings(console, result.timings)
            console.print("wrote " + ", ".join(str(file) for file in files))

    def _calibration(self, frames: FrameFolder | list[Frame]) -> CameraCalibration | None:
        """The calibration to apply; refused for another camera's frames where their serial number is known."""
        from zerograsp_edge.runtime.camera.correction import CameraCalibration
        from zerograsp_edge.runtime.camera.intrinsics import read_camera

        if self.calibration is None:
            return None
        calibration = CameraCalibration.load(self.calibration)
        if self.intrinsics is not None:
            calibration.check_serial(read_camera(self.intrinsics).serial)
        else:
            calibration.check_serial(getattr(frames, "serial", ""))
        return calibration

    def _frames(self) -> FrameFolder | list[Frame]:
        """The frames to run; those of a folder are read one by one."""
        from zerograsp_edge.runtime.camera.files import FrameFolder, read_frame

        single = {"--rgb": self.rgb, "--depth": self.depth, "--mask": self.mask}
        if self.folder is not None:
            if given := [name for name, value in single.items() if value is not None]:
                raise FrameError(
                    f"expected a folder or single files, got the folder {self.folder} and {', '.join(given)}"
                )
            frames = FrameFolder(self.folder, self.intrinsics, depth_scale=self.depth_scale)
            return frames if self.frame is None else [frames[self.frame]]
        if self.frame is not None:
            raise FrameError(
                f"--frame {self.frame} chooses from a folder; expected a folder, got single files or nothing"
            )
        needed = {"--rgb": self.rgb, "--depth": self.depth, "--intrinsics": self.intrinsics}
        missing = [name for name, value in needed.items() if value is None]
        if missing or self.rgb is None or self.depth is None or self.intrinsics is None:
            raise FrameError(
                "expected a folder, a live --camera, or --rgb, --depth and --intrinsics (--mask if there is one); "
                f"missing: {', '.join(missing)}"
            )
        return [read_frame(self.rgb, self.depth, self.intrinsics, self.mask, depth_scale=self.depth_scale)]
