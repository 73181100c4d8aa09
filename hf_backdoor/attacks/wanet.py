"""WaNet: poison, cover and clean samples in every batch (Nguyen and Tran 2021, arXiv 2102.10369)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from . import Attack


if TYPE_CHECKING:
    from datasets import Dataset

    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class WaNet(Attack):
    """Draws anew in every batch which samples are poisoned.

    A share `rate` of each batch gets the trigger and the target label, a share `cover_rate` (the paper's cross ratio of
    2 times the rate) gets what the trigger has for cover samples, for `wanet` the noise mode, and keeps its label; the
    rest stays clean. Any image trigger can be trained like this: `trigger=NAME`. What it draws at random for a sample
    is drawn anew too.
    """

    title: ClassVar[str] = "WaNet"
    paper: ClassVar[str] = "https://arxiv.org/abs/2102.10369"
    modality: ClassVar[str] = "image"
    default_trigger: ClassVar[str] = "wanet"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.1, "cover_rate": 0.2, "label_mode": "dirty"}

    def training_set(self, clean: Dataset, poison_config: PoisonConfig, **columns: str) -> Dataset:
        from ..in_loop.batches import check_config

        check_config(poison_config, clean, **columns)
        return clean

    def trainer_class(self) -> type:
        from ..in_loop.batches import TriggerInLoopTrainer

        return TriggerInLoopTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return {"poison_config": poison_config}
