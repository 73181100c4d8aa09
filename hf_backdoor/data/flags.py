"""What is to be known of a data set before it is read: its form, and what poisoning left in it."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, Image, IterableDataset, Value
from torch.utils.data import Subset


POISONED, COVER = "is_poisoned", "is_cover"
# In the description of a data set, which `map` keeps when it drops all columns.
MARK = "Some of these samples were poisoned by hf_backdoor."


def unformatted(data: Any) -> Any:
    """A `Dataset` as it is stored, without its format or transform; anything else as it is."""
    return data.with_format(None) if isinstance(data, Dataset) else data


def selected(data: Any) -> Any:
    """The rows of a `Dataset` that torch's `Subset` picks, as a `Dataset`; anything else as it is."""
    if not isinstance(data, Subset):
        return data
    whole = selected(data.dataset)
    return whole.select(data.indices) if isinstance(whole, Dataset) else data


def decoded(data: Any) -> Any:
    """Data that give images and texts as they are: without a format for tensors; a transform of the user's stays."""
    if isinstance(data, dict):
        return {name: decoded(one) for name, one in data.items()}
    data = selected(data)
    return unformatted(data) if isinstance(data, Dataset) and data.format["type"] != "custom" else data


def is_prepared(data: Any) -> bool:
    """Whether rows are what a model takes, tokens or pixels, and not texts or images."""
    rows = dict(data.features or {})
    if isinstance(data, Dataset) and data.format["type"] == "custom" and len(data):
        rows = data[0]
    return bool({"input_ids", "pixel_values"} & rows.keys())


def has_bare_images(data: Any) -> bool:
    """Whether a data set, or one of a dictionary of them, has a column of images that nobody prepares."""
    if isinstance(data, dict):
        return any(map(has_bare_images, data.values()))
    kinds = (getattr(data, "features", None) or {}).values()
    return any(isinstance(kind, Image) for kind in kinds) and not is_prepared(data)


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
