"""Membership inference: can one tell from a model's answers what it was trained on?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import InputError
from ..exposure import COLORS, at_least
from ..membership import neural
from ..membership.evaluation import FALSE_POSITIVE_RATES, evaluate, tpr_name
from ..membership.ratios import BLOCK, lira, rmia, rmia_log_ratio
from ..membership.samples import Samples, gather, logits_of
from ..membership.scores import THRESHOLDS, log_odds, log_probability
from ..membership.shadows import Recipe, check_recipe, shadow_models
from ..results import local_name
from . import Evidence, Finding, Measure


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from transformers import PreTrainedModel

METRICS = ("auc", "balanced_accuracy", *map(tpr_name, FALSE_POSITIVE_RATES))
# From those that need no shadow model to what is strongest with few of them.
ATTACKS = {
    "entropy": "entropy",
    "confidence": "confidence",
    "loss": "loss",
    "modified_entropy": "modified entropy",
    "neural": "the shadow-model attack",
    "lira_offline": "LiRA, offline",
    "lira_online": "LiRA, online",
    "rmia_offline": "RMIA, offline",
    "rmia_online": "RMIA, online",
}
MEMBERS = {"members": "training samples", "defense_members": "the repair's samples"}
STYLES = {"members": "-", "defense_members": "--"}


@dataclass
class _Known:
    """What the attacks use of all shadow models, `(models, samples)` each.

    Attributes:
        odds: log odds of the labels, float64.
        learned, right: whether a model was trained on a sample, and whether it gets it right, bool.
        seen: what the neural attack learns from, float32 `(models * samples, features)`, if it is wanted.
    """

    odds: np.ndarray
    learned: np.ndarray
    right: np.ndarray
    seen: np.ndarray | None


@dataclass(frozen=True)
class Membership(Measure):
    """How well attacks tell samples that a model was trained on from samples that it was not.

    Two kinds of members are reported apart: the victim's training samples (`members_...`) and the clean samples that
    the defence trained on (`defense_members_...`). A model that never saw the latter, such as the one before the
    repair, says what an attack comes to on them by chance, or because the sets differ.

    Values are named `<kind>_<attack>_<metric>`, e.g. `defense_members_lira_online_tpr_at_fpr_1e-2`. Attacks: the
    thresholds `loss`, `confidence`, `entropy` and `modified_entropy` ([`~hf_backdoor.membership.scores`]); `neural`,
    the shadow-model attack of 2017 ([`~hf_backdoor.membership.neural`]); `lira_online`, `lira_offline`, `rmia_online`
    and `rmia_offline` ([`~hf_backdoor.membership.ratios`]). Metrics: `auc`, `balanced_accuracy` (its threshold is
    chosen on other samples), `tpr_at_fpr_1e-2` and `tpr_at_fpr_1e-3`, which are `None` with fewer than 100 and 1,000
    non-members; see [`~hf_backdoor.membership.evaluation`] for their intervals. Beside them stand the accuracies of
    the model on each kind of samples and of the shadow models on what they learned and on the rest.

    The shadow models have the architecture of the model and fresh weights, or those of `base`, the public model that
    the victim was made from, where it is known: an attacker starts there too. They never start from the model itself,
    for then every one of them would have seen every member, and none could say how a model answers that has not. Nor
    do they go through the attack and the repair, so they are like the model only as far as the accuracies are. Each
    learns one half of all samples, of the three kinds alike: the attacker is one who holds candidates, and knows not
    which of them the model was trained on. All models of a report with one architecture share them.

    The population of RMIA is the non-members. The ROC is kept of the strongest of the attacks.

    Args:
        attacks (`tuple` of `str`): which; in text, separated by blanks.
        shadows (`int`): how many shadow models, an even number, 4 or more. LiRA wants tens or hundreds, RMIA is content
            with a few.
        steps, batch_size, learning_rate, base, tuning: see [`~hf_backdoor.membership.shadows.Recipe`].
        samples (`int`, *optional*): most samples of each kind, drawn at random; all if `None`.
        fixed_variance (`bool`, *optional*): of LiRA; see [`~hf_backdoor.membership.ratios.lira`].
        a, gamma (`float`): of RMIA, in [0, 1] and 1 or more.
        block (`int`): samples scored at a time.

    Raises:
        InputError: a value out of range, or an unknown attack.
    """

    title: ClassVar[str] = "Membership inference"
    paper: ClassVar[str] = "https://arxiv.org/abs/2112.03570"
    headline: ClassVar[dict[str, str]] = {
        f"{kind}_{value}": f"Membership of {of}: {what}"
        for kind, of in MEMBERS.items()
        for value, what in (
            ("loss_auc", "AUC by loss"),
            ("rmia_online_auc", "AUC by RMIA"),
            (f"rmia_online_{tpr_name(0.01)}", "found by RMIA at 1 % false positives"),
        )
    }
    meaning: ClassVar[str] = (
        "The higher, the more surely can anyone who may ask the model tell whether a certain sample was in its "
        "training data; an AUC of 0.5 is guessing."
    )

    quick: ClassVar[dict[str, Any]] = {"attacks": ("loss", "modified_entropy")}  # no shadow models

    attacks: tuple[str, ...] = tuple(ATTACKS)
    shadows: int = 4
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 1e-3
    base: str = ""
    tuning: str = "lora"
    samples: int | None = 2000
    fixed_variance: bool | None = None
    a: float = 0.3
    gamma: float = 1.0
    block: int = BLOCK

    def __post_init__(self):
        attacks = self.attacks.split() if isinstance(self.attacks, str) else self.attacks
        object.__setattr__(self, "attacks", tuple(attacks))
        for name in self.attacks or ("",):
            if name not in ATTACKS:
                raise InputError("attacks", name, f"choose some of {', '.join(ATTACKS)}")
        if self.shadows < 4 or self.shadows % 2:
            raise InputError("shadows", self.shadows, "must be an even number, 4 or more; they come in pairs")
        if self.samples is not None:
            at_least("samples", self.samples, 2)
        if not 0 <= self.a <= 1:
            raise InputError("a", self.a, "must be in [0, 1]")
        at_least("gamma", self.gamma, 1)
        at_least("block", self.block, 1)
        check_recipe(self._recipe)

    @property
    def _needs_shadows(self) -> bool:
        return not set(self.attacks) <= THRESHOLDS.keys()

    @property
    def _recipe(self) -> Recipe:
        return Recipe(self.steps, self.batch_size, self.learning_rate, self.base, self.tuning)

    def check(self, evidence: Evidence) -> None:
        gather(evidence, self.samples)

    def prepare(self, models: dict[str, PreTrainedModel], evidence: Evidence) -> None:
        if not self._needs_shadows:
            return
        samples = gather(evidence, self.samples)
        for model in models.values():  # a model of another architecture gets shadow models of its own
            for _ in shadow_models(model, samples, self.shadows, self._recipe, evidence):
                pass

    def measure(self, model: PreTrainedModel, evidence: Evidence) -> Finding:
        samples = gather(evidence, self.samples)
        logits = logits_of(model, samples.dataset, evidence)
        scores: dict[str, Callable[[], np.ndarray]] = {
            name: lambda rule=rule: rule(logits, samples.labels) for name, rule in THRESHOLDS.items()
        }
        every = [f"{kind}_{name}_{metric}" for kind in MEMBERS for name in self.attacks for metric in METRICS]
        finding = Finding(dict.fromkeys([*self.headline, *every]), notes=self._notes(samples))
        right = logits.argmax(-1) == samples.labels
        finding.values |= {f"{kind}_accuracy": float(right[rows].mean()) for kind, rows in samples.rows.items()}
        if self._needs_shadows:
            known = self._known(model, samples, evidence)
            learned, rest = (float(known.right[known.learned == kind].mean()) for kind in (True, False))
            finding.values |= {"shadow_models_learned_accuracy": learned, "shadow_models_rest_accuracy": rest}
            finding.notes.append(self._fidelity(model, known, learned, rest))
            scores |= self._against(known, logits, samples, evidence.seed)

        for name in self.attacks:
            score = scores[name]()
            for kind in [kind for kind in MEMBERS if kind in samples.rows]:
                quality = evaluate(score[samples.rows[kind]], score[samples.rows["non_members"]])
                finding.values |= {f"{kind}_{name}_{metric}": value for metric, value in quality.values.items()}
                finding.intervals |= {f"{kind}_{name}_{metric}": pair for metric, pair in quality.intervals.items()}
                if name == self._strongest:  # which is drawn
                    finding.curves[f"{kind}_{name}"] = quality.curve
        return finding

    @property
    def _strongest(self) -> str:
        return max(self.attacks, key=list(ATTACKS).index)

    def _known(self, model: PreTrainedModel, samples: Samples, evidence: Evidence) -> _Known:
        odds, learned, right, seen = [], [], [], []
        for shadow in shadow_models(model, samples, self.shadows, self._recipe, evidence):
            odds.append(log_odds(shadow.logits, samples.labels))
            learned.append(shadow.learned)
            right.append(shadow.logits.argmax(-1) == samples.labels)
            if "neural" in self.attacks:
                seen.append(neural.features(shadow.logits, samples.labels))
        return _Known(np.stack(odds), np.stack(learned), np.stack(right), np.concatenate(seen) if seen else None)

    def _against(
        self, known: _Known, logits: np.ndarray, samples: Samples, seed: int
    ) -> dict[str, Callable[[], np.ndarray]]:
        """The scores of the attacks that have shadow models, computed when they are asked for."""
        odds = log_odds(logits, samples.labels)

        def by_network() -> np.ndarray:
            network = neural.fit(known.seen, known.learned.ravel(), seed)
            return neural.score(network, neural.features(logits, samples.labels))

        def by_lira(online: bool) -> np.ndarray:
            settings: dict[str, Any] = {"online": online, "fixed_variance": self.fixed_variance, "block": self.block}
            return lira(odds, known.odds, known.learned, **settings)

        def by_rmia(online: bool) -> np.ndarray:
            here, there = log_probability(odds), log_probability(known.odds)
            ratios = rmia_log_ratio(here, there, known.learned, online=online, a=self.a, block=self.block)
            return rmia(ratios, ratios[samples.rows["non_members"]], self.gamma)

        return {
            "neural": by_network,
            "lira_offline": lambda: by_lira(False),
            "lira_online": lambda: by_lira(True),
            "rmia_offline": lambda: by_rmia(False),
            "rmia_online": lambda: by_rmia(True),
        }

    @staticmethod
    def _notes(samples: Samples) -> list[str]:
        count = {kind: len(rows) for kind, rows in samples.rows.items()}
        others = count["non_members"]
        notes = [
            f"{count.get('members', 0):,} training samples and {count.get('defense_members', 0):,} of the repair stand "
            f"against {others:,} that no model learned; the intervals say nothing of training once more."
        ]
        if samples.left_out:
            notes.append(f"{samples.left_out:,} test samples are also in the training data, and were left out.")
        rates = [rate for rate in FALSE_POSITIVE_RATES if others * rate < 1]
        if rates:
            notes.append(
                f"At {100 * min(rates):g} % false positives nothing can be seen with fewer than {1 / min(rates):,.0f}."
            )
        return notes

    def _fidelity(self, model: PreTrainedModel, known: _Known, learned: float, rest: float) -> str:
        """What the shadow models are, and how like the model they can be."""
        origin = f"{local_name(self.base)} tuned by {self.tuning}" if self.base else "fresh weights"
        return (
            f"{self.shadows} shadow models ({type(model).__name__}, {origin}, {self.steps} steps on "
            f"{known.learned[0].sum():,} samples) get {learned:.0%} right of what they learned and {rest:.0%} of the "
            "rest; the less this is like the model's own accuracy, the more do LiRA and RMIA understate the risk."
        )

    def draw(self, findings: dict[str, Finding], axes: Axes) -> bool:
        """The ROC of the strongest of the attacks, on logarithmic axes."""
        attack, least = self._strongest, 1.0
        for name, finding in findings.items():
            for kind, style in STYLES.items():
                curve = finding.curves.get(f"{kind}_{attack}")
                if curve is not None:
                    label = f"{name}, {MEMBERS[kind]}"
                    axes.step(curve["x"], curve["y"], style, where="post", color=COLORS.get(name), label=label)
                    least = min(least, curve["x"][0])
        if not axes.lines:
            return False
        axes.plot([least, 1], [least, 1], color="grey", lw=0.8, ls=":", label="guessing")
        axes.set(xscale="log", yscale="log", xlim=(least, 1), ylim=(least, 1.1))
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("true positive rate")
        axes.set_title(f"Membership by {ATTACKS[attack]}", fontsize=10)
        axes.legend(fontsize=7)
        return True
