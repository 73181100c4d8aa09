"""A page that shows what each attack does to an input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .cards.rendering import render
from .catalog import Entry, shown
from .errors import InputError
from .modalities import modality_named
from .results import portable
from .triggers import Trigger


def write_gallery(
    folder: Path, entries: list[Entry], pictures: list[Any], learned: dict[str, Trigger], command: str
) -> Path:
    """Writes `README.md` with a picture, or with sentences, for every attack.

    Args:
        folder (`Path`): to write to; made if need be.
        entries: from [`~hf_backdoor.catalog.catalog`].
        pictures: PIL images to show the image attacks on.
        learned: triggers that are made by training or need a model, by the name of the attack.
        command (`str`): that made the page.

    Returns:
        Path of the page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    items = []
    for entry in entries:
        item = {
            "entry": entry, "settings": shown(entry.settings), "poison": shown(entry.poison), "effect": None,
            "missing": None, "setting": None,
        }  # fmt: skip
        try:
            trigger = learned.get(entry.name) or entry.trigger(**entry.trigger_settings)
            item["setting"] = trigger_settings(trigger, entry)
            modality = modality_named(trigger.modality)
            item["effect"] = modality.show_trigger(trigger, entry.name, entry.title, pictures, folder)
        except InputError as error:
            item["missing"] = str(InputError(error.field, portable(error.value), error.mend))
        items.append(item)
    page = folder / "README.md"
    page.write_text(render("gallery.md", items=items, command=command), encoding="utf-8")
    return page


def trigger_settings(trigger: Trigger, entry: Entry) -> str | None:
    """Which of the settings that are shown are not the defaults, if any."""
    usual = entry.settings
    own = {name: value for name, value in trigger.to_dict().items() if name not in ("name", "version")}
    return shown(portable({name: value for name, value in own.items() if usual.get(name) != value})) or None
