"""Shadow models: models like the one under attack, each trained on a half of the samples that are asked about.

They come in pairs that share the samples out between them, so that of all models one half has learned a sample and
one half has not, whichever sample it is. Only their answers are kept, one file a model, so that training that was
interrupted goes on with the model that it had come to.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..exposure import above_zero, at_least
from ..exposure.retraining import background_trainer
from ..randomness import seeded
from ..results import whole_file
from ..tuning import load_tuning
from .samples import Samples, logits_of


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

    from ..sequela import Evidence

VERSION = 1  # of what the stored answers depend on besides the settings
# Of a configuration, what says where a model comes from and not how it is built.
ORIGIN = {"_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype", "id2label", "label2id"}

# `TrainingArguments` of all of them.
ARGUMENTS = {"lr_scheduler_type": "linear", "warmup_steps": 0.1, "weight_decay": 0.01, "dataloader_drop_last": True}


@dataclass(frozen=True)
class Recipe:
    """How shadow models are made.

    Args:
        steps (`int`): optimizer steps, of AdamW with 10 % warm-up and linear decay.
        batch_size (`int`): samples a step; fewer where a half of the samples is fewer.
        learning_rate (`float`): the peak.
        base (`str`): folder or Hub id of a pretrained model to start from; without, the architecture of the model
            under attack with fresh weights, all of which are trained.
        tuning (`str`): which weights of `base` are trained, see [`~hf_backdoor.tuning.tuning_names`].
    """

    steps: int
    batch_size: int
    learning_rate: float
    base: str
    tuning: str


@dataclass
class Shadow:
    """The answers of one shadow model.

    Attributes:
        logits (`np.ndarray` of float32, `(samples, classes)`): to all samples.
        learned (`np.ndarray` of bool, `(samples,)`): on which it was trained.
    """

    logits: np.ndarray
    learned: np.ndarray


def halves(samples: int, number: int, seed: int) -> np.ndarray:
    """Which samples shadow model `number` learns, bool `(samples,)`: one half, and its twin the other."""
    first = np.random.default_rng([seed, number // 2]).permutation(samples) < samples // 2
    return first if number % 2 == 0 else ~first


def _built(config: PretrainedConfig) -> Any:
    """What of a configuration decides how a model is built, ready for JSON."""

    def without_origin(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: without_origin(item) for name, item in sorted(value.items()) if name not in ORIGIN}
        return value

    return without_origin(json.loads(config.to_json_string(use_diff=False))) | {"num_labels": config.num_labels}


def shadow_folder(model: PreTrainedModel, samples: Samples, recipe: Recipe, evidence: Evidence) -> Path:
    """Where the answers of shadow models of this kind are kept: the name is a digest of all that they depend on."""
    depends = {
        "version": VERSION,
        "recipe": asdict(recipe),
        "seed": evidence.seed,
        "task": evidence.task.pipeline_tag,
        "model": type(model).__name__,
        "config": None if recipe.base else _built(model.config),
        "samples": samples.digest,
    }
    digest = hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()
    return Path(evidence.folder) / "shadow_models" / digest[:32]


def shadow_models(
    model: PreTrainedModel, samples: Samples, count: int, recipe: Recipe, evidence: Evidence
) -> Iterator[Shadow]:
    """The shadow models one after another, so that the answers of one are held at a time; trains those not there yet.

    Each depends on its own number and the seed alone: more of them later leave the first ones as they are.

    Raises:
        InputError: the base cannot be loaded, or does not fit.
    """
    from tqdm.auto import tqdm

    folder = shadow_folder(model, samples, recipe, evidence)
    folder.mkdir(parents=True, exist_ok=True)
    for number in tqdm(range(count), desc="Shadow models", disable=evidence.quiet, leave=False):
        path = folder / f"{number}.safetensors"
        shadow = _stored(path)
        if shadow is None:
            learned = halves(len(samples.labels), number, evidence.seed)
            shadow = Shadow(_train(model, samples, learned, number, recipe, evidence), learned)
            _store(path, shadow)
        yield shadow


def _stored(path: Path) -> Shadow | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as stored:
            return Shadow(stored.get_tensor("logits"), stored.get_tensor("learned"))
    except SafetensorError:  # cut short, by a full disk say
        return None


def _store(path: Path, shadow: Shadow) -> None:
    """The whole file or nothing."""
    with whole_file(path) as draft:
        save_file({"logits": shadow.logits, "learned": shadow.learned}, draft)


def _train(
    model: PreTrainedModel, samples: Samples, learned: np.ndarray, number: int, recipe: Recipe, evidence: Evidence
) -> np.ndarray:
    """Trains one shadow model, and gives its logits for all samples."""
    task, columns = type(evidence.task)(), evidence.columns
    seed = int(np.random.default_rng([evidence.seed, number, VERSION]).integers(2**31))
    with seeded(seed):
        if recipe.base:
            shadow = task.load_to_train(recipe.base, samples.dataset, columns)
            task.check_model(shadow, task.label_names(samples.dataset, columns))
            shadow = load_tuning(recipe.tuning).apply(shadow)
        else:
            shadow = type(model)(copy.deepcopy(model.config))
        with background_trainer(
            shadow.to(model.device),
            evidence,
            steps=recipe.steps,
            batch_size=recipe.batch_size,
            arguments=ARGUMENTS | {"learning_rate": recipe.learning_rate, "seed": seed},
            train_dataset=samples.dataset.select(np.flatnonzero(learned)),
        ) as trainer:
            trainer.train()
            return logits_of(trainer.accelerator.unwrap_model(trainer.model).eval(), samples.dataset, evidence)


def check_recipe(recipe: Recipe) -> None:
    """Whether shadow models can be made like this.

    Raises:
        InputError: a value out of range, or an unknown tuning.
    """
    at_least("steps", recipe.steps, 1)
    at_least("batch_size", recipe.batch_size, 1)
    above_zero("learning_rate", recipe.learning_rate)
    load_tuning(recipe.tuning)
