"""Only what TensorRT 10.3, 10.16 and 11 have in common is used. The table of what they have is made by api_uses.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from api_uses import RELEASES, RTX_ONLY, read_table, table, used, uses

# What TensorRT for RTX has not: it is another product.
NOT_IN_RTX: set[tuple[str, str]] = set()


def test_every_use_is_in_every_release() -> None:
    known = read_table()
    found = used() - RTX_ONLY
    assert len(found) > 50
    unknown = sorted(found - set(known))
    assert unknown == [], "not in tensorrt_api.txt: run `python tests/export/tensorrt/api_uses.py CLONE`"
    lacking = {use: sorted(set(RELEASES) - known[use]) for use in found if set(RELEASES) - known[use]}
    assert lacking == {}


def test_the_table_holds_nothing_else() -> None:
    assert sorted(set(read_table()) - used()) == []


def test_the_table_is_what_the_sources_say() -> None:
    clone = os.environ.get("TENSORRT_SOURCE")
    if not clone:
        pytest.skip("set TENSORRT_SOURCE to a clone of the public repository NVIDIA/TensorRT")
    stored = Path(__file__).with_name("tensorrt_api.txt").read_text()
    assert table(Path(clone)) == stored


def test_every_use_is_in_the_bindings(rtx: Callable[..., Any]) -> None:
    found = used()
    classes = sorted({owner for owner, _ in found})
    have = rtx("members", classes=classes)
    lacking = {(owner, member) for owner, member in found if member not in (have[owner] or ())}
    assert lacking == NOT_IN_RTX


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("config.set_flag(self._trt.BuilderFlag.FP16)",
         {("IBuilderConfig", "set_flag"), ("tensorrt", "BuilderFlag"), ("BuilderFlag", "FP16")}),
        ("trt.ILogger.Severity.ERROR", {("tensorrt", "ILogger"), ("ILogger", "Severity"), ("Severity", "ERROR")}),
        ("class L(trt.ILogger):\n    def log(self): ...\n    def __init__(self): trt.ILogger.__init__(self)",
         {("tensorrt", "ILogger"), ("ILogger", "log")}),
        ("config.progress_monitor = 1", {("IBuilderConfig", "progress_monitor")}),
        ("self._engines['a'].create_execution_context()", {("ICudaEngine", "create_execution_context")}),
        ("other.progress_monitor", set()),
    ],
)  # fmt: skip
def test_uses_are_found(source: str, expected: set[tuple[str, str]]) -> None:
    assert uses(source) == expected


def test_a_member_of_one_release_alone_is_noticed() -> None:
    """INT8 calibration is gone in 11, normalisation of the second version came after 10.3."""
    clone = os.environ.get("TENSORRT_SOURCE")
    if not clone:
        pytest.skip("set TENSORRT_SOURCE to a clone of the public repository NVIDIA/TensorRT")
    from api_uses import released

    old, new = released(Path(clone), RELEASES["10.3"]), released(Path(clone), RELEASES["11.1"])
    assert ("IBuilderConfig", "int8_calibrator") in old - new
    assert ("INetworkDefinition", "add_normalization_v2") in new - old
