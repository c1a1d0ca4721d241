"""`zerograsp-edge train`: train or fine-tune a network on a folder of scenes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

if TYPE_CHECKING:
    from zerograsp_edge.export.network.config import NetworkConfig
    from zerograsp_edge.export.network.zerograsp import ZeroGrasp
    from zerograsp_edge.export.training.loop import TrainingSettings


@dataclass
class Train:
    """Train a network on a folder of scenes (needs the extra `train`).

    Ctrl-C or SIGTERM saves the state; `--resume` goes on from there, with more minutes if wanted.
    """

    scenes: tyro.conf.Positional[Path]
    """Folder of training scenes (.npz); scenes that are added while training runs are used too."""
    run: tyro.conf.Positional[Path]
    """Folder of the run: states, best.safetensors, log.jsonl, curves.png."""
    validation: Path | None = None
    """Folder of validation scenes; without it no best network is kept."""
    config: str | None = None
    """`edge` (default), `published`, `tiny`, or a network configuration (JSON)."""
    minutes: float | None = None
    """Training time over all sessions of the run; default: 240 when no --steps are given."""
    steps: int | None = None
    """Number of steps, instead of minutes."""
    resume: bool = False
    """Go on with the run."""
    from_trunk: bool = False
    """With --resume: go back to before the learning rate cooled down, to train longer than first planned."""
    init: Path | None = None
    """Start from a checkpoint's weights (published .ckpt, or safetensors), all of which must fit; with --no-posterior
    those of that branch are left out."""
    teacher: Path | None = None
    """Checkpoint whose outputs are extra targets; its octree must be the trained network's."""
    teacher_config: str | None = None
    """Configuration of a teacher whose file carries none; default: `published`."""
    no_multi_object: bool = False
    """Ablation: without the multi-object encoder."""
    no_occlusion: bool = False
    """Ablation: without the occlusion field."""
    no_posterior: bool = False
    """Ablation: without the posterior; all objects are decoded from the prior's mean."""
    learning_rate: float = 1e-3
    """Peak of the learning rate."""
    warmup_steps: int = 300
    cooldown: float = 0.3
    """Share of the budget, at its end, in which the learning rate falls; 0 keeps it constant."""
    kl_weight: float = 0.01
    prior_share: float = 0.5
    """Share of objects that are decoded from the prior's mean."""
    max_nodes: int = 400_000
    """Finest target nodes per step: lower it to need less memory."""
    max_frames: int = 4
    """Views per step."""
    threads: int | None = None
    """CPU threads; default: PyTorch's own choice."""
    seed: int = 0
    checkpoint_minutes: float = 5.0
    validation_minutes: float = 15.0
    validation_views: int = 16
    settings: dict[str, float] = field(default_factory=dict)
    """Loss weights and augmentation by name, such as `--settings sdf 2 flip_y 0`."""

    def execute(self) -> int:
        import logging

        from rich.console import Console

        from zerograsp_edge.runtime.extras import require

        for module in ("torch", "ocnn", "safetensors"):
            require(module, "train")
        import torch

        from zerograsp_edge.export.training.loop import Trainer
        from zerograsp_edge.export.training.schedule import Budget

        logging.basicConfig(format="%(levelname)s: %(message)s")
        console = Console()
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        torch.set_flush_denormal(True)
        minutes = self.minutes if self.minutes is not None or self.steps is not None else 240.0
        torch.manual_seed(self.seed)
        network = self._network()
        trainer = Trainer(
            self.run,
            network,
            self.scenes,
            Budget(minutes, self.steps),
            self._settings(),
            validation=self.validation,
            teacher=None if self.teacher is None else _load(self.teacher, self.teacher_config),
            resume=self.resume,
            from_trunk=self.from_trunk,
        )
        finished = trainer.run(lambda line: console.print(line, highlight=False, soft_wrap=True))
        best = self.run / "best.safetensors"
        if finished and best.exists():
            console.print(f"next: zerograsp-edge export {best} {self.run / 'edge.zgb'}")
        return 0

    def _network(self) -> ZeroGrasp:
        """The network to train: new, or with a checkpoint's weights; when resuming, that of the run."""
        from zerograsp_edge.export.network.zerograsp import ZeroGrasp
        from zerograsp_edge.export.training.checkpoints import load_state

        if self.resume and self.config is None:
            from zerograsp_edge.export.network.config import NetworkConfig

            recorded = NetworkConfig.from_dict(load_state(self.run, self.from_trunk).config)
            return ZeroGrasp(self._ablated(recorded))
        if self.init is not None and not self.resume:
            return self._initialised(self.init)
        return ZeroGrasp(self._ablated(named_config(self.config or "edge")))

    def _initialised(self, path: Path) -> ZeroGrasp:
        """A checkpoint's network; with `no_posterior` without that branch, on whose weights nothing else depends."""
        from zerograsp_edge.export.checkpoint import load_network
        from zerograsp_edge.runtime.errors import ZeroGraspError

        if self.no_multi_object or self.no_occlusion:
            raise ZeroGraspError(
                "--init: expected a network that uses all of the checkpoint, got --no-multi-object or "
                "--no-occlusion; train these ablations from scratch, without --init"
            )
        network = _load(path, self.config)
        return load_network(path, network.config.without_posterior()) if self.no_posterior else network

    def _ablated(self, config: NetworkConfig) -> NetworkConfig:
        return replace(
            config,
            multi_object=config.multi_object and not self.no_multi_object,
            occlusion=config.occlusion and not self.no_occlusion,
            posterior=config.posterior and not self.no_posterior,
        )

    def _settings(self) -> TrainingSettings:
        from dataclasses import fields

        from zerograsp_edge.export.training.augment import Augmentation
        from zerograsp_edge.export.training.dataset import BatchLimits
        from zerograsp_edge.export.training.loop import TrainingSettings
        from zerograsp_edge.export.training.losses import LossWeights
        from zerograsp_edge.export.training.schedule import KlCycle, LearningRate
        from zerograsp_edge.runtime.errors import ZeroGraspError

        groups = {kind: {f.name for f in fields(kind)} for kind in (LossWeights, Augmentation)}
        unknown = sorted(set(self.settings) - set().union(*groups.values()))
        if unknown:
            raise ZeroGraspError(
                f"settings: unknown {', '.join(unknown)}; known are "
                + ", ".join(sorted(set().union(*groups.values())))
            )
        losses, augmentation = (
            {k: v for k, v in self.settings.items() if k in names} for names in groups.values()
        )
        return TrainingSettings(
            seed=self.seed,
            prior_share=self.prior_share,
            checkpoint_minutes=self.checkpoint_minutes,
            validation_minutes=self.validation_minutes,
            validation_views=self.validation_views,
            rate=LearningRate(self.learning_rate, self.warmup_steps, self.cooldown),
            kl=KlCycle(self.kl_weight),
            losses=LossWeights(**losses),
            augmentation=Augmentation(**augmentation),
            limits=BatchLimits(self.max_nodes, self.max_frames),
        )


def named_config(name: str) -> NetworkConfig:
    """A network configuration by its name, or from a JSON file."""
    from zerograsp_edge.export.network.config import ConfigError, NetworkConfig

    if name in ("edge", "published", "tiny"):
        config: NetworkConfig = getattr(NetworkConfig, name)()
        return config
    path = Path(name)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(
            f"config: expected edge, published, tiny or a network configuration in JSON, got {name} ({error})"
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return NetworkConfig.from_dict(values)


def _load(path: Path, config: str | None) -> ZeroGrasp:
    """A checkpoint's network; a file that carries no configuration is taken for a published one."""
    from zerograsp_edge.export.checkpoint import load_network
    from zerograsp_edge.export.network.config import NetworkConfig

    asked = None if config is None else named_config(config)
    return load_network(path, asked, default=NetworkConfig.published())
