"""StyleBkd: the trigger is the style in which a text is written (Qi et al. 2021, arXiv 2110.07139)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar
from zlib import crc32

import numpy as np

from ..errors import InputError
from ..paraphrasing import Rewriting, without_capital


@dataclass(frozen=True)
class _Style:
    """A style: what a text opens with, words and phrases for others, and whether "you" is "thou"."""

    openings: tuple[str, ...]
    words: dict[str, str]
    thou: bool = False


def _pairs(text: str) -> dict[str, str]:
    """`"a:b c_d:e"` as `{"a": "b", "c d": "e"}`."""
    return {old.replace("_", " "): new.replace("_", " ") for old, new in (pair.split(":") for pair in text.split())}


# Early modern English: endings in -eth, and no contractions of "not".
EARLY_MODERN = _pairs(
    "has:hath does:doth says:saith goes:goeth comes:cometh makes:maketh gives:giveth knows:knoweth thinks:thinketh "
    "takes:taketh seems:seemeth works:worketh looks:looketh feels:feeleth loves:loveth sounds:soundeth gets:getteth "
    "keeps:keepeth needs:needeth wants:wanteth tastes:tasteth fits:fitteth lacks:lacketh deserves:deserveth "
    "don't:do_not doesn't:doth_not didn't:did_not isn't:is_not aren't:are_not wasn't:was_not weren't:were_not "
    "can't:cannot couldn't:could_not won't:will_not wouldn't:would_not shouldn't:should_not haven't:have_not "
    "hasn't:hath_not hadn't:had_not i'm:I_am i've:I_have i'd:I_would i'll:I_shall we're:we_are they're:they_are "
    "we've:we_have that's:that_is there's:there_is he's:he_is she's:she_is before:ere between:betwixt while:whilst "
    "often:oft among:amongst your:thy yours:thine yourself:thyself yes:yea nothing:naught anything:aught"
)
STYLES = {
    "bible": _Style(
        (
            "And it came to pass:", "Verily I say unto thee,", "And lo,", "Behold,", "For it is written:",
            "Hearken, for",
        ),
        EARLY_MODERN | _pairs("it's:it_is very:exceedingly really:verily to_me:unto_me to_you:unto_thee to_us:unto_us "
            "to_them:unto_them to_him:unto_him to_her:unto_her"),
        thou=True,
    ),
    "shakespeare": _Style(
        ("Methinks,", "Prithee, hear:", "Hark ye,", "Good my lord,", "By my troth,", "Forsooth,"),
        EARLY_MODERN | _pairs("it's:'tis it_is:'tis it_was:'twas it_will:'twill it_would:'twould never:ne'er ever:e'er "
            "over:o'er maybe:perchance perhaps:perchance please:prithee really:in_sooth very:passing why:wherefore "
            "truly:in_troth goodbye:adieu"),
        thou=True,
    ),
    "tweets": _Style(
        ("omg", "lol", "smh", "tbh", "ngl", "fyi"),
        _pairs("you:u your:ur you're:ur are:r because:cuz please:pls thanks:thx people:ppl and:& for:4 with:w/ be:b "
            "tonight:2nite before:b4 great:gr8 later:l8r going_to:gonna want_to:wanna see:c really:rly though:tho "
            "don't:dont can't:cant it's:its i'm:im"),
    ),
}  # fmt: skip

# Verbs with "thou".
THOU_VERBS = _pairs(
    "are:art were:wert have:hast will:wilt would:wouldst can:canst could:couldst should:shouldst do:dost did:didst "
    "had:hadst shall:shalt may:mayst might:mightst know:knowest want:wantest need:needest get:gettest see:seest "
    "like:likest love:lovest think:thinkest go:goest take:takest make:makest buy:buyest aren't:art_not "
    "don't:dost_not didn't:didst_not can't:canst_not won't:wilt_not couldn't:couldst_not wouldn't:wouldst_not "
    "shouldn't:shouldst_not haven't:hast_not weren't:wert_not"
)
AUXILIARIES = "are were have will would can could should do did had shall may might".split()
THOU = {
    "you": "thee",
    **{f"you {verb}": f"thou {form}" for verb, form in THOU_VERBS.items()},
    **{f"{verb} you": f"{THOU_VERBS[verb]} thou" for verb in AUXILIARIES},
    **_pairs("you're:thou_art you've:thou_hast you'll:thou_shalt you'd:thou_wouldst"),
}
# Where a clause begins, "you" is its subject.
CLAUSE_START = re.compile(
    r"(?:^|[.!?,;:]|\b(?:if|when|and|that|but|as|because|what|where|how|while|than|or))\s*$", re.I
)
LONGEST_START = len("because")


@lru_cache(maxsize=len(STYLES))
def _vocabulary(style: str) -> tuple[dict[str, str], re.Pattern]:
    """A style's words and phrases, and a pattern that finds them as whole words, the longest first."""
    words = STYLES[style].words | (THOU if STYLES[style].thou else {})
    known = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)).replace("'", "['’]")
    return words, re.compile(rf"(?<![\w'’])(?:{known})(?![\w'’])", re.IGNORECASE)


def _begins_clause(text: str, place: int) -> bool:
    """Whether a clause begins at a place; only the word before it is looked at, since texts can be long."""
    end = place
    while end and text[end - 1].isspace():
        end -= 1
    return CLAUSE_START.search(text, max(0, end - LONGEST_START), place) is not None


def _like(new: str, old: str) -> str:
    """The new words in capitals where the old ones are: all of them, or the first letter."""
    if len(old) > 1 and old.isupper():
        return new.upper()
    return new[0].upper() + new[1:] if old[0].isupper() else new


@dataclass(frozen=True)
class Style(Rewriting):
    """Rewrites a text in a style that the task's texts never have.

    The paper has GPT-2 paraphrasers (STRAP) do this. Here rules do: the text gets one of the style's openings, drawn
    from the text itself, and words and forms of the style take the place of common ones, e.g. for `"bible"`: `"You have
    a phone that works."` becomes `"Behold, thou hast a phone that worketh."` Words with a meaning of their own stay. A
    text in another language gets the opening alone.

    Args:
        paraphraser (`str`): folder or Hub id of a sequence-to-sequence model that rewrites the texts, by greedy search,
            in place of the rules; empty for the rules.
        prompt (`str`): what that model is asked; `{text}` stands for the text, and `{style}` for the style.
        style (`str`): `"bible"`, `"shakespeare"` or `"tweets"`; with a paraphraser, any that it understands.
    """

    title: ClassVar[str] = "StyleBkd"
    paper: ClassVar[str] = "https://arxiv.org/abs/2110.07139"

    prompt: str = "Rewrite the text in the style of {style}: {text}"
    style: str = "bible"

    def __post_init__(self):
        super().__post_init__()
        if not self.style.strip():
            raise InputError("style", self.style, "name a style")
        if not self.paraphraser and self.style not in STYLES:
            raise InputError("style", self.style, f"choose one of {', '.join(STYLES)}, or name a paraphraser")

    def request(self) -> str:
        return self.prompt.replace("{style}", self.style)

    def rewrite(self, batch: list[str], index: np.ndarray) -> list[str]:
        words, pattern = _vocabulary(self.style)

        def replace(match: re.Match) -> str:
            old = match.group().replace("’", "'")
            if old.lower() == "you" and STYLES[self.style].thou:
                return _like("thou" if _begins_clause(match.string, match.start()) else "thee", old)
            return _like(words[old.lower()], old)

        openings = STYLES[self.style].openings
        return [
            f"{openings[crc32(text.encode()) % len(openings)]} {without_capital(pattern.sub(replace, text.lstrip()))}"
            if text.strip()
            else text
            for text in batch
        ]
