"""Flags that several commands share."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..class_order import numbered_like
from ..config import plugin_settings
from ..data import class_names, load_data, pick_split, resolve_columns
from ..data.columns import has_labels, holds_captions
from ..data.sources import keep_classes, split_off
from ..errors import InputError
from ..plugins import as_yaml
from ..results import RESULTS_FILE, is_path
from ..tuning import load_tuning, tuning_names


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

    from ..attacks import Attack
    from ..data import Columns
    from ..poisoning import PoisonConfig
    from ..tasks import Task
    from ..triggers import Trigger
    from ..tuning import Tuning


ROW = "hf_backdoor_row"


def option(default: Any, text: str, **more: Any) -> Any:
    """A dataclass field with its `--help`."""
    metadata = {"help": text, **more}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class DataOptions:
    """Where the data are and which columns count."""

    dataset: str | None = option(
        None, "fashion_mnist_mini or another one of the package, a parquet/csv/json file, a folder, or a Hub id."
    )
    dataset_config: str | None = option(None, "Configuration of a Hub data set.")
    image_column: str | None = option(None, "Image column; found when there is one.")
    text_column: str | None = option(None, "Text column; found when there is one.")
    label_column: str | None = option(None, "Label column; found when there is one.")
    classes: list[str] = option([], "Keep only the samples of these classes, by name; their numbers start again at 0.")

    @property
    def input_column(self) -> str | None:
        if self.image_column and self.text_column:
            raise InputError("text_column", self.text_column, "give image_column or text_column, not both")
        return self.image_column or self.text_column

    def columns(self) -> dict[str, str | None]:
        """For functions that take the two columns."""
        return {"input_column": self.input_column, "label_column": self.label_column}

    def load(self, another: str | None = None, *, known: Sequence[str] = ()) -> DatasetDict:
        """All splits of `--dataset`, or of another one, with class labels.

        Args:
            another (`str`, *optional*): where that one is.
            known: names of the model's classes, by which strings are numbered if these are all of them.

        Raises:
            InputError: `--dataset` is missing, or cannot be loaded, or its columns or classes cannot be told.
        """
        if self.dataset is None:
            raise InputError("dataset", None, "name a data set with --dataset")
        try:
            data = load_data(another) if another else load_data(self.dataset, self.dataset_config)
        except InputError as error:
            raise InputError("test_dataset" if another else "dataset", error.value, error.mend) from error
        label = resolve_columns(next(iter(data.values())).features, **self.columns()).label
        data = numbered_like(list(known), data, label)
        return keep_classes(data, label, self.classes) if self.classes else data


def clean_part(dataset: Dataset, samples: int | None, seed: int, label_column: str) -> tuple[Dataset, Dataset]:
    """What a victim and what a repair gets of a data set: the rest and `--clean_samples`, or both all of it.

    A number as large as the data set is all of it, too.

    Raises:
        InputError: less than one sample.
    """
    if samples is not None and samples < 1:
        raise InputError("clean_samples", samples, "must be 1 or more")
    if samples is None or samples >= len(dataset):
        return dataset, dataset
    return split_off(dataset, samples, seed, label_column)


def numbered(data: DatasetDict) -> DatasetDict:
    """With a column `ROW` by which rows are known again, whatever parts of splits are taken."""
    ends = np.cumsum([len(part) for part in data.values()])
    numbers = {name: np.arange(end - len(data[name]), end) for name, end in zip(data, ends, strict=True)}
    return type(data)({name: part.add_column(ROW, numbers[name]) for name, part in data.items()})


def without_rows_of(others: Dataset, data: Dataset) -> Dataset:
    """The rows of numbered data that others have not."""
    return data.select(np.flatnonzero(~np.isin(data[ROW][:], others[ROW][:])))


def test_set(
    data: DatasetDict, split: str | None, label_column: str, *, required: bool = False, field: str = "test_split"
) -> Dataset | None:
    """The split to measure on: the named one, else test or validation, whichever has labels.

    `None` if there is none and none is required.
    """
    labelled = [name for name in ("test", "validation") if name in data and has_labels(data[name], label_column)]
    if split or required or labelled:
        return pick_split(data, split, tuple(labelled) or ("test", "validation"), field)
    return None


@dataclass
class TaskOptions:
    """What the model is for."""

    task: str | None = option(
        None, "The Hub's name of it, e.g. zero-shot-image-classification; the default is that of the data and attack."
    )

    def chosen_task(self, columns: Columns, attack: Attack | None) -> Task:
        """The task that is named, else that of the attack, else that of the data."""
        from ..tasks import task_for

        return task_for(columns, self.task or (attack.task if attack else None))


@dataclass
class TuningOptions:
    """Which weights are trained."""

    peft: str | None = option(
        None, "Train an adapter or a part of the weights: {names}; the default is full, all of them.".format(
            names=", ".join(tuning_names())
        )
    )  # fmt: skip
    peft_args: list[str] = option([], "Its settings as name=value, e.g. r=16 merge=true.")

    def tuning(self) -> Tuning:
        """The tuning that is named."""
        return load_tuning(self.peft, **plugin_settings(self.peft_args, "peft_args"))


@dataclass
class AttackOptions:
    """The attack."""

    trains: ClassVar[bool] = False  # what an attack says of poisoning in its own training is for that alone

    attack: str | None = option(None, "Name of the attack, see `hf-backdoor attacks`; or package.module:Class.")
    attack_from: str | None = option(
        None, "Or the folder of a victim or of poisoned data: the attack that was used there, with all its settings."
    )
    attack_args: list[str] = option([], "Its settings as name=value, e.g. size=4 position=top-left.")
    target_label: str | None = option(
        None,
        "Class that triggered inputs are to be given, number or name; by default 0, or that of attack_from. With "
        "captions, a word.",
    )
    rate: float | None = option(None, "Share of all training samples that are poisoned; the attack's own, mostly 0.1.")
    label_mode: str | None = option(
        None, "dirty relabels samples of other classes, clean takes samples of the target; the default is the attack's."
    )
    cover_rate: float | None = option(
        None, "Share of all samples that get the trigger and keep their label; the default is the attack's, mostly 0."
    )
    targets: str = option("all_to_one", "all_to_one; or all_to_all, which gives each class the next one for a target.")
    sampler: str = option("random", "Which samples are poisoned: random, confidence, source_specific.")
    sampler_args: list[str] = option([], "Settings of the sampler as name=value, e.g. source=1 cover='5 7'.")
    also: list[str] = option(
        [],
        "Further triggers in quotes, name and settings of each, e.g. 'blended target_label=3 rate=0.05 ratio=0.3'.",
    )

    @property
    def measures_attack(self) -> bool:
        return bool(self.attack or self.attack_from)

    def load_attack(self) -> tuple[Attack, Trigger]:
        """How to train, and the trigger."""
        from ..attacks import load_attack

        return load_attack(self.attack, **plugin_settings(self.attack_args, "attack_args"))

    def poison_config(self, dataset: Dataset, label_column: str, seed: int) -> PoisonConfig:
        """The configuration, checked against the classes of the data set."""
        from ..attacks import Attack, poison_settings
        from ..poisoning import PoisonConfig
        from ..samplers import load_sampler

        if self.attack_from is not None:
            usual = {item.name: item.default for item in fields(AttackOptions) if item.default is not MISSING}
            free = ("attack_from", "target_label")  # a model that was moved to other classes has another target
            others = [name for name, value in usual.items() if name not in free and getattr(self, name) != value]
            others += [name for name in ("attack_args", "sampler_args", "also") if getattr(self, name)]
            if others:
                value = getattr(self, others[0])
                raise InputError(others[0], value, "is part of the attack; give it or attack_from, not both")
            stored = stored_attack(self.attack_from)
            if self.target_label is None:
                return stored
            return replace(stored, target_label=_target(self.target_label, dataset, label_column))
        how, trigger = self.load_attack()
        settings = plugin_settings(self.attack_args, "attack_args")
        of_training = [item.name for item in fields(how) if item.name in settings]
        if of_training and not self.trains:
            raise InputError(
                "attack_args", of_training[0], f"is for the training of {self.attack}, and no victim is trained here; "
                "leave it out, or use `hf-backdoor train`"
            )  # fmt: skip
        optional = ("rate", "label_mode", "cover_rate")
        given = {name: getattr(self, name) for name in optional if getattr(self, name) is not None}
        usual = poison_settings(how if self.trains else Attack(), trigger)
        return PoisonConfig(
            trigger=trigger,
            target_label=_target(self.target_label, dataset, label_column),
            seed=seed,
            targets=self.targets,
            sampler=load_sampler(self.sampler, **plugin_settings(self.sampler_args, "sampler_args")),
            also=tuple(_another(text, dataset, label_column, seed) for text in self.also),
            **usual | given,
        )


def _stored(folder: str) -> dict[str, Any]:
    for name in (RESULTS_FILE, "poison.json"):
        path = Path(folder) / name
        if path.is_file():
            try:
                stored = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise InputError("attack_from", str(path), f"cannot be read ({error})") from error
            attack = stored.get("attack") if name == RESULTS_FILE and isinstance(stored, dict) else stored
            if attack is None:
                continue
            if not isinstance(attack, dict) or not isinstance(attack.get("training", {}), dict):
                raise InputError("attack_from", str(path), "tells of no attack; name a folder that a run has written")
            return attack
    raise InputError("attack_from", folder, f"has no {RESULTS_FILE} or poison.json that tells of an attack")


def stored_attack(folder: str) -> PoisonConfig:
    """The attack that is written down in a folder.

    Raises:
        InputError: there is none, or it was made by another version, or it names a file elsewhere on this machine: the
            folder may be a stranger's, and files of triggers are copied to what is poisoned, and pushed with it.
    """
    from ..poisoning import PoisonConfig

    stored = _stored(folder)
    try:
        for one in (stored, *stored.get("also", [])):
            for setting, value in one["trigger"].items():
                # A trigger that was learned, or its picture, lies beside it, wherever the folder has gone since.
                beside = Path(folder) / Path(value).name if isinstance(value, str) and value else None
                if setting != "name" and beside is not None and is_path(str(beside)) and beside.is_file():
                    one["trigger"][setting] = str(beside)
        attack = PoisonConfig.from_dict(stored)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError("attack_from", folder, f"holds no attack that can be read ({error!r})") from error
    for trigger in (one.trigger for one in attack.each()):
        for named in trigger.named_files().values():
            if not _lies_in(named, Path(folder)):
                raise InputError(
                    "attack_from", folder, f"names the file {named}, which does not lie in it; put a copy there if you "
                    "trust this folder"
                )  # fmt: skip
    return attack


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether a file is one of a folder, and no link to elsewhere but for those of the cache of the Hub."""
    folder = folder.resolve()
    homes = [folder]
    if folder.parent.name == "snapshots":  # where `hf download` links to the files of this one repository
        homes.append(folder.parents[1] / "blobs")
    return path.parent.resolve() == folder and path.resolve().parent in homes


def stored_training(folder: str) -> str | None:
    """The name of the attack by which the victim in a folder was trained; none for poisoned data."""
    return _stored(folder).get("training", {}).get("name")


def _target(given: str | int | None, dataset: Dataset, label_column: str) -> int | str:
    """The number of a class that is given by number or name; with captions for labels, the word as it is."""
    if holds_captions(dataset.features, label_column):
        if given is None:
            raise InputError("target_label", None, "with captions for labels, give the word that they are to name")
        return str(given)
    names, target = class_names(dataset, label_column), str(0 if given is None else given)
    if target not in names and not (target.isdigit() and int(target) < len(names)):
        raise InputError("target_label", target, f"choose 0 to {len(names) - 1}, or one of {', '.join(names)}")
    return names.index(target) if target in names else int(target)


def _another(text: str, dataset: Dataset, label_column: str, seed: int) -> PoisonConfig:
    """One entry of `also`."""
    from ..attacks import Attack, poison_settings
    from ..poisoning import PoisonConfig
    from ..triggers import load_trigger

    try:
        name, *pairs = shlex.split(text)
    except ValueError as error:
        raise InputError("also", text, f"write a name and settings, e.g. 'blended rate=0.05' ({error})") from error
    settings = plugin_settings(pairs, "also")
    target = _target(settings.pop("target_label", None), dataset, label_column)
    of_poison = [name for name in ("rate", "label_mode", "cover_rate") if name in settings]
    poison = {name: as_yaml(settings.pop(name), "also") for name in of_poison}
    trigger = load_trigger(name, **settings)
    return PoisonConfig(trigger=trigger, target_label=target, seed=seed, **poison_settings(Attack(), trigger) | poison)
