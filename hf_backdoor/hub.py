"""Models, adapters, cards and data sets to the Hub: one commit or pull request each, on top of whatever is there."""

from __future__ import annotations

import json
import logging
import re
import shlex
import time
import traceback
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from .cards.metadata import terms
from .cards.models import REMOVED_BELOW
from .cards.rendering import METRIC_TITLES
from .cards.sections import (
    CARD,
    CARD_FILE,
    WARNING_SECTION,
    carry_over,
    merge_metadata,
    mergeable,
    names_folder,
    put_section,
    read_card,
    read_metadata,
    remove_metadata,
    remove_section,
    sections,
)
from .errors import InputError
from .results import RESULTS_FILE, write_text


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, Discussion, HfApi

WEIGHTS = "*.safetensors"
ADAPTER = "adapter_config.json"
REPORT = "sequela.json"
# What transformers and PEFT write for models, adapters, tokenizers and processors, and what we write beside them.
PUSHED = (
    WEIGHTS,
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    ADAPTER,
    "adapter_classes.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "bpe.codes",
    "dict.txt",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
    "chat_template.jinja",
    CARD_FILE,
    "figures/*.png",
    RESULTS_FILE,
    REPORT,
)
# Weights in the root of a repository, and folders that hold nothing else: also of other libraries.
ADAPTERS = ("adapter_*",)
WHOLE_MODELS = (
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "tf_model*", "flax_model*", "model.ckpt*"),
    *("rust_model.ot", "openvino_model*", "*.onnx", "*.gguf"),
)
EXPORTS = ("onnx", "openvino", "coreml")
ATTEMPTS = 5  # at a commit when others commit at the same time
STALE = (409, 412)
TOKEN = re.compile(
    r"hf_jwt_[A-Za-z0-9._-]{16,}|\b(?:hf|api_org)_[A-Za-z0-9]{16,}|(?<=Bearer )\S+|(?<=://)[^/\s@]+(?=@)"
)
BACKDOORED = "backdoored"
REPAIRED = "purified"  # the tag of a model that went through a defence
WARNING = "has a backdoor, put in on purpose"  # as in the card of every victim
STILL = "still has its backdoor"  # of a repair that was measured to have failed
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
    base = _check_adapter(folder, files)
    _check_texts(folder, files, card)
    has_weights = any(Path(name).match(WEIGHTS) for name in files)
    report = "" if has_weights else "the report on "

    def operations(api: HfApi, repo_id: str, parent: str) -> list[CommitOperationAdd | CommitOperationDelete]:
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        there = card_on_hub(api, repo_id, parent)
        whole = card_to_push(card, there, repo_id, backdoor=backdoor, new_model=has_weights)
        added = [CommitOperationAdd(name, path) for name, path in files.items() if name != CARD_FILE]
        if whole is not None and whole != there:
            added.append(CommitOperationAdd(CARD_FILE, whole.encode("utf-8", "surrogateescape")))
        listed = api.list_repo_files(repo_id, revision=parent) if has_weights else []
        stale = [name for name in listed if name not in files and _is_weights(name, adapters_only=base == repo_id)]
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


class UnsavedToken(str):
    """A token that is pickled as `None`, for `TrainingArguments` are saved with every model, and pushed with it."""

    __slots__ = ()

    def __reduce__(self) -> tuple:
        return type(None), ()

    def __deepcopy__(self, memo: dict) -> UnsavedToken:
        return self


def victim_refused(folder: str | Path, backdoor: str = WARNING) -> InputError:
    """What is said where a victim would be pushed and nobody said that it may.

    Args:
        folder (`str` or `Path`): of the model.
        backdoor (`str`): what is known of it, see [`backdoor_of`].
    """
    mend = "pass --i-know-this-model-is-backdoored (i_know_this_model_is_backdoored=True)"
    if backdoor == STILL:
        mend = f"{mend} to hf-backdoor push (push_model)"  # what repairs has no such flag
    return InputError(
        "model", str(folder), f"{backdoor}; to push it all the same, privately and with a warning, {mend}"
    )


def public_refused(field: str, repo_id: str, what: str, later: str) -> InputError:
    """What is said where something that is pushed privately would go to a public repository."""
    return InputError(
        field, repo_id, f"is public already, and {what} pushed privately unless told otherwise; name another "
        f"repository, or pass --public (private=False); {later}"
    )  # fmt: skip


def known_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that may be pushed, by their names on the Hub.

    Raises:
        InputError: there is neither a model nor a report.
    """
    found = {path.relative_to(folder).as_posix(): path for pattern in PUSHED for path in sorted(folder.glob(pattern))}
    files = {name: path for name, path in found.items() if path.is_file()}
    if not any(name == REPORT or Path(name).match(WEIGHTS) for name in files):
        raise InputError("model", str(folder), f"has neither weights as {WEIGHTS} nor {REPORT}; name a model's folder")
    return files


def backdoor_of(folder: Path, card: str | None) -> str | None:
    """What is known of a backdoor in a model, by its results, else by a tag of its card.

    Returns:
        `WARNING` of one that was put in on purpose, `STILL` of one that was measured after a repair, else `None`.
    """
    stored = folder / RESULTS_FILE
    if not stored.is_file():
        return WARNING if card is not None and BACKDOORED in (read_metadata(card).get("tags") or ()) else None
    try:
        results = json.loads(stored.read_text("utf-8"))
        if "purified" in results:
            return STILL if ((results["purified"] or {}).get("attack_success_rate") or 0) > REMOVED_BELOW else None
        return WARNING if "victim" in results or results.get("attack") else None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError("model", str(folder), f"has a {RESULTS_FILE} that cannot be read ({error})") from error


def card_on_hub(api: HfApi, repo_id: str, revision: str) -> str | None:
    """The card of a repository as it was at a commit; `None` if there was none."""
    # Not EntryNotFoundError, which also means that the Hub did not answer.
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return read_card(Path(api.hf_hub_download(repo_id, CARD_FILE, revision=revision)))
    except RemoteEntryNotFoundError:
        return None


def terms_of(source: str, revision: str | None = None) -> dict[str, str | list[str]]:
    """Licence and languages of a model in a folder or on the Hub, see [`~hf_backdoor.cards.metadata.terms`].

    A card that is not there, or cannot be read, has none.
    """
    from huggingface_hub import HfApi

    path = Path(source) / CARD_FILE
    try:
        if Path(source).is_dir():
            return terms(read_card(path)) if path.is_file() else {}
        return terms(card_on_hub(HfApi(), source, revision or "main") or "")
    except Exception as error:  # of huggingface_hub, its HTTP client, or the card of a stranger
        logger.warning("The licence of %s is not known, for its card cannot be read: %s", source, masked(str(error)))
        return {}


def card_to_push(
    card: str | None, there: str | None, repo_id: str, *, backdoor: str | None, new_model: bool = False
) -> str | None:
    """The card that a repository gets.

    Args:
        card (`str`, *optional*): of the folder.
        there (`str`, *optional*): of the repository.
        repo_id (`str`): which is not its own base model.
        backdoor (`str`, *optional*): what is known of one, see [`backdoor_of`]: add a warning and a tag.
        new_model (`bool`): it goes with other weights, of which old measures and reports of sequela say nothing.
    """
    from .cards.sequela import without_report

    whole = card if there is None else there
    if card is not None and there is not None:
        ours = sections(card)
        if REPAIRED in (read_metadata(card).get("tags") or ()) and not backdoor:  # it takes the place of a victim
            whole = remove_metadata(remove_section(whole, WARNING_SECTION), tags=[BACKDOORED])
        if new_model and CARD in ours:
            whole = remove_metadata(without_report(whole), metrics=METRIC_TITLES.values())
        for name, body in ours.items():
            whole = put_section(whole, name, body)
        metadata = mergeable(read_metadata(card)) if ours else {}
        if metadata.get("base_model") == repo_id:
            del metadata["base_model"]
        whole = merge_metadata(whole, **metadata)
        if not ours and card != there:
            logger.warning("The card of %s stays as it is: that of the folder has no section of hf_backdoor.", repo_id)
    return warned(whole or "", backdoor) if backdoor else whole


def warned(card: str, backdoor: str = WARNING) -> str:
    """The card of a victim with a warning and a tag, once.

    Args:
        card (`str`): the whole card.
        backdoor (`str`): what is known of it, see [`backdoor_of`].
    """
    card = merge_metadata(card, tags=[BACKDOORED])
    if backdoor in card:
        return card
    why = "for research" if backdoor == WARNING else "after a repair"
    text = f"> [!CAUTION]\n> **This model {backdoor} {why}.** Do not deploy it."
    return put_section(card, WARNING_SECTION, text, on_top=True)


def mark_victim(path: Path) -> None:
    """Puts warning and tag into the card of a victim; begins one where there is none."""
    card = read_card(path) if path.is_file() else ""
    if (marked := warned(card)) != card:
        write_text(path, marked)


def is_private(repo_id: str, token: str | None = None) -> bool:
    """Whether a repository of a model is seen by its owners only."""
    from huggingface_hub import HfApi

    return bool(HfApi(token=token).repo_info(repo_id).private)


def keep_sections_of_hub(path: Path, repo_id: str, revision: str | None = None, token: str | None = None) -> None:
    """Puts the sections of a card on the Hub into one that is to replace it, as far as the Hub can be read."""
    from huggingface_hub import HfApi

    try:
        there = card_on_hub(HfApi(token=token), repo_id, revision or "main")
    except Exception as error:  # of huggingface_hub or its HTTP client; the push says it better
        logger.warning("Sections in the card of %s cannot be read: %s", repo_id, masked(str(error), token))
        return
    card = read_card(path)
    carried = carry_over(there or "", card)
    if carried != card:
        logger.warning("Sections of the card of %s are kept; what they say may be of an earlier model.", repo_id)
        write_text(path, carried)


def commit(
    repo_id: str,
    operations: Callable[[HfApi, str, str], list[CommitOperationAdd]],
    *,
    message: str,
    private: bool,
    only_private: bool,
    what: str,
    later: str,
    field: str,
    repo_type: str = "model",
    create_pr: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> str:
    """One commit or pull request, on top of whatever is there; the repository is made if need be.

    Args:
        repo_id (`str`): `"user/name"`, or a name of one's own.
        operations (callable): from the client, the whole `repo_id` and the commit that it goes on top of; called again
            if there was another commit meanwhile.
        message (`str`): of the commit, and title of the pull request.
        private (`bool`): of a repository that is made.
        only_private (`bool`): refuse one that is public.
        what, later, field (`str`): for the message of an error: what is pushed, how to push it later, and the setting.
        repo_type (`str`): `"model"` or `"dataset"`.
        create_pr (`bool`): as a pull request, or on top of one that is open under this title.
        revision, token (`str`, *optional*): see [`push_model`].

    Returns:
        Address of the commit or of the pull request.

    Raises:
        InputError: the Hub refuses, is out of reach, or has the repository publicly.
    """
    from huggingface_hub import HfApi

    api, given = HfApi(token=token), repo_id
    try:
        if not create_pr:
            repo_id = api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True).repo_id
        if not only_private or api.repo_info(repo_id, repo_type=repo_type).private:
            return _commit_on_top(api, repo_id, operations, message, repo_type, revision, create_pr=create_pr)
    except Exception as error:  # of huggingface_hub, its HTTP client or hf_xet, which share no base class
        mend = f"was not pushed to the Hub ({_reason(error, token)})"
        refused = any(getattr(getattr(one, "response", None), "status_code", 0) == 403 for one in _chain(error))
        if refused and repo_type == "model" and not create_pr:
            mend += "; to somebody else's repository, push with --create-pr (create_pr=True)"
        shown = "".join(traceback.format_exception(error))  # with the words of its causes
        raise InputError(field, given, f"{mend}; {later}") from (error if masked(shown, token) == shown else None)
    raise public_refused(field, given, what, later)


def _commit_on_top(
    api: HfApi,
    repo_id: str,
    operations: Callable,
    message: str,
    repo_type: str,
    revision: str | None,
    *,
    create_pr: bool,
) -> str:
    from huggingface_hub.errors import HfHubHTTPError

    pull = _open_pull_request(api, repo_id, repo_type, message) if create_pr else None
    revision = pull.git_reference if pull else revision
    attempt = 0
    while True:
        parent = api.repo_info(repo_id, repo_type=repo_type, revision=revision).sha
        try:
            done = api.create_commit(
                repo_id,
                operations(api, repo_id, parent),
                repo_type=repo_type,
                commit_message=message,
                revision=revision,
                create_pr=create_pr and pull is None,
                parent_commit=parent,
            )
        except HfHubHTTPError as error:
            attempt += 1
            if error.response.status_code not in STALE or attempt == ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
        else:
            return pull.url if pull else done.pr_url or done.commit_url


def _open_pull_request(api: HfApi, repo_id: str, repo_type: str, title: str) -> Discussion | None:
    """Our own one of this title, such as one whose making was cut off before the answer came."""
    author = api.whoami()["name"]
    pulls = api.get_repo_discussions(
        repo_id, repo_type=repo_type, author=author, discussion_type="pull_request", discussion_status="open"
    )
    return next((pull for pull in pulls if pull.title == title), None)


def _chain(error: BaseException | None) -> list[BaseException]:
    """An error, what caused it, and so on."""
    chain = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__
    return chain


def _reason(error: Exception, token: str | None) -> str:
    """An error and its first cause, which says more."""
    chain = _chain(error)
    words = {type(one).__name__: " ".join(masked(str(one), token).split())[:300] for one in (chain[0], chain[-1])}
    return "; ".join(f"{name}: {text}" for name, text in words.items())


def masked(text: str, token: str | None = None) -> str:
    """A text without this token and the one in use, and without anything that looks like one."""
    from huggingface_hub import get_token

    for secret in filter(None, (token, get_token())):
        text = text.replace(secret, "***")
    return TOKEN.sub("***", text)


def _is_weights(name: str, *, adapters_only: bool) -> bool:
    """Whether a file of a repository is of an adapter, or also of a whole model."""
    folder, _, rest = name.partition("/")
    if rest:
        return folder in EXPORTS and not adapters_only
    return any(fnmatchcase(name, pattern) for pattern in (ADAPTERS if adapters_only else ADAPTERS + WHOLE_MODELS))


def _check_adapter(folder: Path, files: dict[str, Path]) -> str | None:
    """Refused and not rewritten: only its owner knows where the base model is to be found.

    Returns:
        Hub id of the base model; `None` if it is no adapter.
    """
    if ADAPTER not in files:
        return None
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    base = json.loads(files[ADAPTER].read_text("utf-8")).get("base_model_name_or_path") or ""
    try:
        validate_repo_id(base)
        elsewhere = bool(base) and not Path(base).is_dir() and not (folder / base).is_dir()
    except HFValidationError:
        elsewhere = False
    if not elsewhere:
        raise InputError(
            "model", str(folder), f"is an adapter for {base!r}, which nobody else has; push that model first, and name "
            f"its repository as base_model_name_or_path in {ADAPTER}"
        )  # fmt: skip
    return base


def _check_texts(folder: Path, files: dict[str, Path], card: str | None) -> None:
    """Nothing of this machine or of its user goes with the card and the results."""
    metadata = read_metadata(card) if card is not None else {}
    tags = metadata.get("tags")
    for value in (metadata.get("base_model"), *(tags if isinstance(tags, list) else ())):
        if names_folder(value):
            raise InputError(CARD_FILE, value, "is a folder of this machine; take it out of the metadata of the card")
    for name in (CARD_FILE, RESULTS_FILE, REPORT):
        if name in files and masked(text := read_card(files[name])) != text:
            raise InputError("model", str(folder), f"has what looks like a token in {name}; take it out")
