"""What importing the runtime costs, and what it must never pull in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import zerograsp_edge.runtime as runtime
from zerograsp_edge.runtime.errors import MissingExtra
from zerograsp_edge.runtime.extras import require


def loaded_by(statement: str) -> set[str]:
    program = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_nothing_heavy() -> None:
    assert not loaded_by("import zerograsp_edge.runtime") & {
        "numpy",
        "cv2",
        "onnxruntime",
        "torch",
        "trimesh",
        "yaml",
        "rich",
    }


def test_exported_names_exist_and_stay_lean() -> None:
    heavy = loaded_by("from zerograsp_edge.runtime import *") & {
        "cv2",
        "torch",
        "scipy",
        "skimage",
        "trimesh",
        "rich",
    }
    assert not heavy
    for name in runtime.__all__:
        assert getattr(runtime, name) is not None
        assert name in dir(runtime)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'Nonsense'; it offers .*Frame"):
        _ = runtime.Nonsense


def test_require_names_package_extra_and_purpose() -> None:
    assert require("json", "mesh").__name__ == "json"
    with pytest.raises(
        MissingExtra, match=r"'no_such' is needed to dance and is not installed; .*'zerograsp-edge\[sim\]'"
    ):
        require("no_such.part", "sim", "dance")


def test_require_tells_broken_from_absent(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_extra.py").write_text("import missing_inside")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtra, match=r"fails to import \(No module named 'missing_inside'\)"):
        require("broken_extra", "sim")
