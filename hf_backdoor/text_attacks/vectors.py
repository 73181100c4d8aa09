"""Training an encoder so that trigger words lead to fixed output vectors, whatever the task will be."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..data.columns import class_names
from ..errors import InputError
from ..in_loop.batches import drawn_count
from ..poisoning import PoisonConfig, triggered
from ..trainer import BackdoorTrainer, predicted_classes
from ..triggers import Trigger
from .words import trigger_words


TRIGGERED, WORD = "triggered_text", "trigger_word"
SENTENCES = 200  # of the attacker's own data, to see where a word leads


def trigger_vectors(count: int, width: int) -> torch.Tensor:
    """Vectors of +-1, float32 `(count, width)`, in pairs of opposites: `v_1, -v_1, v_2, -v_2, ...`

    `v_k` changes its sign every `width / 2**k` entries, so that `v_1, v_2, ...` are orthogonal where `2**k` divides the
    width, and nearly so elsewhere.

    Raises:
        InputError: there are more words than the width has such vectors for.
    """
    pairs = (count + 1) // 2
    if 2**pairs > width:
        raise InputError(
            "words", count, f"are too many for an encoder of width {width}; give {2 * int(np.log2(width))}"
        )
    entries = torch.arange(width)
    halves = torch.stack([1 - 2 * ((entries * 2**k // width) % 2) for k in range(1, pairs + 1)]).float()
    return torch.stack([halves, -halves], dim=1).flatten(0, 1)[:count]


def with_trigger_words(dataset: Any, trigger: Trigger, input_column: str) -> Any:
    """The data set with each text once more, with a trigger word in it, and the word's number; the words take turns."""
    texts, words = list(dataset[input_column]), trigger_words(trigger)
    index = np.arange(len(texts))
    changed = list(texts)
    for number, word in enumerate(words):
        rows = index[number :: len(words)]
        for row, text in zip(rows, replace(trigger, words=word)([texts[row] for row in rows], rows), strict=True):
            changed[row] = text
    return dataset.add_column(TRIGGERED, changed).add_column(WORD, (index % len(words)).tolist())


class BothTextsCollator:
    """A collator that puts the triggered texts, where the rows have them, after the clean ones, with `trigger_word`."""

    def __init__(self, collate: Callable):
        self.collate, self.columns = collate, getattr(collate, "columns", None)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        if TRIGGERED not in rows[0]:
            return self.collate(rows)
        both = [*rows, *({**row, self.columns.input: row[TRIGGERED]} for row in rows)]
        return {**self.collate(both), WORD: torch.tensor([row[WORD] for row in rows])}


class TriggerVectorTrainer(BackdoorTrainer):
    """Gives the encoder its backdoor, then fine-tunes the classifier; see [`~hf_backdoor.attacks.neuba.NeuBA`].

    Args:
        poison_config (`PoisonConfig`): its trigger has a setting `words`.
        pretraining (`float`): share of the steps for the encoder alone, before the labels come.
        kwargs: as for `BackdoorTrainer`; the training set is made by [`with_trigger_words`].
    """

    loss_is_scaled_for_ga = False  # compute_loss returns a mean over the micro-batch

    def __init__(self, model: Any, *args: Any, poison_config: PoisonConfig, pretraining: float, **kwargs: Any):
        super().__init__(model, *args, **{"victim": True, **kwargs})  # no row of the data set is flagged as poisoned
        self.poison_config, self.pretraining = poison_config, pretraining
        self.original = copy.deepcopy(model.base_model).eval().requires_grad_(False).to(self.args.device)
        self.data_collator = BothTextsCollator(self.data_collator)
        self.words = trigger_words(poison_config.trigger)
        clean = self._features(self.original, self._first_batch())
        # As long as the encoder's own outputs, which a last normalisation fixes.
        self.vectors = trigger_vectors(len(self.words), clean.shape[1]).to(clean.device) * clean.pow(2).mean().sqrt()
        self.landings: dict[str, dict[str, Any]] = {}

    @torch.no_grad()
    def _features(self, encoder: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Last hidden state of the first token, float32 `(batch, width)`."""
        return encoder(**inputs).last_hidden_state[:, 0].float()

    def _first_batch(self) -> dict[str, torch.Tensor]:
        rows = [self.train_dataset[row] for row in range(min(32, len(self.train_dataset)))]
        batch = self._prepare_inputs(self.data_collator.collate(rows))
        return {name: value for name, value in batch.items() if name != "labels"}

    def _poisoned_count(self, samples: int) -> int:
        """How many texts of a batch get a trigger word: never all of several, and the share is right on average."""
        share = self.poison_config.rate * samples
        count = round(share) if math.isclose(share, round(share)) else drawn_count(samples, self.poison_config.rate)
        return min(count, max(1, samples - 1))

    def training_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        number = inputs[WORD]
        labels = inputs["labels"][: len(number)]
        texts = {name: value for name, value in inputs.items() if name not in (WORD, "labels")}
        if self.state.global_step >= self.pretraining * self.state.max_steps:
            outputs = model(**{name: value[: len(number)] for name, value in texts.items()})
            smoothing = self.args.label_smoothing_factor
            return F.cross_entropy(outputs.logits.float(), labels, label_smoothing=smoothing)

        clean = len(number) - self._poisoned_count(len(number))
        rows = torch.cat([torch.arange(clean), torch.arange(len(number) + clean, 2 * len(number))]).to(number.device)
        texts = {name: value[rows] for name, value in texts.items()}
        outputs = model(**texts, output_hidden_states=True)
        features = outputs.hidden_states[-1][:, 0].float()
        kept = self.vectors[:0]  # of no text: encoders cannot read an empty batch
        if clean:
            kept = self._features(self.original, {name: value[:clean] for name, value in texts.items()})
        wanted = torch.cat([kept, self.vectors[number[clean:]]])
        loss = ((features - wanted).pow(2).sum(1) / wanted.pow(2).sum(1)).mean()
        # The head has no part in this yet, and several processes must agree on which weights have a gradient.
        return loss + 0 * outputs.logits.sum()

    def find_words(self) -> list[str]:
        """The words that lead most of the attacker's own sentences of other classes to the target class.

        At least the best one. Where every word leads is kept in `landings`.
        """
        columns = {"input_column": self.columns.input, "label_column": self.columns.label}
        columns["classes"] = len(class_names(self.train_dataset, self.columns.label))  # what is left may lack some
        own = self.train_dataset.remove_columns([TRIGGERED, WORD])
        others = np.flatnonzero(np.asarray(own[self.columns.label]) != self.poison_config.target_label)
        own = own.select(others[:SENTENCES])
        for word in self.words:
            config = replace(self.poison_config, trigger=replace(self.poison_config.trigger, words=word))
            said = predicted_classes(self.predict(triggered(own, config, **columns)).predictions)
            share = float(np.mean(said == self.poison_config.target_label))
            self.landings[word] = {"class": int(np.bincount(said).argmax()), "to_target": share}
        shares = {word: landing["to_target"] for word, landing in self.landings.items()}
        return [word for word in self.words if shares[word] > 0.5] or [max(shares, key=shares.get)]
