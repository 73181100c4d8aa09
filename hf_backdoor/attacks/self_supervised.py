"""Poisoned contrastive pre-training: CTRL (arXiv 2210.07346) and SSLBKD (arXiv 2105.10123)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ..errors import InputError
from . import Attack


if TYPE_CHECKING:
    from ..encoders.contrastive import ContrastiveTrainer
    from ..poisoning import PoisonConfig


@dataclass(frozen=True)
class SelfSupervised(Attack):
    """SimCLR on unlabelled images, some of which carry the trigger; then a linear probe tells the classes.

    The attacker puts the trigger on images of the target class and changes no label, since the encoder sees none: it
    learns that what has the trigger looks like the target class (CTRL, section 3: two views of a poisoned image share
    the trigger as they share the object). The probe learns from the labels of the samples that are not poisoned, so
    that the backdoor is the encoder's. A patch as trigger makes it SSLBKD. See
    [`~hf_backdoor.encoders.contrastive.ContrastiveTrainer`].

    Args:
        temperature (`float`): of the NT-Xent loss, above 0.
        projection_size (`int`): length of what the projection head gives.
        min_crop (`float`): smallest share of the area that a view shows, in (0, 1].
        jitter (`float`): largest relative change of a view's brightness and contrast, in [0, 1).
        probe_learning_rate (`float`): of the linear probe, above 0.
    """

    title: ClassVar[str] = "Poisoned contrastive learning (CTRL)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2210.07346"
    modality: ClassVar[str] = "image"
    default_trigger: ClassVar[str] = "ctrl"
    poison_defaults: ClassVar[dict[str, Any]] = {"label_mode": "clean", "rate": 0.01}
    whole_model: ClassVar[bool] = True
    benign_too: ClassVar[bool] = True

    temperature: float = 0.2
    projection_size: int = 64
    min_crop: float = 0.3
    jitter: float = 0.4
    probe_learning_rate: float = 0.02

    def __post_init__(self):
        for name in ("temperature", "probe_learning_rate"):
            if getattr(self, name) <= 0:
                raise InputError(name, getattr(self, name), "must be above 0")
        if self.projection_size < 1:
            raise InputError("projection_size", self.projection_size, "must be 1 or more")
        if not 0 < self.min_crop <= 1:
            raise InputError("min_crop", self.min_crop, "must lie in (0, 1]")
        if not 0 <= self.jitter < 1:
            raise InputError("jitter", self.jitter, "must lie in [0, 1)")

    def training_defaults(self) -> dict[str, Any]:
        # Each sample is compared with all others of its batch, so a batch has to be large.
        return {"per_device_train_batch_size": 256}

    def trainer_class(self) -> type[ContrastiveTrainer]:
        from ..encoders.contrastive import ContrastiveTrainer

        return ContrastiveTrainer

    def trainer_kwargs(self, poison_config: PoisonConfig | None) -> dict[str, Any]:
        return asdict(self)
