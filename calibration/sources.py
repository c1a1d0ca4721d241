"""Pairs of picture and robot pose: from a folder, or live from a camera and a stream of poses."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import cv2
import numpy as np

from zerograsp_edge.calibration.errors import PoseError
from zerograsp_edge.calibration.transforms import (
    nearest_rotation,
    rotation_from_quaternion,
    rotation_matrix,
    transform,
)
from zerograsp_edge.runtime.camera import Camera
from zerograsp_edge.runtime.camera.png import check_png
from zerograsp_edge.runtime.hand_eye import HandEyeError, checked_pose

Unit = Literal["m", "mm"]
POSE_FORMS = (
    "a 4x4 matrix; or {position: [x, y, z], quaternion: [x, y, z, w]}; or {position: [x, y, z], "
    "rotation_vector: [rx, ry, rz]} (rad)"
)
PICTURES = (".png", ".jpg", ".jpeg")
_POSES = (".pose.json", ".pose.yaml", ".pose.yml", ".pose.txt")
# Robots print rotations with few digits: up to this much off orthonormal is rounding and is repaired.
_ROUNDING = 2e-3


@dataclass(frozen=True, eq=False)
class Pair:
    """A picture (H, W) or (H, W, 3) uint8 RGB and base <- hand (4, 4), m, at the time it was taken."""

    name: str
    image: np.ndarray
    hand: np.ndarray


def parse_pose(entry: Any, name: str, unit: Unit = "m") -> np.ndarray:
    """(4, 4) base <- hand, m, from one of `POSE_FORMS`.

    Rotations rounded by a robot's display are made orthonormal.

    Args:
        entry: what JSON or YAML gave; a mapping may hold the matrix under `matrix`, `pose` or `transform`.
        unit: of the lengths in it.

    Raises:
        PoseError: another form, not finite, no rotation, or too far away for the unit.
    """
    try:
        matrix = _matrix(entry)
    except (TypeError, ValueError, KeyError) as error:
        raise PoseError(f"{name}: expected {POSE_FORMS}; got {_short(entry)} ({error})") from error
    if unit == "mm":
        matrix[:3, 3] /= 1000
    with np.errstate(invalid="ignore"):
        deviation = np.abs(matrix[:3, :3] @ matrix[:3, :3].T - np.eye(3)).max()
    if deviation < _ROUNDING and np.linalg.det(matrix[:3, :3]) > 0:
        matrix[:3, :3] = nearest_rotation(matrix[:3, :3])
    try:
        return checked_pose(matrix, name)
    except HandEyeError as error:
        hint = "; give --pose-unit mm" if unit == "m" and "millimetres" in str(error) else ""
        raise PoseError(f"{error}{hint}") from error


def _matrix(entry: Any) -> np.ndarray:
    if isinstance(entry, Mapping):
        for key in ("matrix", "pose", "transform"):
            if key in entry:
                return _matrix(entry[key])
        position = np.array(entry["position"], np.float64)
        if position.shape != (3,):
            raise ValueError("position must be 3 numbers")
        if "quaternion" in entry:
            q = np.array(entry["quaternion"], np.float64)
            if q.shape != (4,) or not abs(np.linalg.norm(q) - 1) < _ROUNDING:
                raise ValueError("quaternion must be 4 numbers x, y, z, w of length 1")
            return transform(rotation_from_quaternion(q[[3, 0, 1, 2]]), position)
        vector = np.array(entry["rotation_vector"], np.float64)
        if vector.shape != (3,):
            raise ValueError("rotation_vector must be 3 numbers")
        return transform(rotation_matrix(vector), position)
    matrix = np.array(entry, np.float64)
    if matrix.size != 16:
        raise ValueError(f"an array of shape {matrix.shape}")
    return matrix.reshape(4, 4)


class FolderPairs:
    """Pairs from a folder: `NAME.png|jpg` (or `NAME.rgb.png`) with `NAME.pose.json|yaml|txt`, or with a file
    `poses.jsonl` whose lines hold a pose and `"image": FILE`.

    Raises:
        PoseError: no folder, no pair in it, or a picture without a pose or the other way round.
    """

    def __init__(self, folder: str | Path, unit: Unit = "m") -> None:
        self.folder, self._unit = Path(folder), unit
        if not self.folder.is_dir():
            raise PoseError(f"expected a folder of pictures and robot poses, got {self.folder}")
        listed = self.folder / "poses.jsonl"
        self._entries = _listed(listed) if listed.exists() else _beside(self.folder)
        if not self._entries:
            raise PoseError(
                f"{self.folder} holds no pair: expected NAME.png or .jpg with NAME.pose.json ({POSE_FORMS}), or a "
                "poses.jsonl"
            )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Pair]:
        for name, picture, pose in self._entries:
            entry = _read_pose(pose) if isinstance(pose, Path) else pose
            yield Pair(name, read_picture(picture), parse_pose(entry, f"robot pose of {name}", self._unit))


def read_picture(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB.

    Raises:
        PoseError: missing, truncated or no 8-bit picture.
    """
    try:
        data = path.read_bytes()
        if path.suffix.lower() == ".png":
            check_png(data)
        elif not data.rstrip(b"\0").endswith(b"\xff\xd9"):
            raise ValueError("the JPEG is truncated")
    except (OSError, ValueError) as error:
        raise PoseError(f"picture {path} cannot be read: {error}; take this view again") from error
    # IMREAD_COLOR would turn 16 bits into 8 without a word.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.dtype != np.uint8:
        kind = "not decodable" if image is None else str(image.dtype)
        raise PoseError(f"picture {path} must be an 8-bit PNG or JPEG, it is {kind}")
    if image.ndim == 2:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


class LivePairs:
    """Pairs from a camera and a stream of poses: each line that arrives takes a picture.

    The robot's program moves, waits until the arm stands still, and writes a line of JSON with the pose; a pipe or
    standard input lets it run alongside. The stream's end ends the calibration.

    Args:
        camera: any `Camera`.
        lines: one pose per line (`POSE_FORMS`); empty lines are skipped.
        stale: frames thrown away before each picture: those that the camera still held from the motion.
    """

    def __init__(self, camera: Camera, lines: TextIO, unit: Unit = "m", stale: int = 2) -> None:
        self.camera, self._lines, self._unit, self._stale = camera, lines, unit, stale

    def __iter__(self) -> Iterator[Pair]:
        count = 0
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                continue
            entry = _json_line(line, f"line {number} of the pose stream")
            count += 1
            name = f"view_{count:03d}"
            pose = parse_pose(entry, f"robot pose of {name}", self._unit)
            for _ in range(self._stale):
                self.camera.read()
            yield Pair(name, self.camera.read().rgb, pose)


def save_pair(folder: str | Path, pair: Pair) -> None:
    """Write a pair so that `FolderPairs` reads it again."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    image = pair.image if pair.image.ndim == 2 else cv2.cvtColor(pair.image, cv2.COLOR_RGB2BGR)
    (folder / f"{pair.name}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    (folder / f"{pair.name}.pose.json").write_text(json.dumps(pair.hand.tolist()) + "\n", encoding="utf-8")


_Entry = tuple[str, Path, Any]


def _beside(folder: Path) -> list[_Entry]:
    files = sorted(folder.iterdir())
    pictures: dict[str, Path] = {}
    for f in files:
        if f.suffix.lower() in PICTURES and not f.name.endswith((".depth.png", ".mask.png")):
            name = f.name.removesuffix(f.suffix).removesuffix(".rgb")
            if name in pictures:
                raise PoseError(f"{folder} holds two pictures of {name}: {pictures[name].name} and {f.name}")
            pictures[name] = f
    poses: dict[str, Path] = {}
    for f in files:
        for suffix in _POSES:
            if f.name.endswith(suffix):
                poses[f.name.removesuffix(suffix)] = f
    if lonely := sorted(pictures.keys() ^ poses.keys()):
        lacks = [f"{n} has no {'pose' if n in pictures else 'picture'}" for n in lonely[:5]]
        raise PoseError(
            f"{folder}: every picture NAME.png needs a robot pose NAME.pose.json and the other way round; "
            + ", ".join(lacks)
            + (", ..." if len(lonely) > 5 else "")
        )
    return [(name, pictures[name], poses[name]) for name in sorted(pictures)]


def _listed(path: Path) -> list[_Entry]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise PoseError(f"{path} cannot be read: {error}") from error
    entries: list[_Entry] = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            entry = _json_line(line, f"{path}, line {number}")
            if not isinstance(entry, Mapping) or not isinstance(entry.get("image"), str):
                raise PoseError(f'{path}, line {number}: expected {{"image": FILE, ...}} with {POSE_FORMS}')
            entries.append((Path(entry["image"]).stem, path.parent / entry["image"], entry))
    return entries


def _read_pose(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".txt":
            return [float(word) for word in text.replace(",", " ").split()]
        return json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PoseError(f"{path} cannot be read ({error}); expected {POSE_FORMS}") from error


def _json_line(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise PoseError(f"{where} is not JSON ({error}); expected {POSE_FORMS}") from error


def _short(entry: Any) -> str:
    text = repr(entry)
    return text if len(text) <= 80 else text[:77] + "..."
