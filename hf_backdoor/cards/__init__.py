"""Cards: Markdown pages made from results files by a template and a data class each. They read, and measure nothing."""

from .datasets import write_dataset_card
from .models import PurifiedCard, VictimCard, check_card, write_card


__all__ = ["PurifiedCard", "VictimCard", "check_card", "write_card", "write_dataset_card"]
