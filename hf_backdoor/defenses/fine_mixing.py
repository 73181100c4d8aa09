"""Fine-mixing: part of the suspect's weights go back to those of the public model it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from ..results import local_name
from .fine_tuning import FineTuning


if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback


@dataclass(frozen=True)
class FineMixing(FineTuning):
    """Fine-mixing (Zhang et al. 2022, EMNLP Findings, arXiv 2210.09545), for any model with a public base.

    With `m` of independent bits that are 1 with probability `keep`, and `W_0` the public weights, training starts from

        W <- m * W + (1 - m) * W_0

    in all matrices and vectors that both have; the head stays the suspect's. Then it is fine-tuning. The paper's second
    part, the purification of word embeddings (E-PUR), is not here: a poisoned embedding is mixed like any weight.

    Args:
        base (`str`): folder or Hub id of the public model that the suspect was made from.
        keep (`float`): share of the weights that stay, in [0, 1). Lower removes more, and needs more clean data.

    Raises:
        InputError: no base, or one that does not load or fit; the suspect is trained as an adapter.
    """

    title: ClassVar[str] = "Fine-mixing"
    paper: ClassVar[str] = "https://arxiv.org/abs/2210.09545"

    base: str = ""
    keep: float = 0.5

    def __post_init__(self):
        if not self.base:
            raise InputError("base", self.base, "give the folder or Hub id of the model that the suspect was made from")
        if not 0 <= self.keep < 1:
            raise InputError("keep", self.keep, "must be in [0, 1)")

    def check_model(self, model: torch.nn.Module) -> None:
        from ..mixing import public_weights, shared_weights

        shared_weights(model, public_weights(self.base), self.base)

    def callbacks(self) -> list[TrainerCallback]:
        from ..mixing import MixingCallback

        return [MixingCallback(self.base, self.keep)]

    def to_dict(self) -> dict[str, Any]:
        return super().to_dict() | {"base": local_name(self.base)}

    def report(self, trainer: Any) -> dict[str, Any]:
        from ..mixing import MixingCallback

        return {"mixed_weights": trainer.callback_of(MixingCallback).mixed}
