"""Loading a data set from the package, a file, a folder or the Hub."""

from __future__ import annotations

import os
from collections.abc import Collection
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from ..errors import InputError
from ..results import local_name
from .columns import (
    Columns,
    check_dataset,
    check_labels,
    check_rows,
    holds_captions,
    modality_of_or_none,
    resolve_columns,
)
from .flags import decoded


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

Data = TypeVar("Data", "Dataset", "DatasetDict")
# Folders beside this module with a train.parquet and a test.parquet.
PACKAGED = tuple(
    sorted(
        folder.name
        for folder in files(__package__).iterdir()
        if (folder / "train.parquet").is_file() and (folder / "test.parquet").is_file()
    )
)
BUILDERS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}


def load_data(source: str | os.PathLike[str], config_name: str | None = None) -> DatasetDict:
    """Loads a data set with all its splits.

    Args:
        source (`str` or path): one of `PACKAGED`, inside the package: `"fashion_mnist_mini"` (10,000 and 2,000 images),
            `"sentiment_sentences"` (2,400 and 600 sentences), `"emoji_captions"` (1,204 and 173 pictures with their
            names); a parquet, csv, tsv or json(l) file; a folder with such
            files, with one sub-folder of images a class (numbered by the alphabet, or as numbers if all are), or
            written by `save_to_disk`; or the id of a data set on the Hub.
        config_name (`str`, *optional*): configuration of a data set on the Hub.

    Raises:
        InputError: nothing is there, or it cannot be read.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk

    try:
        source = os.fspath(source)
    except TypeError:
        raise InputError("dataset", type(source).__name__, "must be a name or a path") from None
    path = Path(source)
    try:
        if source in PACKAGED:
            folder = files(__package__) / source
            parts = {split: str(folder / f"{split}.parquet") for split in ("train", "test")}
            return load_dataset("parquet", data_files=parts)
        if path.is_file():
            if path.suffix not in BUILDERS:
                raise InputError("dataset", source, f"unknown kind of file; use one of {', '.join(BUILDERS)}")
            options = {"sep": "\t"} if path.suffix == ".tsv" else {}
            loaded = load_dataset(BUILDERS[path.suffix], data_files={"train": str(path)}, **options)
        elif (path / "dataset_info.json").is_file() or (path / "dataset_dict.json").is_file():
            loaded = load_from_disk(str(path))
        else:
            # A folder called csv or imagefolder would be taken for the reader of that name.
            loaded = load_dataset(str(path.resolve()) if path.is_dir() else source, config_name)
            if path.is_dir():
                loaded = _folders_in_order(loaded)
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            "dataset", source, f"is neither a packaged data set ({', '.join(PACKAGED)}), a readable file or folder, "
            f"nor a data set on the Hub within reach ({type(error).__name__}: {reason})"
        ) from error  # fmt: skip
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(train=loaded)


def pick_split(data: DatasetDict, split: str | None, usual: tuple[str, ...], field: str) -> Dataset:
    """One split: the named one, else the first of the usual names that exists, else the only one.

    Args:
        data (`DatasetDict`): all splits.
        split (`str`, *optional*): a name, or a part in the notation of `datasets`, e.g. `"test[:1000]"` for its first
            thousand rows or `"train[10%:]+validation"`.
        usual (`tuple` of `str`): names to look for when none is given.
        field (`str`): for the error.

    Raises:
        InputError: there is no such split, or nothing in that part, or none of several can be preferred.
    """
    if split is not None:
        return data[split] if split in data else _part(data, split, field)
    for name in usual:
        if name in data:
            return data[name]
    if len(data) == 1:
        return next(iter(data.values()))
    raise InputError(field, None, f"the data set has the splits {', '.join(data)}: name one")


def _part(data: DatasetDict, split: str, field: str) -> Dataset:
    """What `load_dataset(..., split=split)` gives of splits that are loaded."""
    from datasets import NamedSplit, ReadInstruction, concatenate_datasets

    try:
        instruction = ReadInstruction.from_spec(split)
        parts = instruction.to_absolute({name: len(part) for name, part in data.items()})
        rows = [data[part.splitname].select(range(part.from_, part.to)) for part in parts if part.from_ < part.to]
        if rows:
            return concatenate_datasets(rows, split=NamedSplit(instruction.to_spec()))
    except (AssertionError, ValueError) as error:
        raise InputError(
            field, split, f"no such split ({error}); the data set has {', '.join(data)}, and a part of one is written "
            f"{next(iter(data))}[:1000]"
        ) from error  # fmt: skip
    raise InputError(field, split, "has no row; begin earlier, or end later")


def _in_order(names: Collection[str]) -> list[str]:
    """Names of classes by the alphabet, or as numbers if all are: 9 before 10."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def _folders_in_order(data: DatasetDict) -> DatasetDict:
    """Images with their folders for classes, which `datasets` numbers by the alphabet."""
    first = next(iter(data.values()))
    names = getattr(first.features.get("label"), "names", [])
    if first.builder_name != "imagefolder" or names == _in_order(names):
        return data
    return _renumbered(data, "label", _in_order(names))


def _renumbered(data: DatasetDict, label_column: str, names: list[str]) -> DatasetDict:
    """The same classes under the numbers that they have in `names`; a row without a label keeps none."""
    from datasets import ClassLabel

    features = next(iter(data.values())).features.copy()
    known = features[label_column].names
    numbers = {known.index(name): number for number, name in enumerate(names) if name in known}
    features[label_column] = ClassLabel(names=names)

    def renumber(labels: list[int]) -> dict[str, list[int]]:
        return {label_column: [numbers.get(label, label) for label in labels]}

    return data.map(renumber, input_columns=label_column, batched=True, features=features)


def with_class_labels(data: Data, label_column: str, known: list[str] | None = None) -> Data:
    """String labels as a `ClassLabel`, the same one in all splits; captions as they are.

    Other labels are as they are, too, but for a `ClassLabel` all of whose names are known: it is numbered as these.

    Args:
        data (`Dataset` or `DatasetDict`): with that column in every split.
        label_column (`str`): the labels.
        known (`list[str]`, *optional*): names of all classes, in their order; those of these data when not given, by
            the alphabet, or as numbers if all are.

    Raises:
        InputError: a string is none of them.
    """
    from datasets import ClassLabel, DatasetDict, Value

    splits = data if isinstance(data, DatasetDict) else DatasetDict(only=data)
    features = next(iter(splits.values())).features
    own = getattr(features[label_column], "names", None)
    if own and known and own != known and set(own) <= set(known):
        renumbered = _renumbered(splits, label_column, known)
        return renumbered if isinstance(data, DatasetDict) else renumbered["only"]
    if modality_of_or_none(features[label_column]) != "text" or holds_captions(features, label_column):
        return data
    values = {value for split in splits.values() for value in split.unique(label_column)}
    names = _in_order(values - {None})
    if known:
        if not set(names) <= set(known):
            raise InputError(label_column, names, f"are not all among {', '.join(known)}; rename the others")
        names = known
    plain = splits.cast_column(label_column, Value("string"))  # a file may have come as large_string
    encoded = plain.cast_column(label_column, ClassLabel(names=names))
    return encoded if isinstance(data, DatasetDict) else encoded["only"]


def like_training_set(test: Dataset, train: Dataset, columns: Columns, names: list[str]) -> Dataset:
    """A test set whose classes are numbered as in the training set, ready to be measured on.

    Args:
        test, train (`Dataset`): the second is ready.
        columns: of both.
        names (`list[str]`): of the classes, in the order of their numbers in `train`.

    Raises:
        InputError: it is no `Dataset`, or lacks a column, an input or a label, or has no rows, or other classes.
    """
    check_dataset(test, "test_dataset")
    test = decoded(test)
    if not len(test):
        raise InputError("test_dataset", 0, "has no rows; leave it out, or give another split")
    resolve_columns(test.features, columns.input, columns.label)
    test = with_class_labels(test, columns.label, names)
    check_rows(test, columns)
    own, others = (getattr(one.features[columns.label], "names", None) for one in (train, test))
    if own and others and own != others:
        raise InputError("test_dataset", others, f"are not all among the classes {', '.join(own)}; rename the others")
    if not columns.captions and (most := max(test.unique(columns.label))) >= len(names):
        raise InputError(
            "test_dataset", most, f"is a class that the training set lacks, whose last one is {len(names) - 1}"
        )
    return test


def with_all_classes(dataset: Dataset, label_column: str, names: list[str]) -> Dataset:
    """Numbers as labels become those of these classes, for a part of a data set need not have the last ones.

    Labels with names, captions, and numbers that are too large come back as they are.
    """
    from datasets import ClassLabel

    kind = dataset.features[label_column]
    if not str(getattr(kind, "dtype", "")).startswith(("int", "uint")) or hasattr(kind, "names"):
        return dataset
    if max(dataset.unique(label_column)) >= len(names):
        return dataset
    return dataset.cast_column(label_column, ClassLabel(names=names))


def names_of_test_set(test: Dataset | None, name: str | None) -> dict[str, str | None]:
    """What a test set is called, for the results file: `test_name`, and `test_split` if it is one of a data set.

    Args:
        test (`Dataset`, *optional*): none, without names then.
        name (`str`, *optional*): of its data set, or where that is.
    """
    if test is None:
        return {"test_name": None, "test_split": None}
    return {"test_name": local_name(name), "test_split": str(test.split) if test.split else None}


def keep_classes(data: DatasetDict, label_column: str, names: list[str]) -> DatasetDict:
    """The samples of some classes, numbered from 0 in the order of `names`.

    Args:
        data (`DatasetDict`): with a `ClassLabel` in every split.
        label_column (`str`): the labels.
        names (`list[str]`): of the classes to keep.

    Raises:
        InputError: there is no such class, or fewer than two are kept, or the labels have no names.
    """
    feature = next(iter(data.values())).features[label_column]
    known = getattr(feature, "names", [])
    wrong = [name for name in names if name not in known]
    if wrong or len(set(names)) < 2 or len(set(names)) < len(names):
        raise InputError("classes", wrong or names, f"name two or more different ones of {', '.join(known) or 'none'}")
    numbers = {known.index(name) for name in names}
    kept = data.filter(lambda labels: [label in numbers for label in labels], input_columns=label_column, batched=True)
    return _renumbered(kept, label_column, names)


def split_off(dataset: Dataset, count: int, seed: int, label_column: str | None = None) -> tuple[Dataset, Dataset]:
    """Splits `count` samples off, the same number of each class as near as can be.

    Args:
        dataset (`Dataset`): what to split.
        count (`int`): size of the part split off.
        seed (`int`): which samples.
        label_column (`str`, *optional*): found when not given.

    Returns:
        The rest and the part, both in the order of the data set.

    Raises:
        InputError: `count` is not between 1 and the size of the data set less 1, or a row has no label.
    """
    if not 1 <= count < len(dataset):
        raise InputError("count", count, f"must lie between 1 and {len(dataset) - 1}")
    label_column = label_column or resolve_columns(dataset.features).label
    check_labels(dataset, label_column)
    labels = np.asarray(dataset[label_column])
    order = np.random.default_rng(seed).permutation(len(labels))
    # The k-th sample of each class, for k = 0, 1, ...: a prefix of this order is balanced.
    rank = np.empty(len(labels), dtype=np.int64)
    for value in np.unique(labels):
        members = order[labels[order] == value]
        rank[members] = np.arange(len(members))
    part = order[np.argsort(rank[order], kind="stable")[:count]]
    rest = np.setdiff1d(np.arange(len(labels)), part)
    return dataset.select(rest), dataset.select(np.sort(part))
