"""The last blocks of every tower and what comes after them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..architectures import towers
from ..errors import InputError
from . import Selection


if TYPE_CHECKING:
    import torch


def block_names(module: torch.nn.Module, prefix: str) -> Iterator[str]:
    """Full names of the blocks of a tower: the items of its outermost lists of modules, in their order.

    In a hierarchical network (ResNet, Swin, ConvNeXt) these are the stages.
    """
    import torch

    for name, child in module.named_children():
        if isinstance(child, torch.nn.ModuleList):
            yield from (f"{prefix}{name}.{number}." for number in range(len(child)))
        else:
            yield from block_names(child, f"{prefix}{name}.")


@dataclass(frozen=True)
class LastBlocks(Selection):
    """Trains the last blocks of each encoder, what follows them, and the head.

    Args:
        count (`int`): blocks of each tower, 1 or more; stages of a hierarchical network.

    Raises:
        InputError: no blocks, or fewer than `count`.
    """

    title: ClassVar[str] = "Last blocks"

    count: int = 2

    def __post_init__(self):
        if self.count < 1:
            raise InputError("count", self.count, "must be 1 or more")

    def selected(self, model: torch.nn.Module) -> set[str]:
        names = set()
        for prefix, tower in towers(model).items():
            prefix = f"{prefix}." if prefix else ""
            blocks = list(block_names(tower, prefix))
            if len(blocks) < self.count:
                raise InputError("count", self.count, f"{type(tower).__name__} has {len(blocks)} blocks; lower it")
            parameters = [prefix + name for name, _ in tower.named_parameters()]
            first = next(place for place, name in enumerate(parameters) if name.startswith(blocks[-self.count]))
            # Position embeddings that all blocks share may be registered after them.
            names |= {name for name in parameters[first:] if "embed" not in name}
        return names
