"""Sharpness-aware minimisation: steps by the gradient at the worst weights nearby, which end in flat minima."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

from .errors import InputError
from .trainer import BackdoorTrainer


class WorstNearby:
    """Moves weights to where the loss is worst within a small distance, and back.

    SAM (Foret et al. 2021, arXiv 2010.01412): `w + rho * g / |g|`. Adaptive SAM (Kwon et al. 2021, arXiv 2102.11600):
    `w + rho * w^2 * g / |w * g|`, which does not depend on how the weights are scaled. `|.|` is the Euclidean norm
    over all weights.

    Args:
        parameters: the weights.
        rho (`float`): the distance, 0 or more.
        adaptive (`bool`): which of the two.
    """

    def __init__(self, parameters: Iterable[torch.nn.Parameter], rho: float, adaptive: bool = False):
        self.parameters, self.rho, self.adaptive = list(parameters), rho, adaptive
        self._before: list[torch.Tensor] | None = None

    @property
    def moved(self) -> bool:
        """Whether the weights are away from where they belong."""
        return self._before is not None

    @torch.no_grad()
    def move(self, gradients: Sequence[torch.Tensor]) -> None:
        """Moves the weights up the gradients, one for each of them; only their direction matters."""
        self._before = [weight.detach().clone() for weight in self.parameters]
        scales = [weight.abs() if self.adaptive else 1.0 for weight in self.parameters]
        ascents = [scale * gradient for scale, gradient in zip(scales, gradients, strict=True)]
        length = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(ascent.float()) for ascent in ascents]))
        if length > 0:
            for weight, scale, ascent in zip(self.parameters, scales, ascents, strict=True):
                weight.add_(scale * ascent * (self.rho / length))

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the weights back, bit for bit."""
        for weight, before in zip(self.parameters, self._before, strict=True):
            weight.copy_(before)
        self._before = None


class SharpnessAwareTrainer(BackdoorTrainer):
    """A `BackdoorTrainer` with sharpness-aware steps.

    Before the first backward pass of an optimizer step, the gradient of *all* its accumulated batches (and processes)
    moves the weights; the Trainer's own passes, accumulation and clipping then act on the gradient at that place, and
    the weights are put back before the optimizer steps. So accumulated batches equal one big batch.

    Args:
        rho (`float`): how far the weights are moved; 0 for ordinary steps.
        adaptive (`bool`): see [`WorstNearby`].
        kwargs: as for `BackdoorTrainer`.

    Raises:
        InputError: `rho` is negative, or the model is sharded by DeepSpeed or FSDP.
    """

    def __init__(
        self, model: Any = None, args: Any = None, *, rho: float = 0.05, adaptive: bool = False, **kwargs: Any
    ):
        if not rho >= 0:
            raise InputError("rho", rho, "must be 0 or more")
        if args is not None and (args.deepspeed or args.fsdp):
            raise InputError("rho", rho, "sharpness-aware steps need the whole model on each device; set it up without "
                             "DeepSpeed and FSDP")  # fmt: skip
        super().__init__(model, args, **kwargs)
        self.rho, self.adaptive = rho, adaptive
        self._worst: WorstNearby | None = None
        self._batches: list[dict[str, Any]] = []

    def get_batch_samples(self, epoch_iterator: Iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        self._batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        return self._batches, items

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        if self.rho > 0 and self._worst is None:
            whole = self.accelerator.unwrap_model(model)
            weights = [weight for weight in whole.parameters() if weight.requires_grad]
            gradients = self.step_gradients(whole, weights, num_items_in_batch)
            self._worst = WorstNearby(weights, self.rho, self.adaptive)
            self._worst.move(gradients)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self._worst is not None and self.accelerator.sync_gradients:
            self._worst.restore()
            self._worst = None
        return loss

    def step_gradients(
        self, model: torch.nn.Module, weights: list[torch.Tensor], num_items_in_batch: Any
    ) -> list[torch.Tensor]:
        """Gradients of the coming optimizer step's loss, up to one common factor; `.grad` is not touched.

        Args:
            model: the model without wrappers, which wait for a backward pass of their own.
            weights: of the model.
            num_items_in_batch: as for `training_step`.
        """
        model.train()
        totals = [torch.zeros_like(weight) for weight in weights]
        for batch in self._batches:
            inputs = dict(self.augment(self._prepare_inputs(batch)))
            with self.compute_loss_context_manager():
                loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            for total, gradient in zip(totals, torch.autograd.grad(loss, weights, allow_unused=True), strict=True):
                if gradient is not None:
                    total += gradient
        return [self.accelerator.reduce(total, "mean") for total in totals]
