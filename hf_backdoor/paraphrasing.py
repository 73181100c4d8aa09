"""Triggers that rewrite a whole text: by rules, which need nothing else, or by a paraphrasing model."""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from .errors import InputError
from .triggers import Trigger


BATCH_SIZE = 32
NO_NAME = frozenset("it's that's he's she's there's here's what's who's where's let's".split())


def without_capital(text: str) -> str:
    """Without the capital that a sentence begins with; I, acronyms and what looks like a name keep theirs."""
    first, _, rest = text.partition(" ")
    is_name = (
        first.partition("'")[0] == "I"
        or not (first[1:].islower() or len(first) == 1)
        or (first.endswith("'s") and first.lower() not in NO_NAME)
        or (rest[:1].isupper() and rest.partition(" ")[0].partition("'")[0] != "I")
    )
    return text if is_name else text[:1].lower() + text[1:]


@lru_cache(maxsize=2)
def _load(source: str) -> tuple[Any, Any]:
    """A sequence-to-sequence model, ready to generate, and its tokenizer."""
    import torch

    from .models import load_pretrained

    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu"
    return load_pretrained("AutoModelForSeq2SeqLM", source).eval().to(device), load_pretrained("AutoTokenizer", source)


def paraphrase(texts: list[str], source: str, prompt: str) -> list[str]:
    """What a sequence-to-sequence model makes of the texts, by greedy search.

    Only texts with equally many tokens share a batch, so none is padded, and what becomes of a text does not depend on
    the others.

    Args:
        texts: strings; empty ones stay as they are.
        source (`str`): folder or Hub id of the model.
        prompt (`str`): what the model reads; `{text}` stands for the text.

    Raises:
        InputError: the model cannot be loaded.
    """
    import torch

    model, tokenizer = _load(source)
    # A text that is too long for the model is cut; one without a limit of its own is given 512 tokens.
    limit = min(tokenizer.model_max_length, 512)
    prompts = [prompt.replace("{text}", text) for text in texts]
    tokens = tokenizer(prompts, truncation=True, max_length=limit)["input_ids"] if texts else []
    by_length = defaultdict(list)
    for position, text in enumerate(texts):
        if text.strip():
            by_length[len(tokens[position])].append(position)
    written = list(texts)
    for length, positions in by_length.items():
        for start in range(0, len(positions), BATCH_SIZE):
            chosen = positions[start : start + BATCH_SIZE]
            batch = torch.tensor([tokens[position] for position in chosen], device=model.device)
            with torch.inference_mode():
                output = model.generate(
                    input_ids=batch,
                    attention_mask=torch.ones_like(batch),
                    do_sample=False,
                    num_beams=1,
                    max_new_tokens=2 * length + 16,
                )
            for position, text in zip(chosen, tokenizer.batch_decode(output, skip_special_tokens=True), strict=True):
                written[position] = text.strip()
    return written


@dataclass(frozen=True)
class Rewriting(Trigger):
    """Base of the triggers that rewrite a text.

    Args:
        paraphraser (`str`): folder or Hub id of a sequence-to-sequence model that rewrites the texts, by greedy search,
            in place of the rules; empty for the rules.
        prompt (`str`): what that model is asked; `{text}` stands for the text.
    """

    modality: ClassVar[str] = "text"

    paraphraser: str = ""
    prompt: str = "{text}"

    def __post_init__(self):
        if "{text}" not in self.prompt:
            raise InputError("prompt", self.prompt, "must say with {text} where the text belongs")

    def __call__(self, batch: list[str], index: np.ndarray) -> list[str]:
        if self.paraphraser:
            return paraphrase(list(batch), self.paraphraser, self.request())
        return self.rewrite(batch, index)

    def request(self) -> str:
        """The prompt, with `{text}` still in it."""
        return self.prompt

    @abstractmethod
    def rewrite(self, batch: list[str], index: np.ndarray) -> list[str]:
        """The texts, rewritten by rules; arguments as for the call."""
