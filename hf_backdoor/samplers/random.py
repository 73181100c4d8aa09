"""Random sampling: what nearly every attack does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..randomness import scramble
from . import Sampler


@dataclass(frozen=True)
class RandomSampler(Sampler):
    """A sample's place in the order depends on the seed and its index alone.

    So a higher rate poisons the same samples and more, and a shuffled data set is poisoned alike.
    """

    title: ClassVar[str] = "Random"
    paper: ClassVar[str] = "https://arxiv.org/abs/1708.06733"

    def order(
        self, dataset: Any, rows: np.ndarray, index: np.ndarray, targets: np.ndarray, seed: int, columns: Any
    ) -> np.ndarray:
        return np.argsort(scramble(seed, index), kind="stable")
