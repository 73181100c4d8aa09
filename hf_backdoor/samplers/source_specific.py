"""Source-specific poisoning: only some classes are to be misled (TaCT, Tang et al. 2021, arXiv 1908.00686)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..errors import InputError
from .random import RandomSampler


def _classes(field: str, text: str | int) -> list[int]:
    numbers = str(text).split()
    if not numbers or not all(number.isdigit() for number in numbers):
        raise InputError(field, text, "write class numbers separated by blanks, e.g. 1 or '5 7'")
    return [int(number) for number in numbers]


@dataclass(frozen=True)
class SourceSpecific(RandomSampler):
    """The trigger works on the source classes; with `cover_rate`, samples of other classes learn to ignore it.

    Args:
        source (`str`): numbers of the classes to mislead, separated by blanks.
        cover (`str`): numbers of the classes of the cover samples; empty for every class but the sources.
    """

    title: ClassVar[str] = "Source-specific (TaCT)"
    paper: ClassVar[str] = "https://arxiv.org/abs/1908.00686"

    source: str = "1"
    cover: str = ""

    def __post_init__(self):
        sources = _classes("source", self.source)
        if self.cover != "" and set(_classes("cover", self.cover)) & set(sources):
            raise InputError("cover", self.cover, f"must have no class in common with source={self.source!r}")

    def attacked(self, labels: np.ndarray) -> np.ndarray:
        return np.isin(labels, _classes("source", self.source))

    def coverable(self, labels: np.ndarray) -> np.ndarray:
        if self.cover == "":
            return ~self.attacked(labels)
        return np.isin(labels, _classes("cover", self.cover))
