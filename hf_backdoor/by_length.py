"""Texts of like length share a batch, else half of the work is padding: in every evaluation, in training on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput

from .errors import InputError


BY_LENGTH = ("group_by_length", "batch_rebalance")  # of `train_sampling_strategy`


class GroupedByLength(LengthGroupedSampler):
    """`LengthGroupedSampler` with an order that depends on the epoch alone, so that a resumed run goes on with it.

    Args:
        batch_size (`int`): samples of like length.
        lengths: of all samples.
        seed (`int`): of the first epoch.
    """

    def __init__(self, batch_size: int, lengths: Any, seed: int):
        super().__init__(batch_size, lengths=list(lengths), generator=torch.Generator())
        self.seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        self.generator.manual_seed(self.seed + epoch)


class LongestFirst(torch.utils.data.Sampler):
    """All samples, the longest first; the sample that comes n-th is `order[n]`."""

    def __init__(self, lengths: np.ndarray):
        self.order = np.argsort(-lengths, kind="stable")

    def __iter__(self) -> Iterator[int]:
        return iter(self.order.tolist())

    def __len__(self) -> int:
        return len(self.order)


class BatchesByLength(Trainer):
    """A `Trainer` that asks its `task` how long inputs are; the results of an evaluation keep the order of the data."""

    task: Any = None
    _sorting = False  # while an evaluation runs; who asks for a loader otherwise gets the order of the data

    def lengths_of(self, dataset: Any) -> np.ndarray | None:
        """How long the inputs are, int64 `(samples,)`, where the task knows and it matters."""
        return self.task.lengths(dataset) if self.task is not None and isinstance(dataset, Dataset) else None

    def check_sampling_strategy(self, dataset: Any) -> None:
        """Whether the samples can be sorted as the arguments ask.

        Raises:
            InputError: they have no lengths.
        """
        strategy = self.args.train_sampling_strategy
        ours = self.task is not None and isinstance(dataset, Dataset)  # else `Trainer` has its own ways to find out
        if strategy in BY_LENGTH and ours and self._with_lengths(dataset) is None:
            raise InputError("train_sampling_strategy", strategy, "is for texts; leave it out")

    def _with_lengths(self, dataset: Dataset) -> Dataset | None:
        """What a sampler is told of a data set: only the lengths."""
        column = self.args.length_column_name
        if column in dataset.column_names:
            return dataset
        lengths = self.lengths_of(dataset)
        return None if lengths is None else Dataset.from_dict({column: lengths})

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy in BY_LENGTH and isinstance(dataset, Dataset):
            dataset = self._with_lengths(dataset) or dataset
        sampler = super()._get_train_sampler(dataset)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return GroupedByLength(sampler.batch_size, sampler.lengths, seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> torch.utils.data.Sampler | None:
        """The longest first, if the order can be restored afterwards, else that of the data; never that of training."""
        untouched = self.compute_metrics is None and self.preprocess_logits_for_metrics is None
        whole = self.args.eval_do_concat_batches
        lengths = self.lengths_of(eval_dataset) if self._sorting and untouched and whole else None
        if lengths is not None:
            return LongestFirst(lengths)
        strategy, self.args.train_sampling_strategy = self.args.train_sampling_strategy, "random"
        try:
            return super()._get_eval_sampler(eval_dataset)
        finally:
            self.args.train_sampling_strategy = strategy

    @contextmanager
    def sorted_by_length(self) -> Iterator[None]:
        """Loaders that are made inside may be sorted; [`~BatchesByLength.evaluation_loop`] restores the order."""
        before, self._sorting = self._sorting, True
        try:
            yield
        finally:
            self._sorting = before

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self.sorted_by_length():
            return super().evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        with self.sorted_by_length():
            return super().predict(*args, **kwargs)

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        output = super().evaluation_loop(dataloader, *args, **kwargs)
        sampler = _sampler_of(dataloader)
        if not isinstance(sampler, LongestFirst):
            return output
        places = np.argsort(sampler.order)
        return output._replace(
            predictions=_reordered(output.predictions, places), label_ids=_reordered(output.label_ids, places)
        )


def _sampler_of(dataloader: Any) -> Any:
    batches = getattr(dataloader, "batch_sampler", None)
    while hasattr(batches, "batch_sampler"):  # that of one process among several
        batches = batches.batch_sampler
    return getattr(batches, "sampler", None)


def _reordered(values: Any, places: np.ndarray) -> Any:
    """Arrays `(samples, ...)`, also in tuples and dicts, with the sample of each place in its place."""
    if isinstance(values, (tuple, list)):
        return type(values)(_reordered(part, places) for part in values)
    if isinstance(values, Mapping):
        return {name: _reordered(part, places) for name, part in values.items()}
    return values if values is None else values[places]
