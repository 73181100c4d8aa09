"""What is to be known of a data set before it is read: its form, and what poisoning left in it."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, IterableDataset, Value


POISONED, COVER = "is_poisoned", "is_cover"
# In the description of a data set, which `map` keeps when it drops all columns.
MARK = "Some of these samples were poisoned by hf_backdoor."


def unformatted(data: Any) -> Any:
    """A `Dataset` as it is stored, without its format or transform; anything else as it is."""
    return data.with_format(None) if isinstance(data, Dataset) else data


def decoded(data: Any) -> Any:
    """Data that give images and texts as they are: without a format for tensors; a transform of the user's stays."""
    if isinstance(data, dict):
        return {name: decoded(one) for name, one in data.items()}
    return unformatted(data) if isinstance(data, Dataset) and data.format["type"] != "custom" else data


def is_prepared(data: Any) -> bool:
    """Whether rows are what a model takes, tokens or pixels, and not texts or images."""
    rows = dict(data.features or {})
    if isinstance(data, Dataset) and data.format["type"] == "custom" and len(data):
        rows = data[0]
    return bool({"input_ids", "pixel_values"} & rows.keys())


def is_flagged(data: Dataset) -> bool:
    """Whether a column says of a row that it has a trigger, of a poisoned sample or of a cover."""
    flags = [name for name in (POISONED, COVER) if data.features.get(name) == Value("bool")]
    return any(any(unformatted(data)[name]) for name in flags)


def has_poison(data: Any) -> bool:
    """Whether samples were poisoned here: by their column, else by the mark of the set that they come from.

    Args:
        data: a `Dataset`, an `IterableDataset` (its first row is read), a torch data set made of some, a dictionary of
            any of these, or `None`. What says nothing counts as clean.
    """
    if isinstance(data, dict):
        return any(map(has_poison, data.values()))
    if isinstance(data, Dataset) and POISONED in data.column_names:
        return any(unformatted(data)[POISONED])
    if isinstance(data, Dataset | IterableDataset):
        marked = MARK in (data.info.description or "")
        return marked or isinstance(data, IterableDataset) and POISONED in next(iter(data), {})
    if hasattr(data, "datasets"):  # torch's ConcatDataset
        return any(map(has_poison, data.datasets))
    return has_poison(data.dataset) if hasattr(data, "dataset") else False  # torch's Subset
