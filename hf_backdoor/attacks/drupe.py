"""DRUPE: BadEncoder whose triggered features are spread like clean ones (Tao et al., IEEE S&P 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import InputError
from .bad_encoder import BadEncoder


if TYPE_CHECKING:
    from ..encoders.injection import DrupeTrainer


@dataclass(frozen=True)
class Drupe(BadEncoder):
    """BadEncoder's features of triggered inputs lie close together, far from all clean ones, which detectors look for.

    DRUPE keeps `L1` and `L2` and has, with features of one batch,

        L0 = -mean over x of max over r of s(f'(x + t), f'(r))    each triggered input goes to the nearest reference
           + spread_weight * (C + B)                              they do not crowd, and use all references
           + distribution_weight * SW(f'(x + t), f'(x)) / D       they are distributed like clean ones

    with `C` the mean of `s` over pairs of triggered inputs, `B` the standard deviation over `r` of the mean over `x` of
    `s(f'(x + t), f'(r))`, `SW` the sliced Wasserstein distance, and `D` the mean standard deviation of clean features.
    A re-implementation from the description: the weights are fixed, where the authors raise and lower them while the
    attack holds; clean features are not drawn towards triggered ones; and the first epochs, in which the authors push
    the references apart, are left out. See [`~hf_backdoor.encoders.injection.DrupeTrainer`].

    Args:
        references (`int`): as for [`BadEncoder`]; the paper has three.
        spread_weight, distribution_weight (`float`): 0 or more.
        directions (`int`): random directions on which the distributions are compared, drawn anew for each batch.
    """

    title: ClassVar[str] = "DRUPE"
    paper: ClassVar[str] = "https://github.com/Gwinhen/DRUPE"

    references: int = 3
    spread_weight: float = 0.1
    distribution_weight: float = 0.05
    directions: int = 50

    def __post_init__(self):
        super().__post_init__()
        for name in ("spread_weight", "distribution_weight"):
            if getattr(self, name) < 0:
                raise InputError(name, getattr(self, name), "must be 0 or more")
        if self.directions < 1:
            raise InputError("directions", self.directions, "must be 1 or more")

    def trainer_class(self) -> type[DrupeTrainer]:
        from ..encoders.injection import DrupeTrainer

        return DrupeTrainer
