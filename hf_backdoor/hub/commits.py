"""One commit or pull request on top of whatever a repository has, and what is said where that fails."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import InputError


if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, Discussion, HfApi

ATTEMPTS = 5  # at a commit when others commit at the same time
STALE = (409, 412)
TOKEN = re.compile(
    r"hf_jwt_[A-Za-z0-9._-]{16,}|\b(?:hf|api_org)_[A-Za-z0-9]{16,}|(?<=Bearer )\S+|(?<=://)[^/\s@]+(?=@)"
)


class UnsavedToken(str):
    """A token that is pickled as `None`, for `TrainingArguments` are saved with every model, and pushed with it."""

    __slots__ = ()

    def __reduce__(self) -> tuple:
        return type(None), ()

    def __deepcopy__(self, memo: dict) -> UnsavedToken:
        return self


def public_refused(field: str, repo_id: str, what: str, later: str) -> InputError:
    """What is said where something that is pushed privately would go to a public repository."""
    return InputError(
        field, repo_id, f"is public already, and {what} pushed privately unless told otherwise; name another "
        f"repository, or pass --public (private=False); {later}"
    )  # fmt: skip


def is_private(repo_id: str, token: str | None = None) -> bool:
    """Whether a repository of a model is seen by its owners only."""
    from huggingface_hub import HfApi

    return bool(HfApi(token=token).repo_info(repo_id).private)


def repository(api: HfApi, repo_id: str) -> str:
    """Its present name, which may be another than it is known by; one that cannot be seen keeps the name given."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return api.repo_info(repo_id).id
    except HfHubHTTPError:
        return repo_id


def commit(
    repo_id: str,
    operations: Callable[[HfApi, str, str], list[CommitOperationAdd | CommitOperationDelete]],
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
        revision, token (`str`, *optional*): see [`~hf_backdoor.hub.push_model`].

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
