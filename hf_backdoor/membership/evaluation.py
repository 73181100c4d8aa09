"""How well scores tell members from others: ROC, AUC, balanced accuracy, and the true positives at few false ones.

Scores are finite floats, higher for a likelier member: `members` `(m,)` and `others` `(n,)`. All intervals are at 95 %
and say how sure the value is for *this model*, had other samples of the same kind been looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from ..metrics import Z, wilson_interval


FALSE_POSITIVE_RATES = (0.01, 0.001)
CURVE_POINTS = 60


def tpr_name(false_positive_rate: float) -> str:
    """`"tpr_at_fpr_1e-2"` for 0.01."""
    return f"tpr_at_fpr_{false_positive_rate:.0e}".replace("e-0", "e-")


@dataclass
class Quality:
    """What is known of one attack on one kind of members.

    Attributes:
        values (`dict`): `auc`, `balanced_accuracy`, `tpr_at_fpr_1e-2` and `tpr_at_fpr_1e-3`; one that cannot be told
            is `None`.
        intervals (`dict`): of those that can.
        curve (`dict`): the ROC, some 60 steps of it, evenly spaced on a logarithmic axis, and the two at
            [`FALSE_POSITIVE_RATES`]: `x` the false positive rates, `y` the largest true positive rate at no more than
            that.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    intervals: dict[str, list[float]] = field(default_factory=dict)
    curve: dict[str, Any] = field(default_factory=dict)


def roc_curve(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All that a threshold can do: "member" is said where the score is at least that.

    Returns:
        False and true positive rates, float64 in [0, 1], from (0, 0) to (1, 1), and the thresholds, the first of which
        is infinite and the others every score that occurs, falling.

    Raises:
        InputError: there are no scores, or some are not finite.
    """
    for name, scores in (("members", members), ("others", others)):
        if len(scores) == 0 or not np.isfinite(scores).all():
            raise InputError(name, len(scores), "needs one finite score or more")
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    rates = [
        np.append(0, len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")) / len(scores)
        for scores in (others, members)
    ]
    return rates[0], rates[1], np.concatenate([[np.inf], thresholds])


def auc(members: np.ndarray, others: np.ndarray) -> float:
    """The area under the ROC: the chance that a member's score is the higher one; a tie is half (Mann and Whitney)."""
    ordered = np.sort(others)
    below, upto = (np.searchsorted(ordered, members, side=side) for side in ("left", "right"))
    return float((below + upto).mean() / (2 * len(others)))


def auc_interval(area: float, members: int, others: int) -> tuple[float, float]:
    """The interval of an AUC by inverting the score test with the variance of Hanley and McNeil.

    The limits are the `t` with `|area - t| = z sqrt(V(t))`, where, with `h = (m + n) / 2 - 1`,

        V(t) = t (1 - t) / (m n) * (1 + h (1 - t) / (2 - t) + h t / (1 + t))

    (Newcombe 2006, Statistics in Medicine 25:559-573, method 5.) Unlike those of DeLong and of Hanley and McNeil
    themselves, it keeps to [0, 1] and has a width where members and others are told apart without an error; at 0.5 the
    variance is the exact one of the rank sum without ties.
    """
    half = (members + others) / 2 - 1

    def excess(t: float) -> float:
        variance = t * (1 - t) / (members * others) * (1 + half * (1 - t) / (2 - t) + half * t / (1 + t))
        return abs(area - t) - Z * variance**0.5

    limits = []
    for outer in (0.0, 1.0):
        inner = area
        for _ in range(60):
            middle = (outer + inner) / 2
            outer, inner = (middle, inner) if excess(middle) > 0 else (outer, middle)
        limits.append((outer + inner) / 2)
    return limits[0], limits[1]


def tpr_at(false_positive_rates: np.ndarray, true_positive_rates: np.ndarray, rate: float, others: int) -> float | None:
    """The largest true positive rate of a ROC at no more than this false positive rate.

    Nothing is interpolated. `None` where one false positive is already too many: fewer than `1 / rate` others.
    """
    if others * rate < 1 - 1e-9:
        return None
    return float(true_positive_rates[false_positive_rates <= rate + 1e-12].max())


def balanced_accuracy(members: np.ndarray, others: np.ndarray) -> tuple[float, tuple[float, float]]:
    """The mean of true positive and true negative rate, at a threshold that other samples chose.

    Members and others are each split in two at random, always alike. The threshold that is best for one half, in the
    middle of the gap between two scores, is applied to the other half, and the other way round; so a useless attack
    comes out at 0.5, where the best threshold for the samples themselves would promise more.

    Returns:
        The value, and its interval from the Wilson intervals of both rates (MOVER, Newcombe 1998), which does not
        know of the choice of the thresholds.

    Raises:
        InputError: fewer than two members or others.
    """
    if min(len(members), len(others)) < 2:
        raise InputError(
            "members", (len(members), len(others)), "needs two members and two others to choose a threshold"
        )
    folds = [np.random.default_rng(0).permutation(len(scores)) % 2 == 0 for scores in (members, others)]
    right = [0, 0]
    for fold in (False, True):
        fpr, tpr, thresholds = roc_curve(members[folds[0] == fold], others[folds[1] == fold])
        best = int(np.argmax(tpr - fpr))
        steps = np.append(thresholds, -np.inf)[best : best + 2]
        threshold = steps.mean() if np.isfinite(steps).all() else steps[0]
        right[0] += int((members[folds[0] != fold] >= threshold).sum())
        right[1] += int((others[folds[1] != fold] < threshold).sum())
    counts = (len(members), len(others))
    shares = [hits / count for hits, count in zip(right, counts, strict=True)]
    limits = [wilson_interval(share, count) for share, count in zip(shares, counts, strict=True)]
    value = sum(shares) / 2
    down, up = (
        sum((share - limit[side]) ** 2 for share, limit in zip(shares, limits, strict=True)) ** 0.5 / 2
        for side in (0, 1)
    )
    return value, (max(0.0, value - down), min(1.0, value + up))


def evaluate(members: np.ndarray, others: np.ndarray) -> Quality:
    """Everything about the scores of one attack.

    Raises:
        InputError: fewer than two members or others, or scores that are not finite.
    """
    fpr, tpr, _ = roc_curve(members, others)
    area = auc(members, others)
    balanced, balanced_interval = balanced_accuracy(members, others)
    quality = Quality(
        {"auc": area, "balanced_accuracy": balanced},
        {"auc": list(auc_interval(area, len(members), len(others))), "balanced_accuracy": list(balanced_interval)},
    )
    for rate in FALSE_POSITIVE_RATES:
        quality.values[tpr_name(rate)] = share = tpr_at(fpr, tpr, rate, len(others))
        if share is not None:
            quality.intervals[tpr_name(rate)] = list(wilson_interval(share, len(members)))
    told = [len(others) * rate for rate in FALSE_POSITIVE_RATES if len(others) * rate >= 1]
    x = np.unique([*np.round(np.geomspace(1, len(others), CURVE_POINTS)), *np.floor(np.add(told, 1e-9))]) / len(others)
    y = tpr[np.searchsorted(fpr, x + 1e-12, side="right") - 1]
    quality.curve = {"x": np.round(x, 8).tolist(), "y": np.round(y, 6).tolist()}
    return quality
