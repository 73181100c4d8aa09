"""How the values of a column become what a trigger changes, and go back: one module a modality."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import InputError
from ..plugins import find, names


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from datasets.features.features import FeatureType
    from PIL.Image import Image as Picture

    from ..triggers import Trigger

ROWS_AT_ONCE = 1000
INDEX_SHOWN = 3  # of the sample that stands for all, for triggers that differ from sample to sample
Change = tuple[np.ndarray, Callable[[Any, np.ndarray], Any]]


class Modality(ABC):
    """Reads and writes one kind of column.

    Attributes:
        name (`str`): as triggers name it.
        usual_triggers (`tuple` of `str`): names of some that are easily learnt.
        has_captions (`bool`): text beside it may be its caption.
    """

    name: ClassVar[str]
    usual_triggers: ClassVar[tuple[str, ...]]
    has_captions: ClassVar[bool] = False

    @abstractmethod
    def matches(self, feature: FeatureType) -> bool:
        """Whether a column with this feature is of the modality."""

    @abstractmethod
    def undecoded(self, feature: FeatureType) -> FeatureType:
        """The feature under which a row that is not poisoned can be copied as it is stored."""

    @abstractmethod
    def change(self, stored: pa.Array, changes: list[Change], index: np.ndarray, feature: FeatureType) -> pa.Array:
        """A batch as it is stored, with the trigger put on some of its values, again as stored.

        Args:
            stored (`pa.Array`): values under [`~Modality.undecoded`].
            changes (`list`): for each trigger, which values get it, bool `(len(stored),)`, and the function of a batch
                and its index that puts it there.
            index (`np.ndarray` of int64, shape `(len(stored),)`): number of each sample in its data set.
            feature: of the column.

        Returns:
            Values that need no other file; those in no change are as they were.
        """

    def rows_at_once(self, dataset: Dataset, column: str) -> int:
        """How many rows are poisoned at a time, so that memory stays small; the column is under `undecoded`."""
        return ROWS_AT_ONCE

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

    @abstractmethod
    def show_trigger(self, trigger: Trigger, name: str, title: str, pictures: list[Picture], folder: Path) -> str:
        """Shows what a trigger does to some inputs.

        Args:
            trigger ([`~hf_backdoor.triggers.Trigger`]): of this modality.
            name, title (`str`): of the attack.
            pictures (`list`): PIL images, if such are needed.
            folder (`Path`): for pictures.

        Returns:
            Markdown, in which pictures are named relative to the folder.

        Raises:
            InputError: it fits on no picture.
        """


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
