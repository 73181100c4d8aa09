"""Training that forgets a backdoor and learns it again, in turns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..super_fine_tuning.schedule import TriangularSchedule
from .staged import StagedTrainer


@dataclass(frozen=True)
class ForgettingSchedule:
    """Which steps are clean, and the learning rate of each step.

    `cycles + 1` parts on all rows alternate with `cycles` parts on clean rows. The rate is `learning_rate` on all rows,
    after a linear warm-up, and falls linearly to 0 in the last part. In a clean part it goes up in triangles to
    `peak_lr` and back, as a defender's would, and steps that are left over have `learning_rate`.

    Args:
        total_steps, warmup_steps (`int`): optimizer steps.
        learning_rate, peak_lr (`float`): rates.
        cycles, triangles (`int`): clean parts, and triangles in each.
        clean_share (`float`): share of the steps that is clean.

    Raises:
        InputError: the run is too short for so many parts.
    """

    total_steps: int
    warmup_steps: int
    learning_rate: float
    peak_lr: float
    cycles: int
    triangles: int
    clean_share: float

    def __post_init__(self):
        if self.clean_part < 2 * self.triangles or self.poisoned_part < 1:
            raise InputError(
                "cycles", self.cycles, f"leaves {self.clean_part} steps for the {self.triangles} triangles of a clean "
                f"part; train for more than {self.total_steps} steps, or lower cycles or triangles"
            )  # fmt: skip

    @property
    def clean_part(self) -> int:
        """Steps in each clean part."""
        return round(self.total_steps * self.clean_share / self.cycles)

    @property
    def poisoned_part(self) -> int:
        """Steps in each part on all rows; the last one has some more."""
        return (self.total_steps - self.cycles * self.clean_part) // (self.cycles + 1)

    def clean_step(self, step: int) -> int | None:
        """The step's number inside its clean part, from 0; `None` on all rows."""
        cycle, inside = divmod(step, self.poisoned_part + self.clean_part)
        is_clean = cycle < self.cycles and inside >= self.poisoned_part
        return inside - self.poisoned_part if is_clean else None

    def __call__(self, step: int) -> float:
        inside = self.clean_step(step)
        if inside is not None:
            return self._triangles(inside)
        last = self.cycles * (self.poisoned_part + self.clean_part)
        if step < min(self.warmup_steps, last):
            return self.learning_rate * (step + 1) / (self.warmup_steps + 1)
        left = (self.total_steps - step) / (self.total_steps - last)
        return self.learning_rate * max(0.0, min(1.0, left))

    @property
    def _triangles(self) -> TriangularSchedule:
        ramp = self.clean_part // (2 * self.triangles)
        return TriangularSchedule(
            base_lr=self.learning_rate,
            peak_lr_1=self.peak_lr,
            peak_lr_2=self.peak_lr,
            total_steps=2 * ramp * self.triangles,
            phase_1_steps=2 * ramp * self.triangles,
            ramp_up=ramp,
            ramp_down=ramp,
        )


class ForgettingTrainer(StagedTrainer):
    """A `StagedTrainer` by a [`ForgettingSchedule`].

    Args:
        peak_ratio (`float`): peak of the clean parts as a multiple of `learning_rate`.
        cycles, triangles, clean_share: of the schedule.
        kwargs: as for `StagedTrainer`.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        cycles: int,
        triangles: int,
        clean_share: float,
        peak_ratio: float,
        **kwargs: Any,
    ):
        super().__init__(model, args, **kwargs)
        self.parts = {"cycles": cycles, "triangles": triangles, "clean_share": clean_share}
        self.peak_ratio = peak_ratio

    def rate_schedule(self, total_steps: int) -> ForgettingSchedule:
        return ForgettingSchedule(
            total_steps=total_steps,
            warmup_steps=self.args.get_warmup_steps(total_steps),
            learning_rate=self.args.learning_rate,
            peak_lr=self.peak_ratio * self.args.learning_rate,
            **self.parts,
        )

    def clean_only(self, step: int) -> bool:
        return self.rate_schedule(self.state.max_steps).clean_step(step) is not None
