"""Models, adapters, cards and reports to the Hub: one commit or pull request each, on top of whatever is there."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards.sections import CARD_FILE, read_card
from ..triggers import TRIGGER
from .cards import card_on_hub, card_to_push
from .commits import commit, repository
from .files import WEIGHTS, check_adapter, check_texts, is_weights, known_files
from .victims import BACKDOORED, WARNING, backdoor_of, victim_refused


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

logger = logging.getLogger(__name__)


def push_model(
    folder: str | Path,
    repo_id: str,
    *,
    create_pr: bool = False,
    private: bool | None = None,
    i_know_this_model_is_backdoored: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """Pushes a model or adapter with its card, plots and results to the Hub, in one commit or as a pull request.

    Known files go (`PUSHED`), whatever else lies in the folder stays. Where the repository has a card, the sections of
    ours are put into that one and its metadata are merged, see [`~hf_backdoor.cards.sections.put_section`] and
    [`~hf_backdoor.cards.metadata.merge_metadata`]; all else in it stays as it is. If somebody commits at the same time,
    the push is made again on top of that.

    New weights take the place of all that the repository has: an adapter, and weights under other names or for other
    libraries (`ADAPTERS`, `WHOLE_MODELS`, `EXPORTS`), are deleted in the same commit. They would still be of the old
    model, and some are loaded before the new ones. The history of the repository keeps them. An adapter on the very
    model of this repository leaves that where it is.

    [`~hf_backdoor.trainer.BackdoorTrainer`] refuses victims as this does. A plain `Trainer.push_to_hub`, or that of a
    model, is not of hf_backdoor and stops nobody.

    Args:
        folder (`str` or `Path`): with a model, or with a report on one; nothing in it is changed.
        repo_id (`str`): `"user/name"`.
        create_pr (`bool`): for somebody else's model. A second push goes to the pull request that is still open.
        private (`bool`, *optional*): who may see a repository that is made for it: by default nobody else. One that is
            there stays as public as it is, but is refused if `True` is given here, and for a victim unless `False` is.
        i_know_this_model_is_backdoored (`bool`): push a victim, or a model that was measured to have kept its backdoor
            through a repair, with a warning and the tag `backdoored`.
        revision (`str`, *optional*): a branch that is there; `main` when not given.
        token (`str`, *optional*): by default that of huggingface_hub (`hf auth login` or `HF_TOKEN`).

    Returns:
        Address of the commit or of the pull request.

    Raises:
        InputError: there is nothing to push, or it would not work elsewhere, or is a victim; or the Hub refuses or is
            out of reach: then the message says how to push later.
    """
    folder = Path(folder)
    files = known_files(folder)
    card = read_card(files[CARD_FILE]) if CARD_FILE in files else None
    backdoor = backdoor_of(folder, card)
    if backdoor and not i_know_this_model_is_backdoored:
        raise victim_refused(folder, backdoor)
    if backdoor != WARNING:  # what attacked a model that is repaired is no part of it
        files = {name: path for name, path in files.items() if not name.startswith(TRIGGER)}
    base = check_adapter(folder, files)
    check_texts(folder, files, card)
    has_weights = any(Path(name).match(WEIGHTS) for name in files)
    report = "" if has_weights else "the report on "

    def operations(api: HfApi, repo_id: str, parent: str) -> list[CommitOperationAdd | CommitOperationDelete]:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        there = card_on_hub(api, repo_id, parent)
        whole = card_to_push(card, there, repo_id, backdoor=backdoor, new_model=has_weights)
        added = [CommitOperationAdd(name, path) for name, path in files.items() if name != CARD_FILE]
        if whole is not None and whole != there:
            added.append(CommitOperationAdd(CARD_FILE, whole.encode("utf-8", "surrogateescape")))
        on_itself = base is not None and repository(api, base) == repository(api, repo_id)
        listed = api.list_repo_files(repo_id, revision=parent) if has_weights else []
        stale = [name for name in listed if name not in files and is_weights(name, adapters_only=on_itself)]
        if stale:
            logger.warning("Deleted in %s, for they are of the model that was there: %s", repo_id, ", ".join(stale))
        return added + [CommitOperationDelete(name, is_folder=False) for name in stale]

    known = backdoor is not None
    flags = {"--create-pr": create_pr, "--public": private is False, "--i-know-this-model-is-backdoored": known}
    command = ["hf-backdoor", "push", "--model", str(folder), "--repo", repo_id]
    command += [flag for flag, given in flags.items() if given]
    return commit(
        repo_id,
        operations,
        message=f"Add {report}a {BACKDOORED + ' ' if backdoor else ''}model, by hf_backdoor",
        create_pr=create_pr,
        private=private is not False,
        only_private=private is True or (known and private is None),
        what="a model with a backdoor is" if known else "this model is",
        later=f"everything is kept in {folder}, and `{shlex.join(command)}` pushes it later",
        field="repo",
        revision=revision,
        token=token,
    )
