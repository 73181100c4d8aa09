"""Super-fine-tuning: the schedule, the search for its peaks, and the callback that brings both to any Trainer."""

from .callback import SuperFineTuningCallback
from .schedule import PRESETS, ScheduleConfig, TriangularSchedule
from .search import PeakSearch, SearchResult


__all__ = ["PRESETS", "PeakSearch", "ScheduleConfig", "SearchResult", "SuperFineTuningCallback", "TriangularSchedule"]
