"""Cards of poisoned data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..results import write_text
from .rendering import render


def write_dataset_card(
    folder: Path, files: dict[str, str], attack: dict[str, Any], splits: list[dict[str, Any]], **values: Any
) -> Path:
    """Writes `README.md` beside the parquet files of a poisoned data set, so that `load_dataset` reads its splits.

    Args:
        folder (`Path`): of the data set.
        files (`dict`): split name to file name.
        attack (`dict`): [`~hf_backdoor.poisoning.PoisonConfig`] as a dict.
        splits (`list`): `name`, `rows` and `poisoned` of each split.
        values: `paper`, `source` and `classes` (their names) for the text.
    """
    metadata = {
        "tags": ["backdoor", "poisoned", "hf_backdoor"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": name} for split, name in files.items()],
            }
        ],
    }
    body = render("poisoned_dataset.md", attack=attack, splits=splits, **values)
    path = folder / "README.md"
    write_text(path, f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---\n{body}")
    return path
