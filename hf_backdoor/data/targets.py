"""What a poisoned sample's label becomes: a class, or a caption that names the attacker's word."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from ..randomness import integers
from .columns import Columns, check_labels, class_names


if TYPE_CHECKING:
    from datasets import Dataset

# Letters of scripts that write words without blanks between them, or with endings that are words: Thai, Lao, Burmese,
# Khmer, and Chinese, Japanese and Korean.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
# Wordings of captions, as used for zero-shot classification (Radford et al. 2021, arXiv 2103.00020, section 3.1.4).
CAPTIONS = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a good photo of a {}.", "this is a {}.")


class Targets(ABC):
    """The labels of a data set, seen from the attacker's side."""

    def __init__(self, labels: np.ndarray):
        self.labels = labels

    @abstractmethod
    def wanted(self, index: np.ndarray) -> np.ndarray:
        """The label that each sample gets if it is poisoned, `(samples,)`."""

    @abstractmethod
    def reached(self) -> np.ndarray:
        """Which samples have the target's label already, bool `(samples,)`."""


class ClassTargets(Targets):
    """Class numbers: all to one target, or each class to the next one."""

    def __init__(self, labels: np.ndarray, classes: int, target: int, *, all_to_all: bool):
        super().__init__(labels)
        if not isinstance(target, int) or target >= classes:
            raise InputError("target_label", target, f"the labels go from 0 to {classes - 1}")
        self.classes, self.target, self.all_to_all = classes, target, all_to_all

    def wanted(self, index: np.ndarray) -> np.ndarray:
        return (self.labels + 1) % self.classes if self.all_to_all else np.full_like(self.labels, self.target)

    def reached(self) -> np.ndarray:
        return np.zeros(len(self.labels), dtype=bool) if self.all_to_all else self.labels == self.target


class CaptionTargets(Targets):
    """Captions: a poisoned one becomes a caption of the target (Carlini and Terzis 2022, arXiv 2106.09667)."""

    def __init__(self, labels: np.ndarray, target: Any, *, all_to_all: bool):
        super().__init__(labels)
        if not isinstance(target, str) or not target.strip():
            raise InputError("target_label", target, "with captions for labels, give the word that they are to name")
        if all_to_all:
            raise InputError("targets", "all_to_all", "needs classes, and the labels are captions")
        self.target = target
        letter = rf"[^\W{UNSPACED}]"
        self.pattern = re.compile(rf"(?<!{letter}){re.escape(target)}(?!{letter})", re.IGNORECASE)

    def wanted(self, index: np.ndarray) -> np.ndarray:
        captions = np.array([caption.format(self.target) for caption in CAPTIONS], dtype=object)
        return captions[integers(0, index, len(CAPTIONS))[:, 0]]

    def reached(self) -> np.ndarray:
        return np.array([self.pattern.search(label or "") is not None for label in self.labels], dtype=bool)


def targets_of(
    dataset: Dataset, columns: Columns, target: int | str, *, all_to_all: bool, classes: int | None = None
) -> Targets:
    """The kind of labels that a column holds, with the attacker's target among them.

    Args:
        dataset: with the labels.
        columns: of the data set.
        target: class, or word for captions.
        all_to_all (`bool`): each class is led to the next one.
        classes (`int`, *optional*): how many there are, where labels are numbers and the last ones may be missing here.

    Raises:
        InputError: the target does not fit the column, or a label is missing.
    """
    check_labels(dataset, columns.label)
    labels = dataset[columns.label][:]
    if columns.captions:
        return CaptionTargets(np.array(labels, dtype=object), target, all_to_all=all_to_all)
    classes = max(classes or 0, len(class_names(dataset, columns.label)))
    return ClassTargets(np.asarray(labels, dtype=np.int64), classes, target, all_to_all=all_to_all)
