"""LIRA: faint noise that a network makes for each image (Doan et al. 2021, ICCV; see the class for the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..in_loop.trigger import LearnedTrigger


@dataclass(frozen=True)
class Lira(LearnedTrigger):
    """`x' = round(clip(x + eps tanh(g(x))))`, see [`~hf_backdoor.in_loop.networks.LiraNet`].

    The network is made by training a victim with the attack of this name, where `eps` is set.

    Args:
        weights (`str`, *optional*): the `trigger.safetensors` of a victim; without it there is no trigger yet.
    """

    title: ClassVar[str] = "LIRA"
    paper: ClassVar[str] = (
        "https://openaccess.thecvf.com/content/ICCV2021/html/Doan_LIRA_Learnable_Imperceptible_and_Robust_Backdoor_Attacks_ICCV_2021_paper.html"
    )
