"""Input-aware: a trigger for each image, learnt with the victim (Nguyen and Tran 2020, arXiv 2010.08138)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from ..in_loop.attack import NetAttack


if TYPE_CHECKING:
    from ..in_loop.networks import TriggerNet


@dataclass(frozen=True)
class InputAware(NetAttack):
    """Pattern and mask come from networks that see the image; another image's trigger must not work.

    Where the authors train the mask for 25 epochs and both networks with a learning rate of 0.01, that is the default;
    the victim's learning rate is the Trainer's.

    Args:
        density (`float`): share of its image's pixels that a mask may use before it costs anything, in [0, 1).
        norm_weight (`float`): weight of what it uses beyond that (lambda_norm).
        diversity_weight (`float`): weight of the likeness of different images' triggers (lambda_div).
        mask_epochs (`int`): passes over the data in which the mask network learns, before the victim does.
        net_learning_rate (`float`): of both networks, the peak of the victim's schedule for the pattern network.
        width (`int`): channels of the networks at full resolution.
    """

    title: ClassVar[str] = "Input-aware"
    paper: ClassVar[str] = "https://arxiv.org/abs/2010.08138"
    default_trigger: ClassVar[str] = "input_aware"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 0.1, "cover_rate": 0.1}

    density: float = 0.032
    norm_weight: float = 100.0
    diversity_weight: float = 1.0
    mask_epochs: int = 25
    net_learning_rate: float = 0.01
    width: int = 16

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.density < 1:
            raise InputError("density", self.density, "must lie in [0, 1)")
        for field in ("norm_weight", "diversity_weight", "mask_epochs"):
            if getattr(self, field) < 0:
                raise InputError(field, getattr(self, field), "must be 0 or more")

    def trainer_class(self) -> type:
        from ..in_loop.training import InputAwareTrainer

        return InputAwareTrainer

    def make_net(self, channels: int) -> TriggerNet:
        from ..in_loop.networks import InputAwareNet

        return InputAwareNet(channels, self.width)

    def trainer_settings(self) -> dict[str, Any]:
        names = ("density", "norm_weight", "diversity_weight", "mask_epochs")
        return {name: getattr(self, name) for name in names}

    def report(self, trainer: Any) -> dict[str, Any]:
        """`mask_density`: the mask's mean over the last images that it learned from."""
        return {"mask_density": trainer.mask_density}
