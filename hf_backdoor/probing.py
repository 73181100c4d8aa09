"""Probing: a new head on a frozen body, from which purification of a transferred model starts."""

from __future__ import annotations

import copy
import tempfile
from typing import TYPE_CHECKING, Any

from .architectures import head_modules, pooler
from .errors import InputError
from .tuning import load_tuning, merged


if TYPE_CHECKING:
    import torch
    from datasets import Dataset
    from transformers import TrainingArguments

    from .tasks import Task

PROBE_STEPS = 300
SHARED = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "seed", "data_seed", "use_cpu", "bf16", "fp16",
    "dataloader_num_workers", "train_sampling_strategy", "length_column_name", "disable_tqdm", "logging_strategy",
    "logging_steps",
)  # fmt: skip
# Of AdamW. A linear layer on frozen features bears much more than a body does, and one below another not quite as much.
LINEAR_RATE, HIDDEN_RATE = 1e-2, 1e-3


def check_probe(steps: int, model: Any) -> None:
    """Whether a model can get a new head and be probed.

    Raises:
        InputError: there are no steps, or the model is an object and not a folder or Hub id.
    """
    if steps < 1:
        raise InputError("probe_steps", steps, "must be 1 or more")
    if not isinstance(model, str):
        raise InputError("model", type(model).__name__, "gets a new head when it is loaded; give its folder or Hub id")


def fit_head(
    model: torch.nn.Module,
    args: TrainingArguments,
    dataset: Dataset,
    task: Task,
    processing_class: Any,
    steps: int,
    columns: dict[str, str | None],
) -> torch.nn.Module:
    """Gives a model a new head, and trains that alone (the first half of LP-FT, Kumar et al. 2022, arXiv 2202.10054).

    Starting from a random head, the gradients of the first steps would spoil the body; and a model whose answers mean
    nothing can teach nothing. BERT's pooler is made anew with the head that reads it: after fine-tuning, what it
    gives varies along the old classes and hardly elsewhere, so that a linear layer on it learns no others. The
    projections of a CLIP-style pair stay as they are until they are trained: what they know holds for other captions.

    Args:
        model: with a head for the classes; changed. An adapter is merged.
        args: of the training that follows; batch size, precision, seed and logging are taken from it.
        dataset: clean.
        task, processing_class, columns: see [`~hf_backdoor.trainer.BackdoorTrainer`].
        steps: optimizer steps, of AdamW at a rate of 0.01, or 0.001 for a head with a hidden layer, that falls
            linearly to 0.

    Returns:
        The model.
    """
    from torch import nn
    from transformers import TrainingArguments, set_seed

    from .trainer import BackdoorTrainer

    model = merged(model)
    set_seed(args.seed)
    head = load_tuning("head")
    probed = head.apply(model)
    below = pooler(model) if task.has_head else None
    parts = [part for part in (below, *map(model.get_submodule, head_modules(model))) if part is not None]
    modules = [module for part in parts for module in part.modules()]
    for module in modules:
        module.requires_grad_(True)  # of the pooler too
        if task.has_head and hasattr(module, "reset_parameters"):
            module.reset_parameters()
    outputs = model.config.num_labels if task.has_head else getattr(model.config, "projection_dim", None)
    linear = all(module.out_features == outputs for module in modules if isinstance(module, nn.Linear))
    with tempfile.TemporaryDirectory() as scratch:
        own = TrainingArguments(
            scratch,
            max_steps=steps,
            learning_rate=LINEAR_RATE if linear else HIDDEN_RATE,
            save_strategy="no",
            **{name: getattr(args, name) for name in SHARED},
        )
        trainer = BackdoorTrainer(
            probed,
            own,
            train_dataset=dataset,
            processing_class=processing_class,
            task=copy.deepcopy(task),
            **columns,
        )
        trainer.train()
        return head.finish(trainer.accelerator.unwrap_model(trainer.model), base_is_stored=False)
