"""Poisoned data sets on disk and on the Hub, with a card that says what they are."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards import write_dataset_card
from .data.columns import class_names, resolve_columns
from .errors import InputError
from .poisoning import PoisonConfig, flagged
from .results import RESULTS_FILE, portable


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

POISON_FILE = "poison.json"
PUSHED = ("*.parquet", "README.md", POISON_FILE, RESULTS_FILE)  # and nothing else that lies in the folder


def save_poisoned(
    dataset: Dataset | DatasetDict,
    folder: str | Path,
    config: PoisonConfig,
    *,
    source: str = "a data set of yours",
    input_column: str | None = None,
    label_column: str | None = None,
) -> Path:
    """Writes a poisoned data set as parquet, with its card and `poison.json`; `load_dataset(folder)` reads it.

    Args:
        dataset (`Dataset` or `DatasetDict`): from [`~hf_backdoor.poisoning.poison`].
        folder (`str` or `Path`): where to; made if need be.
        config ([`~hf_backdoor.poisoning.PoisonConfig`]): what it was poisoned with.
        source (`str`): the clean data set's name, for the card.
        input_column, label_column (`str`, *optional*): as given to `poison`.

    Returns:
        The folder.
    """
    from datasets import DatasetDict

    folder = Path(folder)
    splits = dataset if isinstance(dataset, DatasetDict) else DatasetDict(train=dataset)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: f"{name}.parquet" for name in splits}
    first = next(iter(splits.values()))
    columns = resolve_columns(first.features, input_column, label_column)
    for name, split in splits.items():
        # `load_dataset` would fill columns that a clean split lacks with `None`.
        complete = split if has_flag(split) else flagged(split, config, columns)
        complete.to_parquet(folder / files[name])
    attack = portable(config.to_dict())
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
        classes=[] if columns.captions else class_names(first, columns.label),
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

    Raises:
        InputError: as [`push_folder`].
    """
    with tempfile.TemporaryDirectory() as folder:
        save_poisoned(dataset, folder, config, **kwargs)
        return push_folder(folder, repo_id, private=private)


def push_folder(folder: str | Path, repo_id: str, *, private: bool = True) -> str:
    """Pushes the files that [`save_poisoned`] wrote to the Hub, in one commit; private unless told otherwise.

    Args:
        folder (`str` or `Path`): with the files.
        repo_id (`str`): `"user/name"`.
        private (`bool`): who may see it.

    Returns:
        Address of the commit.

    Raises:
        InputError: the Hub refuses, is out of reach, or has a public repository of that name where a private one is
            wanted.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    files = sorted(path for pattern in PUSHED for path in Path(folder).glob(pattern))
    attack = json.loads((Path(folder) / POISON_FILE).read_text(encoding="utf-8"))
    api = HfApi()
    try:
        repo_id = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True).repo_id
        exposed = private and not api.repo_info(repo_id, repo_type="dataset").private
        if not exposed:
            # Not upload_folder, which may split its work into several commits.
            return api.create_commit(
                repo_id,
                [CommitOperationAdd(path.name, path) for path in files],
                repo_type="dataset",
                commit_message=f"Add data poisoned with {attack['trigger']['name']}",
            ).commit_url
    except Exception as error:  # of huggingface_hub, its HTTP client or hf_xet, which share no base class
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            "push_to_hub", repo_id, f"was not pushed to the Hub ({type(error).__name__}: {reason})"
        ) from error
    raise InputError(
        "push_to_hub", repo_id, "is public already, and poisoned data are pushed privately unless told otherwise; "
        "name another repository, or pass --public (private=False)"
    )  # fmt: skip
