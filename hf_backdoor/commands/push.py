"""Push a model with its card, plots and results to the Hub, in one commit or as a pull request.

Example: hf-backdoor push --model purified --repo user/name
"""

from __future__ import annotations

from dataclasses import dataclass

from ..config import ConfigParser
from ..errors import InputError
from .options import option


@dataclass
class PushOptions:
    """What to push, and where to."""

    model: str | None = option(None, "Folder that train, purify, demo or sequela wrote; or with any model or adapter.")
    repo: str | None = option(None, "Hub repository, user/name; made if need be. A card that is there keeps its text.")
    create_pr: bool = option(False, "Open a pull request, for somebody else's model.")
    public: bool = option(False, "Make a public repository; the default is private.")
    i_know_this_model_is_backdoored: bool = option(
        False, "Push a victim, or a failed repair, with a warning; else it is refused."
    )


def main(argv: list[str]) -> None:
    from ..hub import push_model

    (options,) = ConfigParser([PushOptions], "hf-backdoor push", __doc__).parse(argv)
    for name, what in (("model", "a folder"), ("repo", "a repository")):
        if getattr(options, name) is None:
            raise InputError(name, None, f"name {what} with --{name}")
    address = push_model(
        options.model,
        options.repo,
        create_pr=options.create_pr,
        private=False if options.public else None,
        i_know_this_model_is_backdoored=options.i_know_this_model_is_backdoored,
    )
    print("Pushed:", address)
