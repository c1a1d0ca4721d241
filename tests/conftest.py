"""Shared fixtures. The golden vectors and frames (CC BY-NC, the ZeroGrasp authors) lie outside the tree."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

SHARED = Path(os.environ.get("ZEROGRASP_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def _shared(*parts: str) -> Path:
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(
            f"reference data not present: {path} "
            "(set ZEROGRASP_SHARED to the folder that holds golden/, frames/)"
        )
    return path


@pytest.fixture(scope="session")
def frames_dir() -> Path:
    """Folder with the real frames 000 and 007."""
    return _shared("frames")


@pytest.fixture(scope="session", params=["000", "007"])
def golden(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    """Reference vectors of one case, by name; `golden["case"]` is the frame's number."""
    arrays = dict(np.load(_shared("golden", f"case_{request.param}.npz")))
    arrays["case"] = np.array(request.param)
    return arrays


@pytest.fixture(scope="session")
def golden_collision() -> dict[str, np.ndarray]:
    return dict(np.load(_shared("golden", "collision_000.npz")))


@pytest.fixture(scope="session")
def weights_recipe() -> ModuleType:
    """The module that makes the deterministic weights of the golden vectors."""
    spec = importlib.util.spec_from_file_location("weights_recipe", _shared("golden", "weights_recipe.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def golden_state(weights_recipe: ModuleType) -> dict[str, np.ndarray]:
    """State dict (prefix `model.`) of the published network with the recipe's weights, less CONSTANT."""
    lines = _shared("golden", "state_dict_keys.txt").read_text().splitlines()
    entries = []
    for line in lines:
        name, shape, *_ = line.split("\t")
        entries.append((name, tuple(int(n) for n in shape.strip("()").split(",") if n.strip())))
    return weights_recipe.deterministic_state(entries)
