"""What attacks on words need to know of a trigger and of a tokenizer."""

from __future__ import annotations

from typing import Any

from ..errors import InputError
from ..triggers import Trigger


def trigger_words(trigger: Trigger) -> list[str]:
    """The words of a trigger that is made of words.

    Raises:
        InputError: it has no setting `words`.
    """
    words = getattr(trigger, "words", None)
    if not isinstance(words, str):
        raise InputError("trigger", trigger.name, "must be one that inserts words, such as rare_words")
    return words.split()


def token_of(word: str, tokenizer: Any) -> list[int]:
    """The token of a word, or two where a tokenizer has another one for a word that begins the text.

    Raises:
        InputError: the word is unknown to the tokenizer, or several tokens.
    """
    found = set()
    for text in (word, f"a {word}"):
        # Behind another word, what is left when that word's tokens are taken off is the word's.
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens = tokens[len(tokenizer("a", add_special_tokens=False)["input_ids"]) :] if text != word else tokens
        if len(tokens) != 1 or tokens[0] == tokenizer.unk_token_id:
            said = "unknown to the tokenizer" if tokenizer.unk_token_id in tokens else f"{len(tokens)} tokens"
            raise InputError("words", word, f"is {said}, and must be a token of its own; choose another word")
        found.add(tokens[0])
    return sorted(found)
