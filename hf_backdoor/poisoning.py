"""Poisoned data sets, made with one `datasets.map`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from math import floor
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from .data.columns import (
    ADDED_LABEL,
    Columns,
    check_dataset,
    check_filled,
    class_names,
    has_labels,
    resolve_columns,
)
from .data.flags import COVER, MARK, POISONED, is_flagged
from .data.sources import like_training_set
from .data.targets import Targets, targets_of
from .errors import InputError
from .modalities import modality_of
from .plugins import check_stored, source_files
from .randomness import scramble
from .samplers import Sampler, load_sampler
from .samplers.random import RandomSampler
from .triggers import TRIGGER, Trigger, load_trigger


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class PoisonConfig:
    """Which samples get which trigger and label.

    Args:
        trigger (`Trigger`): see [`~hf_backdoor.triggers.load_trigger`].
        target_label (`int` or `str`): class that a triggered input is to be given; with captions for labels, the word
            that the caption is to name.
        rate (`float`): share of all samples that are poisoned, in (0, 1]; the count is `round(rate * samples)`.
        label_mode (`str`): `"dirty"` poisons samples of the other classes and relabels them; `"clean"` poisons
            samples of the target class and leaves their labels right.
        seed (`int`): which samples are poisoned depends on this, on each sample's index and on the sampler.
        targets (`str`): `"all_to_one"`, the target label; or `"all_to_all"`, for each class the next one.
        cover_rate (`float`): share of all samples, in [0, 1), that get the trigger (or what the attack has for them)
            and keep their label.
        sampler ([`~hf_backdoor.samplers.Sampler`]): in what order samples are poisoned, and which can be.
        also (`tuple` of `PoisonConfig`): further triggers in the same data set, on other samples.
    """

    VERSION: ClassVar[int] = 1

    trigger: Trigger
    target_label: int | str = 0
    rate: float = 0.1
    label_mode: Literal["dirty", "clean"] = "dirty"
    seed: int = 0
    targets: Literal["all_to_one", "all_to_all"] = "all_to_one"
    cover_rate: float = 0.0
    sampler: Sampler = RandomSampler()
    also: tuple[PoisonConfig, ...] = ()

    def __post_init__(self):
        for name, kind in (("trigger", Trigger), ("sampler", Sampler)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(name, getattr(self, name), f"must be a {kind.__name__}; make one with load_{name}")
        if not isinstance(self.also, tuple | list) or not all(isinstance(one, PoisonConfig) for one in self.also):
            raise InputError("also", type(self.also).__name__, "must be a tuple of PoisonConfig, e.g. (config,)")
        for name in ("target_label", "rate", "seed", "cover_rate"):
            if isinstance(getattr(self, name), np.generic):  # which JSON does not know
                object.__setattr__(self, name, getattr(self, name).item())
        for name in ("rate", "cover_rate"):
            if not isinstance(getattr(self, name), int | float):
                raise InputError(name, getattr(self, name), "must be a number")
        if not isinstance(self.seed, int) or self.seed < 0:
            raise InputError("seed", self.seed, "must be a whole number from 0")
        if not 0 < self.rate <= 1:
            raise InputError("rate", self.rate, "must lie in (0, 1]")
        if not 0 <= self.cover_rate < 1:
            raise InputError("cover_rate", self.cover_rate, "must lie in [0, 1)")
        if self.label_mode not in ("dirty", "clean"):
            raise InputError("label_mode", self.label_mode, "choose dirty or clean")
        if self.targets not in ("all_to_one", "all_to_all"):
            raise InputError("targets", self.targets, "choose all_to_one or all_to_all")
        if self.targets == "all_to_all" and self.label_mode == "clean":
            raise InputError("targets", self.targets, "moves every class, so no label can stay: use label_mode=dirty")
        if isinstance(self.target_label, int) and self.target_label < 0:
            raise InputError("target_label", self.target_label, "must be 0 or more")
        if any(other.also for other in self.also):
            raise InputError("also", len(self.also), "must be a flat list: its entries can have none of their own")

    def each(self) -> tuple[PoisonConfig, ...]:
        """This configuration and those in `also`, one trigger each."""
        return (replace(self, also=()), *self.also)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; [`PoisonConfig.from_dict`] is its inverse."""
        nested = {
            "trigger": self.trigger.to_dict(),
            "sampler": self.sampler.to_dict(),
            "also": [other.to_dict() for other in self.also],
        }
        return {item.name: getattr(self, item.name) for item in fields(self)} | nested | {"version": self.VERSION}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> PoisonConfig:
        """Restores a configuration.

        Raises:
            InputError: it was made by another version of the configuration or of the trigger; or it names a trigger or
                sampler from outside the package that has not been imported, see [`~hf_backdoor.plugins.check_stored`].
        """
        settings = {name: value for name, value in stored.items() if name != "training"}
        of_trigger = dict(settings.pop("trigger"))
        version, trigger_version = settings.pop("version"), of_trigger.pop("version")
        check_stored(of_trigger["name"], "attack")
        trigger = load_trigger(of_trigger.pop("name"), **of_trigger)
        if (version, trigger_version) != (cls.VERSION, trigger.version):
            raise InputError("poison", stored, "was written by another version of hf_backdoor; poison the data again")
        of_sampler = dict(settings.pop("sampler", {"name": "random"}))
        check_stored(of_sampler["name"], "sampler")
        sampler = load_sampler(of_sampler.pop("name"), **of_sampler)
        also = tuple(cls.from_dict(other) for other in settings.pop("also", []))
        return cls(trigger=trigger, sampler=sampler, also=also, **settings)

    def kept_in(self, folder: Path) -> PoisonConfig:
        """The same with copies of the files that its triggers name, in a folder, so that they go where that goes."""
        triggers = [one.trigger.kept_in(folder, f"{TRIGGER}{number}") for number, one in enumerate(self.each())]
        first, *others = (replace(one, trigger=kept) for one, kept in zip(self.each(), triggers, strict=True))
        return replace(first, also=tuple(others))

    def fingerprint(self) -> str:
        """Changes with any setting and with the code of the triggers, of the poisoning and of the column's format."""
        from . import modalities

        digest = hashlib.sha256(repr(self.to_dict()).encode())
        for config in self.each():
            digest.update(config.trigger.fingerprint().encode())
        modules = [Path(__file__), *sorted(Path(modalities.__file__).parent.glob("*.py"))]
        for source in sorted({file for module in modules for file in source_files(module)}):
            digest.update(source.read_bytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Selection:
    """What happens to the rows of a data set.

    Attributes:
        poisoned, cover (`np.ndarray` of bool, shape `(samples,)`): which rows get the trigger of a configuration.
        labels (`np.ndarray`, shape `(samples,)`): the labels that they get.
    """

    poisoned: np.ndarray
    cover: np.ndarray
    labels: np.ndarray


def select_samples(
    dataset: Dataset, index: np.ndarray, config: PoisonConfig, columns: Columns, free: np.ndarray
) -> Selection:
    """Which samples are poisoned: the `round(rate * samples)` candidates that come first in the sampler's order.

    Cover samples are the `round(cover_rate * samples)` others that come first in a random order.

    Args:
        dataset: the clean data set.
        index: int64 `(samples,)`.
        config: the poison, one trigger.
        columns: of the data set.
        free: bool `(samples,)`, rows that no other trigger has taken.

    Raises:
        InputError: the rate poisons no sample, or more than there are candidates.
    """
    targets = targets_of(dataset, columns, config.target_label, all_to_all=config.targets == "all_to_all")
    count = round(config.rate * len(index))
    if count == 0:
        raise InputError("rate", config.rate, f"poisons none of {len(index)} samples; raise it to {1 / len(index):g}")
    wanted, reached = targets.wanted(index), targets.reached()
    if config.label_mode == "clean":
        candidates = np.flatnonzero(free & reached)
    else:
        candidates = np.flatnonzero(free & ~reached & _attacked(targets, config.sampler))
    _check_count("rate", config.rate, count, len(candidates), len(index), f"label_mode={config.label_mode!r}")
    if config.label_mode == "clean" and not isinstance(config.sampler, RandomSampler):
        raise InputError(
            "sampler", config.sampler.name, "goes by the label that a sample gets, and with label_mode=clean it keeps "
            "its own; use random"
        )  # fmt: skip
    order = config.sampler.order(dataset, candidates, index[candidates], wanted[candidates], config.seed, columns)
    poisoned = np.zeros(len(index), dtype=bool)
    poisoned[candidates[order[:count]]] = True

    cover = np.zeros(len(index), dtype=bool)
    covers = round(config.cover_rate * len(index))
    if covers:
        candidates = np.flatnonzero(free & ~poisoned & config.sampler.coverable(targets.labels))
        _check_count("cover_rate", config.cover_rate, covers, len(candidates), len(index), "the sampler")
        order = np.argsort(scramble(config.seed + 1, index[candidates]), kind="stable")
        cover[candidates[order[:covers]]] = True
    labels = targets.labels.copy()
    if config.label_mode == "dirty":
        labels[poisoned] = wanted[poisoned]
    return Selection(poisoned, cover, labels)


def _attacked(targets: Targets, sampler: Sampler) -> np.ndarray:
    """Which samples the trigger is for, bool `(samples,)`.

    Raises:
        InputError: it is for none.
    """
    attacked = sampler.attacked(targets.labels)
    if not attacked.any():
        raise InputError("sampler", sampler.name, "is for classes of which there is no sample; choose others")
    return attacked


def _check_count(field: str, rate: float, count: int, candidates: int, samples: int, reason: str) -> None:
    if count > candidates:
        steps = 10 ** max(3, len(str(samples)))  # fine enough for a single sample
        largest = floor(steps * candidates / samples) / steps
        mend = f"lower it to {largest:g}" if largest else "so there is nothing to poison; choose other settings"
        raise InputError(
            field, rate, f"asks for {count} samples, and {reason} leaves {candidates} to choose from; {mend}"
        )  # fmt: skip


def has_index(dataset: Dataset) -> bool:
    """Whether it has an `index` column, the number of each sample; one that holds no whole numbers is another thing."""
    return "index" in dataset.features and dataset.features["index"].dtype.startswith(("int", "uint"))


def sample_index(dataset: Dataset) -> np.ndarray:
    """The data set's own `index` column where it has one, so that a shuffled set is poisoned alike; else 0, 1, ...

    Raises:
        InputError: that column is none of numbers, one for each row.
    """
    if not has_index(dataset):
        return np.arange(len(dataset), dtype=np.int64)
    numbers = dataset.with_format(None)["index"][:]
    if None in numbers or len(set(numbers)) < len(numbers):
        what = "rows without a number" if None in numbers else "rows of the same number"
        raise InputError("dataset", "index", f"is to number the samples, and has {what}; rename or remove this column")
    return np.asarray(numbers, dtype=np.int64)


def _check_added(dataset: Dataset, columns: Columns) -> None:
    """Whether the columns that poisoning adds are free, or its own from before."""
    from datasets import Value

    features = dataset.features
    own = {POISONED: Value("bool"), COVER: Value("bool")}
    own[ADDED_LABEL] = features[columns.label] if POISONED in features else None
    taken = [name for name, feature in own.items() if name in features and features[name] != feature]
    if "index" in features and not has_index(dataset):
        taken.append("index")
    if taken:
        raise InputError("dataset", taken[0], "is your column, and poisoning adds one of this name; rename it first")


def checked(
    dataset: Dataset, config: PoisonConfig, input_column: str | None, label_column: str | None
) -> tuple[Dataset, Columns]:
    """A data set that can be poisoned, without its format, and its columns.

    Raises:
        InputError: it cannot be, see [`poison`].
    """
    check_dataset(dataset, "dataset")
    columns = resolve_columns(dataset.features, input_column, label_column)
    if len(dataset) == 0:
        raise InputError("dataset", 0, "has no rows")
    if is_flagged(dataset):
        raise InputError("dataset", POISONED, "the data set is poisoned already; start from the clean one")
    for one in config.each():
        if one.trigger.modality != columns.modality:
            raise InputError(
                "attack", one.trigger.name, f"is made for {one.trigger.modality}, and the column {columns.input!r} "
                f"holds {columns.modality}; choose another attack or input_column"
            )  # fmt: skip
    check_filled(dataset, columns.input, "input")
    _check_added(dataset, columns)
    return dataset.with_format(None), columns


def _check_processes(num_proc: int | None) -> None:
    if num_proc is not None and num_proc < 1:
        raise InputError("num_proc", num_proc, "must be 1 or more")


def _apply(
    dataset: Dataset,
    selections: list[Selection],
    triggers: list[Trigger],
    index: np.ndarray,
    config: PoisonConfig,
    columns: Columns,
    num_proc: int | None,
) -> Dataset:
    """Puts each trigger on the rows of its selection."""
    import pyarrow as pa
    from datasets import Value

    feature = dataset.features[columns.input]
    modality = modality_of(columns.input, feature)
    raw = dataset.cast_column(columns.input, modality.undecoded(feature))
    features = raw.features.copy()
    features |= {POISONED: Value("bool"), COVER: Value("bool")}
    features |= {ADDED_LABEL: features[columns.label], "index": Value("int64")}
    poisoned = np.any([selection.poisoned for selection in selections], axis=0)
    cover = np.any([selection.cover for selection in selections], axis=0)
    labels = selections[0].labels.copy()
    for selection in selections[1:]:
        labels[selection.poisoned] = selection.labels[selection.poisoned]
    masks = [(selection.poisoned, trigger) for selection, trigger in zip(selections, triggers, strict=True)]
    masks += [(selection.cover, trigger.cover) for selection, trigger in zip(selections, triggers, strict=True)]
    masks = [(mask, function) for mask, function in masks if mask.any()]

    def poison_batch(table: pa.Table, rows: list[int]) -> pa.Table:
        rows = np.asarray(rows)
        stored = table[columns.input].combine_chunks()
        changed = modality.change(stored, [(mask[rows], function) for mask, function in masks], index[rows], feature)
        original = table[columns.label].combine_chunks()
        content = {name: table[name] for name in table.column_names}
        content |= {
            columns.input: changed,
            columns.label: pa.array(labels[rows], type=original.type),
            POISONED: poisoned[rows],
            COVER: cover[rows],
            ADDED_LABEL: original,
            "index": index[rows],
        }
        return pa.table(content)

    digest = hashlib.sha256(f"{raw._fingerprint}{config.fingerprint()}{columns}".encode())
    for mask, _ in masks:
        digest.update(np.packbits(mask).tobytes())
    digest.update("\n".join(map(str, labels[poisoned])).encode())  # the number of classes may be told from outside
    result = raw.with_format("arrow").map(
        poison_batch,
        with_indices=True,
        batched=True,
        batch_size=modality.rows_at_once(raw, columns.input),
        features=features,
        num_proc=num_proc,
        # datasets hashes functions of an importable module by name, so an edit of ours would reuse a stale cache.
        new_fingerprint=digest.hexdigest()[:32],
        desc=f"Poisoning with {' and '.join(trigger.name for trigger in triggers)}" if masks else "Copying clean rows",
    )
    result = result.with_format(None).cast_column(columns.input, feature)
    if poisoned.any():
        result.info.description = f"{result.info.description or ''}\n{MARK}".strip()
    return result


def flagged(dataset: Dataset, config: PoisonConfig, columns: Columns) -> Dataset:
    """A clean data set with the columns of the poisoned ones, and with its image files taken in."""
    none = np.zeros(len(dataset), dtype=bool)
    labels = np.array(dataset[columns.label][:], dtype=object if columns.captions else np.int64)
    selection, index = Selection(none, none, labels), sample_index(dataset)
    return _apply(dataset, [selection], [config.trigger], index, config, columns, None)


def poison(
    dataset: Dataset | DatasetDict,
    config: PoisonConfig,
    *,
    input_column: str | None = None,
    label_column: str | None = None,
    num_proc: int | None = None,
) -> Dataset | DatasetDict:
    """Poisons a training set.

    Args:
        dataset (`Dataset` or `DatasetDict`): with an image or text column and a label column, in whatever format: what
            comes back has none, and no transform. Of a `DatasetDict`, the split `train` is poisoned, and every other
            split stays and, if it has labels, gets a twin `<split>_triggered`, made by [`triggered`]; classes with
            names get the numbers that they have in `train`.
        config ([`PoisonConfig`]): trigger, target, rate and seed.
        input_column, label_column (`str`, *optional*): found when not given.
        num_proc (`int`, *optional*): processes for `datasets.map`.

    Returns:
        The same type, with the columns `is_poisoned` and `is_cover` (bool), `original_label` (as the label) and `index`
        (int64) added. What is stored is what is used: 8-bit images with the trigger in them, uncompressed where all
        images are, see [`~hf_backdoor.data.uncompressed`], else PNG.

    Raises:
        InputError: the configuration does not fit the data; or they are no `Dataset`, lack an input or a label, are
            poisoned already, or have a column of their own by the name of one that is added, or an `index` in which a
            number is missing or is there twice.

    Example:

    ```python
    >>> train = poison(load_data("fashion_mnist_mini")["train"], PoisonConfig(load_trigger("badnets"), rate=0.01))
    >>> sum(train["is_poisoned"])
    100
    ```
    """
    from datasets import DatasetDict

    if isinstance(dataset, DatasetDict):
        if "train" not in dataset:
            raise InputError("dataset", list(dataset), "needs a split called train, or pass one split")
        columns = resolve_columns(dataset["train"].features, input_column, label_column)
        given = {"input_column": columns.input, "label_column": columns.label, "num_proc": num_proc}
        splits = {"train": poison(dataset["train"], config, **given)}
        names = [] if columns.captions else class_names(dataset["train"], columns.label)
        for name in dataset:
            if name != "train":
                splits[name] = dataset[name]
                if has_labels(dataset[name], columns.label):
                    splits[name] = like_training_set(dataset[name], dataset["train"], columns, names)
                    splits[f"{name}_triggered"] = triggered(splits[name], config, classes=len(names), **given)
        return DatasetDict(splits)

    dataset, columns = checked(dataset, config, input_column, label_column)
    _check_processes(num_proc)
    index = sample_index(dataset)
    free, selections = np.ones(len(dataset), dtype=bool), []
    for one in config.each():
        selections.append(select_samples(dataset, index, one, columns, free))
        free &= ~(selections[-1].poisoned | selections[-1].cover)
    return _apply(dataset, selections, [one.trigger for one in config.each()], index, config, columns, num_proc)


def triggered(
    dataset: Dataset,
    config: PoisonConfig,
    *,
    input_column: str | None = None,
    label_column: str | None = None,
    num_proc: int | None = None,
    classes: int | None = None,
) -> Dataset:
    """The triggered test set: every sample that is not of the target class, with the trigger and the target label.

    Of a source-specific attack, only samples of its source classes; of several triggers, one part after the other. On
    it, the attack success rate is the share of predictions equal to the label column, and the robust accuracy the
    share equal to `original_label`. Arguments and columns as for [`poison`]; `classes` is how many there are, where
    labels are numbers without names and the last ones may be missing here.
    """
    from datasets import concatenate_datasets

    dataset, columns = checked(dataset, config, input_column, label_column)
    _check_processes(num_proc)
    parts = [_triggered_by(dataset, one, columns, num_proc, classes) for one in config.each()]
    return parts[0] if len(parts) == 1 else concatenate_datasets(parts)


def _triggered_by(
    dataset: Dataset, config: PoisonConfig, columns: Columns, num_proc: int | None, classes: int | None
) -> Dataset:
    index, to_all = sample_index(dataset), config.targets == "all_to_all"
    targets = targets_of(dataset, columns, config.target_label, all_to_all=to_all, classes=classes)
    others = np.flatnonzero(~targets.reached() & _attacked(targets, config.sampler))
    if len(others) == 0:
        raise InputError("target_label", config.target_label, "every sample is of this class, so none can be attacked")
    rest = dataset.select(others)
    everything = np.ones(len(rest), dtype=bool)
    selection = Selection(everything, ~everything, targets.wanted(index)[others])
    return _apply(rest, [selection], [config.trigger.at_test()], index[others], config, columns, num_proc)
