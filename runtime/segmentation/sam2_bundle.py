"""The bundle of SAM 2: image encoder and mask decoder as ONNX stages; `zerograsp-edge export-sam2` writes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zerograsp_edge.runtime.bundle import MANIFEST, BundleError, BundleKind, Stage, read_manifest, read_stages

SAM2 = BundleKind("zerograsp-edge sam2 bundle", {"version": 1}, "zerograsp-edge export-sam2 CHECKPOINT")
IMAGE_ENCODER, MASK_DECODER = "image_encoder", "mask_decoder"


@dataclass(frozen=True)
class Sam2Bundle:
    """A loaded, checked bundle of SAM 2.

    Attributes:
        path: its folder.
        stages: `image_encoder` and `mask_decoder`; their tensors are described in `export/sam2`.
        image_size: side S of the square picture that the encoder takes, pixels; a multiple of 32.
        channels: C of the image embedding.
        config: the network's name in the package `sam2`.
        trained: False when the weights are random.
        manifest: the whole manifest, for provenance and tools.
    """

    path: Path
    stages: dict[str, Stage]
    image_size: int
    channels: int
    config: str
    trained: bool
    manifest: dict[str, Any] = field(repr=False)


def load_sam2_bundle(path: str | Path, *, check: bool = True) -> Sam2Bundle:
    """Reads a bundle of SAM 2 and checks its version and the hash of every file.

    Args:
        check: False skips the hashes (not the version), for a bundle that this process has just written.

    Raises:
        BundleError: missing, damaged, changed, of another kind or version; the message says what to run.
    """
    root = Path(path)
    manifest = read_manifest(root, SAM2, check=check)
    stages = read_stages(root, manifest, {IMAGE_ENCODER, MASK_DECODER})
    try:
        network = manifest["network"]
        size, channels, config = (network[name] for name in ("image_size", "channels", "config"))
        trained = bool(manifest["trained"])
    except (KeyError, TypeError) as error:
        raise BundleError(
            f"{root / MANIFEST}: entry missing or malformed: {error}; export the bundle again"
        ) from error
    if type(size) is not int or size < 32 or size % 32 or type(channels) is not int or channels < 8 or channels % 8:
        raise BundleError(
            f"{root / MANIFEST}: expected an image_size in multiples of 32 and channels in multiples of 8, "
            f"got {size!r} and {channels!r}; export the bundle again"
        )
    return Sam2Bundle(root, stages, size, channels, str(config), trained, manifest)
