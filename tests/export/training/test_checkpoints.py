"""Training state on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zerograsp_edge.export.training.checkpoints import (
    LAST,
    PREVIOUS,
    TrainingState,
    TrainingStateError,
    load_state,
    save_state,
    save_trunk,
)


def make_state(step: int) -> TrainingState:
    weights = {"a": torch.full((3,), float(step))}
    return TrainingState(
        config={"channels": [1, 2]}, settings={"rate": {"peak": 0.1}}, network=weights, average=weights,
        optimizer={"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "betas": (0.9, 0.99)}]},
        cursor={"epoch": 1, "index": 2, "names": ["x"]}, step=step, seconds=1.5, best=None, skipped_steps=0,
    )  # fmt: skip


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_state(make_state(3), tmp_path)
    loaded = load_state(tmp_path)
    assert torch.equal(loaded.network["a"], torch.full((3,), 3.0))
    assert replace(loaded, network={}, average={}) == replace(make_state(3), network={}, average={})
    assert [p.name for p in tmp_path.iterdir()] == [LAST]


def test_a_damaged_last_state_falls_back_to_the_previous_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save_state(make_state(1), tmp_path)
    save_state(make_state(2), tmp_path)
    assert load_state(tmp_path).step == 2
    whole = (tmp_path / LAST).read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"text"):
        (tmp_path / LAST).write_bytes(damage)
        assert load_state(tmp_path).step == 1
    assert "last.pt: no readable training state" in caplog.text
    (tmp_path / LAST).unlink()  # killed between the two renames
    assert load_state(tmp_path).step == 1
    (tmp_path / PREVIOUS).write_bytes(b"")
    with pytest.raises(TrainingStateError, match="no readable training state"):
        load_state(tmp_path)


def test_a_half_written_state_is_never_taken(tmp_path: Path) -> None:
    save_state(make_state(1), tmp_path)
    (tmp_path / (LAST + ".part")).write_bytes(b"half")
    assert load_state(tmp_path).step == 1


def test_the_trunk_is_separate(tmp_path: Path) -> None:
    with pytest.raises(TrainingStateError, match=r"expected last.pt or previous.pt of a run to resume"):
        load_state(tmp_path)
    save_trunk(make_state(1), tmp_path)
    save_state(make_state(2), tmp_path)
    assert load_state(tmp_path, trunk=True).step == 1


def test_another_format_and_pickled_objects_are_refused(tmp_path: Path) -> None:
    torch.save({"format": 99}, tmp_path / LAST)
    with pytest.raises(TrainingStateError, match="format 1, got 99"):
        load_state(tmp_path)
    torch.save({"format": 1, "step": Path("x")}, tmp_path / LAST)
    with pytest.raises(TrainingStateError, match="no readable training state"):
        load_state(tmp_path)
