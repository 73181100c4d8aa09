"""Measures with their intervals, and the few examples that a card shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .data.unreadable import naming_unreadable_images
from .metrics import METRICS, clean_accuracy, wilson_interval
from .poisoning import sample_index


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from .tasks import Task
    from .trainer import BackdoorTrainer


def measure(trainer: BackdoorTrainer) -> dict[str, Any] | None:
    """Evaluates a trainer's model on its clean and triggered test sets.

    Returns:
        The shares by name, and under `intervals` their 95 % Wilson intervals; `None` without a test set.
        Those of the task, see [`~hf_backdoor.tasks.Task.measures`], come after them, without intervals.
        The attack's two measures are `None` without a triggered set; with one, `triggered_predictions` are how many of
        it went to each class.
    """
    if trainer.eval_dataset is None:
        return None
    metrics = trainer.evaluate()
    sizes = dict.fromkeys(METRICS, len(trainer.triggered_dataset) if trainer.triggered_dataset is not None else 0)
    sizes["clean_accuracy"] = len(trainer.eval_dataset)
    shares = {name: metrics.get(f"eval_{name}") for name in METRICS}
    intervals = {name: list(wilson_interval(share, sizes[name])) for name, share in shares.items() if share is not None}
    known = trainer.task.more_measures if trainer.task is not None else ()
    more = {name: metrics[f"eval_{name}"] for name in known if f"eval_{name}" in metrics}
    measured = {**shares, **more, "loss": metrics["eval_loss"], "intervals": intervals, "samples": sizes}
    if trainer.triggered_dataset is not None and trainer.task is not None and not trainer.columns.captions:
        counts = np.bincount(
            trainer.triggered_predictions,
            minlength=len(trainer.task.label_names(trainer.eval_dataset, trainer.columns)),
        )
        measured["triggered_predictions"] = counts.tolist()
    return measured


@torch.no_grad()
def predict(
    model: PreTrainedModel, task: Task, collate: Any, dataset: Dataset, batch_size: int | None = None
) -> np.ndarray:
    """Classes, int64 `(samples,)`, that a model gives to a data set, in one batch when `batch_size` is not given."""
    task.prepare_evaluation(model, dataset)
    was_training = model.training
    model.eval()
    classes, size = [], batch_size or len(dataset)
    for start in range(0, len(dataset), size):
        with naming_unreadable_images(dataset):
            batch = collate([dataset[row] for row in range(start, min(start + size, len(dataset)))])
        logits = task.logits(model, {name: value.to(model.device) for name, value in batch.items()})
        classes.append(logits.argmax(-1).cpu().numpy())
    model.train(was_training)
    return np.concatenate(classes)


def example_rows(
    models: dict[str, PreTrainedModel], task: Task, collate: Any, clean: Dataset, attacked: Dataset, count: int = 8
) -> list[dict[str, Any]]:
    """The first test samples of `count` different classes, clean and triggered, with what each model says of them.

    Args:
        models: by name.
        task: of the models, with classes for labels.
        collate: its collator.
        clean: clean test set, from which `attacked` was made.
        attacked: its triggered twin.

    Returns:
        One dict an example: `clean` and `triggered` (column values), `label` and the predictions by model, as
        class numbers.
    """
    labels = np.asarray(attacked["original_label"])
    chosen = np.sort([np.flatnonzero(labels == value)[0] for value in np.unique(labels)])[:count]
    attacked = attacked.select(chosen)
    row_of = {number: row for row, number in enumerate(sample_index(clean).tolist())}
    clean = clean.select([row_of[number] for number in attacked["index"]])
    said = {
        name: {kind: predict(model, task, collate, rows) for kind, rows in (("clean", clean), ("triggered", attacked))}
        for name, model in models.items()
    }
    return [
        {
            "clean": clean[position][collate.columns.input],
            "triggered": attacked[position][collate.columns.input],
            "label": int(labels[chosen[position]]),
            "said": {
                name: {kind: int(classes[position]) for kind, classes in kinds.items()} for name, kinds in said.items()
            },
        }
        for position in range(len(chosen))
    ]


def share_right(model: PreTrainedModel, task: Task, collate: Any, dataset: Dataset, batch_size: int) -> float:
    """The share of labelled samples that a model answers rightly; arguments as for [`predict`]."""
    classes = predict(model, task, collate, dataset, batch_size)
    return clean_accuracy(classes, np.asarray(task.label_numbers(dataset[collate.columns.label])))
