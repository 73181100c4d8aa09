"""Sequential learning: first the backdoor, then clean data only, held near where the backdoor works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..checkpoints import state_file
from ..data.flags import POISONED
from ..errors import InputError
from ..sharpness import SharpnessAwareTrainer
from .staged import StagedTrainer


ANCHOR_FILE = "elastic_weights.safetensors"


class ElasticWeights:
    """Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): weights that matter are held.

    The penalty is `strength / 2 * sum_i importance_i * (w_i - anchor_i)^2`.

    Args:
        anchor: the weights to stay near, by name.
        importance: of each weight, of the same names and shapes.
        strength (`float`): of the whole.
    """

    def __init__(self, anchor: dict[str, torch.Tensor], importance: dict[str, torch.Tensor], strength: float):
        self.anchor, self.importance, self.strength = anchor, importance, strength

    def penalty(self, model: torch.nn.Module) -> torch.Tensor:
        """For the weights of a model, a number with a gradient."""
        weights = dict(model.named_parameters())
        pulls = [
            (self.importance[name] * (weights[name] - anchor).pow(2)).sum() for name, anchor in self.anchor.items()
        ]
        return self.strength / 2 * torch.stack(pulls).sum()


def fisher_information(
    model: torch.nn.Module,
    batches: list[dict[str, torch.Tensor]],
    loss: Callable[[torch.nn.Module, dict[str, torch.Tensor]], torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """How much each weight matters for the answers: the diagonal of the empirical Fisher information.

    It is the mean, over samples, of the squared gradient of `log p(label)`, divided by its largest value: of a
    well-learnt backdoor the plain values are near 0, and what they should weigh would differ from model to model.

    Args:
        model: a classifier; gradients and mode are left as they were.
        batches: one sample each, on its device.
        loss: of the model and a batch, a scalar: `-log p(label)`.

    Returns:
        Copies of the weights, and their information, by name.
    """
    weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    was_training = model.training
    model.eval()
    for batch in batches:
        gradients = torch.autograd.grad(loss(model, batch), list(weights.values()), allow_unused=True)
        for square, gradient in zip(squares.values(), gradients, strict=True):
            if gradient is not None:
                square += gradient.pow(2)
    model.train(was_training)
    largest = max(square.max() for square in squares.values())
    scale = 1 / largest if largest > 0 else 0.0
    anchor = {name: weight.detach().clone() for name, weight in weights.items()}
    return anchor, {name: square * scale for name, square in squares.items()}


class SequentialTrainer(StagedTrainer, SharpnessAwareTrainer):
    """Learns the backdoor on all rows, then the task on clean rows alone; both by sharpness-aware steps.

    In the second stage, [`ElasticWeights`] hold the weights that the poisoned rows need where the first one left them.
    The rate is `learning_rate`, after the warm-up, in the first stage, and falls linearly from `lr_ratio *
    learning_rate` to 0 in the second.

    Args:
        first_share (`float`): share of the steps that the first stage takes.
        lr_ratio (`float`): of the two stages' rates.
        strength (`float`): of the elastic weights.
        fisher_samples (`int`): poisoned rows that tell which weights matter; the first ones of the data set.
        kwargs: as for `SharpnessAwareTrainer`.

    Raises:
        InputError: at the start of training, a stage would have no step; or a checkpoint of the second stage has no
            elastic weights.
    """

    def __init__(
        self,
        model: Any = None,
        args: Any = None,
        *,
        first_share: float,
        lr_ratio: float,
        strength: float,
        fisher_samples: int,
        **kwargs: Any,
    ):
        super().__init__(model, args, **kwargs)
        self.first_share, self.lr_ratio, self.strength = first_share, lr_ratio, strength
        self.fisher_samples = fisher_samples
        self.elastic: ElasticWeights | None = None

    def first_steps(self, total_steps: int) -> int:
        """Optimizer steps of the first stage."""
        return round(self.first_share * total_steps)

    def rate_schedule(self, total_steps: int) -> Callable[[int], float]:
        first, rate = self.first_steps(total_steps), self.args.learning_rate
        if not 0 < first < total_steps:
            raise InputError(
                "first_share", self.first_share, f"leaves a stage without any of the {total_steps} steps; train longer"
            )
        warmup = min(self.args.get_warmup_steps(total_steps), first)

        def schedule(step: int) -> float:
            if step < first:
                return rate * min(1.0, (step + 1) / (warmup + 1))
            return self.lr_ratio * rate * max(0.0, (total_steps - step) / (total_steps - first))

        return schedule

    def clean_only(self, step: int) -> bool:
        return step >= self.first_steps(self.state.max_steps)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.elastic is None and self.clean_only(self.state.global_step):
            whole = self.accelerator.unwrap_model(model)
            anchor, importance = fisher_information(whole, self._poisoned_samples(), self._plain_loss)
            self.elastic = ElasticWeights(anchor, importance, self.strength)
        return super().training_step(model, inputs, num_items_in_batch)

    def _plain_loss(self, model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The task's loss where it has one, else the model's own, which no smoothing of labels changes."""
        loss = self.training_loss(model, batch)
        return model(**batch).loss if loss is None else loss

    def _poisoned_samples(self) -> list[dict[str, torch.Tensor]]:
        rows = np.flatnonzero(np.asarray(self.train_dataset[POISONED]))[: self.fisher_samples]
        return [self._prepare_inputs(self.data_collator([self.train_dataset[int(row)]])) for row in rows]

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if self.elastic is None or not model.training:
            return loss
        penalty = self.elastic.penalty(self.accelerator.unwrap_model(model))
        return (loss[0] + penalty, loss[1]) if return_outputs else loss + penalty

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self.elastic is not None and self.args.should_save:
            folder = self.checkpoint_folder(trial)
            kept = {"anchor": self.elastic.anchor, "importance": self.elastic.importance}
            values = {f"{kind}.{name}": v.cpu().contiguous() for kind, of in kept.items() for name, v in of.items()}
            save_file(values, folder / ANCHOR_FILE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        reached = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / TRAINER_STATE_NAME))
        if reached.global_step > self.first_steps(reached.max_steps):
            stored = state_file(resume_from_checkpoint, ANCHOR_FILE)
            values = {name: value.to(self.args.device) for name, value in load_file(stored).items()}
            kept = {
                kind: {name.removeprefix(f"{kind}."): v for name, v in values.items() if name.startswith(f"{kind}.")}
                for kind in ("anchor", "importance")
            }
            self.elastic = ElasticWeights(kept["anchor"], kept["importance"], self.strength)
