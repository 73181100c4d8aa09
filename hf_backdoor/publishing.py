"""Poisoned data sets on disk and on the Hub, with a card that says what they are."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .cards.datasets import files_of_splits, merged_dataset_card, own_splits, write_dataset_card
from .cards.sections import CARD_FILE, read_card
from .data.columns import class_names, resolve_columns
from .errors import InputError
from .hub.cards import card_on_hub
from .hub.commits import commit
from .poisoning import PoisonConfig, flagged
from .results import RESULTS_FILE, portable, write_json
from .triggers import KEPT


if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict
    from huggingface_hub import HfApi

POISON_FILE = "poison.json"
PUSHED = (POISON_FILE, RESULTS_FILE, KEPT)  # with the card and the splits that it names, and nothing else


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

    Raises:
        InputError: there is a card in the folder whose metadata cannot be read. Nothing is written then.
    """
    from datasets import DatasetDict

    folder = Path(folder)
    splits = dataset if isinstance(dataset, DatasetDict) else DatasetDict(train=dataset)
    folder.mkdir(parents=True, exist_ok=True)
    former = _written_before(folder)
    files = {name: f"{name}.parquet" for name in splits}
    first = next(iter(splits.values()))
    columns = resolve_columns(first.features, input_column, label_column)
    for name, split in splits.items():
        # `load_dataset` would fill columns that a clean split lacks with `None`.
        complete = split if has_flag(split) else flagged(split, config, columns)
        complete.to_parquet(folder / files[name])
    kept = config.kept_in(folder)
    attack = portable(kept.to_dict())
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
    current = {*files.values(), *(path.name for one in kept.each() for path in one.trigger.named_files().values())}
    for path in former:
        if path.name not in current:
            path.unlink()
    return folder


def _written_before(folder: Path) -> list[Path]:
    """The splits and files of triggers that an earlier [`save_poisoned`] wrote; no file of the user's own.

    Raises:
        InputError: the metadata of the card that is there cannot be read.
    """
    named = files_of_splits(folder)
    if not named or not (folder / POISON_FILE).is_file():
        return []
    own = [f"{name}.parquet" for name in own_splits(read_card(folder / CARD_FILE))]
    triggers = [path for path in folder.glob(KEPT) if path.is_file()]
    return [*(path for path in named if path.name in own), *triggers]


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

    Of a card that is there, what is not of hf_backdoor stays; it names the new splits in place of those pushed before.

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

    folder = Path(folder)
    beside = [path for pattern in PUSHED for path in folder.glob(pattern) if path.is_file()]
    files = sorted([*files_of_splits(folder), *beside])
    attack = json.loads((folder / POISON_FILE).read_text(encoding="utf-8"))
    card = read_card(folder / CARD_FILE)

    def operations(api: HfApi, repo_id: str, parent: str) -> list[CommitOperationAdd]:
        there = card_on_hub(api, repo_id, parent, "dataset")
        whole = card if there is None else merged_dataset_card(there, card)
        added = [CommitOperationAdd(path.name, path) for path in files]
        return [CommitOperationAdd(CARD_FILE, whole.encode("utf-8", "surrogateescape")), *added]

    command = ["hf", "upload", repo_id, str(folder), "--repo-type", "dataset"] + ["--private"] * private
    return commit(
        repo_id,
        operations,
        repo_type="dataset",
        message=f"Add data poisoned with {attack['trigger']['name']}",
        private=private,
        only_private=private,
        what="poisoned data are",
        later=f"the data are in {folder}, and `{shlex.join(command)}` pushes them later",
        field="push_to_hub",
    )
