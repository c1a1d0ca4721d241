"""A bundle: the folder that is deployed. Manifest, ONNX stages, reference outputs and, on a device, engines.

The manifest names every file with its SHA-256, and carries one of itself; loading checks them, so that a truncated copy
or a changed file is noticed before it runs. They protect from damage, not from an author of bad faith.
`zerograsp_edge.export.bundle` writes bundles.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from zerograsp_edge.runtime.errors import ZeroGraspError

FORMAT = "zerograsp-edge bundle"
VERSION = 1
CUSTOM_OP_VERSION = 1
MANIFEST = "manifest.json"
REFERENCE = "reference.npz"
SEAL = "manifest_sha256"


class BundleError(ZeroGraspError, ValueError):
    """A bundle that is missing, damaged, tampered with or made for another version; the message says what to run."""


@dataclass(frozen=True)
class BundleKind:
    """What tells bundles of one kind of network from those of another.

    Attributes:
        format: entry of the manifest.
        versions: the versions that this runtime reads, by their entry of the manifest.
        command: what writes such a bundle, up to its name.
    """

    format: str
    versions: dict[str, int]
    command: str


ZEROGRASP = BundleKind(
    FORMAT, {"version": VERSION, "custom_op_version": CUSTOM_OP_VERSION}, "zerograsp-edge export CHECKPOINT"
)


@dataclass(frozen=True)
class Geometry:
    """The sizes of a network that the runtime needs; lengths in mm, depths of the octree count from its root."""

    min_lod: int
    max_lod: int
    grid_size: float
    z_margin: int
    """Nodes of depth min_lod between the cube's near side and the nearest point."""
    channels: tuple[int, ...]
    """Feature channels at depths min_lod .. max_lod."""
    image_channels: int
    latent: int
    residual_blocks: int
    occlusion: bool
    multi_object: bool
    signal_channels: int
    image_multiple: int
    """Height and width of the image encoder's input are multiples of this."""

    @property
    def depths(self) -> range:
        return range(self.min_lod, self.max_lod + 1)

    @property
    def full_depth(self) -> int:
        """Depth down to which the input octree is full."""
        return self.min_lod - 1

    @property
    def cube_size(self) -> float:
        """Edge of the octree's cube, mm."""
        return (1 << self.min_lod) * self.grid_size

    @property
    def voxel_size(self) -> float:
        """Edge of the finest voxel, mm."""
        return self.cube_size / (1 << self.max_lod)

    def channels_at(self, depth: int) -> int:
        return self.channels[depth - self.min_lod]


@dataclass(frozen=True)
class Limits:
    """What the buffers of a pipeline are sized for. A frame that exceeds one is refused with the limit's name."""

    max_height: int = 1088
    max_width: int = 1920
    max_objects: int = 40
    max_nodes: int = 524288
    """Nodes of the finest depth, in input and output octree alike; every coarser depth holds half as many."""
    min_points: int = 16
    """Valid depth points that an object needs; one with fewer is skipped and reported."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if type(value) is not int or value < 1:
                raise BundleError(f"limit {name}: expected a positive integer, got {value!r}")

    def to_dict(self) -> dict[str, int]:
        return dict(vars(self))


@dataclass(frozen=True)
class Stage:
    """One ONNX graph: its file, precision, and the names of its tensors."""

    name: str
    file: str
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Stages(Protocol):
    """What an executor needs of a bundle of any kind."""

    @property
    def path(self) -> Path: ...

    @property
    def stages(self) -> dict[str, Stage]: ...


@dataclass(frozen=True)
class Bundle:
    """A loaded, checked bundle.

    Attributes:
        path: its folder.
        trained: False when the weights are random, so that every shape and grasp is meaningless.
        manifest: the whole manifest, for provenance and tools.
    """

    path: Path
    geometry: Geometry
    limits: Limits
    stages: dict[str, Stage]
    trained: bool
    manifest: dict[str, Any] = field(repr=False)

    def stage_path(self, name: str) -> Path:
        return self.path / self.stages[name].file

    @property
    def reference_path(self) -> Path:
        """File with the reference inputs and outputs that `zerograsp-edge verify` compares against."""
        return self.path / REFERENCE


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with the SHA-256 of its content (sorted keys, no white space) as its last entry."""
    content = {name: value for name, value in manifest.items() if name != SEAL}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**content, SEAL: hashlib.sha256(text.encode()).hexdigest()}


def load_bundle(path: str | Path, *, check: bool = True) -> Bundle:
    """Reads a bundle and checks its version and the hash of every file.

    Args:
        path: the bundle's folder, usually `NAME.zgb`.
        check: False skips the hashes (not the versions), for a bundle that this process has just written.

    Raises:
        BundleError: see the class.
    """
    root = Path(path)
    manifest = read_manifest(root, ZEROGRASP, check=check)
    try:
        network = {**manifest["network"], "image_multiple": manifest["image_multiple"]}
        sizes: dict[str, Any] = {name: network[name] for name in Geometry.__dataclass_fields__}
        geometry = Geometry(**{**sizes, "channels": tuple(sizes["channels"])})
        limits = Limits(**manifest["limits"])
        trained = bool(manifest["trained"])
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{root / MANIFEST}: entry missing or malformed: {error}; export the bundle again"
        ) from error
    expected = {"image_encoder", "octree_encoder", *(f"decoder_{d}" for d in geometry.depths)}
    return Bundle(root, geometry, limits, read_stages(root, manifest, expected), trained, manifest)


def read_manifest(root: Path, kind: BundleKind, *, check: bool = True) -> dict[str, Any]:
    """The manifest of a bundle of that kind, its versions checked.

    Args:
        check: also check the hash of the manifest and of every file.

    Raises:
        BundleError: see the class.
    """
    manifest = _read_manifest(root, kind)
    _check_versions(root, manifest, kind)
    files = _section(root, manifest, "files", dict)
    if check:
        if manifest.get(SEAL) != seal(manifest)[SEAL]:
            raise BundleError(
                f"{root / MANIFEST}: its SHA-256 is not its own: changed; copy or export the bundle again"
            )
        _check_files(root, files)
    return manifest


def read_stages(root: Path, manifest: dict[str, Any], expected: set[str]) -> dict[str, Stage]:
    """The stages of a manifest, by name; all expected ones are there, and every file has a hash.

    Raises:
        BundleError: see the class.
    """
    try:
        stages = {
            name: Stage(
                name,
                s["file"],
                s["precision"],
                tuple(tensor["name"] for tensor in s["inputs"]),
                tuple(tensor["name"] for tensor in s["outputs"]),
            )
            for name, s in manifest["stages"].items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise BundleError(
            f"{root / MANIFEST}: entry missing or malformed: {error}; export the bundle again"
        ) from error
    if missing := sorted(expected - set(stages)):
        raise BundleError(f"{root / MANIFEST}: stages missing: {', '.join(missing)}; export the bundle again")
    for stage in stages.values():
        if stage.file not in manifest["files"]:
            raise BundleError(f"{root / MANIFEST}: {stage.file} has no hash; export the bundle again")
    return stages


def is_bundle(path: Path, kind: BundleKind = ZEROGRASP) -> bool:
    """Whether a folder is a bundle, maybe an outdated one; a manifest.json of something else is none."""
    try:
        return bool(_read_manifest(path, kind))
    except BundleError:
        return False


def _read_manifest(root: Path, kind: BundleKind) -> dict[str, Any]:
    if not root.exists():
        raise BundleError(f"no bundle at {root}: make one with `{kind.command} {root}`")
    path = root / MANIFEST
    if not path.is_file():
        writer = " ".join(kind.command.split()[:2])
        raise BundleError(f"{root} is not a bundle: expected a folder with {MANIFEST}, which `{writer}` writes")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} is damaged ({error}); copy or export the bundle again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind.format:
        got = manifest.get("format") if isinstance(manifest, dict) else None
        other = f", got '{got}'" if isinstance(got, str) else ""
        raise BundleError(f"{path}: expected the format '{kind.format}'{other}; {root} is not such a bundle")
    return manifest


def _check_versions(root: Path, manifest: dict[str, Any], kind: BundleKind) -> None:
    for key, known in kind.versions.items():
        what = "bundle" if key == "version" else "custom-op"
        got = manifest.get(key)
        if not isinstance(got, int):
            raise BundleError(
                f"{root / MANIFEST}: expected an integer {key}, got {got!r}; export the bundle again"
            )
        if got > known:
            raise BundleError(
                f"{root} has {what} version {got}, this runtime knows up to {known}: "
                "upgrade it (pip install -U zerograsp-edge) or export the bundle with this version"
            )
        if got < known:
            raise BundleError(
                f"{root} has the outdated {what} version {got}, expected {known}: export the bundle again"
            )


def _check_files(root: Path, files: dict[str, Any]) -> None:
    for name, digest in files.items():
        path = root / name
        if root.resolve() not in path.resolve().parents:
            raise BundleError(f"{root / MANIFEST}: {name} lies outside the bundle; do not use it")
        if not path.is_file():
            raise BundleError(f"{root}: {name} is missing; copy or export the bundle again")
        if sha256(path) != digest:
            raise BundleError(
                f"{path}: its SHA-256 is not the manifest's: truncated or changed; copy or export the bundle again"
            )


def _section(root: Path, manifest: dict[str, Any], key: str, kind: type) -> Any:
    value = manifest.get(key)
    if not isinstance(value, kind):
        raise BundleError(
            f"{root / MANIFEST}: expected {key} to be a {kind.__name__}, got {value!r}; export the bundle again"
        )
    return value
