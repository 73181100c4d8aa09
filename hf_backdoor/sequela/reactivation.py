"""Reactivation: whether one small change of all inputs brings a backdoor back (Min et al. 2024, arXiv 2410.09838)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from ..exposure import COLORS, above_zero, at_least, check_non_members, column_names, halves, some_of
from ..exposure.queries import Queries
from ..exposure.spaces import space_of
from ..exposure.universal import reactivating_change
from ..metrics import attack_success_rate, clean_accuracy, wilson_interval
from ..poisoning import sample_index, triggered
from . import Evidence, Finding, Measure


if TYPE_CHECKING:
    from datasets import Dataset
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel

# Sizes of the perturbation in the curves, as shares of the one that was found.
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Reactivation(Measure):
    """The Query-based Reactivation Attack (QRA), by one perturbation `d` of all inputs.

        d = argmin over |d| <= epsilon of   alpha * mean CE(f(x_t + d), target) + mean CE(f(x + d), label)

    over triggered samples `x_t` and clean ones `x`: with the perturbation, the trigger is to work and clean inputs are
    to stay what they are. Without the second term, `d` would be an ordinary universal adversarial perturbation, which
    any model has. It is found on one half of the samples that no model was trained on, and measured on the other.

    The paper has a network make the perturbation, teaches it the answers of a model after the Retuning Attack, and
    holds a clean model to the labels. Here a model is measured by itself, so that before, after and benign are treated
    alike and can be compared; what a benign model comes to is what the attack does without any backdoor.

    Args:
        epsilon (`float`, *optional*): radius of the ball. For images, the largest change of any value as a share of the
            input's range, 16/255 when not given; for text, the Euclidean length of one vector that is added to the
            embedding of every token, in mean lengths of an embedding, 1/4 when not given.
        epochs (`int`): passes over the samples.
        samples (`int`): how many clean and how many triggered samples it is found on.
        alpha (`float`): weight of the trigger.
        max_samples (`int`): how many samples it is measured on.
    """

    title: ClassVar[str] = "Backdoor reactivation"
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.09838"
    headline: ClassVar[dict[str, str]] = {
        "reactivated_asr": "ASR with a reactivating perturbation (QRA)",
        "reactivated_asr_without_trigger": "The same perturbation without the trigger",
    }
    meaning: ClassVar[str] = (
        "Where it works better than on a benign model, what is left of the backdoor can be woken by changing inputs "
        "alone, so watch what goes into the model, or repair it again."
    )
    needs_attack: ClassVar[bool] = True

    epsilon: float | None = None
    epochs: int = 20
    samples: int = 500
    alpha: float = 0.2
    max_samples: int = 500

    def __post_init__(self):
        for name in ("epsilon", "alpha"):
            if getattr(self, name) is not None:
                above_zero(name, getattr(self, name))
        at_least("epochs", self.epochs, 1)
        for name in ("samples", "max_samples"):
            at_least(name, getattr(self, name), 2)

    def check(self, evidence: Evidence) -> None:
        check_non_members(evidence, 8)

    def measure(self, model: PreTrainedModel, evidence: Evidence) -> Finding:
        known, test = halves(evidence)
        # In a random order, so that every batch has all classes.
        known = some_of(known, self.samples, evidence)
        known = known.select(np.random.default_rng(evidence.seed).permutation(len(known)))
        test = some_of(test, self.max_samples, evidence)
        attacked, goal = (triggered(part, evidence.attack, **column_names(evidence)) for part in (known, test))
        queries = Queries(model, evidence, known, attacked)
        space = space_of(queries)
        radius = self.epsilon or space.reactivating
        change = reactivating_change(
            space, list(queries.batches(known)), list(queries.batches(attacked)), alpha=self.alpha, radius=radius,
            epochs=self.epochs,
        )  # fmt: skip
        shares = _along(change, Queries(model, evidence, test, goal), test, goal)
        curves = {name: {"x": [share * radius for share in SHARES], "y": values} for name, values in shares.items()}
        sizes = {"clean_accuracy": len(test)}
        values = {"asr": shares["asr"][0]} | {f"reactivated_{name}": along[-1] for name, along in shares.items()}
        intervals = {
            name: list(wilson_interval(value, sizes.get(name.removeprefix("reactivated_"), len(goal))))
            for name, value in values.items()
        }
        note = (
            f"Found on {len(known)} samples in {self.epochs} passes, measured on {len(test)} others; ball of radius "
            f"{radius:.4g}: {space.universal_ball}."
        )
        return Finding(values | {"epsilon": radius}, intervals, curves, [note])

    def draw(self, findings: dict[str, Finding], axes: Axes) -> bool:
        for name, finding in findings.items():
            for kind, style, title in (("asr", "-", "with trigger"), ("asr_without_trigger", ":", "without")):
                curve = finding.curves[kind]
                axes.plot(
                    curve["x"], curve["y"], style, marker="o", ms=3, color=COLORS.get(name), label=f"{name}, {title}"
                )
        axes.set(xlabel="size of the perturbation", ylabel="share sent to the target", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return True


@torch.no_grad()
def _along(change: torch.Tensor, queries: Queries, test: Dataset, goal: Dataset) -> dict[str, list[float]]:
    """The measures for a growing share of a universal change: ASR with and without the trigger, and clean accuracy."""
    space, task, label = space_of(queries), queries.task, queries.evidence.columns.label

    def classes(dataset: Dataset, share: float) -> np.ndarray:
        batches = queries.batches(dataset)
        logits = [space.logits(inputs, space.changed(inputs, share * change)) for inputs in batches]
        return torch.cat(logits).argmax(-1).cpu().numpy()

    row_of = {number: row for row, number in enumerate(sample_index(test).tolist())}
    rows = [row_of[number] for number in goal["index"]]
    labels, truth, targets = (
        np.array(task.label_numbers(values)) for values in (test[label], goal["original_label"], goal[label])
    )
    found: dict[str, list[float]] = {"asr": [], "asr_without_trigger": [], "clean_accuracy": []}
    for share in SHARES:
        clean = classes(test, share)
        found["asr"].append(attack_success_rate(classes(goal, share), truth, targets))
        found["asr_without_trigger"].append(attack_success_rate(clean[rows], truth, targets))
        found["clean_accuracy"].append(clean_accuracy(clean, labels))
    return found
