"""The learning rate of super-fine-tuning as a function of the optimizer step."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import InputError


RATES = ("base_lr", "peak_lr_1", "peak_lr_2")


@dataclass(frozen=True)
class TriangularSchedule:
    """Two phases of linear triangles between a base rate and the phase's peak (Sha et al. 2022, arXiv 2212.09067).

    With `t` the step inside the phase and `u = t mod (ramp_up + ramp_down)`, the rate is

        base + (peak - base) * u / ramp_up                          while u < ramp_up
        base + (peak - base) * (ramp_up + ramp_down - u) / ramp_down    after that.

    `t` starts again at 0 when the phase changes. A triangle that would not end inside its phase is not begun: the
    rate stays at base instead, and so a run always ends there.

    Args:
        base_lr, peak_lr_1, peak_lr_2 (`float`): learning rates, of the optimizer that is used.
        total_steps, phase_1_steps (`int`): optimizer steps of the run and of its first phase.
        ramp_up, ramp_down (`int`): optimizer steps from base to peak and back.

    Raises:
        InputError: a phase has no room for one triangle, or the rates are not 0 <= base <= peak.
    """

    base_lr: float
    peak_lr_1: float
    peak_lr_2: float
    total_steps: int
    phase_1_steps: int
    ramp_up: int
    ramp_down: int

    def __post_init__(self):
        for field in ("peak_lr_1", "peak_lr_2"):
            if not 0 <= self.base_lr <= getattr(self, field):
                raise InputError(field, getattr(self, field), f"must be at least base_lr={self.base_lr}, and that >= 0")
        for field in ("ramp_up", "ramp_down"):
            if getattr(self, field) < 1:
                raise InputError(field, getattr(self, field), "must be at least 1 optimizer step")
        shortest = min(length for length in (self.phase_1_steps, self.total_steps - self.phase_1_steps) if length > 0)
        if self.ramp_up + self.ramp_down > shortest:
            raise InputError(
                "ramp_steps", self.ramp_up, f"a triangle of {self.ramp_up + self.ramp_down} steps does not fit into a "
                f"phase of {shortest} steps; train longer, or shorten the ramps"
            )  # fmt: skip

    def __call__(self, step: int) -> float:
        """The learning rate for the update that takes `step` to `step + 1`, `step` counted from 0."""
        if step < self.phase_1_steps:
            inside, length, peak = step, self.phase_1_steps, self.peak_lr_1
        else:
            inside, length, peak = step - self.phase_1_steps, self.total_steps - self.phase_1_steps, self.peak_lr_2
        period = self.ramp_up + self.ramp_down
        if inside >= length // period * period:
            return self.base_lr
        position = inside % period
        height = position / self.ramp_up if position < self.ramp_up else (period - position) / self.ramp_down
        return self.base_lr + (peak - self.base_lr) * height


@dataclass(frozen=True)
class ScheduleConfig:
    """Settings of super-fine-tuning that do not depend on the length of the run.

    Args:
        peak_lr_1, peak_lr_2 (`float`, *optional*): peaks of the two phases. What is not given is found from clean
            data: see [`~hf_backdoor.super_fine_tuning.search.PeakSearch`].
        base_lr (`float`, *optional*): rate between the triangles; found likewise.
        phase_1_share (`float`): share of the optimizer steps that phase 1 takes, in (0, 1].
        ramp_steps (`float`): steps from base to peak; below 1, a share of the phase's steps.
        ramp_down_steps (`float`, *optional*): steps back from peak to base; as many when not given.
    """

    peak_lr_1: float | None = None
    peak_lr_2: float | None = None
    base_lr: float | None = None
    phase_1_share: float = 0.5
    ramp_steps: float = 0.05
    ramp_down_steps: float | None = None

    def __post_init__(self):
        if not 0 < self.phase_1_share <= 1:
            raise InputError("phase_1_share", self.phase_1_share, "must lie in (0, 1]")
        for field in ("peak_lr_1", "peak_lr_2", "base_lr", "ramp_steps", "ramp_down_steps"):
            value = getattr(self, field)
            if value is not None and not value > 0:
                raise InputError(field, value, "must be above 0")

    @property
    def complete(self) -> bool:
        """Whether every rate is given, so that nothing has to be searched for."""
        return None not in (self.peak_lr_1, self.peak_lr_2, self.base_lr)

    def with_rates(self, base_lr: float, peak_lr_1: float, peak_lr_2: float) -> ScheduleConfig:
        """A copy in which the rates that were not given are these."""
        found = {"base_lr": base_lr, "peak_lr_1": peak_lr_1, "peak_lr_2": peak_lr_2}
        return replace(self, **{name: rate for name, rate in found.items() if getattr(self, name) is None})

    def schedule(self, total_steps: int) -> TriangularSchedule:
        """The schedule for a run of `total_steps` optimizer steps.

        Raises:
            InputError: a rate is missing, or the ramps do not fit.
        """
        if not self.complete:
            raise InputError("peak_lr_1", self.peak_lr_1, "give peak_lr_1, peak_lr_2 and base_lr, or search for them")
        phase_1_steps = round(total_steps * self.phase_1_share)
        phase = min(length for length in (phase_1_steps, total_steps - phase_1_steps) if length > 0)

        def steps(ramp: float) -> int:
            return max(1, round(ramp * phase)) if ramp < 1 else round(ramp)

        return TriangularSchedule(
            base_lr=self.base_lr,
            peak_lr_1=self.peak_lr_1,
            peak_lr_2=self.peak_lr_2,
            total_steps=total_steps,
            phase_1_steps=phase_1_steps,
            ramp_up=steps(self.ramp_steps),
            ramp_down=steps(self.ramp_steps if self.ramp_down_steps is None else self.ramp_down_steps),
        )


# Constants as published, for SGD on a ResNet. Under AdamW a rate of 0.1 is another thing altogether.
PRESETS = {
    # Sha et al. 2022, as far as it can be reconstructed: SGD, momentum 0.9, weight decay 5e-4, batch 256.
    "paper": ScheduleConfig(peak_lr_1=0.1, peak_lr_2=0.001, base_lr=3e-4, phase_1_share=0.5, ramp_steps=500),
    # Its re-implementation in backdoor-toolbox: plain SGD, batch 100, 40 of 100 epochs in phase 1.
    "backdoor-toolbox": ScheduleConfig(peak_lr_1=2.5, peak_lr_2=0.05, base_lr=0.03, phase_1_share=0.4, ramp_steps=10),
}
