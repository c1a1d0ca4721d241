"""The whole live pipeline: camera, segmentation, edge model and grasps of 640x480 frames, on two threads.

The camera is librealsense's software device, fed with simulated frames that were rendered before; where pyrealsense2 is
missing, the same frames without it. Rate and latency: the device at 30 frames per second, the newest wins. CPU time by
stage, and memory: the device waits, so that each of its frames is perceived.

"Outside segmentation and inference" is all CPU time of the process but that of perception and its worker threads:
librealsense with its device, the reader, the capture thread (frames are made there), the hand-over, counting, and the
consumer. Segmentation is part of perception and stands by itself; inference is the rest of it, the refinement of the
grasps included. On a machine that others use as well, wall times say little, and CPU times are too long: threads
that wait for each other spin meanwhile.
"""

from __future__ import annotations

from harness import Figure, main
from parts.live_pipeline import live_pipeline

FRAMES = 300
QUICK = 12


def figures(quick: bool) -> list[Figure]:
    return live_pipeline(QUICK if quick else FRAMES)


if __name__ == "__main__":
    main("live", __doc__ or "", figures)
