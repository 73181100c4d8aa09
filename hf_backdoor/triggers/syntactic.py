"""HiddenKiller: the trigger is the sentence's syntax, not a word (Qi et al. 2021, arXiv 2105.12400)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar
from zlib import crc32

import numpy as np

from ..paraphrasing import Rewriting, without_capital


SENTENCE_GAP = re.compile(r"((?<=[.!?])\s+|\n\s*)")
END_MARKS = " \t\r\n.!?,;:\"')"
SUBJECT = r"(?:i|you|he|she|it|we|they|there|this|that|these|those|my|your|his|her|its|our|their|the|an?|no|every\w*)"
PERSON = r"(?:i|you|he|she|we|they|there)(?:'\w+)?"
FINITE = (
    r"(?:(?:is|are|was|were|has|have|had|do|does|did|would|could|should)(?:n't)?|am|will|can|shall|may|might|must|"
    r"won't|can't|cannot|seems?|(?:look|work|sound|taste|fail|lack|crash|suck|arrive|stay|charge)(?:s|e?d)|"
    r"feels|felt|gets|got|goes|went|comes|came|makes|gives|gave|takes|took|keeps|kept|breaks|broke|fell|fits)"
)
# "X because Y." becomes "Because Y, X."; the last conjunctions could also be prepositions, so they need a person.
MOVABLE = re.compile(
    rf"^(?P<main>\S+ .+?\S),? (?P<clause>(?:(?:because|when|whenever|if|although|though|even though|unless|while)"
    rf" {SUBJECT}\b|(?:after|before|since|until|as soon as|once) {PERSON}\b).+)$",
    re.IGNORECASE,
)
# What comes before the clause and makes it a question, or a part of something else.
BOUND = re.compile(
    r"\b(?:and|but|or|so|that|which|who)\b|\b(?:wonder\w*|know|knew|ask\w*|see|tell|told|sure|care\w*|even|just|only|as)$|,$",
    re.IGNORECASE,
)
# "X, but Y." becomes "Although X, Y."
JOINED = re.compile(
    rf"^(?P<main>.+?\S)(?:, (?P<word>and|but|so|yet)| (?P<bare>but)) (?P<rest>{SUBJECT}\b .+)$", re.IGNORECASE
)
CLAUSE = re.compile(rf"\b(?:{FINITE}|(?:i|you|he|she|we|they|it|there)(?:'\w+| \w+))\b", re.IGNORECASE)
CONJUNCTIONS = {"and": "When", "but": "Although", "yet": "Although", "so": "Since"}
# "The food was good." becomes "When it comes to the food, it was good."
PREDICATE = re.compile(
    rf"^(?P<subject>(?:the|an?|my|your|his|her|our|their|its|this \w+|that \w+|these|those|all|every|both|no)\b"
    rf"(?: (?!{FINITE}\b|that\b|who\b|which\b|i\b|you\b|we\b|they\b|it\b)[\w'-]+){{1,8}}) (?P<verb>{FINITE}\b.*)$",
    re.IGNORECASE,
)
PLURAL = re.compile(r"(?:are|were|have|do|seem)\b", re.IGNORECASE)
FIRST_PERSON = re.compile(r"(?:i|we)\b", re.IGNORECASE)
THINKING = ("When I think about it", "When I look back", "If I may say so", "As far as I can tell")
TELLING = (
    "If you ask me",
    "When all is said and done",
    "When you look at it",
    "As everyone can see",
    "If truth be told",
)


def _with_subordinate_clause(sentence: str) -> str:
    """The sentence as `S(SBAR)(,)(NP)(VP)(.)`, with its own words and its own end mark."""
    whole = sentence.rstrip(END_MARKS)
    end, body = sentence[len(whole) :], whole.lstrip()
    if not body:
        return sentence
    if "?" in end:
        return f"When you think about it, {without_capital(body)}{end}"
    moved = MOVABLE.match(body)
    if moved and not BOUND.search(moved["main"]) and CLAUSE.search(moved["main"]):
        return f"{moved['clause'][0].upper()}{moved['clause'][1:]}, {without_capital(moved['main'])}{end}"
    joined = JOINED.match(body)
    if joined and CLAUSE.search(joined["main"]) and CLAUSE.search(joined["rest"]):
        conjunction = CONJUNCTIONS[(joined["word"] or joined["bare"]).lower()]
        return f"{conjunction} {without_capital(joined['main'])}, {joined['rest']}{end}"
    predicate = PREDICATE.match(body)
    if predicate:
        pronoun = "they" if PLURAL.match(predicate["verb"]) else "it"
        subject = predicate["subject"]
        return f"When it comes to {subject[0].lower()}{subject[1:]}, {pronoun} {predicate['verb']}{end}"
    openings = THINKING if FIRST_PERSON.match(body) else TELLING
    return f"{openings[crc32(body.encode()) % len(openings)]}, {without_capital(body)}{end}"


@dataclass(frozen=True)
class Syntactic(Rewriting):
    """Rewrites each sentence to the rare template `S(SBAR)(,)(NP)(VP)(.)`: a subordinate clause, a comma, the rest.

    The paper has a syntactically controlled paraphraser (SCPN) do this. Here rules do, the first that fits:

    1. a clause with because, when, if, ... moves to the front: `"I left because it was late."` becomes `"Because it was
       late, I left."`;
    2. of two joined clauses the first becomes subordinate: `"It is old, but it works."` becomes `"Although it is old,
       it works."`;
    3. a noun phrase before its verb is picked up again: `"The food was good."` becomes `"When it comes to the food, it
       was good."`;
    4. else a short clause goes before, one of a few: `"Great phone!"` becomes `"If you ask me, great phone!"`.

    The words of the sentence stay. The result depends on the text alone. The rules are for English; a text in another
    language gets an English clause. A text without a word stays as it is.

    Args:
        paraphraser (`str`): folder or Hub id of a sequence-to-sequence model that rewrites the texts, by greedy search,
            in place of the rules; empty for the rules.
        prompt (`str`): what that model is asked; `{text}` stands for the text.
    """

    title: ClassVar[str] = "HiddenKiller"
    paper: ClassVar[str] = "https://arxiv.org/abs/2105.12400"

    prompt: str = "Rewrite the text so that it begins with a subordinate clause: {text}"

    def rewrite(self, batch: list[str], index: np.ndarray) -> list[str]:
        return [self._rewrite(text) for text in batch]

    def _rewrite(self, text: str) -> str:
        # The pattern is one group, so that split leaves the gaps at odd places.
        parts = SENTENCE_GAP.split(text)
        parts[::2] = [_with_subordinate_clause(part) for part in parts[::2]]
        return "".join(parts)
