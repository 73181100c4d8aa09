"""LIRA: faint noise for each image, learnt with the victim (Doan, Lao, Zhao and Li, ICCV 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from ..in_loop.attack import NetAttack
from ..triggers.lira import Lira as LiraTrigger


if TYPE_CHECKING:
    from datasets import Dataset

    from ..in_loop.networks import TriggerNet
    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class Lira(NetAttack):
    """The noise network and the victim learn together; then the network is kept, and the victim learns on.

    Args:
        eps (`float`): largest change of any value, as a share of the range from 0 to 255; the authors' 0.01 is 2.55
            levels.
        clean_weight (`float`): weight of the clean loss against the triggered one (alpha), in (0, 1).
        joint_share (`float`): share of the steps in which the network learns too; 50 of 300 epochs in the paper.
        net_learning_rate (`float`): of the network, the peak of the victim's schedule.
        width (`int`): channels of the network at full resolution.
    """

    title: ClassVar[str] = "LIRA"
    paper: ClassVar[str] = LiraTrigger.paper
    default_trigger: ClassVar[str] = "lira"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 1.0}

    eps: float = 0.01
    clean_weight: float = 0.5
    joint_share: float = 0.5
    net_learning_rate: float = 1e-3
    width: int = 16

    def __post_init__(self):
        super().__post_init__()
        if not 1 / 510 <= self.eps <= 1:
            raise InputError("eps", self.eps, "must lie between 1/510, below which all is rounded off, and 1")
        if not 0 < self.clean_weight < 1:
            raise InputError("clean_weight", self.clean_weight, "must lie in (0, 1)")
        if not 0 < self.joint_share <= 1:
            raise InputError("joint_share", self.joint_share, "must lie in (0, 1]")

    def training_set(self, clean: Dataset, poison_config: PoisonConfig, **columns: str) -> Dataset:
        if poison_config.cover_rate:
            raise InputError("cover_rate", poison_config.cover_rate, "this attack has no cover samples; leave it out")
        return super().training_set(clean, poison_config, **columns)

    def trainer_class(self) -> type:
        from ..in_loop.training import LiraTrainer

        return LiraTrainer

    def make_net(self, channels: int) -> TriggerNet:
        from ..in_loop.networks import LiraNet

        return LiraNet(channels, self.width, self.eps)

    def trainer_settings(self) -> dict[str, Any]:
        return {"clean_weight": self.clean_weight, "joint_share": self.joint_share}
