"""Poisoned data sets on disk and on the Hub, with a card that says what they are."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards import write_dataset_card
from .data.columns import class_names, resolve_columns
from .errors import InputError
from .hub.commits import commit
from .poisoning import PoisonConfig, flagged
from .results import RESULTS_FILE, portable, write_json


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
    attack = portable(config.kept_in(folder).to_dict())
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
    write_json(folder / POISON_FILE, attack)
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
        InputError: as [`push_folder`]; the files are kept where the message says.
    """
    with ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="poisoned-")
        stack.callback(shutil.rmtree, folder)
        save_poisoned(dataset, folder, config, **kwargs)
        try:
            return push_folder(folder, repo_id, private=private)
        except InputError:
            stack.pop_all()
            raise


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
            wanted; the message says how to push later.
    """
    from huggingface_hub import CommitOperationAdd

    files = sorted(path for pattern in PUSHED for path in Path(folder).glob(pattern))
    attack = json.loads((Path(folder) / POISON_FILE).read_text(encoding="utf-8"))
    command = ["hf", "upload", repo_id, str(folder), "--repo-type", "dataset"] + ["--private"] * private
    return commit(
        repo_id,
        lambda api, repo_id, parent: [CommitOperationAdd(path.name, path) for path in files],
        repo_type="dataset",
        message=f"Add data poisoned with {attack['trigger']['name']}",
        private=private,
        only_private=private,
        what="poisoned data are",
        later=f"the data are in {folder}, and `{shlex.join(command)}` pushes them later",
        field="push_to_hub",
    )
