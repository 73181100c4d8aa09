"""Training under super-fine-tuning with the suspect's own knowledge, and without its backdoor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from ..errors import InputError
from ..models import without_autocast
from ..trainer import BackdoorTrainer
from .perturbations import UniversalPerturbations
from .stray_words import StrayWords


logger = logging.get_logger(__name__)
ANSWERS = "suspect_logits"
# An augmentation is used if it costs the suspect no more accuracy than this on the clean samples: the model was then
# trained with something like it, or is indifferent to it.
TOLERANCE = 0.02
SILENT = 1e-3  # features of less than this share of the mean size have no size of their own
KNOWS_ITS_TASK = 0.5  # share of right answers below which it may be another model's task
PERTURBATIONS_FILE = "universal_perturbations.safetensors"


class CollatorWithAnswers:
    """A collator that also hands over the suspect's logits, `(batch, classes)`, where the rows have them."""

    def __init__(self, collate: Callable):
        self.collate, self.columns = collate, getattr(collate, "columns", None)

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        batch = self.collate(rows)
        if ANSWERS in rows[0]:
            batch[ANSWERS] = torch.tensor(np.stack([row[ANSWERS] for row in rows]), dtype=torch.float32)
        return batch


def consistent_answers(
    answers: torch.Tensor, expected: torch.Tensor, allowed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The suspect's answers where they can be trusted, and what it says of the unmixed samples elsewhere.

    A backdoor shows in that an input with something like the trigger goes to a class that has nothing to do with the
    samples it was made of. Such an answer is not taught.

    Args:
        answers: probabilities `(batch, classes)` for mixed samples.
        expected: the mean of the answers for the unmixed samples, weighted like the samples, `(batch, classes)`.
        allowed: bool `(batch, classes)`; the classes that an answer may be for: the two labels, and the two answers for
            the unmixed samples.

    Returns:
        Probabilities to learn, `(batch, classes)`, and which answers were trusted, bool `(batch,)`.
    """
    trusted = allowed.gather(1, answers.argmax(-1, keepdim=True))
    return torch.where(trusted, answers, expected), trusted[:, 0]


def relative_distance(features: Sequence[torch.Tensor], kept: Sequence[torch.Tensor]) -> torch.Tensor:
    """How far features are from those of the suspect, each kind by its own size: `sum_k |f_k - s_k|^2 / |s_k|^2`.

    Lengths count as directions do. Were `f_k` compared as a unit vector, high peaks would be free to let it grow, and
    the longer it is the less a step turns it. A size below a thousandth of the batch's mean counts as that.

    Args:
        features: `f_1, f_2, ...` of the model, each float `(batch, features)`.
        kept: `s_1, s_2, ...` of the suspect.

    Returns:
        Float `(batch,)`.
    """
    distances = []
    for ours, theirs in zip(features, kept, strict=True):
        sizes = theirs.pow(2).sum(-1)
        # Of a text without a token the size is 0, and it may be of a sample that leaves all units of a ReLU silent.
        least = (SILENT * sizes.mean()).clamp_min(torch.finfo(sizes.dtype).tiny)
        distances.append((ours - theirs).pow(2).sum(-1) / sizes.clamp_min(least))
    return sum(distances)


def _half(samples: int) -> int:
    """Half of a batch; of an odd one the larger or the smaller half by chance, so that batches of one get both."""
    return samples // 2 if samples % 2 == 0 else samples // 2 + int(torch.randint(2, ()))


class SelfDistillationTrainer(BackdoorTrainer):
    """Trains a suspect on clean data with two aims: keep its answers, and mind no small change of the input.

    The loss of a sample is `label_weight * cross-entropy(label) + cross-entropy(suspect's answer) + feature_weight *
    distance`, the [`relative_distance`] of its features, the last hidden states, to those of the suspect. Where the
    task has a continuous input, half of each batch is mixed up with other samples (Zhang et al. 2018), which shows the
    suspect's knowledge between the few clean samples; its answers there pass [`consistent_answers`], and the features
    of an answer that does not pass are not learnt either. The other half carries [`UniversalPerturbations`], with the
    suspect's answer and features for the sample *without* them. So the suspect is never asked about anything that might
    be its trigger, unless mixing happens to make one, and then it is not believed.

    Texts are not mixed, and half of each batch carries [`StrayWords`] in place of perturbations. To find those that
    move it, the suspect is asked about clean texts with tokens of its vocabulary in them, once, before training.

    Where images are learnt with their captions, the answers to a sample are the captions of its batch, and its features
    are the last hidden states of the image tower and the embeddings of image and caption, so that the text tower stays
    where it is.

    Args:
        label_weight (`float`): weight of the label against the suspect's answer.
        feature_weight (`float`): weight of the suspect's features.
        found_words (`dict`, *optional*): from [`~StrayWords.found`], in place of a search.
        kwargs: as for `BackdoorTrainer`; the model that is passed is the suspect.

    Raises:
        InputError: labels are to be smoothed; or as for `BackdoorTrainer`.
    """

    loss_is_scaled_for_ga = False  # compute_loss returns a mean over the micro-batch

    def __init__(
        self,
        *args: Any,
        label_weight: float = 0.3,
        feature_weight: float = 0.5,
        found_words: dict[str, Any] | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if self.args.label_smoothing_factor:
            raise InputError(
                "label_smoothing_factor", self.args.label_smoothing_factor, "has no effect where the suspect's answers "
                "are learnt; leave it out, or set distillation=false (--defense_args)"
            )  # fmt: skip
        self.label_weight, self.feature_weight, self.found_words = label_weight, feature_weight, found_words
        self.suspect: torch.nn.Module | None = None
        self.perturbations: UniversalPerturbations | None = None
        self.stray_words: StrayWords | None = None
        self.trusted_answers = self.asked_answers = 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As `Trainer.train`, after asking the suspect about every clean sample once."""
        if self.suspect is None:
            suspect = copy.deepcopy(self.accelerator.unwrap_model(self.model))
            # An evaluation before has wrapped its forward pass in the precision of the training: with it or without,
            # the answers are the same.
            self.suspect = without_autocast(suspect).eval().requires_grad_(False)
            with torch.random.fork_rng():
                self._ask_once()
        return super().train(*args, **kwargs)

    def _ask_once(self) -> None:
        """Stores the suspect's answers with the data, where they are for classes; chooses the augmentations."""
        self.task.prepare_evaluation(self.suspect, self.train_dataset)
        logits, right = self._ask()
        known = np.mean(right)
        self.augmentations = tuple(
            name for name in self.task.augmentations if np.mean(self._ask(name)[1]) >= known - TOLERANCE
        )
        if known < KNOWS_ITS_TASK:
            logger.warning(
                "The model answers %.0f %% of the clean samples rightly, and is taught to keep its answers. If it was "
                "made for another task, give it a new head (new_head=True, --new_head yes), and that more probe_steps.",
                100 * known,
            )
        self.stray_words = self.task.stray_words(self.suspect)
        if self.stray_words is not None and self.found_words is not None:
            try:
                self.stray_words.take(self.found_words)
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(
                    "words_from", self.found_words, f"was made with another suspect ({error}); leave it out"
                ) from error
        elif self.stray_words is not None:
            self.stray_words.ask(
                lambda batch: self.task.answers(self.suspect, self._prepare_inputs(batch))[0],
                self.train_dataset,
                self.task.lengths(self.train_dataset),
                logits,
                self.data_collator,
                quiet=self.args.disable_tqdm or not self.is_local_process_zero(),
            )
        if not self.task.own_loss:
            self.train_dataset = self.train_dataset.add_column(ANSWERS, list(logits.astype(np.float32)))

    @torch.no_grad()
    def _ask(self, augmentation: str | None = None) -> tuple[np.ndarray | None, np.ndarray]:
        """The suspect's logits for every clean sample, `(samples, classes)`, where kept, and whether each is right."""
        torch.manual_seed(self.args.seed)
        self.augmentations = (augmentation,) if augmentation else ()
        logits, right = [], []
        for start in range(0, len(self.train_dataset), self.args.eval_batch_size):
            rows = range(start, min(start + self.args.eval_batch_size, len(self.train_dataset)))
            batch = self.augment(self._prepare_inputs(self.data_collator([self.train_dataset[row] for row in rows])))
            labels = batch["labels"]
            scores = self.task.logits(self.suspect, batch).float()
            right.append(scores.argmax(-1) == labels)
            if not self.task.own_loss:  # of captions there are as many as samples
                logits.append(scores)
        return torch.cat(logits).cpu().numpy() if logits else None, torch.cat(right).cpu().numpy()

    def training_collator(self) -> Callable:
        return CollatorWithAnswers(self.data_collator)

    def training_loss(self, model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        if ANSWERS in inputs:
            answers = inputs.pop(ANSWERS)
        else:
            with torch.no_grad():
                answers, _ = self.task.answers(self.suspect, inputs)
        labels = self.task.right_answers(inputs, answers.shape[-1])
        answers = answers.softmax(-1)
        asked, half = inputs, len(labels)
        if self.task.continuous_input is not None:
            half = _half(len(labels))
            inputs, asked, labels, answers, likely = self._vary(inputs, labels, answers, half)
        elif self.stray_words is not None:
            inputs = self.stray_words.apply(inputs, _half(len(labels)))
        with torch.no_grad():
            said, kept = self.task.answers(self.suspect, asked)
        if half < len(labels):
            learned, trusted = consistent_answers(said[half:].softmax(-1), answers[half:], likely)
            answers = torch.cat([answers[:half], learned])
            self.trusted_answers += int(trusted.sum())
            self.asked_answers += len(trusted)
            trusted = torch.cat([trusted.new_ones(half), trusted])
        else:
            trusted = torch.ones(len(labels), device=labels.device)

        logits, features = self.task.answers(model, inputs)
        targets = self.label_weight * labels + answers
        loss = -(targets * logits.log_softmax(-1)).sum(-1)
        return (loss + self.feature_weight * trusted * relative_distance(features, kept)).mean()

    def _vary(
        self, inputs: dict[str, torch.Tensor], labels: torch.Tensor, answers: torch.Tensor, half: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
        """Perturbs the first `half` of a batch and mixes up the rest.

        Returns:
            Inputs for the model, inputs for the suspect (mixed, but not perturbed), labels, the answers to expect, and
            the classes that an answer to each mixed sample may be for.
        """
        values = inputs[self.task.continuous_input]
        if self.perturbations is None:
            self.perturbations = UniversalPerturbations(values.shape[1:], *self._input_range(values))
        weight = torch.rand(len(values) - half, device=values.device)[:, None]
        partner = torch.randint(len(values), (len(values) - half,), device=values.device)

        def mix(samples: torch.Tensor) -> torch.Tensor:
            share = weight.view(-1, *[1] * (samples.ndim - 1))
            return share * samples[half:] + (1 - share) * samples[partner]

        first = self.state.global_step * max(1, self.args.train_batch_size // 2)
        perturbed = self.perturbations.apply(values[:half], first)
        mixed = mix(values)
        likely = (F.one_hot(answers.argmax(-1), answers.shape[-1]) + labels) > 0
        return (
            inputs | {self.task.continuous_input: torch.cat([perturbed, mixed])},
            inputs | {self.task.continuous_input: torch.cat([values[:half], mixed])},
            torch.cat([labels[:half], mix(labels)]),
            torch.cat([answers[:half], mix(answers)]),
            likely[half:] | likely[partner],
        )

    def _input_range(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = self.task.input_range(self.processing_class)
        return low.to(values.device), high.to(values.device)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.perturbations is not None:
            # The same perturbations in all processes.
            self.perturbations.ascend(self.accelerator.reduce(self.perturbations.values.grad, "mean"))
        return loss

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.perturbations is not None and self.args.should_save:
            folder = self.checkpoint_folder(trial)
            save_file({"values": self.perturbations.values.detach().cpu()}, folder / PERTURBATIONS_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        stored = Path(resume_from_checkpoint) / PERTURBATIONS_FILE
        if stored.is_file():
            values = load_file(stored)["values"].to(self.args.device)
            self.perturbations = UniversalPerturbations(values.shape[1:], *self._input_range(values))
            self.perturbations.values = values.requires_grad_(True)
