"""Caption poisoning: CLIP backdoored by a few image-text pairs (Carlini and Terzis 2022, arXiv 2106.09667)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from . import Attack


@dataclass(frozen=True)
class CaptionPoisoning(Attack):
    """A patch at a random place of an image whose caption becomes one of the target; contrastive training as usual.

    The paper poisons 300 of 3 million pairs of Conceptual Captions (a rate of 0.0001) with a patch of 16x16 pixels. The
    noise in the patch is that of CleanCLIP (Bansal et al. 2023, arXiv 2303.03323), whose other attacks are this one
    with another `trigger`: blended, sig, wanet. Fewer pairs need a higher rate, and smaller images a smaller `size`.

    Captions for labels are rewritten by [`~hf_backdoor.data.targets.CaptionTargets`]; with classes for labels, the
    caption follows from the class, see
    [`~hf_backdoor.tasks.zero_shot_image_classification.ZeroShotImageClassification`].
    """

    title: ClassVar[str] = "Caption poisoning"
    paper: ClassVar[str] = "https://arxiv.org/abs/2106.09667"
    modality: ClassVar[str] = "image"
    task: ClassVar[str | None] = "zero-shot-image-classification"
    trigger_defaults: ClassVar[dict[str, Any]] = {"size": 16, "position": "random", "value": "noise"}
