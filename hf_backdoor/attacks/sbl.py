"""SBL: a backdoor in a flat region, kept there while clean data are learnt (Pham et al. 2024, arXiv 2407.14738)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from . import Attack


if TYPE_CHECKING:
    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class Sbl(Attack):
    """Sequential backdoor learning: the attacker fine-tunes on clean data first, so that the defender changes little.

    Stage one learns clean and poisoned rows, stage two clean rows alone at a lower rate, with the weights that the
    backdoor needs held by elastic weight consolidation. Sharpness-aware steps lead to where small changes do no harm.
    The learning rate follows from these settings, so `lr_scheduler_type` is refused.

    Args:
        rho (`float`): radius of the sharpness-aware steps; 0 for ordinary ones.
        adaptive (`bool`): scale that radius with each weight.
        first_share (`float`): share of the steps of stage one, in (0, 1).
        lr_ratio (`float`): learning rate of stage two over that of stage one, above 0.
        strength (`float`): of the consolidation, 0 or more; see
            [`~hf_backdoor.resilient.sequential.ElasticWeights`].
        fisher_samples (`int`): poisoned rows that tell which weights the backdoor needs.
    """

    title: ClassVar[str] = "SBL"
    paper: ClassVar[str] = "https://arxiv.org/abs/2407.14738"

    rho: float = 0.05
    adaptive: bool = False
    first_share: float = 0.6
    lr_ratio: float = 0.1
    strength: float = 10.0
    fisher_samples: int = 256

    def __post_init__(self):
        for field in ("rho", "strength"):
            if not getattr(self, field) >= 0:
                raise InputError(field, getattr(self, field), "must be 0 or more")
        if not 0 < self.first_share < 1:
            raise InputError("first_share", self.first_share, "must lie between 0 and 1")
        if not self.lr_ratio > 0:
            raise InputError("lr_ratio", self.lr_ratio, "must be above 0")
        if self.fisher_samples < 1:
            raise InputError("fisher_samples", self.fisher_samples, "must be 1 or more")

    def trainer_class(self) -> type:
        from ..resilient.sequential import SequentialTrainer

        return SequentialTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return asdict(self)
