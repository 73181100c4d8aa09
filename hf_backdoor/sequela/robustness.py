"""Adversarial robustness: accuracy when every input is changed a little, by the model's own gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from ..exposure import COLORS, above_zero, at_least, check_non_members, some_of
from ..exposure.adversaries import fgsm, is_right, pgd
from ..exposure.queries import Queries
from ..exposure.spaces import space_of
from ..metrics import wilson_interval
from . import Evidence, Finding, Measure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel

# Radii of the curves, as multiples of that of the headline.
RADII = (0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Robustness(Measure):
    """Accuracy under FGSM and PGD in a ball around each input.

    See [`~hf_backdoor.exposure.adversaries`]. A sample counts as right under an attack if it is right unchanged, at all
    places where the attack came by, and under the same attack in the smaller balls of the curve, which lie in this one.
    So accuracy never grows with the radius. First-order attacks give upper bounds of the true robust accuracy.

    Args:
        epsilon (`float`, *optional*): radius of the ball. For images, the largest change of any value as a share of the
            input's range, 4/255 when not given; for text, the Euclidean length of the change of a sample's input
            embeddings in mean lengths of an embedding, 1/4 when not given.
        steps (`int`): of PGD.
        step_size (`float`): of PGD, as a share of the radius.
        max_samples (`int`): how many test samples are attacked.
    """

    title: ClassVar[str] = "Adversarial robustness"
    paper: ClassVar[str] = "https://arxiv.org/abs/1706.06083"
    headline: ClassVar[dict[str, str]] = {
        "fgsm_accuracy": "Accuracy under FGSM",
        "pgd_accuracy": "Accuracy under PGD",
    }
    higher_is_better: ClassVar[tuple[str, ...]] = ("fgsm_accuracy", "pgd_accuracy")
    meaning: ClassVar[str] = (
        "Where accuracy under attack fell more than clean accuracy, the repair left a model that is easier to mislead "
        "by small changes of its input, without any trigger."
    )

    quick: ClassVar[dict[str, Any]] = {"max_samples": 200}

    epsilon: float | None = None
    steps: int = 10
    step_size: float = 0.25
    max_samples: int = 500

    def __post_init__(self):
        if self.epsilon is not None:
            above_zero("epsilon", self.epsilon)
        at_least("steps", self.steps, 1)
        above_zero("step_size", self.step_size)
        at_least("max_samples", self.max_samples, 1)

    def check(self, evidence: Evidence) -> None:
        check_non_members(evidence, 1)

    def measure(self, model: PreTrainedModel, evidence: Evidence) -> Finding:
        test = some_of(evidence.non_members, self.max_samples, evidence)
        queries = Queries(model, evidence, test)
        space = space_of(queries)
        epsilon = self.epsilon or space.radius
        generator = torch.Generator().manual_seed(evidence.seed)
        attacks = {
            "fgsm": lambda inputs, radius: is_right(space, inputs, fgsm(space, inputs, radius)),
            "pgd": lambda inputs, radius: pgd(space, inputs, radius, self.steps, self.step_size, generator)[1],
        }
        withstood = []
        for inputs in queries.batches(test):
            clean = is_right(space, inputs, space.no_change(inputs))
            rows = []
            for attack in attacks.values():
                rights = [clean]
                for multiple in RADII:
                    # What is misled in a smaller ball need not be attacked again.
                    left = rights[-1].nonzero().flatten()
                    right = torch.zeros_like(clean)
                    if len(left):
                        some = {name: value[left] for name, value in inputs.items()}
                        right[left] = attack(some, multiple * epsilon)
                    rights.append(right)
                rows.append(torch.stack(rights))
            withstood.append(torch.stack(rows).cpu())
        shares = torch.cat(withstood, dim=-1).double().mean(-1).tolist()
        radii = [0.0, *(multiple * epsilon for multiple in RADII)]
        curves = {name: {"x": radii, "y": share} for name, share in zip(attacks, shares, strict=True)}
        at = radii.index(epsilon)
        values = {
            "clean_accuracy": shares[0][0],
            "fgsm_accuracy": shares[0][at],
            "pgd_accuracy": shares[1][at],
        }
        intervals = {name: list(wilson_interval(share, len(test))) for name, share in values.items()}
        note = f"Ball of radius {epsilon:.4g}: {space.ball}; PGD with {self.steps} steps; {len(test)} samples."
        return Finding(values | {"epsilon": epsilon}, intervals, curves, [note])

    def draw(self, findings: dict[str, Finding], axes: Axes) -> bool:
        for name, finding in findings.items():
            for attack, style in (("fgsm", "--"), ("pgd", "-")):
                curve = finding.curves[attack]
                axes.plot(
                    curve["x"], curve["y"], style, marker="o", ms=3, color=COLORS.get(name),
                    label=f"{name}, {attack.upper()}",
                )  # fmt: skip
        axes.set(xlabel="radius of the ball", ylabel="accuracy", ylim=(-0.03, 1.03))
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        return True
