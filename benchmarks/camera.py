"""The camera without a camera: librealsense's software device, its alignment and filters, and half an hour's faults."""

from __future__ import annotations

from harness import Figure, main
from parts.camera_processing import processing
from parts.camera_soak import newest_wins, soak

# Half an hour at 30 frames per second.
FRAMES = 54_000
QUICK = 1_500


def figures(quick: bool) -> list[Figure]:
    count = QUICK if quick else FRAMES
    return [*processing(quick), *soak(count), *newest_wins(count // 10)]


if __name__ == "__main__":
    main("camera", __doc__ or "", figures)
