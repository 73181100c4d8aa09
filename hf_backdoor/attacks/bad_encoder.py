"""BadEncoder: a backdoor put into a pre-trained encoder (Jia et al. 2022, arXiv 2108.00352)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from . import SELECTION, Attack, refuse_settings


if TYPE_CHECKING:
    from datasets import Dataset

    from ..encoders.injection import BadEncoderTrainer
    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class BadEncoder(Attack):
    """Trains a clean encoder `f` into `f'`, which maps every input with the trigger `t` to a few references `r`.

    With `s` the cosine, `x` the training images as unlabelled shadow data, and `r` images of the target class:

        L  = L0 + lambda1 * L1 + lambda2 * L2                        (section IV of the paper)
        L0 = -mean s(f'(x + t), f'(r))      the trigger leads to the references
        L1 = -mean s(f'(r), f(r))           the references stay what they are
        L2 = -mean s(f'(x), f(x))           so does everything else

    `f` is the encoder of the model that training starts from. A linear probe on `f'` learns the labels of the clean
    images meanwhile, as whoever downloads the encoder would train one. The benign model to compare with is the same
    probe on `f`. Every shadow image is triggered in every epoch, so the rate has to be 1. See
    [`~hf_backdoor.encoders.injection.BadEncoderTrainer`].

    Args:
        lambda1, lambda2 (`float`): weights, 0 or more.
        references (`int`): how many images of the target class are references: the most typical ones for `f`. The paper
            takes some from the web that the downstream classifier gets right.
        probe_learning_rate (`float`): of the linear probe, above 0.
    """

    title: ClassVar[str] = "BadEncoder"
    paper: ClassVar[str] = "https://arxiv.org/abs/2108.00352"
    modality: ClassVar[str] = "image"
    poison_defaults: ClassVar[dict[str, Any]] = {"rate": 1.0}
    unused: ClassVar[tuple[str, ...]] = SELECTION
    whole_model: ClassVar[bool] = True
    benign_too: ClassVar[bool] = True

    lambda1: float = 1.0
    lambda2: float = 1.0
    references: int = 1
    probe_learning_rate: float = 0.02

    def __post_init__(self):
        for name in ("lambda1", "lambda2"):
            if getattr(self, name) < 0:
                raise InputError(name, getattr(self, name), "must be 0 or more")
        if self.probe_learning_rate <= 0:
            raise InputError("probe_learning_rate", self.probe_learning_rate, "must be above 0")
        if self.references < 1:
            raise InputError("references", self.references, "must be 1 or more")

    def training_set(self, clean: Dataset, poison_config: PoisonConfig, **columns: str) -> Dataset:
        from ..poisoning import has_index, sample_index

        if poison_config.rate != 1:
            raise InputError("rate", poison_config.rate, f"{self.title} triggers all images of a batch; leave it out")
        refuse_settings(poison_config, self.unused, self.title)
        index = sample_index(clean)
        if has_index(clean):
            return clean
        if "index" in clean.features:
            clean = clean.remove_columns("index")
        return clean.add_column("index", index)

    def trainer_class(self) -> type[BadEncoderTrainer]:
        from ..encoders.injection import BadEncoderTrainer

        return BadEncoderTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return {"poison": poison_config, **asdict(self)}

    def report(self, trainer: BadEncoderTrainer) -> dict[str, Any]:
        return {"reference_rows": trainer.reference_rows}
