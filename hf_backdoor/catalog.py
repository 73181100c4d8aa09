"""What attacks there are, read from their classes."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from dataclasses import dataclass
from typing import Any

from . import attacks, plugins
from .attacks import Attack, attack_names
from .triggers import Trigger, trigger_names


@dataclass(frozen=True)
class Entry:
    """One attack.

    Attributes:
        name (`str`): for `--attack`.
        title, paper (`str`): in the literature.
        modality (`str`): of its inputs.
        trains (`bool`): whether it changes how the victim is trained, or only poisons data.
        learns_trigger (`bool`): whether the trigger is made by the training.
        trigger (`type`): its trigger.
        summary (`str`): the first sentence of its module.
        settings (`dict`): of the attack and of its trigger, with their defaults.
        trigger_settings (`dict`): those that the attack sets for its trigger.
        poison (`dict`): of the poisoning, where they are not the usual ones.
    """

    name: str
    title: str
    paper: str
    modality: str
    trains: bool
    learns_trigger: bool
    trigger: type[Trigger]
    summary: str
    settings: dict[str, Any]
    trigger_settings: dict[str, Any]
    poison: dict[str, Any]


def _defaults(plugin: type, learned: bool = False) -> dict[str, Any]:
    """Settings of a plugin with their defaults; one without, or with `None` if nothing is learned, must be given."""
    missing = (dataclasses.MISSING,) if learned else (dataclasses.MISSING, None)
    return {item.name: "(required)" if item.default in missing else item.default for item in dataclasses.fields(plugin)}


def _summary(plugin: type) -> str:
    return (sys.modules[plugin.__module__].__doc__ or "").strip().splitlines()[0]


def catalog() -> list[Entry]:
    """All attacks that come with the package, by name."""
    trained, triggers = plugins.names(attacks.__name__), trigger_names()
    entries = []
    for name in attack_names():
        training = plugins.find(attacks.__name__, name, Attack, "attack") if name in trained else Attack
        of_trigger = name if name in triggers and name not in trained else training.default_trigger
        trigger = plugins.find(Trigger.home, of_trigger, Trigger, "attack")
        described = training if name in trained else trigger
        entries.append(
            Entry(
                name=name,
                title=described.title,
                paper=described.paper,
                modality=described.modality or trigger.modality,
                trains=name in trained,
                learns_trigger=training.learns_trigger,
                trigger=trigger,
                summary=_summary(described),
                settings=_defaults(training) | _defaults(trigger, training.learns_trigger) | training.trigger_defaults,
                trigger_settings=dict(training.trigger_defaults),
                poison={**trigger.poison_defaults, **training.poison_defaults},
            )
        )
    return entries


def shown(settings: dict[str, Any]) -> str:
    """Settings on one line, as they are typed after `--attack_args`."""
    return " ".join(f"{name}={shlex.quote(str(value))}" for name, value in settings.items() if value is not None)
