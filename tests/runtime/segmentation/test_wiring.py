"""A frame without a mask: in the pipeline, on the command line, in the doctor's report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from zerograsp_edge.runtime.bundle import load_bundle
from zerograsp_edge.runtime.cli import main
from zerograsp_edge.runtime.doctor import diagnose
from zerograsp_edge.runtime.errors import FrameError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.models import EDGE_MODEL
from zerograsp_edge.runtime.pipeline import Pipeline
from zerograsp_edge.runtime.segmentation import Segmentation
from zerograsp_edge.runtime.segmentation.geometric import GeometricSegmenter


def table(boxes: bool = True) -> Frame:
    """Two boxes on a table, without a mask."""
    depth = np.full((240, 320), 700, np.float32)
    rgb = np.full((240, 320, 3), 90, np.uint8)
    if boxes:
        depth[80:140, 60:120], rgb[80:140, 60:120] = 640, (160, 80, 40)
        depth[100:160, 190:250], rgb[100:160, 190:250] = 620, (40, 90, 160)
    return Frame(rgb, depth, np.array([[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]], np.float32))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline(load_bundle(EDGE_MODEL), threads=1, segmenter=GeometricSegmenter(threads=1))


def test_a_frame_without_a_mask_is_segmented(pipeline: Pipeline) -> None:
    frame = table()
    result = pipeline(frame)
    assert result.segmentation is not None
    assert [o.object_id for o in result.objects] == list(result.segmentation.object_ids) == [1, 2]
    assert next(iter(result.timings)) == "segmentation"
    masked = result.segmentation.apply(frame)
    again = pipeline(masked)
    assert again.segmentation is None and "segmentation" not in again.timings
    for a, b in zip(result.objects, again.objects, strict=True):
        np.testing.assert_array_equal(a.points, b.points)


def test_an_empty_table_is_refused_with_the_reason(pipeline: Pipeline) -> None:
    with pytest.raises(FrameError, match="no object found in frame 'frame': nothing stands on the supports"):
        pipeline(table(boxes=False))


def test_any_segmenter_will_do() -> None:
    class Half:
        def __call__(self, frame: Frame) -> Segmentation:
            mask = np.zeros(frame.depth.shape, np.int32)
            mask[:, frame.width // 2 :] = 7
            return Segmentation(mask)

        def reset(self) -> None: ...

    result = Pipeline(load_bundle(EDGE_MODEL), threads=1, segmenter=Half())(table())
    assert [o.object_id for o in result.objects] == [7]


def test_run_segments_what_has_no_mask(
    frame_files: Callable[..., list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = frame_files(table().with_mask(np.arange(240 * 320).reshape(240, 320) % 2))
    at = options.index("--mask")
    options = options[:at] + options[at + 2 :]
    out = ["--out", str(tmp_path / "out"), "--no-mesh", "--threads", "1"]
    assert main(["run", *options, *out]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "no mask given: segmented by geometry, 2 objects on 1 plane" in said
    assert (tmp_path / "out" / "overlay.png").is_file()
    assert main(["run", *options, *out, "--segment", "none"]) == 1
    assert "has no instance mask" in capsys.readouterr().err


def test_doctor_tries_the_segmenter() -> None:
    check = next(check for check in diagnose() if check.group == "segmentation")
    assert (check.status, check.detail) == ("ok", "finds 2 of 2 boxes on a table")
