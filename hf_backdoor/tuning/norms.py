"""The normalisation layers and the head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..architectures import head_parameters
from ..errors import InputError
from . import Selection


if TYPE_CHECKING:
    import torch

# Architectures have classes of their own that derive from nothing in torch, such as LlamaRMSNorm.
KINDS = ("LayerNorm", "RMSNorm", "GroupNorm", "BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


@dataclass(frozen=True)
class Norms(Selection):
    """Trains scales and shifts of the normalisation layers, and the head (Zhao et al. 2024, arXiv 2312.11420)."""

    title: ClassVar[str] = "Normalisation layers"
    paper: ClassVar[str | None] = "https://arxiv.org/abs/2312.11420"

    def selected(self, model: torch.nn.Module) -> set[str]:
        names = {
            f"{name}.{parameter}"
            for name, module in model.named_modules()
            if any(base.__name__.endswith(KINDS) for base in type(module).__mro__)
            for parameter, _ in module.named_parameters(recurse=False)
        }
        if not names - head_parameters(model):
            raise InputError("peft", self.name, f"a {type(model).__name__} has none; choose another tuning")
        return names
