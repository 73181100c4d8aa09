"""Poison samplers: which samples the attacker poisons. One module each; its name is the sampler's name.

How many are poisoned, and whether they are of the target class, is up to [`~hf_backdoor.poisoning.PoisonConfig`]; a
sampler says which samples come into question, and in what order they are taken.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .. import plugins


if TYPE_CHECKING:
    from datasets import Dataset

    from ..data.columns import Columns


@dataclass(frozen=True)
class Sampler(plugins.Plugin, ABC):
    """Chooses among the samples of a data set.

    Attributes:
        title (`str`): its name in the literature.
        paper (`str`): where it comes from.
    """

    home: ClassVar[str] = __name__
    title: ClassVar[str]
    paper: ClassVar[str]

    def attacked(self, labels: np.ndarray) -> np.ndarray:
        """Which samples the trigger is for, in training and at test: bool `(samples,)`, from labels `(samples,)`."""
        return np.ones(len(labels), dtype=bool)

    def coverable(self, labels: np.ndarray) -> np.ndarray:
        """Which samples can be cover samples, likewise."""
        return np.ones(len(labels), dtype=bool)

    @abstractmethod
    def order(
        self, dataset: Dataset, rows: np.ndarray, index: np.ndarray, targets: np.ndarray, seed: int, columns: Columns
    ) -> np.ndarray:
        """The candidates in the order in which they are poisoned.

        Args:
            dataset: the clean data set.
            rows: int64 `(candidates,)`, their rows.
            index: int64 `(candidates,)`, their numbers, which stay with them when the data set is shuffled.
            targets: `(candidates,)`, the label that each would get.
            seed: of the poison.
            columns: of the data set.

        Returns:
            A permutation of 0 to `candidates - 1`.
        """


def sampler_names() -> list[str]:
    """Names of the samplers that come with the package."""
    return plugins.names(__name__)


def load_sampler(name: str, **settings: Any) -> Sampler:
    """Makes a sampler from its name and settings.

    Raises:
        InputError: unknown name or setting, or a setting outside its range.
    """
    return plugins.build(plugins.find(__name__, name, Sampler, "sampler"), settings, "sampler_args")
