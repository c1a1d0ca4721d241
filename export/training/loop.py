"""The training loop: steps, checkpoints, validation; it can be stopped at any time and goes on where it stood."""

from __future__ import annotations

import logging
import resource
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from zerograsp_edge.export.checkpoint import save_network
from zerograsp_edge.export.network.config import NetworkConfig
from zerograsp_edge.export.network.zerograsp import ZeroGrasp
from zerograsp_edge.runtime.errors import MissingExtra, ZeroGraspError

from .augment import Augmentation
from .checkpoints import BEST, TRUNK, TrainingState, TrainingStateError, load_state, save_state, save_trunk
from .dataset import Batch, BatchLimits, Cursor, DatasetError, SceneStream
from .distill import Teacher, distillation_terms
from .ema import WeightAverage
from .losses import LossWeights, loss_terms, total_loss
from .progress import ProgressLog, draw_curves
from .schedule import Budget, KlCycle, LearningRate
from .validation import load_views, validate

log = logging.getLogger(__name__)

# Seconds; when a machine was suspended, the time between two steps counts no more than this.
_LONGEST_INTERVAL = 600.0
_SCORE = "chamfer"  # of validation, mm: the lower the better


class TrainingError(ZeroGraspError, RuntimeError):
    """Training cannot go on."""


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides what training does, besides network and data."""

    seed: int = 0
    weight_decay: float = 0.02
    """AdamW's, on weights of two or more dimensions only: not on norms and biases."""
    gradient_norm: float = 2.0
    """Gradients are scaled down to this norm."""
    average: float = 0.999
    """Decay of the averaged weights per step."""
    prior_share: float = 0.5
    """Share of objects that are decoded from the prior's mean, as at inference. The paper decodes all of them from the
    posterior, which is left with no reason to keep the latent vector small where the prior cannot know it."""
    max_bad_steps: int = 20
    """Training stops after so many steps in a row whose loss or gradient is not finite."""
    checkpoint_minutes: float = 5.0
    validation_minutes: float = 15.0
    validation_views: int = 16
    log_steps: int = 10
    """Steps that a line of the log averages."""
    rate: LearningRate = field(default_factory=LearningRate)
    kl: KlCycle = field(default_factory=KlCycle)
    losses: LossWeights = field(default_factory=LossWeights)
    augmentation: Augmentation = field(default_factory=Augmentation)
    limits: BatchLimits = field(default_factory=BatchLimits)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Trainer:
    """One training run in a folder.

    Args:
        folder: of the run; made if need be. See `checkpoints` and `progress` for what it holds.
        network: to be trained; with `resume` only its configuration matters.
        scenes: folder of training scenes.
        validation: folder of validation scenes; None validates never, and keeps no best.
        teacher: whose output are extra targets.
        resume: go on from the run's last state, or with `from_trunk` from its state before the cool-down.
    Raises:
        TrainingStateError: the folder holds a run already, or none to resume, or one of another network.
    """

    def __init__(
        self,
        folder: Path,
        network: ZeroGrasp,
        scenes: Path,
        budget: Budget,
        settings: TrainingSettings | None = None,
        validation: Path | None = None,
        teacher: ZeroGrasp | None = None,
        resume: bool = False,
        from_trunk: bool = False,
    ) -> None:
        self.folder, self.network, self.budget = folder, network.train(), budget
        self.settings = settings = settings or TrainingSettings()
        self.step, self.seconds, self.best, self.skipped_steps = 0, 0.0, None, 0
        self._bad_in_a_row = 0
        self._stop_signal: int | None = None
        self._teacher = None if teacher is None else Teacher(teacher, network.config)
        folder.mkdir(parents=True, exist_ok=True)
        state = load_state(folder, from_trunk) if resume else None
        if state is None and any((folder / name).exists() for name in ("last.pt", "previous.pt")):
            raise TrainingStateError(
                f"{folder}: holds a run already; resume it (--resume), or choose another folder"
            )
        if state is not None:
            _check_same_network(folder, state.config, network.config)
            network.load_state_dict(state.network)
        self.average = WeightAverage(network, settings.average)
        self.optimizer = torch.optim.AdamW(
            _parameter_groups(network, settings.weight_decay), lr=settings.rate.peak, betas=(0.9, 0.99), fused=True
        )
        self._cursor = Cursor()
        if state is not None:
            self.average.network.load_state_dict(state.average)
            decays = [group["weight_decay"] for group in self.optimizer.param_groups]
            self.optimizer.load_state_dict(dict(state.optimizer))
            for group, decay in zip(self.optimizer.param_groups, decays, strict=True):
                group["weight_decay"] = decay
            self._cursor = Cursor.from_dict(state.cursor)
            self.step, self.seconds, self.best = state.step, state.seconds, state.best
            self.skipped_steps = state.skipped_steps
        self._cooling = settings.rate.cooling(self.progress)
        # BatchNorm statistics change in the forward pass already: a skipped step takes them back.
        self._statistics = [b for b in network.buffers() if b.is_floating_point()]
        self._views = (
            load_views(network.config, validation, settings.validation_views)
            if validation is not None
            else None
        )
        self._stream = SceneStream(
            scenes, network.config, settings.seed, settings.augmentation, settings.limits, self._cursor
        )
        self.log = ProgressLog(folder)

    @property
    def progress(self) -> float:
        """Spent share of the budget."""
        return self.budget.progress(self.step, self.seconds)

    def run(self, report: Callable[[str], None] = lambda _line: None) -> bool:
        """Train until the budget is spent or a SIGTERM or SIGINT arrives; either way the state is saved.

        Args:
            report: receives a line of text now and then.
        Returns:
            Whether the budget is spent.
        Raises:
            TrainingError: too many steps in a row were not finite.
            DatasetError: no scene can be used any more; the state is saved.
        """
        self._log_start()
        window = _Window()
        saved = validated = self.seconds
        clock = time.monotonic()
        finished = False
        with self._stream, _stopping_on_signals(self._on_signal):
            while not finished and self._stop_signal is None:
                rate = self.settings.rate
                progress = self.progress
                cooling = rate.cooling(progress)
                if cooling and not (self._cooling and (self.folder / TRUNK).exists()):
                    save_trunk(self.state(), self.folder)
                self._cooling = cooling
                self._train_step(rate.at(self.step, progress), window)
                now = time.monotonic()
                self.seconds += min(now - clock, _LONGEST_INTERVAL)
                clock = now
                finished = self.progress >= 1
                if self.step % self.settings.log_steps == 0 and window.steps:
                    values = window.means()
                    self.log.write("train", self.step, {**values, **self._situation()})
                    report(self._line(values))
                    window = _Window()
                due = self.seconds - validated >= 60 * self.settings.validation_minutes
                validate_now = self._views is not None and (due or finished)
                if validate_now:
                    report(self._validate())
                    validated = self.seconds
                # Also right after a validation, so that a resumed run knows the best on disk.
                due = self.seconds - saved >= 60 * self.settings.checkpoint_minutes
                if due or validate_now or finished:
                    save_state(self.state(), self.folder)
                    saved = self.seconds
            if not finished:
                save_state(self.state(), self.folder)
                name = signal.Signals(self._stop_signal or signal.SIGTERM).name
                self.log.write("stop", self.step, {"signal": name, **self._situation()})
                report(f"{name}: saved at step {self.step}; go on with --resume")
        return finished

    def state(self) -> TrainingState:
        """The run between two steps."""
        return TrainingState(
            config=self.network.config.to_dict(),
            settings=self.settings.to_dict(),
            network=self.network.state_dict(),
            average=self.average.network.state_dict(),
            optimizer=self.optimizer.state_dict(),
            cursor=self._cursor.to_dict(),
            step=self.step,
            seconds=self.seconds,
            best=self.best,
            skipped_steps=self.skipped_steps,
        )

    def _train_step(self, rate: float, window: _Window) -> None:
        start = time.perf_counter()
        try:
            batch = next(self._stream)
        except DatasetError:
            # Scenes may come back; nothing that was learned shall be lost.
            save_state(self.state(), self.folder)
            raise
        loaded = time.perf_counter()
        statistics = [b.clone() for b in self._statistics]
        kl_weight = self.settings.kl.at(self.step)
        terms, loss = self._losses(batch, kl_weight)
        forward = time.perf_counter()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self.settings.gradient_norm)
        backward = time.perf_counter()
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self.average.update(self.network, self.step)
            self._bad_in_a_row = 0
            window.add(
                {"loss": float(loss.detach()), **{f"loss/{k}": float(v.detach()) for k, v in terms.items()}}
            )
        else:
            for buffer, before in zip(self._statistics, statistics, strict=True):
                buffer.copy_(before)
            self._skip_step(float(loss.detach()), float(norm))
        self._cursor = batch.cursor
        self.step += 1
        end = time.perf_counter()
        window.add_step(
            {
                "gradient_norm": float(norm),
                "learning_rate": rate,
                "kl_weight": kl_weight,
                "objects": batch.objects,
                "nodes": batch.nodes,
                "scenes": batch.scenes,
                "seconds": end - start,
                "seconds/data": loaded - start,
                "seconds/forward": forward - loaded,
                "seconds/backward": backward - forward,
                "seconds/update": end - backward,
            }
        )

    def _losses(self, batch: Batch, kl_weight: float) -> tuple[dict[str, Tensor], Tensor]:
        # All randomness of a step comes from its number: nothing else needs to be saved.
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        noise = torch.randn(batch.objects, self.network.config.latent, generator=generator)
        draws = torch.rand(batch.objects, generator=generator)
        share = self.settings.prior_share if self.network.config.posterior else 1.0
        prediction = self.network.forward_train(batch.frames, batch.target, noise, from_prior=draws < share)
        terms = loss_terms(self.network.config, prediction, self.settings.losses, batch.labelled_rows)
        if self._teacher is not None:
            taught = self._teacher(batch.frames, batch.target)
            terms.update(distillation_terms(self.network.config, prediction, taught))
        return terms, total_loss(terms, self.settings.losses, kl_weight)

    def _skip_step(self, loss: float, norm: float) -> None:
        self.skipped_steps += 1
        self._bad_in_a_row += 1
        log.warning("step %d is skipped: loss %g, gradient norm %g", self.step, loss, norm)
        self.log.write("skipped", self.step, {"loss": loss, "gradient_norm": norm})
        if self._bad_in_a_row >= self.settings.max_bad_steps:
            raise TrainingError(
                f"{self._bad_in_a_row} steps in a row had a loss or gradient that is not finite; the last saved "
                f"state is in {self.folder}: resume with a lower learning rate"
            )

    def _validate(self) -> str:
        assert self._views is not None
        start = time.perf_counter()
        values = validate(
            self.average.network, self._views, self.settings.losses, 2 * self.settings.limits.max_nodes
        )
        score = values[_SCORE]
        is_best = self.best is None or score < self.best
        if is_best:
            self.best = score
            save_network(self.average.network, self.folder / BEST)
        values["seconds"] = time.perf_counter() - start
        self.log.write("validation", self.step, {**values, "best": is_best, **self._situation()})
        self._draw()
        return (
            f"validation at step {self.step}: chamfer {score:.2f} mm, F1@5mm {values['f1_5']:.1f} %, "
            f"F1@10mm {values['f1_10']:.1f} %, normals {values['normal_consistency']:.1f} %, "
            f"missed {values['missed']:.0f} of {values['objects']:.0f}{' (best)' if is_best else ''}"
        )

    def _draw(self) -> None:
        """Curves are a convenience: whatever keeps them from being drawn must not end a run of hours."""
        try:
            draw_curves(self.folder)
        except MissingExtra as error:
            log.warning("no curves: %s", error)
        except Exception:
            log.exception("no curves")

    def _log_start(self) -> None:
        values = {
            "resumed": self.step > 0,
            "config": self.network.config.to_dict(),
            "settings": self.settings.to_dict(),
            "budget": asdict(self.budget),
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in self.network.parameters() if p.requires_grad),
            **self._situation(),
        }
        self.log.write("start", self.step, values)

    def _situation(self) -> dict[str, float]:
        return {
            "minutes": self.seconds / 60,
            "progress": self.progress,
            "skipped_steps": self.skipped_steps,
            "skipped_scenes": len(self._stream.skipped),
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    def _line(self, values: dict[str, float]) -> str:
        occupancy = sum(v for k, v in values.items() if k.startswith("loss/occupancy_"))
        return (
            f"step {self.step}  {100 * self.progress:.1f} %  {values['seconds']:.2f} s/step "
            f"(data {values['seconds/data']:.2f})  loss {values.get('loss', float('nan')):.3f}  "
            f"occupancy {occupancy:.3f}  normal {values.get('loss/normal', float('nan')):.3f}  "
            f"sdf {values.get('loss/sdf', float('nan')):.3f}  rate {values['learning_rate']:.1e}"
        )

    def _on_signal(self, number: int) -> None:
        self._stop_signal = number


class _Window:
    """Means over the steps between two lines of the log."""

    def __init__(self) -> None:
        self.steps = 0
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def add_step(self, values: dict[str, float]) -> None:
        self.steps += 1
        self.add(values)

    def means(self) -> dict[str, float]:
        return {name: total / self._counts[name] for name, total in self._sums.items()}


def _parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Weights of layers with decay; norms and biases without."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _check_same_network(folder: Path, recorded: dict[str, Any], config: NetworkConfig) -> None:
    asked = config.to_dict()
    different = [
        f"{k} (run {recorded.get(k)!r}, asked for {v!r})" for k, v in asked.items() if recorded.get(k) != v
    ]
    if different:
        raise TrainingStateError(f"{folder}: is a run of another network: {', '.join(different)}")


@contextmanager
def _stopping_on_signals(stop: Callable[[int], None]) -> Iterator[None]:
    """SIGTERM and the first SIGINT ask the loop to stop after its step; a second SIGINT interrupts at once."""

    def handler(number: int, _frame: FrameType | None) -> None:
        stop(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    former = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, previous in former.items():
            signal.signal(number, previous)
