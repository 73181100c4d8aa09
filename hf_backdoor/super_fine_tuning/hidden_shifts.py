"""Shifts of hidden states, shared by all inputs, that grow along with the model that is trained against them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F


SHIFTS = 4  # each after another block
DEPTH = 2 / 3  # of the blocks; what comes later is the answer itself
SIZE = 0.2  # of the median length of a token's state
START, STEP = 0.3, 1 / 8  # of that size


class HiddenShifts:
    """Directions into which all tokens of a text are shifted inside the model, such as raise its loss.

    Whatever the trigger is, a word, a sentence or its grammar, a model that obeys it has to tell triggered inputs from
    others, and their hidden states are shifted by much the same vector (Zeng et al. 2024, arXiv 2406.17092). So a text
    gets what pixels get from [`~hf_backdoor.super_fine_tuning.perturbations.UniversalPerturbations`]: a small change
    for all inputs, in whose ascent neither the trigger nor its target is needed. The gradient comes with the training
    step, at no extra pass.

    Args:
        blocks: of the model, in their order. The shifts are added to what some of them return.
        width (`int`): of a hidden state. Blocks that return anything but `(batch, tokens, width)` are left alone.
        seed (`int`): of the first, random directions.
        device: of the model.

    Attributes:
        values (`torch.Tensor`, float32 `(shifts, width)`): of length 1 at most, which stands for `SIZE` times the
            median length of the states in the batch.
    """

    def __init__(self, blocks: Sequence[torch.nn.Module], width: int, seed: int, device: torch.device | str = "cpu"):
        after = sorted({max(1, round(DEPTH * len(blocks) * (number + 1) / SHIFTS)) for number in range(SHIFTS)})
        self.blocks = [blocks[place - 1] for place in after if place <= len(blocks)]
        random = torch.randn(len(self.blocks), width, generator=torch.Generator().manual_seed(seed))
        self.values = (START * F.normalize(random)).to(device).requires_grad_(True)
        self.turn = torch.zeros(0, dtype=torch.int64)

    def choose(self, samples: int, unshifted: int, first: int = 0) -> None:
        """Says which shift each sample of the next batch gets: none for those before `unshifted`, then all in turn.

        Args:
            samples (`int`): in the batch.
            unshifted (`int`): of them.
            first (`int`): whose turn it is, modulo their number.
        """
        number = torch.arange(samples, device=self.values.device)
        self.turn = torch.where(number < unshifted, -1, (number + first) % max(1, len(self.blocks)))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within it the blocks shift what they return. It has to last until the backward pass has ended, since gradient
        checkpointing calls them again."""
        with ExitStack() as stack:
            for number, block in enumerate(self.blocks):
                stack.callback(block.register_forward_hook(partial(self._shifted, number)).remove)
            yield

    def _shifted(self, number: int, block: torch.nn.Module, inputs: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        if not torch.is_tensor(hidden) or hidden.ndim != 3:
            return None
        if (len(hidden), hidden.shape[-1]) != (len(self.turn), self.values.shape[-1]):
            return None
        length = hidden.detach().float().norm(dim=-1).median()
        mine = (self.turn == number).to(hidden.device)[:, None, None]
        hidden = hidden + (mine * SIZE * length * self.values[number]).to(hidden.dtype)
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    @torch.no_grad()
    def ascend(self, gradient: torch.Tensor) -> None:
        """One step up the loss, whose gradient with respect to `values` is given; its scale does not matter."""
        step = STEP * F.normalize(torch.nan_to_num(gradient))
        values = self.values + step
        self.values.copy_(values / values.norm(dim=-1, keepdim=True).clamp_min(1))
        self.values.grad = None
