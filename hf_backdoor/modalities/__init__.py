"""How the values of a column become what a trigger changes, and go back: one module a modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..plugins import find, names


if TYPE_CHECKING:
    from datasets.features.features import FeatureType

    from ..triggers import Trigger


class Modality(ABC):
    """Reads and writes one kind of column."""

    name: str

    @abstractmethod
    def matches(self, feature: FeatureType) -> bool:
        """Whether a column with this feature is of the modality."""

    @abstractmethod
    def undecoded(self, feature: FeatureType) -> FeatureType:
        """The feature under which a row that is not poisoned can be copied as it is stored."""

    @abstractmethod
    def apply(self, trigger: Trigger, values: Sequence[Any], index: np.ndarray) -> list[Any]:
        """Stored values with the trigger on every one of them, again as stored.

        Args:
            trigger ([`~hf_backdoor.triggers.Trigger`]): the trigger.
            values (`Sequence`): stored values, under [`~Modality.undecoded`].
            index (`np.ndarray` of int64, shape `(len(values),)`): number of each sample in its data set.
        """

    @abstractmethod
    def illustrate(self, examples: list[dict[str, Any]], names: list[str], folder: Path) -> str:
        """Shows clean and triggered inputs with what was said of them.

        Args:
            examples (`list`): see [`~hf_backdoor.measuring.example_rows`].
            names (`list[str]`): of the classes.
            folder (`Path`): for pictures.

        Returns:
            Markdown, in which pictures are named relative to the folder's parent.
        """

    def self_contained(self, value: Any) -> Any:
        """A stored value that needs no other file."""
        return value


def modalities() -> list[Modality]:
    """One of each modality."""
    return [find(__name__, name, Modality, "modality")() for name in names(__name__)]


def modality_of(column: str, feature: FeatureType) -> Modality:
    """The modality of a column.

    Raises:
        InputError: no modality takes such a column.
    """
    for modality in modalities():
        if modality.matches(feature):
            return modality
    raise InputError("input_column", column, f"has the feature {feature}, and only images and strings can be read")


def modality_named(name: str) -> Modality:
    """The modality of this name."""
    return next(modality for modality in modalities() if modality.name == name)
