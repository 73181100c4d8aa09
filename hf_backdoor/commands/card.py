"""Make the model card again from the results beside a model.

Example: hf-backdoor card --model purified
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..config import ConfigParser
from ..errors import InputError
from .options import option


@dataclass
class CardOptions:
    """Where the results are."""

    model: str | None = option(None, "Folder that purify, train or demo wrote.")


def main(argv: list[str]) -> None:
    from jinja2 import UndefinedError

    from ..cards import write_card
    from ..results import RESULTS_FILE, SCHEMA_VERSION

    (options,) = ConfigParser([CardOptions], "hf-backdoor card", __doc__).parse(argv)
    if options.model is None:
        raise InputError("model", None, "name the model's folder with --model")
    source = Path(options.model) / RESULTS_FILE
    try:
        results = json.loads(source.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError("model", options.model, f"has no readable {RESULTS_FILE} ({error})") from error
    head = (results.get("schema_version"), results.get("command")) if isinstance(results, dict) else None
    if head not in [(SCHEMA_VERSION, command) for command in ("purify", "train", "demo")]:
        raise InputError("model", options.model, f"{RESULTS_FILE} is not from this version's purify, train or demo")
    try:
        card = write_card(Path(options.model), results)
    except (LookupError, TypeError, AttributeError, UndefinedError) as error:
        raise InputError(
            "model", options.model, f"{RESULTS_FILE} lacks what a card is made of ({error!r}); run the command again"
        ) from error
    print(f"Written to {card}")
