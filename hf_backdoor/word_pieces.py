"""A tokenizer of one's own, for models that begin with random weights."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from transformers import BertTokenizer

MOST_WORDS = 30_000


def new_tokenizer(texts: Iterable[str], inputs: list[str], length: int) -> BertTokenizer:
    """Word pieces: one for each word of the texts, the most frequent ones, and single characters for all other words.

    The same texts always make the same tokenizer, which a trained one does not promise.

    Args:
        texts: whose words it has.
        inputs (`list[str]`): what it makes of a text, e.g. `["input_ids", "attention_mask"]`.
        length (`int`): tokens of the longest text.
    """
    from transformers import BertTokenizer

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    reader = BertTokenizer(vocab={token: number for number, token in enumerate(special)}).backend_tokenizer
    normalised = (reader.normalizer.normalize_str(text) for text in texts)
    counts = Counter(word for text in normalised for word, _ in reader.pre_tokenizer.pre_tokenize_str(text))
    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = sorted(word for word, _ in counts.most_common(MOST_WORDS) if word not in letters)
    pieces = [*letters, *(f"##{letter}" for letter in letters), *words]
    return BertTokenizer(
        vocab={token: number for number, token in enumerate([*special, *pieces])},
        model_input_names=inputs,
        model_max_length=length,
    )
