"""LoRA: low-rank updates of the weight matrices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..architectures import ATTENTION, FEEDFORWARD, modules_to_save, target_modules
from ..errors import InputError
from . import Adapter


if TYPE_CHECKING:
    import torch
    from peft import PeftConfig

MODULES = {"all": ATTENTION + FEEDFORWARD, "attention": ATTENTION}


@dataclass(frozen=True)
class Lora(Adapter):
    """Low-rank adaptation (Hu et al. 2022, arXiv 2106.09685): `W + alpha / r * B A`, with `A` and `B` trained.

    `B` starts at zero, so the model is the suspect at first. Little is trained: `r * (in + out)` numbers of a matrix of
    `in * out`.

    Args:
        r (`int`): rank of the update, 1 or more.
        alpha (`float`, *optional*): strength of the update, `2 * r` when not given.
        dropout (`float`): on the input of `A`, in [0, 1).
        rslora (`bool`): scale by `alpha / sqrt(r)` (Kalajdzievski 2023, arXiv 2312.03732), so that high ranks learn.
        modules (`str`): `"all"` linear layers or convolutions of the blocks, or those of the `"attention"`, as in the
            paper.
        merge (`bool`): see [`~hf_backdoor.tuning.Adapter`].

    Raises:
        InputError: a value out of range; an architecture of unknown layers.
    """

    title: ClassVar[str] = "LoRA"
    paper: ClassVar[str | None] = "https://arxiv.org/abs/2106.09685"

    r: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    rslora: bool = False
    modules: str = "all"

    def __post_init__(self):
        if self.r < 1:
            raise InputError("r", self.r, "must be 1 or more")
        if self.alpha is not None and self.alpha <= 0:
            raise InputError("alpha", self.alpha, "must be above 0")
        if not 0 <= self.dropout < 1:
            raise InputError("dropout", self.dropout, "must be in [0, 1)")
        if self.modules not in MODULES:
            raise InputError("modules", self.modules, f"choose one of {', '.join(MODULES)}")

    @property
    def strength(self) -> float:
        """`alpha`, given or not."""
        return 2 * self.r if self.alpha is None else self.alpha

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"alpha": self.strength}

    def peft_config(self, model: torch.nn.Module) -> PeftConfig:
        from peft import LoraConfig

        return LoraConfig(
            r=self.r,
            lora_alpha=self.strength,
            lora_dropout=self.dropout,
            use_rslora=self.rslora,
            target_modules=target_modules(model, MODULES[self.modules]),
            modules_to_save=modules_to_save(model),
        )
