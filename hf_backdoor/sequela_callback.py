"""A sequela report at the end of any training."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .errors import InputError
from .sequela import WORK_FOLDER, Evidence, Measure
from .sequela_report import SequelaReport


if TYPE_CHECKING:
    from transformers import PreTrainedModel


class SequelaCallback(TrainerCallback):
    """Compares the model at the end of training with what it was at the start, and writes the report beside it.

    `sequela.json`, the plots and the section of the card go to the Trainer's `output_dir`.

    Args:
        evidence ([`~hf_backdoor.sequela.Evidence`]): what all measures share; a `folder` that is left at the default is
            inside the `output_dir`.
        measures (*optional*): see [`SequelaReport`].
        benign (*optional*): a benign model, or where it is.
        before (*optional*): the model to compare with, or where it is; what it was when training began, when not given,
            which training that is resumed cannot know.

    Raises:
        InputError: when training begins; see [`SequelaReport`].

    Example:

    ```python
    trainer = Trainer(model, args, train_dataset=clean, callbacks=[SequelaCallback(evidence)])
    ```
    """

    def __init__(
        self,
        evidence: Evidence,
        measures: Sequence[Measure | str] | None = None,
        benign: PreTrainedModel | str | None = None,
        before: PreTrainedModel | str | None = None,
    ):
        self.evidence, self.measures, self.benign, self.before = evidence, measures, benign, before
        self.results: dict[str, Any] | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        self._report(model, model, args)  # what cannot be measured is refused before anything is trained
        if self.before is None and state.global_step:
            raise InputError(
                "resume_from_checkpoint", state.global_step, "what the model was before step 1 is not known here; give "
                "it to SequelaCallback as before"
            )  # fmt: skip
        if self.before is None:
            self.before = copy.deepcopy(model).cpu()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        report = self._report(self.before, copy.deepcopy(model), args)
        self.results = report.run()
        report.write(args.output_dir)

    def _report(self, before: PreTrainedModel, after: PreTrainedModel, args: TrainingArguments) -> SequelaReport:
        evidence = self.evidence
        if evidence.folder == WORK_FOLDER:
            evidence = replace(evidence, folder=Path(args.output_dir) / WORK_FOLDER)
        return SequelaReport(before, after, self.benign, evidence=evidence, measures=self.measures)
