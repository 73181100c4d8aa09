"""Cards of poisoned data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..results import write_text
from .metadata import merge_metadata, read_metadata
from .rendering import render
from .sections import CARD, CARD_FILE, put_section, read_card, sections


def write_dataset_card(
    folder: Path, files: dict[str, str], attack: dict[str, Any], splits: list[dict[str, Any]], **values: Any
) -> Path:
    """Writes `README.md` beside the parquet files of a poisoned data set, so that `load_dataset` reads its splits.

    What anybody has added to a card that is there stays.

    Args:
        folder (`Path`): of the data set.
        files (`dict`): split name to file name.
        attack (`dict`): [`~hf_backdoor.poisoning.PoisonConfig`] as a dict.
        splits (`list`): `name`, `rows` and `poisoned` of each split.
        values: `paper`, `source` and `classes` (their names) for the text.

    Raises:
        InputError: the metadata of the card that is there cannot be read.
    """
    data_files = [{"split": split, "path": name} for split, name in files.items()]
    body = render("poisoned_dataset.md", attack=attack, splits=splits, **values)
    card = merge_metadata(
        put_section("", CARD, body),
        tags=["backdoor", "poisoned", "hf_backdoor"],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    path = folder / CARD_FILE
    write_text(path, merged_dataset_card(read_card(path), card) if path.is_file() else card)
    return path


def merged_dataset_card(old: str, new: str) -> str:
    """A card with the section, the tags and the splits of a new one, and all else as it was."""
    metadata = {name: value for name, value in read_metadata(new).items() if name in ("tags", "configs")}
    return merge_metadata(put_section(old, CARD, sections(new)[CARD]), **metadata)


def files_of_splits(folder: Path) -> list[Path]:
    """The parquet files that the card of a poisoned data set names; none where there is no such card."""
    path = folder / CARD_FILE
    card = read_card(path) if path.is_file() else ""
    if CARD not in sections(card):
        return []
    configs = read_metadata(card).get("configs") or []
    named = [file["path"] for config in configs for file in config["data_files"] if config["config_name"] == "default"]
    return [folder / name for name in named if Path(name).name == name and (folder / name).is_file()]
