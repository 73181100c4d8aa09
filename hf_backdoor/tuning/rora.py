"""LoRA whose updates are made strong enough to forget with, when training is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import InputError
from .lora import Lora


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rora(Lora):
    """LoRA with the spectral rescaling of RoRA (Luong and Chen 2026, arXiv 2601.06305), and nothing else of RoRA.

    Their finding: a backdoor in the frozen weights survives LoRA because the largest singular value of an update
    `s B A` is far below that of its weight `W`. Theirs are two more terms of the loss and a rescaling after training.
    Here it is the rescaling alone, in a form of our own, for all adapted layers: with `|.|` the largest singular value,

        B <- B * max(1, share * |W| / |s B A|)

    so no update ends weaker than `share` of its weight, and one that is already stronger stays. Neither trigger nor
    target is needed; choose the share by the clean accuracy, which a large one costs. It is for updates that are weak,
    as at the low rates that pretrained models take: those of a small ViT trained from scratch ended at 0.3 to 1.2 by
    themselves after fine-tuning at 1e-3, where raising them cost more clean accuracy than it removed of the backdoor.
    Batch normalisation keeps the statistics of before the rescaling.

    Args:
        share (`float`): smallest strength of an update as a share of its weight's, above 0.
        r, alpha, dropout, rslora, modules, merge: as for [`~hf_backdoor.tuning.lora.Lora`].
    """

    title: ClassVar[str] = "LoRA, spectrally rescaled"
    paper: ClassVar[str | None] = "https://arxiv.org/abs/2601.06305"

    share: float = 0.5

    def __post_init__(self):
        super().__post_init__()
        if self.share <= 0:
            raise InputError("share", self.share, "must be above 0")

    def finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> torch.nn.Module:
        rescale(model, self.share)
        return super().finish(model, base_is_stored=base_is_stored)


def rescale(model: torch.nn.Module, share: float) -> None:
    """Raises the largest singular value of every LoRA update to a share of its weight's, in place.

    Args:
        model: a `PeftModel` with LoRA on linear layers or convolutions. A convolution's weight counts as a matrix of
            `(out, in * height * width)`. An update that is zero stays zero, and one that is no number what it is.
        share (`float`): above 0.
    """
    import torch
    from peft.tuners.lora import LoraLayer

    with torch.no_grad():
        for layer in model.modules():
            if not isinstance(layer, LoraLayer):
                continue
            base = torch.linalg.matrix_norm(layer.get_base_layer().weight.flatten(1).float(), 2)
            for adapter in layer.active_adapters:
                second = layer.lora_B[adapter].weight
                strength = layer.scaling[adapter] * _norm_of_product(second, layer.lora_A[adapter].weight)
                if strength > 0:
                    second *= (share * base / strength).clamp(min=1)


def _norm_of_product(second: torch.Tensor, first: torch.Tensor) -> torch.Tensor:
    """Largest singular value of `B A`, of a small matrix instead: the product of the triangles of both QRs.

    NaN after a training that diverged, which is found out later; the decomposition would raise an error.
    """
    import torch

    triangles = [torch.linalg.qr(matrix.float(), mode="r").R for matrix in (second.flatten(1), first.flatten(1).T)]
    product = triangles[0] @ triangles[1].T
    return torch.linalg.matrix_norm(product, 2) if product.isfinite().all() else product.new_tensor(torch.nan)
