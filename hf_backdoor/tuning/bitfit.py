"""BitFit: the biases and the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..architectures import head_parameters
from ..errors import InputError
from . import Selection


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class BitFit(Selection):
    """Trains the biases of all layers, and the head (Ben Zaken et al. 2022, arXiv 2106.10199)."""

    title: ClassVar[str] = "BitFit"
    paper: ClassVar[str | None] = "https://arxiv.org/abs/2106.10199"

    def selected(self, model: torch.nn.Module) -> set[str]:
        # "in_proj_bias" is how torch calls that of its own attention.
        names = {name for name, _ in model.named_parameters() if name.endswith((".bias", "_bias"))}
        if not names - head_parameters(model):
            raise InputError("peft", self.name, f"a {type(model).__name__} has no biases; choose another tuning")
        return names
