"""Which weights are trained: all, some, or those of an adapter. One module each; its name is the name of the tuning.

A tuning is a frozen dataclass of its settings. It prepares a model for training and says afterwards what is to be
saved; how the weights are trained is the business of the Trainer and of the defence.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from .. import plugins
from ..errors import InputError


if TYPE_CHECKING:
    import torch
    from peft import PeftConfig


def is_adapter(model: torch.nn.Module) -> bool:
    """Whether a model is a PEFT adapter on a base model."""
    from peft import PeftModel

    return isinstance(model, PeftModel)


def merged(model: torch.nn.Module) -> torch.nn.Module:
    """A model with its adapter, if it is one, folded into the base weights.

    Raises:
        InputError: the adapter is of a kind that cannot be, such as a prompt; or it is inside a model that is not
            PEFT's, from where it cannot be told which weights are whose.
    """
    if not is_adapter(model):
        _check_no_adapter_inside(model)
        return model
    check_mergeable(model)
    unwrap_saved_modules(model)
    try:
        model = model.merge_and_unload()
    except NotImplementedError as error:
        raise _unmergeable(model) from error
    return trainable(model)  # which PEFT had taken from them


def trainable(model: torch.nn.Module) -> torch.nn.Module:
    """The model with all its weights to be trained, but those that are stored as whole numbers."""
    for weight in model.parameters():
        weight.requires_grad_(weight.is_floating_point())
    return model


def check_mergeable(model: torch.nn.Module) -> None:
    """Whether an adapter is of a kind that can be folded into the base weights.

    Raises:
        InputError: it is not.
    """
    if not hasattr(model, "merge_and_unload"):
        raise _unmergeable(model)


def _unmergeable(model: torch.nn.Module) -> InputError:
    kind = model.peft_config[model.active_adapter].peft_type.value
    return InputError("model", kind, "is a kind of adapter that cannot be merged; merge=false, or same_adapter")


def _check_no_adapter_inside(model: torch.nn.Module) -> None:
    from peft.tuners.tuners_utils import BaseTunerLayer

    if any(isinstance(module, BaseTunerLayer) for module in model.modules()):
        raise InputError(
            "model", type(model).__name__, "has an adapter inside it, as the Auto classes and add_adapter put it "
            "there; give the adapter's folder, or load it by PeftModel.from_pretrained"
        )  # fmt: skip


def unwrap_saved_modules(model: torch.nn.Module) -> None:
    """Puts the trained heads of an adapter in their places; PEFT fails at heads of several layers, but for LoRA's.

    (peft issue 3114)
    """
    from peft.utils import ModulesToSaveWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, ModulesToSaveWrapper):
            parent, _, child = name.rpartition(".")
            trained = module.unload_and_optionally_merge_module(merge=True, safe_merge=False, adapter_names=None)
            setattr(model.get_submodule(parent), child, trained)


def parameter_counts(model: torch.nn.Module) -> dict[str, int]:
    """Numbers of all weights and of those that are trained."""
    weights = list(model.parameters())
    return {
        "parameters": sum(weight.numel() for weight in weights),
        "trainable_parameters": sum(weight.numel() for weight in weights if weight.requires_grad),
    }


@dataclass(frozen=True)
class Tuning(plugins.Plugin, ABC):
    """Which weights are trained.

    Attributes:
        title (`str`): as it stands on a card.
        paper (`str`, *optional*): where it comes from.
    """

    home: ClassVar[str] = __name__
    title: ClassVar[str]
    paper: ClassVar[str | None] = None

    @abstractmethod
    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model, or an adapter on it, with `requires_grad` where it is to be trained.

        Args:
            model: belongs to the caller no longer; an adapter is merged first, unless the tuning says otherwise.

        Raises:
            InputError: the model has no such weights.
        """

    def check_finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> None:  # noqa: B027, most can
        """Whether [`~Tuning.finish`] will be able to do its work, which is better known before the training.

        Args:
            model: from [`~Tuning.apply`].
            base_is_stored: as for [`~Tuning.finish`].

        Raises:
            InputError: it will not.
        """

    def finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> torch.nn.Module:
        """What is to be saved of a model that was trained.

        Args:
            model: unwrapped.
            base_is_stored: whether the model before training can be loaded from where its name says, so that an
                adapter alone is of use.
        """
        return model


@dataclass(frozen=True)
class Selection(Tuning):
    """Trains some weights of the model itself, and its head."""

    @abstractmethod
    def selected(self, model: torch.nn.Module) -> set[str]:
        """Names of the parameters that are trained; those of the head are anyway."""

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        from ..architectures import head_parameters

        model = merged(model)
        model._trained_before = [name for name, weight in model.named_parameters() if weight.requires_grad]
        names = self.selected(model) | head_parameters(model)
        for name, weight in model.named_parameters():
            weight.requires_grad_(name in names)
        if not any(weight.requires_grad for weight in model.parameters()):
            raise InputError("peft", self.name, f"selects no weight of a {type(model).__name__}; choose another")
        return model

    def finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> torch.nn.Module:
        for name in model.__dict__.pop("_trained_before", []):
            model.get_parameter(name).requires_grad_(True)
        return model


@dataclass(frozen=True)
class Adapter(Tuning):
    """Trains a PEFT adapter, and the head, on frozen weights.

    Args:
        merge (`bool`): fold the adapter into the weights when training is over, and save a whole model. Without, the
            adapter is saved, if the model it belongs to can be loaded from where it came.
    """

    merge: bool = False

    @abstractmethod
    def peft_config(self, model: torch.nn.Module) -> PeftConfig:
        """The configuration of the adapter for this model."""

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        from peft import get_peft_model

        model = merged(model)
        config = self.peft_config(model)
        # What it belongs to is the commit that was loaded, wherever the branch is by then.
        commit = getattr(model.config, "_commit_hash", None)
        try:
            return get_peft_model(model, config, revision=commit)
        except (ValueError, KeyError) as error:
            raise InputError("peft", self.name, f"does not fit a {type(model).__name__} ({error})") from error

    def check_finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> None:
        if not self.kept(base_is_stored=base_is_stored):
            check_mergeable(model)

    def finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> torch.nn.Module:
        return model if self.kept(base_is_stored=base_is_stored) else merged(model)

    def kept(self, *, base_is_stored: bool) -> bool:
        """Whether it stays an adapter."""
        return base_is_stored and not self.merge


@dataclass(frozen=True)
class GivenConfig(Adapter):
    """An adapter by a `PeftConfig` of the user.

    What an adapter cannot do without is trained and saved with it, whether the configuration names it or not: the head
    above all, see [`~hf_backdoor.architectures.modules_to_save`].

    Args:
        config (`PeftConfig`): it stays as it is.
        merge: as for [`Adapter`].

    Raises:
        InputError: when it is applied; a kind that has no `modules_to_save`.
    """

    title: ClassVar[str] = "PEFT"

    config: Any = None

    @property
    def name(self) -> str:
        return self.config.peft_type.value.lower()

    def peft_config(self, model: torch.nn.Module) -> PeftConfig:
        from ..architectures import modules_to_save

        config = copy.deepcopy(self.config)
        config.inference_mode = False  # as PeftConfig.from_pretrained sets it
        if not hasattr(config, "modules_to_save"):
            raise InputError("peft_config", type(config).__name__, "has no room for a head; choose another kind")
        ends = tuple(config.modules_to_save or ())  # PEFT takes a name for the end of one
        given = [name for name, _ in model.named_modules() if name.endswith(ends)]
        every = list(dict.fromkeys([*modules_to_save(model), *given]))
        # It cannot save a module twice, as a part of another one too.
        config.modules_to_save = [name for name in every if not name.startswith(tuple(f"{one}." for one in every))]
        return config

    def to_dict(self) -> dict[str, Any]:
        import json

        # Sets and enumerations become what JSON knows, as PEFT itself stores them.
        return {"name": self.name, "merge": self.merge} | {
            "config": json.loads(json.dumps(self.config.to_dict(), default=lambda value: sorted(map(str, value))))
        }


def is_stored(model: torch.nn.Module, output_dir: str | Path | None) -> bool:
    """Whether a model says from where it can be loaded, as PEFT asks it for what an adapter belongs to.

    Args:
        model: of transformers, or an adapter.
        output_dir (`str` or `Path`, *optional*): where is written to, and what was there is lost.

    Raises:
        InputError: the model that an adapter belongs to would be lost.
    """
    source = model.config.name_or_path
    lost = bool(source) and output_dir is not None and Path(source).resolve() == Path(output_dir).resolve()
    if lost and is_adapter(model):
        raise InputError(
            "output", str(output_dir), "has the model that the suspect, an adapter, belongs to; choose another"
        )
    return bool(source) and not lost and not is_adapter(model)


def describe_tuning(tuning: Tuning, saved: torch.nn.Module, counts: dict[str, int]) -> dict[str, Any]:
    """Which weights were trained, for the results file.

    Args:
        tuning: that was used.
        saved: what came out of [`~Tuning.finish`].
        counts: [`parameter_counts`] of the model in training.
    """
    about = {"title": tuning.title, "paper": tuning.paper, "saved": "adapter" if is_adapter(saved) else "model"}
    return tuning.to_dict() | about | counts


def tuning_names() -> list[str]:
    """Names of the tunings that come with the package."""
    return plugins.names(__name__)


def _missed_by_auto_classes(config: PeftConfig) -> bool:
    """Whether the Auto classes of transformers do not load such an adapter, or without a part of it, as for DoRA."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    # What the layers of VeRA and others share is no part of a layer, and inject_adapter_in_model refuses it.
    shared = getattr(PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type), "uses_shared_state", False)
    return shared or getattr(config, "use_dora", False)


def load_tuning(tuning: Tuning | PeftConfig | str | None, **settings: Any) -> Tuning:
    """Makes a tuning from its name and settings, or from a `PeftConfig`; all weights when `None`.

    An adapter that the Auto classes would miss is merged.

    Raises:
        InputError: unknown name or setting, or something else than a name, a tuning or a configuration.
    """
    if isinstance(tuning, Tuning):
        return tuning
    if tuning is None or isinstance(tuning, str):
        return plugins.build(plugins.find(__name__, tuning or "full", Tuning, "peft"), settings, "peft_args")
    from peft import PeftConfig

    if not isinstance(tuning, PeftConfig):
        raise InputError("peft_config", tuning, "is no name, PeftConfig or Tuning; make one, as by LoraConfig(r=8)")
    return GivenConfig(config=tuning, merge=_missed_by_auto_classes(tuning))
