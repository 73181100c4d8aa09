"""What the attacks have in common whose trigger is a network, learnt with the victim."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ..attacks import Attack
from ..errors import InputError
from ..triggers import Trigger, load_trigger


if TYPE_CHECKING:
    from datasets import Dataset

    from ..poisoning import PoisonConfig
    from ..trainer import BackdoorTrainer
    from .networks import TriggerNet


@dataclass(frozen=True)
class NetAttack(Attack):
    """Trains with a [`~hf_backdoor.in_loop.training.NetInLoopTrainer`], and stores the network beside the victim."""

    modality: ClassVar[str] = "image"
    learns_trigger: ClassVar[bool] = True

    net_learning_rate: float = 0.01
    width: int = 16

    def __post_init__(self):
        if not self.net_learning_rate > 0:
            raise InputError("net_learning_rate", self.net_learning_rate, "must be above 0")
        if self.width < 1:
            raise InputError("width", self.width, "must be 1 or more")

    @abstractmethod
    def make_net(self, channels: int) -> TriggerNet:
        """The network for images with so many channels, with random weights."""

    @abstractmethod
    def trainer_settings(self) -> dict[str, Any]:
        """What the Trainer needs besides the network."""

    def training_set(self, clean: Dataset, poison_config: PoisonConfig, **columns: str) -> Dataset:
        from .batches import check_config

        trigger = poison_config.trigger
        if trigger.name != self.default_trigger:
            raise InputError(
                "trigger", trigger.name, f"this attack makes its own, {self.default_trigger}; leave it out"
            )
        if trigger.weights is not None:
            raise InputError(
                "weights", trigger.weights, "this attack trains its own trigger; leave weights out, or poison the data "
                f"with this one: --attack {type(trigger).__module__}:{type(trigger).__name__}"
            )  # fmt: skip
        check_config(poison_config, clean, **columns)
        return clean

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return {
            "poison_config": poison_config,
            "make_net": self.make_net,
            "net_learning_rate": self.net_learning_rate,
            **self.trainer_settings(),
        }

    def learned_trigger(self, trainer: BackdoorTrainer, folder: Path) -> Trigger:
        from .networks import TRIGGER_FILE, save_net

        path = folder / TRIGGER_FILE
        if trainer.is_world_process_zero():
            save_net(trainer.net, path)
        trainer.accelerator.wait_for_everyone()
        return dataclasses.replace(load_trigger(self.default_trigger), weights=str(path))
