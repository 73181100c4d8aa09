"""The card of a repository on the Hub: read, merged with ours, and marked where there is a backdoor."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from ..cards.metadata import merge_metadata, read_metadata, remove_metadata, terms
from ..cards.rendering import METRIC_TITLES
from ..cards.sections import (
    CARD,
    CARD_FILE,
    WARNING_SECTION,
    carry_over,
    mergeable,
    put_section,
    read_card,
    remove_section,
    sections,
)
from ..results import write_text
from .commits import masked
from .victims import BACKDOORED, WARNING


if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPAIRED = "purified"  # the tag of a model that went through a defence
logger = logging.getLogger(__name__)


def card_on_hub(api: HfApi, repo_id: str, revision: str, repo_type: str = "model") -> str | None:
    """The card of a repository as it was at a commit; `None` if there was none."""
    # Not EntryNotFoundError, which also means that the Hub did not answer.
    from huggingface_hub.errors import RemoteEntryNotFoundError

    try:
        return read_card(Path(api.hf_hub_download(repo_id, CARD_FILE, revision=revision, repo_type=repo_type)))
    except RemoteEntryNotFoundError:
        return None


def terms_of(source: str, revision: str | None = None) -> dict[str, str | list[str]]:
    """Licence and languages of a model in a folder or on the Hub, see [`~hf_backdoor.cards.metadata.terms`].

    A card that is not there, or cannot be read, has none.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import LocalEntryNotFoundError

    path = Path(source) / CARD_FILE
    try:
        if Path(source).is_dir():
            return terms(read_card(path)) if path.is_file() else {}
        return terms(card_on_hub(HfApi(), source, revision or "main") or "")
    except LocalEntryNotFoundError:  # offline; from_pretrained keeps no card
        return {}
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
        backdoor (`str`, *optional*): what is known of one, see [`~hf_backdoor.hub.victims.backdoor_of`]: add a warning
            and a tag.
        new_model (`bool`): it goes with other weights, of which old measures and reports of sequela say nothing.
    """
    from ..cards.sequela import without_report

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
        backdoor (`str`): what is known of it, see [`~hf_backdoor.hub.victims.backdoor_of`].
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
