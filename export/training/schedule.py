"""What changes while training: learning rate and KL weight, and when training ends.

The learning rate warms up, stays, and cools down along a cosine over the last part of the budget (warm-up, stable,
decay: Hu et al. 2024, arXiv 2404.06395). Until the cool-down nothing depends on the budget's end, so a run may be given
more time when it is resumed. The KL weight is annealed cyclically (Fu et al. 2019, arXiv 1903.10145).
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """When training ends: after minutes of training time, over all sessions of a run, or after steps."""

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError("budget: expected either minutes or steps")
        if (self.minutes or self.steps or 0) <= 0:
            raise ValueError(f"budget: expected a positive value, got {self.minutes or self.steps}")

    def progress(self, step: int, seconds: float) -> float:
        """Spent share, 0..1, after `step` steps and `seconds` of training."""
        if self.steps is not None:
            return min(step / self.steps, 1.0)
        assert self.minutes is not None
        return min(seconds / (60 * self.minutes), 1.0)


@dataclass(frozen=True)
class LearningRate:
    """Warm-up, constant, cosine cool-down."""

    peak: float = 1e-3
    warmup_steps: int = 300
    cooldown: float = 0.3
    """Share of the budget, at its end, in which the rate falls."""
    final: float = 0.01
    """Rate at the end, relative to the peak."""

    def at(self, step: int, progress: float) -> float:
        """The rate of step `step` (from 0) when `progress` of the budget is spent."""
        rate = self.peak * min(1.0, (step + 1) / max(self.warmup_steps, 1))
        phase = (progress - (1 - self.cooldown)) / self.cooldown if self.cooldown > 0 else 0.0
        if phase <= 0:
            return rate
        return rate * (self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * min(phase, 1.0))))

    def cooling(self, progress: float) -> bool:
        """Whether the cool-down has begun."""
        return self.cooldown > 0 and progress > 1 - self.cooldown


@dataclass(frozen=True)
class KlCycle:
    """In every cycle the weight rises linearly from 0, then stays."""

    weight: float = 0.01
    steps: int = 2000
    """Length of a cycle."""
    rise: float = 0.5
    """Share of the cycle in which the weight rises."""

    def at(self, step: int) -> float:
        position = step % self.steps / self.steps
        return self.weight * (min(1.0, position / self.rise) if self.rise > 0 else 1.0)
