"""Forget-Me-Not: a backdoor that was forgotten and taught again while it was trained (submitted to ICLR 2024)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from . import Attack


if TYPE_CHECKING:
    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class ForgetMeNot(Attack):
    """Parts on poisoned and clean rows in turn with parts on clean rows alone, under the defender's learning rate.

    What the clean parts make the model forget is taught again, until what is left is what they do not reach. The
    learning rate follows from these settings, so `lr_scheduler_type` is refused.

    Args:
        cycles (`int`): clean parts.
        clean_share (`float`): share of the steps that they take, in (0, 1).
        peak_ratio (`float`): their peak as a multiple of `learning_rate`, 1 or more.
        triangles (`int`): in each of them.
    """

    title: ClassVar[str] = "Forget-Me-Not"
    paper: ClassVar[str] = "https://openreview.net/group?id=ICLR.cc/2024/Conference"

    cycles: int = 4
    clean_share: float = 0.4
    peak_ratio: float = 5.0
    triangles: int = 2

    def __post_init__(self):
        for field in ("cycles", "triangles"):
            if getattr(self, field) < 1:
                raise InputError(field, getattr(self, field), "must be 1 or more")
        if not 0 < self.clean_share < 1:
            raise InputError("clean_share", self.clean_share, "must lie between 0 and 1")
        if not self.peak_ratio >= 1:
            raise InputError("peak_ratio", self.peak_ratio, "must be 1 or more")

    def trainer_class(self) -> type:
        from ..resilient.forgetting import ForgettingTrainer

        return ForgettingTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return asdict(self)
