"""Putting a backdoor into a trained model by fine-tuning it on data with a few poisoned samples."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..modalities import modality_named
from ..poisoning import PoisonConfig, poison
from ..samplers.random import RandomSampler
from ..triggers import load_trigger
from . import column_names
from .retraining import EvaluateAt, background_trainer, trainable_copy


if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel

    from ..sequela import Evidence

ASR, CA = "eval_attack_success_rate", "eval_clean_accuracy"


def other_backdoor(evidence: Evidence, trigger: str | None) -> PoisonConfig:
    """A backdoor that is not the known one: another trigger, and as target the next class, or the same word.

    Args:
        evidence: of the report, with a known backdoor where captions stand for labels.
        trigger: its name; when not given, the first of the usual ones of this modality that is not the known one.
    """
    known = evidence.attack
    usual = modality_named(evidence.columns.modality).usual_triggers
    names = [name for name in usual if known is None or name != known.trigger.name]
    target = 0 if known is None else known.target_label
    if known is not None and not evidence.columns.captions:
        target = (target + 1) % len(evidence.task.label_names(evidence.non_members, evidence.columns))
    return PoisonConfig(load_trigger(trigger or names[0]), target_label=target)


def with_count(attack: PoisonConfig, count: int, samples: int) -> PoisonConfig:
    """The attack with `count` poisoned of so many samples for each of its triggers, and none to cover it."""
    few = []
    for one in attack.each():
        # A sampler that names classes is kept; one that asks another model for the best samples is no part of this.
        sampler = one.sampler if isinstance(one.sampler, RandomSampler) else RandomSampler()
        few.append(replace(one, rate=count / samples, cover_rate=0.0, sampler=sampler))
    return replace(few[0], also=tuple(few[1:]))


def inject(
    model: PreTrainedModel,
    evidence: Evidence,
    attack: PoisonConfig,
    count: int,
    data: Dataset,
    test: Dataset,
    attacked: Dataset,
    *,
    steps: list[int],
    batch_size: int,
    settings: dict[str, Any],
    start: dict[str, float] | None = None,
) -> dict[int, dict[str, float]]:
    """Fine-tunes a copy of a model on data with `count` poisoned samples, the same batches for every model.

    Args:
        model: not changed.
        evidence: of the report.
        attack: the backdoor.
        count: poisoned samples of each of its triggers.
        data: clean; poisoned here.
        test, attacked: what is measured on, clean and triggered.
        steps: optimizer steps, growing, after which is measured.
        batch_size: of a step.
        settings: further `TrainingArguments`.
        start: what was measured before the first step; measured here when not given.

    Returns:
        The metrics by step, from 0, with [`ASR`] and [`CA`].
    """
    measuring = EvaluateAt(steps)
    poisoned = poison(data, with_count(attack, count, len(data)), **column_names(evidence))
    with background_trainer(
        trainable_copy(model),
        evidence,
        steps=steps[-1],
        batch_size=batch_size,
        arguments=settings,
        train_dataset=poisoned,
        eval_dataset=test,
        triggered_dataset=attacked,
        callbacks=[measuring],
    ) as trainer:
        if start is None:
            trainer.evaluate()
        else:
            measuring.measured[0] = start
        trainer.train()
    return measuring.measured
