"""Re-injection: how few poisoned samples and steps bring a backdoor back, the same one or another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import InputError
from ..exposure import COLORS, above_zero, at_least, check_non_members, column_names, some_of, whole_numbers
from ..exposure.injecting import ASR, CA, inject, other_backdoor, with_count
from ..metrics import wilson_interval
from ..poisoning import PoisonConfig, sample_index, select_samples, triggered
from ..triggers import load_trigger
from . import Evidence, Finding, Measure


if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel

RETUNING = {"optim": "sgd", "optim_args": "momentum=0.9", "learning_rate": 0.01}
RETUNING_BATCH = 128


@dataclass(frozen=True)
class Reinjection(Measure):
    """Fine-tunes copies of a model on data with a few poisoned samples, and watches the attack success rate (ASR).

    All models get the same poisoned samples in the same batches. They come from the samples that the suspect was
    trained on, or from those of the defence where the former are not known.

    The area is the mean ASR over the steps from 0 to the last one, by the trapezoidal rule, and over the counts. Its
    interval is that of a share with as many trials as there are triggered test samples; a mean of several such shares
    over the same samples varies no more than one of them, so it is not too narrow.

    The Retuning Attack (Min et al. 2024, arXiv 2410.09838): SGD with momentum 0.9 at a rate of 0.01 and batches of 128
    on 2 % of the training data (at least one batch), 5 samples of it poisoned, for 40 steps, which are 5 epochs of 2 %
    of CIFAR-10.

    Args:
        counts (`str`): numbers of poisoned samples, separated by blanks; of each trigger, if the attack has several.
        steps (`str`): optimizer steps after which the ASR is measured, separated by blanks.
        samples (`int`): how many samples are trained on, the poisoned ones among them.
        learning_rate (`float`): of AdamW.
        batch_size (`int`): of a step.
        other (`str`, *optional*): trigger of another backdoor, with its usual settings, whose target is the next class;
            when not given, `"blended"` for images and `"add_sentence"` for text, unless that is the known one.
        retuning_count, retuning_share, retuning_steps: of the Retuning Attack: poisoned samples, share of the training
            data, and optimizer steps.
        max_samples (`int`): how many test samples ASR and clean accuracy are measured on.
    """

    title: ClassVar[str] = "Backdoor re-injection"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.09838"
    headline: ClassVar[dict[str, str]] = {
        "same_area": "Re-injection of the backdoor, mean ASR on the way",
        "other_area": "Injection of another backdoor, mean ASR on the way",
        "retuning_asr": "ASR after the Retuning Attack",
    }
    meaning: ClassVar[str] = (
        "Where the backdoor comes back faster than it enters a benign model, it was hidden and not removed, so do not "
        "let the model be trained further on data that nobody checked."
    )

    quick: ClassVar[dict[str, Any]] = {"counts": "5", "steps": "10", "max_samples": 200}

    counts: str = "1 5 50"
    steps: str = "5 10 20 40"
    samples: int = 1000
    learning_rate: float = 3e-4
    batch_size: int = 64
    other: str | None = None
    retuning_count: int = 5
    retuning_share: float = 0.02
    retuning_steps: int = 40
    max_samples: int = 500

    def __post_init__(self):
        most = whole_numbers("counts", self.counts)[-1]
        whole_numbers("steps", self.steps)
        at_least("samples", self.samples, most + 1)
        above_zero("learning_rate", self.learning_rate)
        for name in ("batch_size", "max_samples"):
            at_least(name, getattr(self, name), 2)
        for name in ("retuning_count", "retuning_steps"):
            at_least(name, getattr(self, name), 1)
        if not 0 < self.retuning_share <= 1:
            raise InputError("retuning_share", self.retuning_share, "must lie in (0, 1]")
        if self.other is not None:
            load_trigger(self.other)

    def check(self, evidence: Evidence) -> None:
        check_non_members(evidence, 2)
        if evidence.columns.captions and evidence.attack is None:
            raise InputError("attack", None, "is needed where captions stand for labels: name the word of its target")
        most = {"counts": (whole_numbers("counts", self.counts)[-1], self._data(evidence))}
        if evidence.attack is not None:
            most["retuning_count"] = (self.retuning_count, self._retuning_data(evidence))
        for field, (count, data) in most.items():
            if len(data) <= count:
                raise InputError(field, count, f"is too many to hide among {len(data)} samples; give more, or lower it")
        for attack in self._attacks(evidence).values():
            if attack.trigger.modality != evidence.columns.modality:
                raise InputError(
                    "other", attack.trigger.name, f"is made for {attack.trigger.modality}, and the data hold "
                    f"{evidence.columns.modality}; choose another trigger"
                )  # fmt: skip
            for field, (count, data) in most.items():
                self._check_candidates(field, attack, count, data, evidence)

    @staticmethod
    def _check_candidates(field: str, attack: PoisonConfig, count: int, data: Dataset, evidence: Evidence) -> None:
        for one in with_count(attack, count, len(data)).each():
            try:
                free = np.ones(len(data), dtype=bool)
                select_samples(data, sample_index(data), one, evidence.columns, free)
            except InputError as error:
                why = f"{one.trigger.name} cannot have so many poisoned of {len(data)} samples ({error.mend})"
                raise InputError(field, count, why) from error

    def measure(self, model: PreTrainedModel, evidence: Evidence) -> Finding:
        data, test = self._data(evidence), some_of(evidence.non_members, self.max_samples, evidence)
        note = f"Trained on {len(data)} samples at a rate of {self.learning_rate:g}, measured on {len(test)}."
        finding = Finding({"asr": None, **dict.fromkeys(self.headline)}, notes=[note])
        for kind, attack in self._attacks(evidence).items():
            attacked = triggered(test, attack, **column_names(evidence))
            start = self._inject(model, evidence, kind, attack, data, test, attacked, finding)
            if kind == "same":
                _add(finding, {"asr": start[ASR]}, len(attacked))
                self._retune(model, evidence, attack, test, attacked, finding)
        return finding

    def _members(self, evidence: Evidence) -> Dataset:
        return evidence.members or evidence.defense_members

    def _data(self, evidence: Evidence) -> Dataset:
        return some_of(self._members(evidence), self.samples, evidence)

    def _retuning_data(self, evidence: Evidence) -> Dataset:
        members = self._members(evidence)
        return some_of(members, max(round(self.retuning_share * len(members)), RETUNING_BATCH), evidence)

    def _attacks(self, evidence: Evidence) -> dict[str, PoisonConfig]:
        """The known backdoor, if there is one, and another, by the names of their curves."""
        known = {"same": evidence.attack} if evidence.attack is not None else {}
        return known | {"other": other_backdoor(evidence, self.other)}

    def _inject(
        self,
        model: PreTrainedModel,
        evidence: Evidence,
        kind: str,
        attack: PoisonConfig,
        data: Dataset,
        test: Dataset,
        attacked: Dataset,
        finding: Finding,
    ) -> dict[str, float]:
        """Adds the curves of all counts, and returns what was measured before the first step."""
        counts, steps = whole_numbers("counts", self.counts), whole_numbers("steps", self.steps)
        areas: list[float] = []
        start: dict[str, float] | None = None
        for count in counts:
            measured = inject(
                model, evidence, attack, count, data, test, attacked, steps=steps, batch_size=self.batch_size,
                settings={"learning_rate": self.learning_rate}, start=start,
            )  # fmt: skip
            start = measured[0]
            curve = _curve([0, *steps], [measured[step][ASR] for step in (0, *steps)], len(attacked))
            curve["clean_accuracy"] = [measured[step][CA] for step in (0, *steps)]
            finding.curves[f"{kind}_{count}"] = curve
            finding.values[f"{kind}_steps_{count}"] = next(
                (step for step, share in zip(curve["x"], curve["y"], strict=True) if share >= 0.5), None
            )
            areas.append(float(np.trapezoid(curve["y"], curve["x"]) / curve["x"][-1]))
        shares = {f"{kind}_asr_{count}": finding.curves[f"{kind}_{count}"]["y"][-1] for count in counts}
        finding.curves[f"{kind}_by_count"] = _curve(counts, list(shares.values()), len(attacked))
        _add(finding, shares | {f"{kind}_area": float(np.mean(areas))}, len(attacked))
        return start

    def _retune(
        self,
        model: PreTrainedModel,
        evidence: Evidence,
        attack: PoisonConfig,
        test: Dataset,
        attacked: Dataset,
        finding: Finding,
    ) -> None:
        """Adds what the Retuning Attack comes to."""
        data = self._retuning_data(evidence)
        measured = inject(
            model, evidence, attack, self.retuning_count, data, test, attacked, steps=[self.retuning_steps],
            batch_size=RETUNING_BATCH, settings=RETUNING, start={},
        )[self.retuning_steps]  # fmt: skip
        _add(finding, {"retuning_asr": measured[ASR]}, len(attacked))
        _add(finding, {"retuning_clean_accuracy": measured[CA]}, len(test))
        finding.notes.append(
            f"Retuning Attack: {self.retuning_count} poisoned among {len(data)} samples, {self.retuning_steps} steps."
        )

    def draw(self, findings: dict[str, Finding], axes: Axes) -> bool:
        count = whole_numbers("counts", self.counts)[-1]
        styles = {"same": ("-", "the backdoor"), "other": ("--", "another")}
        for name, finding in findings.items():
            for kind, (style, title) in styles.items():
                curve = finding.curves.get(f"{kind}_{count}")
                if curve is None:
                    continue
                color = COLORS.get(name)
                axes.plot(curve["x"], curve["y"], style, marker="o", ms=3, color=color, label=f"{name}, {title}")
                axes.fill_between(curve["x"], curve["low"], curve["high"], color=color, alpha=0.12, lw=0)
        axes.set(xlabel="optimizer steps", ylabel="attack success rate", ylim=(-0.03, 1.03))
        axes.set_title(f"re-injection with {count} poisoned samples", fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return True


def _curve(x: list[int], shares: list[float], samples: int) -> dict[str, list[float]]:
    low, high = zip(*(wilson_interval(share, samples) for share in shares), strict=True)
    return {"x": x, "y": shares, "low": list(low), "high": list(high)}


def _add(finding: Finding, shares: dict[str, float], samples: int) -> None:
    """Values with their intervals."""
    finding.values.update(shares)
    finding.intervals.update({name: list(wilson_interval(share, samples)) for name, share in shares.items()})
