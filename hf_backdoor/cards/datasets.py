"""Cards of poisoned data sets."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ..results import write_text
from .metadata import merge_metadata, read_metadata, remove_metadata
from .rendering import render
from .sections import CARD, CARD_FILE, put_section, read_card, sections


CONFIG = "default"
COUNTED = re.compile(r"^\| (\w+(?:\.\w+)*) \| \d+ \| \d+ \|", re.MULTILINE)  # split, rows, poisoned


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
        configs=[{"config_name": CONFIG, "data_files": data_files}],
    )
    path = folder / CARD_FILE
    write_text(path, merged_dataset_card(read_card(path), card) if path.is_file() else card)
    return path


def merged_dataset_card(old: str, new: str) -> str:
    """A card with the section, the tags and the splits of a new one, and all else as it was.

    Other splits that somebody has added stay. A `dataset_info` that tells of other columns goes, for with it the splits
    could not be loaded.
    """
    files = _data_files(new)
    ours = {*own_splits(old), *(file["split"] for file in files)}
    files += [file for file in _data_files(old) if file["split"] not in ours]
    card = remove_metadata(put_section(old, CARD, sections(new)[CARD]), info_of=CONFIG)
    configs = [{"config_name": CONFIG, "data_files": files}]
    return merge_metadata(card, tags=read_metadata(new).get("tags"), configs=configs)


def own_splits(card: str) -> list[str]:
    """The splits that the section of hf_backdoor counts the rows of; none where there is no such section."""
    return COUNTED.findall(sections(card).get(CARD, ""))


def files_of_splits(folder: Path) -> list[Path]:
    """The files in a folder that its card names as splits."""
    path = folder / CARD_FILE
    names = [file.get("path") for file in _data_files(read_card(path))] if path.is_file() else []
    named = [name for name in names if isinstance(name, str) and Path(name).name == name]
    return [folder / name for name in named if (folder / name).is_file()]


def _data_files(card: str) -> list[dict[str, Any]]:
    """The splits that the default configuration lists; anybody may have written it, in another form."""
    configs = read_metadata(card).get("configs")
    configs = [config for config in configs if isinstance(config, dict)] if isinstance(configs, list) else []
    listed = [config.get("data_files") for config in configs if config.get("config_name", CONFIG) == CONFIG]
    files = [file for files in listed if isinstance(files, list) for file in files]
    return [file for file in files if isinstance(file, dict) and isinstance(file.get("split"), str)]
