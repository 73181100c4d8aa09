"""Words that stray into a text: none of them should change what a model says of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..tokens import real_tokens


if TYPE_CHECKING:
    from datasets import Dataset

KEPT = "kept_positions"
MOST_WORDS = 4  # of each kind, in one text
GROUP = 8  # tokens that are tried out together
PASSES = 4  # of the suspect through the vocabulary
# Shares of the vocabulary that are tried out one by one, how many tokens these are at least, and in how many texts.
SHORT_LISTS = ((0.1, 320, 2), (0.01, 64, 8))
MOVING = 32  # of them move the suspect most
TEXTS = 100  # of each answer, the shortest, in which words are tried out
AT_ONCE = 64


class StrayWords:
    """Tokens of the vocabulary that are put between those of a text, such as move the suspect among them.

    A trigger of words is an insertion that moves *any* text to one class, while a text with a few stray words in it
    means what it meant. Which tokens move the suspect is seen on clean texts: how far is its answer with the token from
    that without, as a Kullback-Leibler divergence?

    1. In each of `PASSES` passes through the vocabulary, groups of `GROUP` tokens are inserted into texts, whose
       answers are of another class each time. Each token is credited with the second largest divergence of its groups:
       one large value may be due to its company, and a trigger moves no text that is of its target anyway.
    2. The first tenth of them are tried out one by one in two texts each, and the first tenth of these again in eight,
       of one answer after the other; of a small vocabulary more of them (`SHORT_LISTS`). Those with the largest mean
       divergence, `MOVING` of them, are inserted in training, with as many of all others.

    Neither the trigger nor its target is needed. Words that rightly move a model, such as those of strong sentiment,
    are found too. The search is that of universal triggers (Wallace et al. 2019, arXiv 1908.07125) for single tokens,
    without gradients.

    Args:
        tokenizer: of the texts.
        longest (`int`): tokens in a text that the model can take.
        vocabulary (`int`): tokens that the model knows.

    Attributes:
        tokens (`torch.Tensor`, int64): what may be inserted, the vocabulary without special tokens.
        moving (`torch.Tensor`, int64): those that move the suspect most, these first; all before [`~StrayWords.ask`].
        divergences (`torch.Tensor`, float32): how far each of them moves it, the mean divergence in nats, at least 0.
        seconds (`float`): that it took to find them.
    """

    def __init__(self, tokenizer: Any, longest: int, vocabulary: int):
        self.tokenizer, self.longest = tokenizer, longest
        reserved = (number for number, token in tokenizer.added_tokens_decoder.items() if token.special)
        self.special = frozenset({*tokenizer.all_special_ids, *reserved})
        known = {token for token in tokenizer.get_vocab().values() if token < vocabulary}
        self.tokens = torch.tensor(sorted(known - self.special))
        self.moving, self.divergences = self.tokens, torch.zeros(len(self.tokens))
        self.seconds = 0.0

    def found(self) -> dict[str, Any]:
        """What [`~StrayWords.ask`] found, ready for JSON: `tokens`, their `divergences`, and the `seconds` it took."""
        return {
            "tokens": self.moving.tolist(), "divergences": self.divergences.tolist(), "seconds": self.seconds
        }  # fmt: skip

    def take(self, found: dict[str, Any]) -> None:
        """Goes on from what [`~StrayWords.ask`] found once.

        Args:
            found: from [`~StrayWords.found`], of the same suspect.

        Raises:
            ValueError: it has tokens that may not be inserted here.
        """
        if not set(found["tokens"]) <= set(self.tokens.tolist()):
            raise ValueError("the tokens are of another tokenizer or model")
        self.moving, self.divergences = torch.tensor(found["tokens"]), torch.tensor(found["divergences"])
        self.seconds = found["seconds"]

    def first(self, count: int) -> dict[str, float]:
        """The tokens that move the suspect most, as the tokenizer writes them, and how far, in nats."""
        names = self.tokenizer.convert_ids_to_tokens(self.moving[:count].tolist())
        return dict(zip(names, self.divergences[:count].tolist(), strict=True))

    def apply(self, inputs: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
        """A batch in which words have strayed into `count` texts, drawn among all: batches may be sorted by length.

        They are 1 to `MOST_WORDS` that move the suspect, and 0 to `MOST_WORDS` of all, from torch's global generator.
        """
        nothing = self.tokens[:0]
        turns = torch.randperm(len(inputs["input_ids"])).tolist()
        return self.insert(inputs, [self._draw() if turn < count else nothing for turn in turns])

    def _draw(self) -> torch.Tensor:
        moving = self.moving[torch.randint(len(self.moving), (1 + int(torch.randint(MOST_WORDS, ())),))]
        others = self.tokens[torch.randint(len(self.tokens), (int(torch.randint(MOST_WORDS + 1, ())),))]
        words = torch.cat([moving, others])
        return words[torch.randperm(len(words))]

    def insert(self, inputs: dict[str, torch.Tensor], words: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Texts with further tokens, each at a place drawn alike from all between the special tokens at the ends.

        Places come from torch's global generator.

        Args:
            inputs: a batch of the tokenizer, each value `(batch, length)` or `(batch,)`.
            words: int64, the tokens for each text. A text that would get too long loses tokens at its end.

        Returns:
            The batch, padded as by the tokenizer, and `kept_positions`, int64 `(batch, length before)`: where each
            position is now; -1 for padding and what was lost.
        """
        ids, mask = inputs["input_ids"], real_tokens(inputs, self.tokenizer)
        laid = [
            self._lay(row, real, new.tolist())
            for row, real, new in zip(ids.tolist(), mask.tolist(), words, strict=True)
        ]
        longest = max(map(len, laid))
        source = torch.full((len(laid), longest), -1)
        added = torch.full((len(laid), longest), self.tokenizer.pad_token_id)
        filled = torch.zeros(len(laid), longest, dtype=torch.bool)
        kept = torch.full(ids.shape, -1)
        for text, row in enumerate(laid):
            start = longest - len(row) if self.tokenizer.padding_side == "left" else 0
            span = slice(start, start + len(row))
            places = torch.tensor([place for place, _ in row], dtype=torch.int64)
            added[text, span] = torch.tensor([token for _, token in row], dtype=torch.int64)
            source[text, span], filled[text, span] = places, True
            stayed = (places >= 0).nonzero()[:, 0]
            kept[text, places[stayed]] = start + stayed
        source, added, filled, kept = (part.to(ids.device) for part in (source, added, filled, kept))
        like = torch.where(source >= 0, source, mask.argmax(1, keepdim=True))  # new tokens are of the first one's type
        strayed = {
            name: value.gather(1, like) * filled if value.shape == ids.shape else value
            for name, value in inputs.items()
        }
        strayed["input_ids"] = torch.where(source >= 0, strayed["input_ids"], added)
        if "attention_mask" in inputs:
            strayed["attention_mask"] = filled.to(mask.dtype)
        return strayed | {KEPT: kept}

    def _lay(self, ids: list[int], real: list[int], new: list[int]) -> list[tuple[int, int]]:
        """A text with words in it: the old position of each token, or -1 where it is new, and the token."""
        text = [(place, token) for place, (token, is_real) in enumerate(zip(ids, real, strict=True)) if is_real]
        first = next((n for n, (_, token) in enumerate(text) if token not in self.special), len(text))
        last = len(text)
        while last > first and text[last - 1][1] in self.special:
            last -= 1
        head, body, tail = text[:first], text[first:last], text[last:]
        new = new[: max(0, self.longest - len(head) - len(tail))]
        body = body[: self.longest - len(head) - len(tail) - len(new)]
        for token in new:
            body.insert(int(torch.randint(len(body) + 1, ())), (-1, token))
        return head + body + tail

    @torch.no_grad()
    def ask(
        self,
        suspect: Callable[[dict[str, torch.Tensor]], torch.Tensor],
        dataset: Dataset,
        lengths: np.ndarray,
        answers: np.ndarray,
        collate: Callable[[list[dict]], dict[str, torch.Tensor]],
        *,
        quiet: bool = False,
    ) -> None:
        """Finds the tokens that move the suspect.

        Args:
            suspect: from a batch to logits, `(batch, classes)`.
            dataset: clean texts.
            lengths: of the texts, to prefer short ones, int `(texts,)`.
            answers: the suspect's logits for the texts, float `(texts, classes)`.
            collate: from rows to a batch.
            quiet: no progress bar.
        """
        started = time.perf_counter()
        by_length = np.argsort(lengths, kind="stable")
        by_length = by_length[lengths[by_length] > 0]
        of_class = answers.argmax(-1)[by_length]
        pools = [by_length[of_class == label][:TEXTS] for label in np.unique(of_class)]

        turns = cycle(pools)

        def moved(words: list[torch.Tensor]) -> torch.Tensor:
            """How far each group of words moves the suspect's answer for a text of the pool whose turn it is."""
            divergences, pool = [], next(turns)
            for start in range(0, len(words), AT_ONCE):
                some = words[start : start + AT_ONCE]
                rows = pool[torch.randint(len(pool), (len(some),)).numpy()]
                batch = self.insert(collate([dataset[int(row)] for row in rows]), some)
                after = suspect(batch).float().log_softmax(-1).cpu()
                before = torch.from_numpy(answers[rows]).log_softmax(-1)
                divergences.append((before.exp() * (before - after)).sum(-1))
                bar.update(len(some))
            return torch.cat(divergences)

        most = len(self.tokens)
        lists = [(min(most, max(least, round(part * most))), texts) for part, least, texts in SHORT_LISTS]
        trials = PASSES * math.ceil(most / GROUP) + sum(size * texts for size, texts in lists)
        with tqdm(total=trials, desc="Looking for words that move the suspect", disable=quiet) as bar:
            scores = torch.zeros(PASSES, most)
            for number in range(PASSES):
                groups = torch.randperm(len(self.tokens)).split(GROUP)
                for group, score in zip(groups, moved([self.tokens[group] for group in groups]), strict=True):
                    scores[number, group] = score
            score, words = scores.topk(2, dim=0).values[-1], self.tokens
            for size, texts in lists:
                words = words[score.topk(size).indices]
                score = torch.stack([moved(list(words.split(1))) for _ in range(texts)]).mean(0)
        self.divergences, first = score.clamp_min(0).topk(min(MOVING, len(words)))
        self.moving, self.seconds = words[first], time.perf_counter() - started
