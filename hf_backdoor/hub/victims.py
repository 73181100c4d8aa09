"""What is known of a backdoor in a model, and what is said before such a one is pushed."""

from __future__ import annotations

import json
from pathlib import Path

from ..cards.metadata import read_metadata
from ..cards.models import REMOVED_BELOW, VICTIM_ABOVE
from ..errors import InputError
from ..results import RESULTS_FILE


BACKDOORED = "backdoored"
WARNING = "has a backdoor, put in on purpose"  # as in the card of every victim
STILL = "still has its backdoor"  # of a repair that was measured to have left more than half of it


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
            before, after = ((results.get(of) or {}).get("attack_success_rate") or 0 for of in ("suspect", "purified"))
            return STILL if before > VICTIM_ABOVE and after > max(REMOVED_BELOW, before / 2) else None
        return WARNING if "victim" in results or results.get("attack") else None
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError("model", str(folder), f"has a {RESULTS_FILE} that cannot be read ({error})") from error


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
