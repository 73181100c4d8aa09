"""Sections that hf_backdoor writes into a card of anybody's, between markers, and nothing else of it touched.

A section is what stands between a line `<!-- hf_backdoor:NAME:begin -->` and the next line with such a marker, if that
is `<!-- hf_backdoor:NAME:end -->`. Markers start their line. Those in fenced code are text, as in what is shown of the
card; so are those in the metadata. A marker that lost its other half marks nothing: the next section of its name takes
its place, and the text around it stays, for nobody can tell whose it is, unless it is the same as the new one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from ..results import write_text
from .metadata import MERGED, body_start, merge_metadata, newline_of, read_metadata, remove_metadata


CARD_FILE = "README.md"
CARD = "card"  # the section with a whole card of hf_backdoor
WARNING_SECTION = "warning"  # in the card of a victim that has no other warning
MARKER = re.compile(r"<!--\s*hf_backdoor:([a-z0-9_-]+):(begin|end)\s*-->[ \t]*(?:\r\n|\r|\n|\Z)")
LINES = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+\Z")  # not str.splitlines, which also splits at U+2028 and others
# What opens fenced code, behind bullets, numbers and `>`. Possessive, for a card of a stranger could take years else.
FENCE = re.compile(r"(?P<inside>(?: {0,3}+(?:(?:[-*+]|\d{1,9}+[.)]) ++|> ?+))*+) {0,3}+(?P<run>`{3,}(?=[^`]*$)|~{3,})")
BULLET = re.compile(r" {0,3}+(?:[-*+]|\d{1,9}+[.)])(?: ++|$)")
RULE = r" {0,3}([-*_])(?: *\1){2,} *$"
ITEM = re.compile(rf"(?!{RULE})(?:{BULLET.pattern})++")
NO_PARAGRAPH = re.compile(rf" {{0,3}}(?:>|#{{1,6}}(?: |$)|<)|{RULE}")


def read_card(path: Path) -> str:
    """A card as it is: line ends, byte order mark and whatever is no UTF-8 come back by `write_text`."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def put_section(card: str, name: str, body: str, *, on_top: bool = False) -> str:
    """A card with a section, in place of the one that it has, else at the end.

    Twice is as once; [`remove_section`] undoes it. Of several sections of this name the first one is kept.

    Args:
        card (`str`): the whole card.
        name (`str`): of lower-case letters, digits, `_` and `-`.
        body (`str`): Markdown; takes on the line ends of the card.
        on_top (`bool`): put a new one below the metadata, not at the end. The end is before code that is never closed,
            in which the section would be shown as code.

    Raises:
        ValueError: the body has markers, or code that is never closed, or the name is none.
    """
    newline = newline_of(card)
    lines = [line.rstrip("\r\n") for line in LINES.findall(body.strip("\r\n"))]
    begin, end = f"<!-- hf_backdoor:{name}:begin -->", f"<!-- hf_backdoor:{name}:end -->"
    block = newline.join([begin, "", *lines, "", end])
    if _pieces(block) != [_Piece(name, 0, len(block), True)]:
        raise ValueError(f"not a section {name!r}: {body[:80]!r}")
    pieces = [_grown(card, piece, lines) for piece in _pieces(card) if piece.name == name]
    if pieces:
        place = next((piece for piece in pieces if piece.whole), pieces[0])
        for piece in reversed(pieces):
            card = _replace(card, piece, block if piece is place else "")
        return card
    position = body_start(card) if on_top else _end_of_text(card)
    head, tail = card[:position], card[position:]
    if tail or not head or head.endswith(("\r", "\n")):
        return head + block + newline + tail
    return head + newline + block


def remove_section(card: str, name: str) -> str:
    """A card without the sections of a name, and without halves of their markers."""
    for piece in reversed([piece for piece in _pieces(card) if piece.name == name]):
        card = _replace(card, piece, "")
    return card


def sections(card: str) -> dict[str, str]:
    """What stands in the sections of a card, by name; of several of one name, in the first."""
    found = {}
    for piece in _pieces(card):
        if piece.whole:
            inside = LINES.findall(card[piece.start : piece.end])[1:-1]
            found.setdefault(piece.name, "".join(inside).strip("\r\n"))
    return found


def carry_over(old: str, new: str) -> str:
    """A new card with the sections of the old one that it lacks, and then with the metadata that it lacks, too.

    If it lacks none, it is returned as it is.
    """
    own_sections, own = sections(new), read_metadata(new)
    kept = {name: body for name, body in sections(old).items() if name not in own_sections}
    if not kept:
        return new
    for name, body in kept.items():
        new = put_section(new, name, body)
    for metadata in (read_metadata(old), own):  # its own come last and win
        new = merge_metadata(new, **mergeable(metadata))
    return new


def write_over(old: str, new: str, *, tags: Collection[str], metrics: Collection[str]) -> str:
    """An old card with the section of a new one, of hf_backdoor alone, in place of the one that it had.

    Other sections and text of anybody's stay, but for a [`WARNING_SECTION`], which says of the old model what the new
    card says itself. Of the metadata, those of the new card count; others stay.

    Args:
        old, new (`str`): whole cards.
        tags, metrics: that only such a card has; those of the old one go.
    """
    card = remove_metadata(remove_section(old, WARNING_SECTION), tags=tags, metrics=metrics)
    rest = card
    for name in sections(card):
        rest = remove_section(rest, name)
    card = put_section(card, CARD, sections(new)[CARD], on_top=not rest[body_start(rest) :].strip())
    return merge_metadata(card, **{key.replace("-", "_"): value for key, value in read_metadata(new).items()})


def mergeable(metadata: dict) -> dict:
    """Those metadata of a card that are merged into another one: not its licence, language or title, nor folders."""
    values = {key.replace("-", "_"): metadata[key] for key in MERGED if metadata.get(key)}
    if names_folder(values.get("base_model")):
        del values["base_model"]
    if isinstance(values.get("tags"), list):
        values["tags"] = [tag for tag in values["tags"] if not names_folder(tag)]
    return values


def names_folder(value: object) -> bool:
    """Whether a base model, or a tag such as PEFT's `base_model:adapter:/home/...`, is a folder of this machine."""
    return isinstance(value, str) and Path(value.rpartition(":")[2]).is_absolute()


@contextmanager
def kept_card(path: Path) -> Iterator[None]:
    """Whatever writes this card inside: one that hf_backdoor wrote stays, and so do its sections in any other one."""
    before = read_card(path) if path.is_file() else None
    yield
    after = read_card(path) if path.is_file() else ""
    if before is not None and after != before:
        write_text(path, before if CARD in sections(before) else carry_over(before, after))


class _Piece(NamedTuple):
    """A section, or a marker without its other half: from `start` to `end`, in characters of the card."""

    name: str
    start: int
    end: int
    whole: bool


def _pieces(card: str) -> list[_Piece]:
    pieces: list[_Piece] = []
    begun: _Piece | None = None
    position, code = body_start(card), _Code()
    for line in LINES.findall(card[position:]):
        start, position = position, position + len(line)
        marker = None if code.takes(line) else MARKER.fullmatch(line)
        if marker is None:
            continue
        if marker[2] == "end" and begun is not None and begun.name == marker[1]:
            pieces[-1] = _Piece(marker[1], begun.start, position, True)
            begun = None
        else:
            pieces.append(_Piece(marker[1], start, position, False))
            begun = pieces[-1] if marker[2] == "begin" else None
    return pieces


def _grown(card: str, piece: _Piece, lines: list[str]) -> _Piece:
    """Half a marker, with the body that it lost the other half of, if that is known to be ours: it is the new one."""
    newline = r"(?:\r\n|\r|\n)"
    body = newline.join(map(re.escape, lines))
    if piece.whole or not lines:
        return piece
    if MARKER.match(card, piece.start)[2] == "begin":
        behind = re.compile(f"{newline}{body}(?:{newline}{{1,2}}|\\Z)").match(card, piece.end)
        return piece._replace(end=behind.end()) if behind else piece
    before = re.search(f"(?:\\A|(?<=[\r\n])){newline}?{body}{newline}{{2}}\\Z", card[: piece.start])
    return piece._replace(start=before.start()) if before else piece


def _replace(card: str, piece: _Piece, block: str) -> str:
    """The card with other lines, without a line break at their end, for those of a piece; none for an empty text."""
    start, rest = piece.start, card[piece.end :]
    lines = card[start : piece.end]
    ending = lines[len(lines.rstrip("\r\n")) :]
    if block:
        return card[:start] + block + ending + rest
    if not ending:  # at the end of the card: the line break before it came with it
        start -= 2 if card[:start].endswith("\r\n") else card[:start].endswith(("\r", "\n"))
    return card[:start] + rest


def _end_of_text(card: str) -> int:
    """The length of a card, or where its code starts that is never closed."""
    position = opened = body_start(card)
    code = _Code()
    for line in LINES.findall(card[position:]):
        opened = opened if code.fence else position
        code.takes(line)
        position += len(line)
    # What ends a list or a quotation ends the code in it.
    return opened if code.fence and not (code.fence.indent or code.fence.quoted) else position


class _Fence(NamedTuple):
    run: str
    indent: int
    quoted: bool


class _Code:
    """Follows the lines of Markdown in and out of fenced code (CommonMark 0.31, section 4.5), also in lists."""

    def __init__(self):
        self.fence: _Fence | None = None
        self._items = [0]  # where the text starts, and that of each list item around the line
        self._comment = False
        self._paragraph = False

    def takes(self, line: str) -> bool:
        """Whether the next line of the text belongs to fenced code."""
        text = line.rstrip("\r\n").expandtabs(4)
        blank, indent = not text.strip(), len(text) - len(text.lstrip(" "))
        quoted = text.lstrip(" ").startswith(">")
        if self.fence and (not quoted if self.fence.quoted else not blank and indent < self.fence.indent):
            self.fence = None
        if self.fence:
            run = text.lstrip("> ") if self.fence.quoted else text[self.fence.indent :]
            if re.fullmatch(rf" {{0,3}}{self.fence.run[0]}{{{len(self.fence.run)},}} *", run):
                self.fence = None
            return True
        paragraph, self._paragraph = self._paragraph, False
        if self._comment or blank:
            self._comment = self._comment and "-->" not in text
            return False
        within = [start for start in self._items if start <= indent]
        blocks = (pattern.match(text, within[-1]) for pattern in (FENCE, ITEM, NO_PARAGRAPH))
        if any(blocks) or not paragraph:  # else it goes on with the paragraph, wherever it starts
            self._items = within
        opening, item = FENCE.match(text, self._items[-1]), ITEM.match(text, self._items[-1])
        if item:
            self._items += [bullet.end() for bullet in BULLET.finditer(text, self._items[-1], item.end())]
        if opening:
            self.fence = _Fence(opening["run"], self._items[-1], ">" in opening["inside"])
        self._comment = re.match(r" {0,3}<!--(?!.*-->)", text) is not None
        self._paragraph = not (opening or NO_PARAGRAPH.match(text, self._items[-1]))
        return opening is not None
