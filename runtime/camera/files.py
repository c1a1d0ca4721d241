"""Frames from files: one frame from its pictures, or a folder of frames as a camera."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from zerograsp_edge.runtime.camera.base import CameraCounters, TimestampClock
from zerograsp_edge.runtime.camera.intrinsics import CameraFile, read_camera
from zerograsp_edge.runtime.camera.png import PngHeader, check_png, palette_as_grey
from zerograsp_edge.runtime.errors import EndOfFrames, FrameError
from zerograsp_edge.runtime.frame import Frame

_RGB_SUFFIXES = (".png", ".jpg", ".jpeg")
_DEPTH_SUFFIXES = (".png", ".npy")
_CAMERA_NAMES = ("meta.yml", "meta.yaml", "camera.json", "camera.yaml", "camera.yml")
# Sub-folder layouts: the names in use for each kind of picture.
_SUBFOLDERS = {
    "rgb": ("rgb", "color", "colour"),
    "depth": ("depth",),
    "mask": ("mask", "masks", "label", "labels"),
}

Intrinsics = np.ndarray | CameraFile | str | Path


def read_frame(
    rgb: str | Path,
    depth: str | Path,
    camera: Intrinsics,
    mask: str | Path | None = None,
    *,
    depth_scale: float | None = None,
    timestamp: float = 0.0,
    name: str | None = None,
) -> Frame:
    """Read one frame.

    Args:
        rgb: 8-bit PNG or JPEG.
        depth: 16-bit PNG, or .npy with an (H, W) float32 or uint16 array, of the same size as rgb.
        camera: (3, 3) intrinsics in pixels, or a JSON/YAML camera file (see `read_camera`).
        mask: PNG of instance ids, grey (8 or 16 bit) or palette (its indices are the ids), or .npy.
        depth_scale: mm per unit of the depth image; default: what the camera file says, else 1.
        name: default: the file name of rgb up to its first dot.

    Raises:
        FrameError: a file is missing, truncated or of the wrong kind, or the parts do not make a frame; the
            message names the file.
    """
    rgb, depth = Path(rgb), Path(depth)
    if isinstance(camera, str | Path):
        camera = read_camera(camera)
    elif isinstance(camera, np.ndarray):
        camera = CameraFile(camera, None, None)
    picture = _read_rgb(rgb)
    size = (picture.shape[1], picture.shape[0])
    if camera.size not in (None, size):
        raise FrameError(
            f"{rgb} is {size[0]}x{size[1]} pixels, its camera file is for {camera.size[0]}x{camera.size[1]}"
        )
    scale = depth_scale if depth_scale is not None else camera.depth_scale
    millimetres = _read_depth(depth, 1.0 if scale is None else scale)
    ids = None if mask is None else read_mask(Path(mask))
    short_name = rgb.name.split(".")[0]
    try:
        return Frame(
            picture, millimetres, camera.intrinsics, ids, timestamp, short_name if name is None else name
        )
    except FrameError as error:
        raise FrameError(f"{rgb.parent / short_name}: {error}") from error


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame; `camera` is None when the folder has no camera file for it."""

    name: str
    rgb: Path
    depth: Path
    mask: Path | None
    camera: Path | None


class FrameFolder:
    """A folder of frames, by name and as a camera.

    Layouts: `NAME.rgb.png, NAME.depth.png|npy, NAME.mask.png`, or sub-folders `rgb/NAME.png, depth/NAME.png,
    mask/NAME.png`. Masks are optional. The camera file is the first of `NAME.meta.yml,
    NAME.camera.json|yaml|yml` (in sub-folder layouts also `camera/NAME.json|yaml`), then
    `camera.json|yaml|yml, meta.yml` of the folder.

    Args:
        folder: the folder.
        camera: (3, 3) intrinsics or a camera file for all frames; overrides the folder's own.
        depth_scale: mm per unit of the depth images; default: what the camera file says, else 1.
        loop: `read()` starts again after the last frame.
        rate: frames per second that timestamps are made from.

    Raises:
        FrameError: no folder, no frame in it, or a frame with only some of its pictures.
    """

    live = False
    clock: TimestampClock = "own"

    def __init__(
        self,
        folder: str | Path,
        camera: Intrinsics | None = None,
        *,
        depth_scale: float | None = None,
        loop: bool = False,
        rate: float = 30.0,
    ) -> None:
        self.folder = Path(folder)
        self.files = find_frames(self.folder)
        self.loop = loop
        self._camera = read_camera(camera) if isinstance(camera, str | Path) else camera
        self._depth_scale = depth_scale
        self._rate = rate
        self._next = 0

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(files.name for files in self.files)

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def counters(self) -> CameraCounters:
        return CameraCounters(frames=self._next)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, which: int | str) -> Frame:
        """The frame of that name or position."""
        if isinstance(which, str):
            if which not in self.names:
                raise FrameError(f"{self.folder} has no frame '{which}'; it has: {', '.join(self.names)}")
            which = self.names.index(which)
        return self._load(self.files[which], (which % len(self)) / self._rate)

    def __iter__(self) -> Iterator[Frame]:
        return (self[position] for position in range(len(self)))

    def read(self) -> Frame:
        """The next frame; EndOfFrames after the last one, unless `loop`."""
        if self._next >= len(self) and not self.loop:
            raise EndOfFrames(f"{self.folder} holds {len(self)} frames, all have been read")
        frame = self[self._next % len(self)]
        object.__setattr__(
            frame, "timestamp", self._next / self._rate
        )  # goes on rising when the folder loops
        self._next += 1
        return frame

    def close(self) -> None:
        """Nothing is held open."""

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load(self, files: FrameFiles, timestamp: float) -> Frame:
        camera: Intrinsics | None = self._camera if self._camera is not None else files.camera
        if camera is None:
            looked = [f"{files.name}.{name}" for name in _CAMERA_NAMES] + list(_CAMERA_NAMES)
            raise FrameError(
                f"{self.folder}: no camera file for frame '{files.name}'; looked for {', '.join(looked)}; "
                "write one with fx, fy, cx, cy, or give the intrinsics"
            )
        return read_frame(
            files.rgb,
            files.depth,
            camera,
            files.mask,
            depth_scale=self._depth_scale,
            timestamp=timestamp,
            name=files.name,
        )


def find_masks(folder: Path) -> dict[str, Path]:
    """The instance masks in a folder by their frames' names; layouts as in FrameFolder, frames are not needed."""
    if not folder.is_dir():
        raise FrameError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    return _by_name(folder, "mask", _DEPTH_SUFFIXES)


def find_frames(folder: Path) -> tuple[FrameFiles, ...]:
    """The frames in a folder (layouts: see FrameFolder), in natural order of their names: 2 before 10."""
    if not folder.is_dir():
        raise FrameError(f"{folder} is not a folder" if folder.exists() else f"{folder} does not exist")
    rgb = _by_name(folder, "rgb", _RGB_SUFFIXES)
    depth = _by_name(folder, "depth", _DEPTH_SUFFIXES)
    mask = _by_name(folder, "mask", _DEPTH_SUFFIXES)
    if not rgb and not depth:
        raise FrameError(
            f"{folder} holds no frame; expected NAME.rgb.png with NAME.depth.png, "
            "or rgb/NAME.png with depth/NAME.png"
        )
    for present, absent, pictures, others in (
        ("depth", "rgb", depth, rgb),
        ("rgb", "depth", rgb, depth),
        ("mask", "rgb", mask, rgb),
    ):
        lonely = sorted(pictures.keys() - others.keys())
        if lonely:
            raise FrameError(
                f"{folder}: {present} without {absent} picture for frame(s) {', '.join(lonely[:5])}"
            )
    names = sorted(
        rgb,
        key=lambda name: [
            (int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)
        ],
    )
    return tuple(
        FrameFiles(name, rgb[name], depth[name], mask.get(name), _camera_of(folder, name)) for name in names
    )


def _by_name(folder: Path, kind: str, suffixes: tuple[str, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    flat = [(path.stem.removesuffix(f".{kind}"), path) for path in folder.glob(f"*.{kind}.*")]
    flat = [(name, path) for name, path in flat if name != path.stem]
    nested = [(path.stem, path) for sub in _SUBFOLDERS[kind] for path in (folder / sub).glob("*")]
    for name, path in flat + nested:
        if path.suffix.lower() not in suffixes:
            continue
        if name in found:
            raise FrameError(
                f"{folder}: frame '{name}' has two {kind} pictures, {found[name].name} and {path.name}"
            )
        found[name] = path
    return found


def _camera_of(folder: Path, name: str) -> Path | None:
    beside = [folder / f"{name}.{camera}" for camera in _CAMERA_NAMES]
    nested = [folder / "camera" / f"{name}{suffix}" for suffix in (".json", ".yaml", ".yml")]
    shared = [folder / camera for camera in _CAMERA_NAMES]
    return next((path for path in (*beside, *nested, *shared) if path.is_file()), None)


def _read_rgb(path: Path) -> np.ndarray:
    import cv2

    data, png = _checked_bytes(path)
    if png is not None and png.bit_depth == 16:
        raise FrameError(f"{path}: expected 8 bits per channel, got 16; is this the depth picture?")
    # The orientation tag of a JPEG is ignored: the depth picture has none.
    bgr = _decode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, path)
    return np.ascontiguousarray(bgr[:, :, ::-1])


def _read_depth(path: Path, scale: float) -> np.ndarray:
    """(H, W) float32 mm, or as stored when no scaling is needed."""
    if not 0 < scale < np.inf:
        raise FrameError(f"depth_scale must be positive (mm per unit), got {scale:g}")
    if path.suffix.lower() == ".npy":
        depth = _read_npy(path)
        if depth.dtype not in (np.uint16, np.float32, np.float64):
            raise FrameError(f"{path}: expected float32 or uint16 millimetres, got {depth.dtype}")
    else:
        import cv2

        data, _ = _checked_bytes(path)
        depth = _decode(data, cv2.IMREAD_UNCHANGED, path)
        if depth.dtype != np.uint16 or depth.ndim != 2:
            raise FrameError(
                f"{path}: expected a 16-bit grey depth picture, got {depth.dtype} of shape {depth.shape}"
            )
    return depth if scale == 1.0 else depth.astype(np.float32) * np.float32(scale)


def read_mask(path: Path) -> np.ndarray:
    """(H, W) integer instance ids; of a palette picture the indices."""
    if path.suffix.lower() == ".npy":
        return _read_npy(path)
    import cv2

    data, png = _checked_bytes(path)
    indexed = png is not None and png.is_palette
    mask = _decode(palette_as_grey(data) if indexed else data, cv2.IMREAD_UNCHANGED, path)
    if mask.ndim != 2:
        raise FrameError(
            f"{path}: expected one channel of instance ids (grey or palette), got {mask.shape[2]} channels"
        )
    # A decoder stretches fewer bits to 8; divide to get the stored ids back.
    return mask // (255 // (2**png.bit_depth - 1)) if png is not None and png.bit_depth < 8 else mask


def _read_npy(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FrameError(f"{path} cannot be read as .npy: {error}") from error


def _checked_bytes(path: Path) -> tuple[bytes, PngHeader | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FrameError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        if path.suffix.lower() == ".png":
            return data, check_png(data)
        if path.suffix.lower() not in (".jpg", ".jpeg"):
            raise ValueError(f"its type '{path.suffix}' is unknown; expected .png or .jpg")
        if not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ValueError("it is truncated: a JPEG must end with its end-of-image marker")
    except ValueError as error:
        raise FrameError(f"{path} cannot be used: {error}") from error
    return data, None


def _decode(data: bytes, flags: int, path: Path) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise FrameError(f"{path} cannot be decoded as a picture")
    return image
