"""What the measures of re-injection, reactivation, stealing and adversarial robustness share."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..data.sources import split_off
from ..errors import InputError


if TYPE_CHECKING:
    from datasets import Dataset

    from ..sequela import Evidence

# Of the models of a report, in all plots.
COLORS = {"before": "C3", "after": "C0", "benign": "C2"}


def whole_numbers(field: str, text: str) -> list[int]:
    """The numbers of a setting such as `"1 5 20"`, which must grow.

    Raises:
        InputError: there are none, or they are not whole, above 0 and growing.
    """
    words = str(text).split()
    numbers = [int(word) for word in words if word.isdecimal()]
    if not numbers or len(numbers) < len(words) or numbers[0] < 1 or sorted(set(numbers)) != numbers:
        raise InputError(field, text, "write growing whole numbers above 0, separated by blanks, e.g. '1 5 20'")
    return numbers


def at_least(field: str, value: float, least: float) -> None:
    """Refuses a setting below a bound, and one that is not finite.

    Raises:
        InputError: it is.
    """
    if not least <= value < math.inf:
        raise InputError(field, value, f"must be {least:g} or more")


def above_zero(field: str, value: float) -> None:
    """Refuses a setting that is not above 0, or not finite.

    Raises:
        InputError: it is so.
    """
    if not 0 < value < math.inf:
        raise InputError(field, value, "must be above 0")


def some_of(dataset: Dataset, count: int, evidence: Evidence) -> Dataset:
    """`count` samples, the same for every model and as many of each class as can be; all of them if there are fewer."""
    if count >= len(dataset):
        return dataset
    return split_off(dataset, count, evidence.seed, evidence.columns.label)[1]


def halves(evidence: Evidence) -> tuple[Dataset, Dataset]:
    """The samples that no model was trained on, in two halves: one for the attacker, one to measure on."""
    data = evidence.non_members
    return split_off(data, len(data) // 2, evidence.seed, evidence.columns.label)


def check_non_members(evidence: Evidence, least: int) -> None:
    """Whether there are enough samples to measure on.

    Raises:
        InputError: fewer than `least`.
    """
    if len(evidence.non_members) < least:
        raise InputError("non_members", len(evidence.non_members), f"gives too few test samples; {least} are needed")


def column_names(evidence: Evidence) -> dict[str, str]:
    """For [`~hf_backdoor.poisoning.poison`] and [`~hf_backdoor.poisoning.triggered`]."""
    return {"input_column": evidence.columns.input, "label_column": evidence.columns.label}
