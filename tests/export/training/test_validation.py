"""What validation reports."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from zerograsp_edge.export.network import NetworkConfig, ZeroGrasp
from zerograsp_edge.export.network.zerograsp import Prediction
from zerograsp_edge.export.training.dataset import DatasetError
from zerograsp_edge.export.training.losses import LossWeights
from zerograsp_edge.export.training.targets import target_octree
from zerograsp_edge.export.training.validation import load_views, predict_surfaces, validate

# Voxels of 2.5 mm: finer than the edge model's, so that bounds can be tight.
FINE = replace(NetworkConfig.edge(), max_lod=8, channels=(128, 96, 64, 48, 32, 24))
TINY = NetworkConfig.tiny()


class Oracle(ZeroGrasp):
    """Answers with the targets of the one view it knows."""

    answer: tuple

    def forward(self, *_args: object, **_kwargs: object) -> Prediction:
        octree = target_octree(self.config, self.answer)
        depth = self.config.max_lod
        signal = torch.cat((octree.normals[depth], octree.features[depth]), dim=1)
        split = {d: octree.nempty_mask(d) for d in self.config.depths}
        return Prediction(octree, {d: s.float()[:, None] for d, s in split.items()}, split, signal, None)  # type: ignore[arg-type]


def test_the_targets_themselves_score_nearly_perfectly(scenes: Path) -> None:
    config = FINE
    views = load_views(config, scenes, 1)
    network = Oracle(config).eval()
    network.answer = views[0].targets
    values = validate(network, views, LossWeights(), 10**6)
    assert values["objects"] == 3 and values["missed"] == values["overgrown"] == 0
    assert values["chamfer"] < 1.0  # 2.5 mm voxels, 1.2 mm samples
    assert values["f1_5"] > 99.9 and values["f1_10"] == 100
    assert values["normal_consistency"] > 96 and values["normal_agreement"] > 96


def test_an_octree_that_outgrows_the_limit_counts_as_missed(scenes: Path) -> None:
    views = load_views(TINY, scenes, 1)
    network = ZeroGrasp(TINY).eval()
    with torch.no_grad():
        for i, head in enumerate(network.predict):  # every coarsest node splits, no other does
            head[1].linear.bias[:2] = torch.tensor([0.0, 100.0 if i == 0 else -100.0])
        children = 8 * 3 * 8**TINY.min_lod
        assert predict_surfaces(network, views[0].frame, children - 1) is None
        assert predict_surfaces(network, views[0].frame, children) is not None
    assert not any(head._forward_hooks for head in network.predict)
    values = validate(network, views, LossWeights(), children - 1)
    assert values["overgrown"] == 1 and values["missed"] == values["objects"] == 3
    assert values["f1_10"] == 0 and values["chamfer"] > 10


def test_the_same_network_scores_the_same(scenes: Path) -> None:
    views = load_views(TINY, scenes, 2)
    network = ZeroGrasp(TINY).eval()
    a, b = (validate(network, views, LossWeights(), 10**6) for _ in range(2))
    assert a == b and a["objects"] == 4


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="validation scenes"):
        load_views(TINY, tmp_path, 1)
