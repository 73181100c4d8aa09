"""Poisoned data sets on disk and on the Hub, with a card that says what they are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards import write_dataset_card
from .data.columns import class_names, resolve_columns
from .poisoning import PoisonConfig


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

POISON_FILE = "poison.json"


def save_poisoned(
    dataset: Dataset | DatasetDict, folder: str | Path, config: PoisonConfig, *, source: str = "a data set of yours"
) -> Path:
    """Writes a poisoned data set as parquet, with its card and `poison.json`; `load_dataset(folder)` reads it.

    Args:
        dataset (`Dataset` or `DatasetDict`): from [`~hf_backdoor.poisoning.poison`].
        folder (`str` or `Path`): where to; made if need be.
        config ([`~hf_backdoor.poisoning.PoisonConfig`]): what it was poisoned with.
        source (`str`): the clean data set's name, for the card.

    Returns:
        The folder.
    """
    from datasets import DatasetDict

    folder = Path(folder)
    splits = dataset if isinstance(dataset, DatasetDict) else DatasetDict(train=dataset)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: f"{name}.parquet" for name in splits}
    for name, split in splits.items():
        split.to_parquet(folder / files[name])
    first = next(iter(splits.values()))
    label = resolve_columns(first.select_columns([n for n in first.features if n != "original_label"]).features).label
    attack = config.to_dict()
    write_dataset_card(
        folder,
        files,
        attack,
        [
            {"name": name, "rows": len(split), "poisoned": sum(split["is_poisoned"]) if has_flag(split) else 0}
            for name, split in splits.items()
        ],
        paper=config.trigger.paper,
        source=source,
        target=class_names(first, label)[config.target_label],
    )
    (folder / POISON_FILE).write_text(json.dumps(attack, indent=2) + "\n", encoding="utf-8")
    return folder


def has_flag(split: Dataset) -> bool:
    """Whether a split says which rows are poisoned; clean test splits have no such column."""
    return "is_poisoned" in split.features


def push_poisoned(
    dataset: Dataset | DatasetDict, repo_id: str, config: PoisonConfig, *, private: bool = True, **kwargs: Any
) -> str:
    """Pushes a poisoned data set with its card to the Hub, in one commit; private unless told otherwise.

    Args:
        dataset, config, kwargs: as for [`save_poisoned`].
        repo_id (`str`): `"user/name"`.
        private (`bool`): who may see it.

    Returns:
        Address of the commit.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        save_poisoned(dataset, folder, config, **kwargs)
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            commit_message=f"Add data poisoned with {config.trigger.name}",
        )
    return commit.commit_url
