"""PETA: a backdoor that stays when users fine-tune adapters (Hong and Wang 2023, arXiv 2310.00648)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from . import Attack


if TYPE_CHECKING:
    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class Peta(Attack):
    """Bilevel: the backdoor is trained into the weights while simulated users fine-tune LoRA on the clean rows.

    Args:
        rank (`int`): of the users' adapters.
        scale (`float`): their factor, alpha / rank in peft.
        user_lr (`float`): the users' learning rate.
        inner_steps (`int`): steps of a user for each step of the attacker.
        user_steps (`int`): steps of the attacker before the next user begins.
    """

    title: ClassVar[str] = "PETA"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.00648"
    default_trigger: ClassVar[str] = "rare_words"
    whole_model: ClassVar[bool] = True

    rank: int = 8
    scale: float = 2.0
    user_lr: float = 1e-3
    inner_steps: int = 1
    user_steps: int = 50

    def __post_init__(self):
        for field in ("rank", "inner_steps"):
            if getattr(self, field) < 1:
                raise InputError(field, getattr(self, field), "must be 1 or more")
        if self.user_steps < 2:
            raise InputError("user_steps", self.user_steps, "must be 2 or more: a user's first step is without adapter")
        for field in ("scale", "user_lr"):
            if not getattr(self, field) > 0:
                raise InputError(field, getattr(self, field), "must be above 0")

    def trainer_class(self) -> type:
        from ..resilient.bilevel import BilevelTrainer

        return BilevelTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return asdict(self)
