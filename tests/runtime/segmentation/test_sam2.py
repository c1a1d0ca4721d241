"""The segmenter around SAM 2, with an executor that answers prompts from a known picture: no weights are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerograsp_edge.runtime.errors import ConfigError, FrameError, NoObjectError
from zerograsp_edge.runtime.frame import Frame
from zerograsp_edge.runtime.segmentation.mask_filters import (
    Candidates,
    box_nms,
    box_of,
    candidates,
    mask_nms,
    stability_score,
    without_small_regions,
)
from zerograsp_edge.runtime.segmentation.sam2 import Sam2Config, Sam2Segmenter, point_grid
from zerograsp_edge.runtime.segmentation.sam2_bundle import Sam2Bundle
from zerograsp_edge.runtime.segmentation.sam2_network import resize_picture, single_masks

SIZE, CHANNELS = 256, 32
K = np.array([[300, 0, 159.5], [0, 300, 119.5], [0, 0, 1]], np.float32)
SURE = 12.0  # logits


class KnownMasks:
    """An executor whose "network" knows the objects of the picture: it answers with the one under the last point.

    Attributes:
        truth: (H, W) int, 0 is the table.
        iou: predicted for every mask.
        calls: stages, in order, with the number of prompts.
    """

    name, threads = "known", 1

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = truth
        self.iou: dict[int, float] = {}
        self.edge = 1.0  # pixels over which a logit goes from sure to sure
        self.calls: list[tuple[str, int]] = []
        self.prompts: list[np.ndarray] = []

    def run(self, stage: str, inputs: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        if stage == "image_encoder":
            assert inputs["rgb"].shape == (SIZE, SIZE, 3) and inputs["rgb"].dtype == np.float32
            self.calls.append((stage, 1))
            for array in outputs.values():
                array[...] = 1
            return
        points, labels = inputs["points"], inputs["labels"]
        assert inputs["image_embedding"].shape == ((SIZE // 16) ** 2, CHANNELS)
        assert points.dtype == np.float32 and labels.dtype == np.int32
        self.calls.append((stage, len(points)))
        self.prompts.append(points.copy())
        height, width = self.truth.shape
        small = np.arange(SIZE // 4) * 4 + 2
        truth = self.truth[np.ix_(small * height // SIZE, small * width // SIZE)]
        for i, (x, y) in enumerate(points[:, -1]):
            name = self.truth[int(y * height / SIZE), int(x * width / SIZE)]
            whole = np.where(truth == name, SURE, -SURE)
            part = np.where(np.arange(len(small)) < x / 4, whole, -SURE)
            outputs["logits"][i] = np.stack([whole, whole, part, np.full_like(whole, SURE)])
            outputs["iou"][i] = self.iou.get(int(name), 0.95), self.iou.get(int(name), 0.95), 0.7, 0.6


def bundle() -> Sam2Bundle:
    return Sam2Bundle(Path("none.zgb"), {}, SIZE, CHANNELS, "known", False, {})


def table(shift: int = 0) -> tuple[Frame, np.ndarray]:
    """Two boxes on a table, and which pixels are theirs."""
    truth = np.zeros((240, 320), int)
    truth[80:140, 60 + shift : 120 + shift] = 1
    truth[100:160, 190 + shift : 250 + shift] = 2
    depth = np.choose(truth, [700, 640, 620]).astype(np.float32)
    rgb = np.array([[90, 90, 90], [160, 80, 40], [40, 90, 160]], np.uint8)[truth]
    return Frame(rgb, depth, K), truth


def segmenter(truth: np.ndarray, **config: object) -> tuple[Sam2Segmenter, KnownMasks]:
    executor = KnownMasks(truth)
    return Sam2Segmenter(bundle(), Sam2Config(**config), executor=executor, threads=1), executor  # type: ignore[arg-type]


def agreement(mask: np.ndarray, truth: np.ndarray) -> list[float]:
    """IoU of every true object with the object of the mask that covers it most."""
    scores = []
    for name in np.unique(truth[truth > 0]):
        inside = mask[truth == name]
        best = np.bincount(inside).argmax()
        scores.append(np.sum(inside == best) / np.sum((mask == best) | (truth == name)) if best else 0.0)
    return scores


@pytest.mark.parametrize("prompts", ["geometry", "grid"])
def test_finds_the_objects_and_not_the_table(prompts: str) -> None:
    frame, truth = table()
    segment, executor = segmenter(truth, prompts=prompts, points_per_side=8)
    found = segment(frame)
    assert found.object_ids == (1, 2)
    assert min(agreement(found.mask, truth)) > 0.9
    assert found.reason == "" and found.planes[0].carries
    assert found.mask.dtype == np.int32 and found.mask.shape == truth.shape
    prompted = sum(count for stage, count in executor.calls if stage == "mask_decoder")
    assert prompted == (2 if prompts == "geometry" else 64)
    if prompts == "grid":
        assert found.left_out["part of a support"] >= 1, "the table's own mask"
    assert list(found.timings) == ["geometry", "image_encoder", "mask_decoder", "candidates", "filter", "track"]


def test_prompts_are_the_boxes_and_a_point_inside() -> None:
    frame, truth = table()
    segment, executor = segmenter(truth)
    segment(frame)
    corners = executor.prompts[0] / SIZE * [320, 240]
    for (x0, y0), (x1, y1), (x, y) in corners:
        assert truth[int(y), int(x)] > 0
        assert x0 < x < x1 and y0 < y < y1
        columns, rows = np.flatnonzero((truth == truth[int(y), int(x)]).any(0)), None
        assert rows is None and abs(x0 - columns[0]) <= 4 and abs(x1 - columns[-1] - 1) <= 4


@pytest.mark.parametrize("prompts", ["geometry", "grid"])
def test_ids_stay_while_objects_move(prompts: str) -> None:
    frame, truth = table()
    segment, executor = segmenter(truth, prompts=prompts, points_per_side=12)
    first = segment(frame)
    names = [int(np.bincount(first.mask[truth == name]).argmax()) for name in (1, 2)]
    for shift in (8, 16, 24):
        frame, executor.truth = table(shift)
        again = segment(frame)
        assert [int(np.bincount(again.mask[executor.truth == name]).argmax()) for name in (1, 2)] == names
    segment.reset()
    assert segment(frame).object_ids == (1, 2)


def test_batches_are_no_larger_than_asked() -> None:
    frame, truth = table()
    segment, executor = segmenter(truth, prompts="grid", points_per_side=5, batch=7)
    found = segment(frame)
    assert [count for stage, count in executor.calls if stage == "mask_decoder"] == [7, 7, 7, 4]
    assert found.object_ids == (1, 2)


def test_an_object_whose_mask_is_unsure_is_left_out_and_said() -> None:
    frame, truth = table()
    segment, executor = segmenter(truth)
    executor.iou[2] = 0.3
    found = segment(frame)
    assert found.object_ids == (1,) and found.left_out == {"without a sure mask": 1}
    executor.iou[1] = 0.3
    found = segment(frame)
    assert found.object_ids == () and "no mask passed the thresholds" in found.reason
    with pytest.raises(FrameError, match="no mask passed") as raised:
        found.apply(frame)
    assert not isinstance(raised.value, NoObjectError), "an unsure network does not say that nothing is there"


def test_an_empty_table_is_empty_and_sam2_is_not_asked() -> None:
    frame, truth = table()
    empty = Frame(np.full_like(frame.rgb, 90), np.full_like(frame.depth, 700), K)
    segment, executor = segmenter(truth)
    with pytest.raises(NoObjectError):
        segment(empty).apply(empty)
    assert executor.calls == []


def test_the_largest_objects_are_kept() -> None:
    from zerograsp_edge.runtime.segmentation.geometric import SegmentationConfig

    frame, truth = table()
    truth[100:104, 190:250] = 0  # the second is smaller now
    segment, _ = segmenter(truth, prompts="grid", geometry=SegmentationConfig(max_objects=1))
    found = segment(frame)
    assert found.left_out["more objects than asked for"] == 1
    assert len(found.object_ids) == 1


@pytest.mark.parametrize("wrong", [{"prompts": "boxes"}, {"batch": 0}, {"min_iou": 1.5}])
def test_configuration_is_checked(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Sam2Config(**wrong)


# --- the pieces ---


def blobs(seed: int, count: int = 12, shape: tuple[int, int] = (90, 130)) -> np.ndarray:
    """(count, H, W) bool, ragged."""
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    masks = []
    for _ in range(count):
        y, x, a, b = random.uniform([0, 0, 5, 5], [shape[0], shape[1], 30, 30])
        inside = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1
        masks.append(inside ^ (random.random(shape) < 0.02))
    return np.array(masks)


def packed(masks: np.ndarray, iou: np.ndarray) -> Candidates:
    boxes = np.array([box_of(mask) for mask in masks], np.float32)
    rows = np.array([np.packbits(mask) for mask in masks])
    return Candidates(rows, masks.shape[1:], boxes, iou.astype(np.float32), np.ones(len(masks), np.float32))


@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
def test_mask_nms_leaves_no_two_that_overlap_more(seed: int, threshold: float) -> None:
    masks = blobs(seed)
    kept = mask_nms(packed(masks, np.ones(len(masks))), threshold)
    overlap = np.array([[np.sum(a & b) / max(np.sum(a | b), 1) for b in masks] for a in masks])
    for i in range(len(masks)):
        better = [k for k in kept if k < i]
        assert (i in kept) == (not any(overlap[i, k] > threshold for k in better))


@given(st.integers(0, 10_000))
def test_masks_survive_packing(seed: int) -> None:
    masks = blobs(seed, 3, (17, 23))
    some = packed(masks, np.arange(3))
    for i, mask in enumerate(masks):
        np.testing.assert_array_equal(some.mask(i), mask)
    np.testing.assert_array_equal(some.areas(), masks.sum(axis=(1, 2)))


def test_candidates_of_nothing() -> None:
    none = candidates(np.full((3, 8, 8), -5, np.float32), np.ones(3), (16, 16), 0.5, 0.5, 1.0)
    assert len(none) == 0 and len(none[box_nms(none.boxes, none.iou, 0.5)]) == 0
    assert len(mask_nms(none, 0.5)) == 0
    assert box_of(np.zeros((4, 4), bool)) == (0, 0, 0, 0)


def test_a_mask_that_is_not_a_number_is_no_candidate() -> None:
    logits = np.full((2, 8, 8), np.nan, np.float32)
    assert len(candidates(logits, np.array([0.9, np.nan]), (16, 16), 0.5, 0.5, 1.0)) == 0


# --- against Meta's package ---


@pytest.fixture(scope="module")
def amg():
    pytest.importorskip("torch", reason="needs the extra `sam2`")
    return pytest.importorskip("sam2.utils.amg", reason="needs the extra `sam2`")


@pytest.mark.parametrize("offset", [0.05, 1.0])
def test_stability_as_sam2(amg, offset: float) -> None:
    import torch

    logits = np.random.default_rng(0).normal(0, 2, (20, 50, 70)).astype(np.float32)
    expected = amg.calculate_stability_score(torch.from_numpy(logits), 0.0, offset).numpy()
    np.testing.assert_allclose([stability_score(mask, offset) for mask in logits], expected, rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_box_nms_as_torchvision(amg, threshold: float) -> None:
    import torch
    from torchvision.ops.boxes import nms

    random = np.random.default_rng(1)
    low = random.uniform(0, 60, (300, 2))
    boxes = np.concatenate([low, low + random.uniform(0, 40, (300, 2))], axis=1).round().astype(np.float32)
    scores = random.permutation(300).astype(np.float32)
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold).numpy()
    np.testing.assert_array_equal(box_nms(boxes, scores, threshold), expected)


def test_boxes_as_sam2(amg) -> None:
    import torch

    masks = np.concatenate([blobs(3), np.zeros((1, 90, 130), bool)])
    expected = amg.batched_mask_to_box(torch.from_numpy(masks)).numpy()
    np.testing.assert_array_equal([box_of(mask) for mask in masks], expected)


@given(st.integers(0, 10_000), st.sampled_from([1, 5, 40, 5000]))
def test_small_regions_as_sam2(amg, seed: int, area: int) -> None:
    for mask in [*blobs(seed, 3), np.zeros((9, 9), bool), np.ones((9, 9), bool)]:
        filled, _ = amg.remove_small_regions(mask, area, mode="holes")
        expected, _ = amg.remove_small_regions(filled, area, mode="islands")
        np.testing.assert_array_equal(without_small_regions(mask, area), expected)


def test_grid_as_sam2(amg) -> None:
    for side in (1, 5, 32):
        np.testing.assert_allclose(point_grid(side), amg.build_point_grid(side), atol=1e-12)


@pytest.mark.parametrize("shape", [(480, 640), (720, 1280), (1080, 1920), (240, 1300), (1024, 1024), (2100, 700)])
def test_resizing_as_sam2(amg, shape: tuple[int, int]) -> None:
    from sam2.utils.transforms import SAM2Transforms

    rgb = np.random.default_rng(2).integers(0, 256, (*shape, 3), np.uint8)
    transforms = SAM2Transforms(1024, 0.0)
    normalised = transforms(rgb).permute(1, 2, 0).numpy()
    expected = (normalised * transforms.std + transforms.mean) * 255
    assert np.abs(resize_picture(rgb, 1024) - expected).max() < 2e-3, "of 255"


def test_masks_at_the_picture_s_size_as_sam2(amg) -> None:
    import torch
    from sam2.utils.transforms import SAM2Transforms

    logits = np.random.default_rng(4).normal(0, 2, (6, 64, 64)).astype(np.float32)
    fine = SAM2Transforms(256, 0.0).postprocess_masks(torch.from_numpy(logits)[None], (120, 170))[0]
    found = candidates(logits, np.ones(6), (120, 170), 0.5, 0.0, 1.0)
    differing = [np.mean(found.mask(i) != (fine[i] > 0).numpy()) for i in range(6)]
    assert max(differing) < 1e-4, "no more than what rounding decides at 0"
    np.testing.assert_allclose(found.stability, amg.calculate_stability_score(fine, 0.0, 1.0), atol=1e-3)


def test_single_masks_as_sam2(amg) -> None:
    import torch
    from sam2.modeling.sam.mask_decoder import MaskDecoder

    decoder = MaskDecoder(
        transformer_dim=32, transformer=torch.nn.Identity(), dynamic_multimask_via_stability=True,
        dynamic_multimask_stability_delta=0.05, dynamic_multimask_stability_thresh=0.98,
    )  # fmt: skip
    random = np.random.default_rng(5)
    logits = random.normal(0, [[[[1]]], [[[60]]]] * 5, (10, 4, 32, 32)).astype(np.float32)
    logits[3, 0] = -4  # an empty mask is a stable one
    iou = random.random((10, 4)).astype(np.float32)
    masks, scores = decoder._dynamic_multimask_via_stability(torch.from_numpy(logits), torch.from_numpy(iou))
    got, got_iou = single_masks(logits, iou)
    chosen = [next(t for t in range(4) if np.array_equal(got[i], logits[i, t])) for i in range(10)]
    assert 0 in chosen and max(chosen) > 0, "both happen"
    np.testing.assert_array_equal(got, masks[:, 0])
    np.testing.assert_array_equal(got_iou, scores[:, 0])
