"""Which numbers classes have that the data only name: those that the model says."""

from __future__ import annotations

import os
from typing import Any

from .adapters import named_classes
from .data.sources import Data, with_class_labels
from .errors import InputError


def classes_of(model: Any, revision: str | None = None) -> list[str]:
    """Names of a model's classes, in the order of their numbers; empty where it does not say them.

    Args:
        model: an object, or its folder or Hub id, of which only the configuration is read.
        revision (`str`, *optional*): of a model on the Hub: a branch, a tag or a commit.
    """
    try:
        if isinstance(model, str | os.PathLike):
            named = named_classes(os.fspath(model), revision).get("id2label") or {}
        else:
            named = getattr(getattr(model, "config", None), "id2label", None) or {}
        names = [str(named[number]) for number in range(len(named))]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # whoever loads it says why
        return []
    return names if len(set(names)) == len(names) else []


def numbered_like(known: list[str], data: Data, label_column: str) -> Data:
    """String labels as a `ClassLabel`, numbered as a model numbers them if it knows them all, else by the alphabet.

    Other labels are as they are; see [`~hf_backdoor.data.sources.with_class_labels`].

    Args:
        known (`list[str]`): see [`classes_of`].
        data (`Dataset` or `DatasetDict`): with that column in every split.
        label_column (`str`): the labels.
    """
    first = next(iter(data.values())) if isinstance(data, dict) else data
    if known and not hasattr(first.features[label_column], "names"):
        try:
            return with_class_labels(data, label_column, known)
        except InputError:  # other names, which are compared with the model's later
            pass
    return with_class_labels(data, label_column)
