"""DoRA: LoRA that trains the lengths of the weights' columns apart from their directions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .lora import Lora


if TYPE_CHECKING:
    import torch
    from peft import PeftConfig


@dataclass(frozen=True)
class Dora(Lora):
    """Weight-decomposed low-rank adaptation (Liu et al. 2024, arXiv 2402.09353): `m (W + s B A) / |W + s B A|`.

    The norm is that of the weights of each output, and `m`, at first the norm of those of `W`, is trained too. Slower
    than LoRA, and nearer to what training all weights does.

    Args:
        r, alpha, dropout, rslora, modules: as for [`~hf_backdoor.tuning.lora.Lora`].
        merge (`bool`): see [`~hf_backdoor.tuning.Adapter`]. Done by default: the Auto classes of transformers (5.23) do
            not read the `m` of an adapter, say so in a log, and have another model.
    """

    title: ClassVar[str] = "DoRA"
    paper: ClassVar[str | None] = "https://arxiv.org/abs/2402.09353"

    merge: bool = True

    def peft_config(self, model: torch.nn.Module) -> PeftConfig:
        config = super().peft_config(model)
        config.use_dora = True
        return config
