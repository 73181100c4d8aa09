"""FTrojan: two raised frequencies of the colours (Wang et al. 2021, arXiv 2111.10991)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..frequency import FrequencyTrigger


@dataclass(frozen=True)
class FTrojan(FrequencyTrigger):
    """A middle and a high frequency of U and V, in each window of 32 x 32 pixels; see [`FrequencyTrigger`].

    Settings as published for small images: magnitude 30 at (15, 15) and (31, 31). Values change by 4 grey levels at
    most in grey and by 6 in blue, so a model that sees few samples, or few pixels, needs more. The authors' program
    uses Cr and Cb where their paper says U and V: its change of red is 1.23 times this one, and that of blue 0.87.
    """

    title: ClassVar[str] = "FTrojan"
    paper: ClassVar[str] = "https://arxiv.org/abs/2111.10991"
