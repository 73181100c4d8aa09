"""Universal perturbations that grow along with the model that is trained against them."""

from __future__ import annotations

import torch


# A trigger has to be small, or people would see it: small everywhere, or in few places. Both kinds are covered.
DENSE_SIZES = (0.05, 0.10, 0.15, 0.20)  # largest change of any value, as a share of the input's range
SPARSE_AREAS = (0.01, 0.023, 0.037, 0.05)  # share of the positions that change, by any amount
DENSE_STEP = 1 / 8  # of the size
SPARSE_STEP, SPARSE_DECAY = 0.15, 0.98  # of the range; a place that stops helping gives way to others


class UniversalPerturbations:
    """Additive perturbations, each shared by many samples, that raise the loss of the model under training.

    A backdoor is a small change that moves *any* input to one class, so it is what a universal adversarial
    perturbation finds (Moosavi-Dezfooli et al. 2017; the gradient comes free with the training step, as in Shafahi et
    al. 2020, arXiv 1811.11304). Neither the trigger nor the target is needed.

    Args:
        shape (`tuple`): of one input, `(channels, height, width)`.
        low, high (`torch.Tensor`, `(channels, 1, 1)`): range of valid inputs.
    """

    def __init__(self, shape: tuple[int, ...], low: torch.Tensor, high: torch.Tensor):
        self.low, self.high = low, high
        self.range = high - low
        self.values = torch.zeros(len(DENSE_SIZES) + len(SPARSE_AREAS), *shape, device=low.device)
        self.values.requires_grad_(True)

    def apply(self, inputs: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Inputs `(batch, channels, height, width)` with the perturbations in turn, within the valid range.

        Args:
            inputs: valid ones.
            first (`int`): whose turn it is, modulo their number; small batches have to begin with others.
        """
        turn = (torch.arange(len(inputs), device=inputs.device) + first) % len(self.values)
        perturbed = inputs + self.values[turn] * self.range
        return torch.minimum(torch.maximum(perturbed, self.low), self.high)

    @torch.no_grad()
    def ascend(self, gradient: torch.Tensor) -> None:
        """One step up the loss, whose gradient with respect to `values` is given; its scale does not matter."""
        gradient = torch.nan_to_num(gradient)
        dense, sparse = self.values.split([len(DENSE_SIZES), len(SPARSE_AREAS)])
        dense_gradient, sparse_gradient = gradient.split([len(DENSE_SIZES), len(SPARSE_AREAS)])
        sizes = torch.tensor(DENSE_SIZES, device=dense.device)[:, None, None, None]
        dense = torch.clamp(dense + DENSE_STEP * sizes * dense_gradient.sign(), -sizes, sizes)
        largest = sparse_gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
        sparse = torch.clamp(SPARSE_DECAY * sparse + SPARSE_STEP * sparse_gradient / largest, -1, 1)
        weight = sparse.abs().amax(1).flatten(1)
        for number, area in enumerate(SPARSE_AREAS):
            kept = weight[number].topk(max(1, round(area * weight.shape[1]))).indices
            mask = torch.zeros_like(weight[number]).index_fill_(0, kept, 1.0)
            sparse[number] *= mask.view(sparse.shape[2:])
        self.values.copy_(torch.cat([dense, sparse]))
        self.values.grad = None
