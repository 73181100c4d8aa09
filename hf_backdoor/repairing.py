"""Training under a defence, and once more under a gentler one if that broke the model: by the clean samples alone."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate.utils import broadcast_object_list, release_memory
from transformers import TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.utils import logging

from .checkpoints import checkpoint_name, goes_on
from .measuring import measure, share_right
from .results import as_json
from .runs import Cost, check_finite, train_tuned


if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

    from .defenses import Defense
    from .trainer import BackdoorTrainer
    from .tuning import Tuning

# A repair that costs more than this of the accuracy on the samples that it was trained on has gone wrong. It learns
# them: in the tables of docs/paradigms.md sound ones ended within half a point or above, others 7 points below or more.
BEARABLE_LOSS = 0.03

logger = logging.get_logger(__name__)


@dataclass
class Repair:
    """What was trained.

    Args:
        trainer ([`~hf_backdoor.trainer.BackdoorTrainer`]): the last one; its model is the repaired one.
        defense ([`~hf_backdoor.defenses.Defense`]): the last one.
        before (`dict`, *optional*): measures of the suspect, see [`~hf_backdoor.measuring.measure`].
        cost ([`~hf_backdoor.runs.Cost`]): of everything, without evaluations on the way.
        tuning (`dict`): which weights were trained, for the results file.
        answered_rightly (`dict`): share of the clean samples, by the suspect (`before`) and at the end (`after`).
        given_up (`list` of `dict`): what a defence chose before this one, and the share answered rightly after it.
    """

    trainer: BackdoorTrainer
    defense: Defense
    before: dict[str, Any] | None
    cost: Cost
    tuning: dict[str, Any]
    answered_rightly: dict[str, float]
    given_up: list[dict[str, Any]] = field(default_factory=list)

    @property
    def broke(self) -> bool:
        """Whether it went wrong."""
        return self.answered_rightly["after"] < self.answered_rightly["before"] - BEARABLE_LOSS

    def in_words(self) -> str:
        """For a warning."""
        shares = {name: f"{100 * share:.0f} %" for name, share in self.answered_rightly.items()}
        return f"it answers {shares['after']} of the clean samples rightly, and the suspect {shares['before']}"


class GivenUp(TrainerCallback, ExportableState):
    """Keeps in each checkpoint what was given up before, so that a resumed run knows it and does not begin a third."""

    def __init__(self, reports: list[dict[str, Any]] | None = None):
        self.reports = reports or []

    def state(self) -> dict[str, Any]:
        return {"args": {"reports": self.reports}, "attributes": {}}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        stored = state.stateful_callbacks.get(type(self).__name__)
        if state.global_step > 0 and stored:
            self.reports = stored["args"]["reports"]


def repair(
    suspect: PreTrainedModel,
    defense: Defense,
    trainer_for: Callable[[Defense], BackdoorTrainer],
    tuning: Tuning,
    *,
    base_is_stored: bool,
) -> Repair:
    """Trains; where that broke the model and the defence knows something gentler, that is done to the suspect instead.

    Args:
        suspect: to compare with.
        defense: under which is trained.
        trainer_for: makes the Trainer of a defence, from the suspect's weights.
        tuning: which weights are trained.
        base_is_stored: see [`~hf_backdoor.tuning.Tuning.finish`].

    Raises:
        InputError: the last training diverged.
    """
    trainer = trainer_for(defense)
    trainer.add_callback(GivenUp())
    before, others = measure(trainer), _checkpoints(trainer)
    if goes_on(trainer.args.resume_from_checkpoint, trainer.args.output_dir):
        others = set(itertools.filterfalse(_is_of_a_repair, others))
    cost, tuned = train_tuned(trainer, tuning, base_is_stored=base_is_stored)
    answered = {
        "before": _answered_rightly(suspect.to(trainer.model.device), trainer),
        "after": _answered_rightly(trainer.model, trainer),
    }
    # What was given up before this training is in the checkpoint that it was resumed from.
    earlier = trainer.callback_of(GivenUp).reports
    done = Repair(trainer, defense, before, cost, tuned, answered, earlier)
    gentler = defense.gentler(trainer) if done.broke and not done.given_up else None
    if gentler is not None:
        logger.warning("The repair broke the model: %s. Again from the suspect, more gently.", done.in_words())
        _remove_checkpoints(trainer, others)
        report = defense.report(trainer) | {"answered_rightly": answered["after"]}
        given_up = [json.loads(as_json(report))]
        trainer = done = None
        release_memory()  # both need not fit
        trainer = trainer_for(gentler)
        trainer.add_callback(GivenUp(given_up))
        trainer.args.resume_from_checkpoint = None
        more, tuned = train_tuned(trainer, tuning, base_is_stored=base_is_stored)
        answered = answered | {"after": _answered_rightly(trainer.model, trainer)}
        done = Repair(trainer, gentler, before, cost + more, tuned, answered, given_up)
    check_finite(trainer)
    if done.broke:
        logger.warning(
            "The repair broke the model: %s. Give lower rates, or train other weights (--peft).", done.in_words()
        )
    return done


def _answered_rightly(model: PreTrainedModel, trainer: BackdoorTrainer) -> float:
    """Share of the clean samples, the same in all processes."""
    size = trainer.args.eval_batch_size
    share = share_right(model, trainer.task, trainer.data_collator, trainer.train_dataset, size)
    return broadcast_object_list([share])[0]


def _is_of_a_repair(checkpoint: Path) -> bool:
    state = checkpoint / TRAINER_STATE_NAME
    try:
        return GivenUp.__name__ in json.loads(state.read_text("utf-8")).get("stateful_callbacks", {})
    except FileNotFoundError:
        return False
    except ValueError:  # it was being written when the run was stopped
        return True


def _checkpoints(trainer: BackdoorTrainer) -> set[Path]:
    return set(Path(trainer.args.output_dir).glob(checkpoint_name("*")))


def _remove_checkpoints(trainer: BackdoorTrainer, others: set[Path]) -> None:
    """Of a repair that is given up, for the next would be resumed from them; `others` were there before it."""
    if trainer.is_world_process_zero():
        for path in _checkpoints(trainer) - others:
            shutil.rmtree(path)
    trainer.accelerator.wait_for_everyone()
