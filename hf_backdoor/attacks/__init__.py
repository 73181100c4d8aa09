"""Attacks: a trigger, and how the attacker trains with it.

An attack that only poisons data is its trigger, a module of [`hf_backdoor.triggers`]; training is then as usual. One
that also changes how the victim is trained has a module here, named like the attack: a frozen dataclass of its
settings, which names the Trainer class and the callbacks that do the work, as a defence does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .. import plugins
from ..errors import InputError
from ..triggers import Trigger, load_trigger, trigger_names


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import TrainerCallback

    from ..poisoning import PoisonConfig
    from ..trainer import BackdoorTrainer


# Settings of PoisonConfig that say how samples are chosen and labelled, besides the target, the rate and the seed.
SELECTION = ("label_mode", "targets", "cover_rate", "sampler", "also")


def refuse_settings(config: PoisonConfig, names: Iterable[str], who: str) -> None:
    """Refuses settings of the poison that an attack would ignore.

    Args:
        config: the poison.
        names: settings that have to be as they usually are, see [`~hf_backdoor.poisoning.PoisonConfig`].
        who (`str`): has no use for another value.

    Raises:
        InputError: one of them is not.
    """
    usual = type(config)(config.trigger)
    for name in names:
        value, default = _shown(getattr(config, name)), _shown(getattr(usual, name))
        if value != default:
            raise InputError(name, value, f"{who} has no use for it; leave it at {default}")


def _shown(value: Any) -> Any:
    """A setting of the poison as an error shows it: a sampler by its name, further triggers by their number."""
    if isinstance(value, plugins.Plugin):
        return value.name
    return len(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Attack(plugins.Plugin):
    """How a victim is trained. This class itself: as usual, on poisoned data.

    Attributes:
        title (`str`): its name in the literature.
        paper (`str`): where it comes from.
        modality (`str`): of the models it is for.
        task (`str`, *optional*): what the victim is for, by the Hub's name, where the data do not say it.
        default_trigger (`str`): the trigger, unless the user names another.
        trigger_defaults (`dict`): its settings in the paper, where they are not the usual ones.
        poison_defaults (`dict`): settings of [`~hf_backdoor.poisoning.PoisonConfig`] that the paper uses, over those
            of the trigger.
        unused (`tuple`): settings of [`~hf_backdoor.poisoning.PoisonConfig`] that its training has no use for, see
            [`refuse_settings`]; those of the trigger do not count.
        learns_trigger (`bool`): training also makes the trigger, see [`~Attack.learned_trigger`].
        whole_model (`bool`): it picks the weights that it trains, so that no adapter and no part of them will do.
        benign_too (`bool`): the benign model to compare with is trained in the same way, on clean data.
    """

    home: ClassVar[str] = __name__
    title: ClassVar[str] = "Data poisoning"
    paper: ClassVar[str] = ""
    modality: ClassVar[str] = ""
    task: ClassVar[str | None] = None
    default_trigger: ClassVar[str] = "badnets"
    trigger_defaults: ClassVar[dict[str, Any]] = {}
    poison_defaults: ClassVar[dict[str, Any]] = {}
    unused: ClassVar[tuple[str, ...]] = ()
    learns_trigger: ClassVar[bool] = False
    whole_model: ClassVar[bool] = False
    benign_too: ClassVar[bool] = False

    def training_defaults(self) -> dict[str, Any]:
        """`TrainingArguments` where the user says nothing."""
        return {}

    def training_set(self, clean: Dataset, poison_config: PoisonConfig, **columns: str) -> Dataset:
        """What the Trainer gets: the poisoned data set. An attack that poisons inside the loop returns `clean`.

        Args:
            clean: the training set, with an image or text column and a label column.
            poison_config: the poison; for a benign model this method is not called.
            columns: `input_column` and `label_column`.
        """
        from ..poisoning import poison

        return poison(clean, poison_config, **columns)

    def trainer_class(self) -> type[BackdoorTrainer]:
        """The Trainer to use."""
        from ..trainer import BackdoorTrainer

        return BackdoorTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        """Extra arguments for it; `poison_config` is `None` for a benign model."""
        return {}

    def callbacks(self, poison_config: PoisonConfig | None) -> list[TrainerCallback]:
        """Callbacks for it."""
        return []

    def learned_trigger(self, trainer: BackdoorTrainer, folder: Path) -> Trigger:
        """For `learns_trigger`: writes the trigger that was learned into the folder, and returns it ready for use."""
        raise NotImplementedError

    def report(self, trainer: BackdoorTrainer) -> dict[str, Any]:
        """What the attack has to say for the results file, ready for JSON."""
        return {}


def attack_names() -> list[str]:
    """Names of all attacks that come with the package: the triggers, and those with a training of their own."""
    return sorted({*trigger_names(), *plugins.names(__name__)})


def load_attack(name: str, **settings: Any) -> tuple[Attack, Trigger]:
    """Makes an attack from its name and settings.

    Args:
        name (`str`): one of [`attack_names`], or `"your.module:Class"` for a trigger or an attack of your own.
        settings: fields of the attack; the others are fields of its trigger. Where an attack has a training of its
            own, `trigger` names the trigger to use with it.

    Returns:
        How to train, and the trigger.

    Raises:
        InputError: unknown name or setting, or a setting outside its range.

    Example:

    ```python
    >>> load_attack("blended", ratio=0.1)
    (Attack(), Blended(ratio=0.1, pattern='noise', seed=0))
    ```
    """
    if name in plugins.names(__name__) or ":" in name:
        kind = plugins.find(__name__, name, (Attack, Trigger), "attack")
    else:
        kind = plugins.find(Trigger.home, name, Trigger, "attack", known=attack_names())
    if issubclass(kind, Trigger):
        return Attack(), plugins.build(kind, settings, "attack_args")
    fields = {item.name for item in dataclasses.fields(kind)}
    own = {key: value for key, value in settings.items() if key in fields}
    others = {key: value for key, value in settings.items() if key not in fields}
    name = others.pop("trigger", kind.default_trigger)
    defaults = kind.trigger_defaults if name == kind.default_trigger else {}
    trigger = load_trigger(name, **defaults | others)
    return plugins.build(kind, own, "attack_args"), trigger


def poison_settings(attack: Attack, trigger: Trigger) -> dict[str, Any]:
    """The settings of [`~hf_backdoor.poisoning.PoisonConfig`] that the paper of an attack uses."""
    of_trigger = {name: value for name, value in trigger.poison_defaults.items() if name not in attack.unused}
    return {**of_trigger, **attack.poison_defaults}
