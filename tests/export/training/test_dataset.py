"""The stream of batches: order, limits, damage, growth, resuming."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zerograsp_edge.export.network import NetworkConfig
from zerograsp_edge.export.training.augment import Augmentation
from zerograsp_edge.export.training.dataset import (
    Batch,
    BatchLimits,
    Cursor,
    DatasetError,
    SceneStream,
    scene_names,
)
from zerograsp_edge.export.training.sample import SceneSample

TINY = NetworkConfig.tiny()
KEEP_ALL = Augmentation(drop_object=0)


def take(stream: SceneStream, count: int) -> list[Batch]:
    with stream:
        return [next(stream) for _ in range(count)]


def assert_equal(a: Batch, b: Batch) -> None:
    assert a.cursor == b.cursor and len(a.frames) == len(b.frames)
    for x, y in zip(a.frames, b.frames, strict=True):
        assert torch.equal(x.image, y.image) and torch.equal(x.depth, y.depth)
        assert torch.equal(torch.cat(x.points), torch.cat(y.points))
    finest = TINY.max_lod
    assert torch.equal(a.target.keys[finest], b.target.keys[finest])
    assert torch.equal(a.target.features[finest], b.target.features[finest])


def test_an_epoch_has_every_scene_once_in_another_order_each_time(scenes: Path) -> None:
    with SceneStream(scenes, TINY, seed=1, augmentation=KEEP_ALL) as stream:
        order: list[tuple[int, ...]] = []
        views = stream._views()
        for _ in range(4):
            order.append(tuple(len(next(views)[0].targets) for _ in range(4)))
    assert all(sorted(o) == [1, 2, 3, 3] for o in order)
    assert len(set(order)) > 1


def test_the_seed_decides(scenes: Path) -> None:
    a, b, c = (take(SceneStream(scenes, TINY, seed=s), 3) for s in (1, 1, 2))
    for x, y in zip(a, b, strict=True):
        assert_equal(x, y)
    assert not all(torch.equal(x.frames[0].image, y.frames[0].image) for x, y in zip(a, c, strict=True))


def test_a_stream_continues_from_any_batch(scenes: Path) -> None:
    limits = BatchLimits(max_frames=3)
    batches = take(SceneStream(scenes, TINY, seed=1, limits=limits), 6)
    for stop in (0, 1, 3):
        cursor = Cursor.from_dict(batches[stop].cursor.to_dict())
        rest = take(SceneStream(scenes, TINY, seed=1, limits=limits, cursor=cursor), 5 - stop)
        for x, y in zip(batches[stop + 1 :], rest, strict=True):
            assert_equal(x, y)


def test_a_batch_ends_with_its_limits_but_has_two_objects(scenes: Path) -> None:
    single = SceneStream(scenes, TINY, seed=0, augmentation=KEEP_ALL, limits=BatchLimits(max_frames=1))
    sizes = [(len(b.frames), b.objects) for b in take(single, 8)]
    assert all(objects >= 2 for _, objects in sizes)
    assert (1, 3) in sizes and max(frames for frames, _ in sizes) == 2
    for batch in take(SceneStream(scenes, TINY, 0, KEEP_ALL, BatchLimits(max_nodes=3000)), 8):
        assert batch.nodes <= 3000 or batch.objects - len(batch.frames[-1].points) < 2


def test_objects_beyond_the_limit_are_left_out_of_their_view(scenes: Path) -> None:
    with SceneStream(scenes, TINY, 0, KEEP_ALL) as stream:
        views = stream._views()
        nodes = [[t.nodes for t in next(views)[0].targets] for _ in range(4)]
    limit = max(sum(n) for n in nodes) - 1
    with SceneStream(scenes, TINY, 0, KEEP_ALL, BatchLimits(max_nodes=limit)) as stream:
        views = stream._views()
        seen = [next(views)[0] for _ in range(4)]
    assert stream.objects_left_out == sum(sum(n) > limit for n in nodes)
    assert [len(v.targets) for v in seen] == [len(n) - (sum(n) > limit) for n in nodes]
    assert all(v.nodes <= limit for v in seen)
    for view in seen:
        assert int(view.frame.labels.max()) == len(view.targets) - 1


def test_a_view_that_is_too_large_by_itself_is_skipped(scenes: Path) -> None:
    stream = SceneStream(scenes, TINY, 0, limits=BatchLimits(max_nodes=8))
    with stream, pytest.raises(DatasetError, match=r"one object has \d+ nodes, the limit is 8"):
        next(stream)


def test_scenes_without_labels_train_shapes_only(scenes: Path, tmp_path: Path) -> None:
    shutil.copy(scenes / "scene_0000.npz", tmp_path / "labelled.npz")
    sample = SceneSample.load(scenes / "scene_0003.npz")
    bare = tuple(replace(o, grasps=np.zeros_like(o.grasps)) for o in sample.objects)
    replace(sample, objects=bare).save(tmp_path / "bare.npz")
    limits = BatchLimits(max_frames=2)
    with SceneStream(tmp_path, TINY, 0, KEEP_ALL, limits) as stream:
        batch = next(stream)
    assert sorted(batch.labelled.tolist()) == [False] * 3 + [True] * 3
    rows = batch.labelled_rows
    signal = torch.cat((batch.target.normals[TINY.max_lod], batch.target.features[TINY.max_lod]), dim=1)
    assert rows.shape == (len(signal),)
    assert signal[rows, 5].any() and not signal[~rows, 4:].any()


def test_damaged_scenes_are_skipped_and_named(
    scenes: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(scenes, tmp_path / "scenes")
    names = scene_names(folder)
    whole = (folder / names[0]).read_bytes()
    (folder / names[0]).write_bytes(whole[: len(whole) // 2])
    (folder / "empty.npz").touch()
    np.savez(folder / "other.npz", a=np.zeros(3))
    sample = SceneSample.load(folder / names[3])
    masks = [np.where(v.mask == 1, 77, v.mask).astype(np.uint8) for v in sample.views]
    views = tuple(replace(v, mask=m) for v, m in zip(sample.views, masks, strict=True))
    replace(sample, views=views).save(folder / "foreign.npz")
    with SceneStream(folder, TINY, seed=0) as stream:
        batches = [next(stream) for _ in range(6)]
    assert set(stream.skipped) == {names[0], "empty.npz", "other.npz", "foreign.npz"}
    assert "mask has the values [77]" in stream.skipped["foreign.npz"]
    assert all("could not read it" in stream.skipped[n] for n in (names[0], "empty.npz", "other.npz"))
    assert sum("empty.npz" in r.message for r in caplog.records) == 1  # once, not every epoch
    assert batches[-1].cursor.epoch >= 1


def test_a_folder_without_usable_scenes_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="expected training scenes"):
        SceneStream(tmp_path, TINY, seed=0)
    (tmp_path / "bad.npz").touch()
    with SceneStream(tmp_path, TINY, seed=0) as stream:
        for _ in range(2):
            with pytest.raises(DatasetError, match=r"none of 1 scenes can be used; the first, bad\.npz: "):
                next(stream)


def test_scenes_added_while_training_are_used_from_the_next_epoch(scenes: Path, tmp_path: Path) -> None:
    names = scene_names(scenes)
    shutil.copy(scenes / names[0], tmp_path / "a.npz")
    shutil.copy(scenes / names[2], tmp_path / "b.npz")
    with SceneStream(tmp_path, TINY, seed=0) as stream:
        views = stream._views()
        assert next(views)[1].names == ("a.npz", "b.npz")
        (tmp_path / "more").mkdir()
        shutil.copy(scenes / names[3], tmp_path / "more" / "c.npz")
        (tmp_path / "half.npz.part").touch()
        assert next(views)[1].names == ("a.npz", "b.npz")
        assert next(views)[1].names == ("a.npz", "b.npz", "more/c.npz")


def test_closing_ends_the_thread_even_when_nobody_reads(scenes: Path) -> None:
    stream = SceneStream(scenes, TINY, seed=0)
    next(stream)
    thread = stream._thread
    assert thread is not None and thread.is_alive()
    stream.close()
    assert not thread.is_alive()
    SceneStream(scenes, TINY, seed=0).close()  # never started
