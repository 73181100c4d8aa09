"""Finding the peaks of super-fine-tuning from clean data alone.

What a peak does to a model can be measured without knowing the trigger: train one triangle up to it and back, and see
how many of its own answers on held-out clean inputs the model has changed. Low peaks change nothing, and so cannot
make it forget a trigger either; high ones leave nothing to restore. The answers that survive fall steadily with the
logarithm of the peak, on victims and on benign models alike, so the peak for a wanted loss can be read off a few
triangles.

Answers are compared by Cohen's kappa, which is 1 for the same answers and 0 for what chance would give, whatever the
number of classes. No trigger and no target class is used.
"""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from transformers import TrainingArguments, set_seed
from transformers.utils import logging

from ..errors import InputError
from .answers import counting, own_loss, scores_of
from .weights import changeable


if TYPE_CHECKING:
    from ..tasks import Task

logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class SearchResult:
    """The rates that were found, and how.

    Args:
        base_lr, peak_lr_1, peak_lr_2 (`float`): learning rates.
        steps (`int`): optimizer steps of the search.
        seconds (`float`): its wall-clock time.
        held_out (`int`): clean samples on which answers were compared.
        trace (`tuple` of `dict`): a triangle each, with `peak_lr`, `kappa` and `agreement`, the share of answers kept.
        explanation (`str`): for a report.
    """

    base_lr: float
    peak_lr_1: float
    peak_lr_2: float
    steps: int
    seconds: float
    held_out: int
    trace: tuple[dict[str, float], ...]
    explanation: str

    def rates(self) -> dict[str, float]:
        """The three learning rates by name."""
        return {"base_lr": self.base_lr, "peak_lr_1": self.peak_lr_1, "peak_lr_2": self.peak_lr_2}

    def logged(self) -> dict[str, float]:
        """For a Trainer's log."""
        return {f"sft_{name}": rate for name, rate in self.rates().items()} | {"sft_search_seconds": self.seconds}

    def summary(self) -> str:
        """One line."""
        rates = ", ".join(f"{name} {rate:.2g}" for name, rate in self.rates().items())
        return f"{rates} from {len(self.trace)} tried ({self.steps} steps, {self.seconds:.0f} s)"

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)


def cohens_kappa(before: np.ndarray, after: np.ndarray) -> float:
    """Agreement of two sets of answers beyond chance (Cohen 1960).

    Args:
        before, after: int `(answers,)`.

    Returns:
        1 if all agree, 0 if as many as chance would give, negative if fewer. If all answers are one and the same
        class, chance cannot be told from agreement, and the plain share of equal answers is returned.
    """
    classes = int(max(before.max(), after.max())) + 1
    frequencies = [np.bincount(answers, minlength=classes) / len(answers) for answers in (before, after)]
    chance = float(frequencies[0] @ frequencies[1])
    agreement = float(np.mean(before == after))
    return agreement if chance == 1 else (agreement - chance) / (1 - chance)


def peak_at(kappa: float, trace: list[dict[str, float]]) -> float:
    """The peak at which this much agreement is left, interpolated in the peak's logarithm between triangles.

    Args:
        kappa: wanted agreement.
        trace: `peak_lr` and `kappa` of some triangles, in the order of their peaks.
    """
    logs = np.log([row["peak_lr"] for row in trace])
    left = np.minimum.accumulate([row["kappa"] for row in trace])  # noise aside, a higher peak keeps no more
    return float(np.exp(np.interp(-kappa, -left, logs)))


@dataclass(frozen=True)
class PeakSearch:
    """Trains short triangles up to different peaks, each from the same weights, and measures what they leave.

    Peaks double (or halve) from the Trainer's `learning_rate`, or the largest of an optimizer of the user's own, until
    both wanted agreements lie between two of them.

    Args:
        kappa_1, kappa_2 (`float`): agreement with its own earlier answers that one triangle of phase 1 and of phase 2
            shall leave. Phase 1 has to unsettle the model, phase 2 must not.
        base_share (`float`): base rate as a share of the peak of phase 2.
        ramp_steps (`int`): steps up, and as many down, of a triangle of the search.
        held_out_share (`float`), max_held_out (`int`): part of the data on which answers are compared.
        repeats (`int`): triangles up to each peak, on different batches; their agreements are averaged.
        max_peaks (`int`): at most so many peaks are tried; fewer if the run is short, for the search never takes more
            steps than the training that follows.
    """

    kappa_1: float = 0.6
    kappa_2: float = 0.85
    base_share: float = 0.1
    ramp_steps: int = 10
    held_out_share: float = 0.2
    max_held_out: int = 512
    repeats: int = 3
    max_peaks: int = 16

    def __post_init__(self):
        if not 0 < self.kappa_1 <= self.kappa_2 < 1:
            raise InputError(
                "kappa_1", self.kappa_1, f"must lie between 0 and kappa_2={self.kappa_2}, and that below 1"
            )

    def run(
        self,
        *,
        model: torch.nn.Module,
        optimizer: Any,
        dataloader: Any,
        args: TrainingArguments,
        budget_steps: int,
        task: Task | None = None,
        still: Sequence[torch.nn.Module] = (),
    ) -> SearchResult:
        """Searches; the model, the optimizer and all random generators are as before when it returns.

        Args:
            model: any model that returns `loss` and one of [`~hf_backdoor.super_fine_tuning.answers.SCORES`], on its
                device.
            optimizer: of the Trainer, before its first step.
            dataloader: of the Trainer; its data set and collator are used.
            args: of the Trainer.
            budget_steps: optimizer steps of the training that follows.
            task (*optional*): gives loss and answers where the model itself does not.
            still (*optional*): parts of the model that the Trainer keeps in evaluation mode.

        Raises:
            InputError: the training data cannot be indexed, or the model returns nothing to compare.
        """
        started = time.perf_counter()
        with _generators_kept():
            probe = _Probe(self, model, optimizer, dataloader, args, budget_steps, task, still)
            trace = self._climb(probe.largest_rate, probe, probe.affordable_peaks)
            probe.restore()
        peak_1, peak_2 = peak_at(self.kappa_1, trace), peak_at(self.kappa_2, trace)
        if trace[-1]["kappa"] > self.kappa_1 or trace[0]["kappa"] < self.kappa_2:
            logger.warning("The search for peaks ended before it had seen both sides; more steps would let it.")
        return SearchResult(
            base_lr=self.base_share * peak_2,
            peak_lr_1=peak_1,
            peak_lr_2=peak_2,
            steps=probe.steps,
            seconds=time.perf_counter() - started,
            held_out=probe.held_out,
            trace=tuple(trace),
            explanation=(
                f"{self.repeats} triangles of {2 * probe.ramp} steps up to each peak below, all from the same weights. "
                f"Peak 1 is where a triangle leaves an agreement (Cohen's kappa) of {self.kappa_1:g} with the model's "
                f"own earlier answers on {probe.held_out} held-out clean samples, peak 2 where it leaves "
                f"{self.kappa_2:g}; no "
                "trigger and no target was known."
            ),
        )

    def _climb(self, start: float, triangle: Callable[[float], dict[str, float]], limit: int) -> list[dict]:
        """Triangles at doubling peaks above `start`, then at halving ones below, in the order of their peaks."""
        trace = [triangle(start)]
        while trace[-1]["kappa"] > self.kappa_1 and len(trace) < limit:
            trace.append(triangle(2 * trace[-1]["peak_lr"]))
        while trace[0]["kappa"] < self.kappa_2 and len(trace) < limit:
            trace.insert(0, triangle(trace[0]["peak_lr"] / 2))
        return trace


def own_rate(group: dict[str, Any]) -> float:
    """The learning rate that an optimizer's group was made with, before any scheduler."""
    return group.get("initial_lr", group["lr"])


def largest_rate(groups: list[dict[str, Any]]) -> float:
    """The largest of these rates; the group that has it takes those of the schedule, and all keep their proportions."""
    return max(own_rate(group) for group in groups)


@contextmanager
def _generators_kept() -> Iterator[None]:
    """Afterwards all random generators that a transform may use are as before."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        yield
    random.setstate(python)
    np.random.set_state(numpy)


class _Diverged(Exception):
    """A peak was so high that the model is beyond use."""


class _Probe:
    """Trains one triangle from the same weights at each call, and compares answers before and after."""

    def __init__(
        self,
        search: PeakSearch,
        model: torch.nn.Module,
        optimizer: Any,
        dataloader: Any,
        args: Any,
        budget: int,
        task: Task | None,
        still: Sequence[torch.nn.Module],
    ):
        self.model, self.args = model, args
        self.task, self.still = task, still
        self.optimizer = getattr(optimizer, "optimizer", optimizer)
        self.largest_rate = largest_rate(self.optimizer.param_groups)
        self.collate = dataloader.collate_fn
        self.repeats = search.repeats
        self.ramp = min(search.ramp_steps, max(1, budget // (16 * self.repeats)))
        self.affordable_peaks = min(search.max_peaks, max(1, budget // (2 * self.ramp * self.repeats)))
        self.steps, self.moved = 0, False
        self.weights = copy.deepcopy(changeable(model))
        self.optimizer_state = copy.deepcopy(self.optimizer.state_dict())
        self.was_training = model.training

        data = dataloader.dataset
        if not hasattr(data, "__getitem__") or not hasattr(data, "__len__"):
            raise InputError(
                "train_dataset", type(data).__name__, "peaks cannot be searched for on a stream; give them"
            )
        generator = np.random.default_rng(args.seed)
        order = generator.permutation(len(data))
        self.held_out = min(search.max_held_out, max(1, round(search.held_out_share * len(data))))
        self.batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.data, self.training_part = data, order[self.held_out :] if len(data) > self.held_out else order
        held_out_rows = order[: self.held_out]
        if task is None:
            held_out_rows = self._by_length(held_out_rows)
        else:  # which may number captions by what is evaluated
            self.held_out_data = data.select(held_out_rows)
            task.prepare_evaluation(model, self.held_out_data)
        pieces = -(-self.held_out // min(64, args.eval_batch_size))
        self.held_out_batches = [self._collate(rows) for rows in np.array_split(held_out_rows, pieces)]
        self.before = self._answers()

    def __call__(self, peak: float) -> dict[str, float]:
        from tqdm.auto import tqdm

        quiet = self.args.disable_tqdm or self.args.process_index > 0
        triangles = tqdm(range(self.repeats), desc=f"Searching peaks: {peak:.2g}", leave=False, disable=quiet)
        after = [self._answers_after(peak, repeat) for repeat in triangles]
        return {
            "peak_lr": peak,
            "kappa": float(np.mean([cohens_kappa(self.before, answers) for answers in after])),
            "agreement": float(np.mean([np.mean(self.before == answers) for answers in after])),
        }

    def _answers_after(self, peak: float, repeat: int) -> np.ndarray:
        """Answers after one triangle; none of those before it, if the model diverges."""
        try:
            self._triangle(peak, repeat)
            return self._answers()
        except _Diverged:
            return np.full_like(self.before, self.before.max() + 1)

    def _triangle(self, peak: float, repeat: int) -> None:
        """Trains one triangle; a repeat sees the same batches for every peak."""
        self.restore()
        self.model.train()
        for module in self.still:
            module.eval()
        set_seed(self.args.seed + repeat)
        generator = np.random.default_rng((self.args.seed, repeat))
        for step in range(2 * self.ramp):
            # The schedule starts at base, which is not known yet: so this one starts a step above 0.
            rate = peak * min(step + 1, 2 * self.ramp - step) / self.ramp
            for group in self.optimizer.param_groups:
                group["lr"] = rate * (own_rate(group) / self.largest_rate)
            self._step(generator.choice(self.training_part, self.batch_size))
            self.steps += 1

    def restore(self) -> None:
        """Weights, optimizer and mode as they were."""
        self.model.load_state_dict(self.weights, strict=False)  # what is frozen has not moved
        self.optimizer.load_state_dict(self.optimizer_state)
        self.model.train(self.was_training)
        self.moved = False

    def _step(self, rows: np.ndarray) -> None:
        """One optimizer step on a full batch, in pieces that fit into memory."""
        self.optimizer.zero_grad()
        for piece in np.array_split(rows, -(-len(rows) // self.args.train_batch_size)):
            loss = self._loss(self._collate(piece))
            if not torch.isfinite(loss):
                raise _Diverged
            (loss * len(piece) / len(rows)).backward()
        if self.args.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        self.moved = True
        self.optimizer.zero_grad()

    @torch.no_grad()
    def _answers(self) -> np.ndarray:
        """The most likely class at every position that has a label, int64 `(answers,)`."""
        self.model.eval()
        if self.task is not None:
            self.task.prepare_evaluation(self.model, self.held_out_data)
        answers = []
        for batch in self.held_out_batches:
            for scores in self._scores(batch):
                if self.moved and scores.isnan().any():
                    raise _Diverged
                answers.append(counting(self.model, scores.argmax(-1), batch.get("labels")).cpu().numpy())
        return np.concatenate(answers)

    @contextmanager
    def _forward(self) -> Iterator[None]:
        """In the Trainer's precision. Some losses refuse what is not a number, which a model that diverges gives."""
        try:
            with torch.autocast(self.args.device.type, dtype=torch.bfloat16, enabled=self.args.bf16 or self.args.fp16):
                yield
        except ValueError as error:
            if not self.moved:
                raise
            raise _Diverged from error

    def _loss(self, batch: dict[str, Any]) -> torch.Tensor:
        with self._forward():
            return self.task.loss(self.model, batch) if self.task else own_loss(self.model, self.model(**batch))

    def _scores(self, batch: dict[str, Any]) -> list[torch.Tensor]:
        """Of the possible answers, in the last dimension."""
        with self._forward():
            return [self.task.logits(self.model, batch)] if self.task else scores_of(self.model, self.model(**batch))

    def _by_length(self, rows: np.ndarray) -> np.ndarray:
        """The same rows, texts from short to long: else most of the work on a batch would be padding."""
        lengths = []
        for row in rows:
            batch = self.collate([self.data[int(row)]])
            if "input_ids" not in batch:
                return rows
            lengths.append(batch["input_ids"].shape[-1])
        return rows[np.argsort(lengths, kind="stable")]

    def _collate(self, rows: np.ndarray) -> dict[str, Any]:
        batch = self.collate([self.data[int(row)] for row in rows])
        return {name: send_to_device(value, self.args.device) for name, value in batch.items()}
