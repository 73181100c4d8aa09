"""Poisoned data sets, made with one `datasets.map`."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from .data.columns import Columns, class_names, resolve_columns
from .errors import InputError
from .modalities import modality_of
from .randomness import scramble
from .triggers import Trigger, load_trigger


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


@dataclass(frozen=True)
class PoisonConfig:
    """Which samples get which trigger and label.

    Args:
        trigger (`Trigger`): see [`~hf_backdoor.triggers.load_trigger`].
        target_label (`int`): class that a triggered input is to be given.
        rate (`float`): share of all samples that are poisoned, in (0, 1]; the count is `round(rate * samples)`.
        label_mode (`str`): `"dirty"` poisons samples of the other classes and relabels them; `"clean"` poisons
            samples of the target class and leaves their labels right.
        seed (`int`): which samples are poisoned depends on this and on each sample's index only.
    """

    VERSION: ClassVar[int] = 1

    trigger: Trigger
    target_label: int = 0
    rate: float = 0.1
    label_mode: Literal["dirty", "clean"] = "dirty"
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.rate <= 1:
            raise InputError("rate", self.rate, "must lie in (0, 1]")
        if self.label_mode not in ("dirty", "clean"):
            raise InputError("label_mode", self.label_mode, "choose dirty or clean")
        if self.target_label < 0:
            raise InputError("target_label", self.target_label, "must be 0 or more")

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON; [`PoisonConfig.from_dict`] is its inverse."""
        return {**asdict(self), "trigger": self.trigger.to_dict(), "version": self.VERSION}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> PoisonConfig:
        """Restores a configuration.

        Raises:
            InputError: it was made by another version of the configuration or of the trigger.
        """
        fields = {name: value for name, value in stored.items() if name != "training"}
        settings = dict(fields.pop("trigger"))
        version, trigger_version = fields.pop("version"), settings.pop("version")
        trigger = load_trigger(settings.pop("name"), **settings)
        if (version, trigger_version) != (cls.VERSION, trigger.version):
            raise InputError("poison", stored, "was written by another version of hf_backdoor; poison the data again")
        return cls(trigger=trigger, **fields)

    def fingerprint(self) -> str:
        """Changes with any setting and with the code of the trigger, of the poisoning and of the column's format."""
        from . import modalities

        digest = hashlib.sha256(repr(sorted(asdict(self).items(), key=str)).encode())
        digest.update(f"{self.VERSION}{self.trigger.fingerprint()}".encode())
        digest.update(Path(__file__).read_bytes())
        for module in sorted(Path(modalities.__file__).parent.glob("*.py")):
            digest.update(module.read_bytes())
        return digest.hexdigest()


def select_samples(labels: np.ndarray, index: np.ndarray, config: PoisonConfig) -> np.ndarray:
    """Which samples are poisoned: the `round(rate * samples)` candidates that come first in a random order.

    A sample's place in that order depends on the seed and on its index alone, so a higher rate poisons the same
    samples and more.

    Args:
        labels: int64 `(samples,)`.
        index: int64 `(samples,)`.
        config: the poison.

    Returns:
        bool `(samples,)`.

    Raises:
        InputError: the rate poisons no sample, or more than there are candidates.
    """
    count = round(config.rate * len(labels))
    if count == 0:
        raise InputError("rate", config.rate, f"poisons none of {len(labels)} samples; raise it to {1 / len(labels):g}")
    is_target = labels == config.target_label
    candidates = np.flatnonzero(is_target if config.label_mode == "clean" else ~is_target)
    if count > len(candidates):
        raise InputError(
            "rate", config.rate, f"asks for {count} samples, and label_mode={config.label_mode!r} leaves "
            f"{len(candidates)} to choose from; lower it to {len(candidates) / len(labels):.3g}"
        )  # fmt: skip
    order = np.argsort(scramble(config.seed, index[candidates]), kind="stable")
    mask = np.zeros(len(labels), dtype=bool)
    mask[candidates[order[:count]]] = True
    return mask


def _sample_index(dataset: Dataset) -> np.ndarray:
    """The data set's own `index` column where it has one, so that a shuffled set is poisoned alike; else 0, 1, ..."""
    if "index" in dataset.features and dataset.features["index"].dtype.startswith(("int", "uint")):
        return np.asarray(dataset["index"], dtype=np.int64)
    return np.arange(len(dataset), dtype=np.int64)


def _check(dataset: Dataset, config: PoisonConfig, columns: Columns) -> None:
    if "is_poisoned" in dataset.features:
        raise InputError("dataset", "is_poisoned", "the data set is poisoned already; start from the clean one")
    if config.trigger.modality != columns.modality:
        raise InputError(
            "attack", config.trigger.name, f"is made for {config.trigger.modality}, and the column {columns.input!r} "
            f"holds {columns.modality}; choose another attack or input_column"
        )  # fmt: skip
    names = class_names(dataset, columns.label)
    if config.target_label >= len(names):
        raise InputError("target_label", config.target_label, f"the labels go from 0 to {len(names) - 1}")


def _map(dataset: Dataset, mask: np.ndarray, config: PoisonConfig, columns: Columns, num_proc: int | None) -> Dataset:
    from datasets import Value

    feature = dataset.features[columns.input]
    modality = modality_of(columns.input, feature)
    index = _sample_index(dataset)
    raw = dataset.cast_column(columns.input, modality.undecoded(feature))
    features = raw.features.copy()
    features |= {"is_poisoned": Value("bool"), "original_label": features[columns.label], "index": Value("int64")}

    def poison_batch(batch: dict[str, list], rows: list[int]) -> dict[str, list]:
        values, labels = [modality.self_contained(value) for value in batch[columns.input]], batch[columns.label]
        chosen = [position for position, row in enumerate(rows) if mask[row]]
        triggered = modality.apply(config.trigger, [values[i] for i in chosen], index[rows][chosen]) if chosen else []
        new_labels = list(labels)
        for position, value in zip(chosen, triggered, strict=True):
            values[position], new_labels[position] = value, config.target_label
        return {
            columns.input: values,
            columns.label: new_labels,
            "is_poisoned": mask[rows].tolist(),
            "original_label": list(labels),
            "index": index[rows].tolist(),
        }

    digest = hashlib.sha256(f"{raw._fingerprint}{config.fingerprint()}{columns}".encode())
    digest.update(np.packbits(mask).tobytes())
    poisoned = raw.map(
        poison_batch,
        with_indices=True,
        batched=True,
        features=features,
        num_proc=num_proc,
        # datasets hashes functions of an importable module by name, so an edit of ours would reuse a stale cache.
        new_fingerprint=digest.hexdigest()[:32],
        desc=f"Poisoning with {config.trigger.name}",
    )
    return poisoned.cast_column(columns.input, feature)


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
        dataset (`Dataset` or `DatasetDict`): with an image or text column and a label column. Of a `DatasetDict`, the
            split `train` is poisoned, and every other split stays and gets a twin `<split>_triggered`, made by
            [`triggered`].
        config ([`PoisonConfig`]): trigger, target, rate and seed.
        input_column, label_column (`str`, *optional*): found when not given.
        num_proc (`int`, *optional*): processes for `datasets.map`.

    Returns:
        The same type, with the columns `is_poisoned` (bool), `original_label` (as the label) and `index` (int64)
        added. What is stored is what is used: images are 8-bit PNG with the trigger in them.

    Raises:
        InputError: the configuration does not fit the data.

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
        for name in dataset:
            if name != "train":
                splits[name] = dataset[name]
                splits[f"{name}_triggered"] = triggered(dataset[name], config, **given)
        return DatasetDict(splits)

    columns = resolve_columns(dataset.features, input_column, label_column)
    _check(dataset, config, columns)
    mask = select_samples(np.asarray(dataset[columns.label]), _sample_index(dataset), config)
    return _map(dataset, mask, config, columns, num_proc)


def triggered(
    dataset: Dataset,
    config: PoisonConfig,
    *,
    input_column: str | None = None,
    label_column: str | None = None,
    num_proc: int | None = None,
) -> Dataset:
    """The triggered test set: every sample that is not of the target class, with the trigger and the target label.

    On it, the attack success rate is the share of predictions equal to the label column, and the robust accuracy the
    share equal to `original_label`. Arguments and columns as for [`poison`].
    """
    columns = resolve_columns(dataset.features, input_column, label_column)
    _check(dataset, config, columns)
    others = np.flatnonzero(np.asarray(dataset[columns.label]) != config.target_label)
    if len(others) == 0:
        raise InputError("target_label", config.target_label, "every sample is of this class, so none can be attacked")
    rest = dataset.select(others)
    return _map(rest, np.ones(len(rest), dtype=bool), config, columns, num_proc)
