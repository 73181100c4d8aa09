"""Going on with the adapter that the suspect is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import InputError
from . import Adapter, is_adapter, unwrap_saved_modules


if TYPE_CHECKING:
    import torch
    from peft import PeftConfig


# An adapter of another name is saved in a folder below, where nothing looks for it.
STORED_NAME = "default"


def _renamed(model: torch.nn.Module) -> torch.nn.Module:
    """The active adapter alone, under the name of one that is saved on its own; PEFT cannot rename."""
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    name = model.active_adapter
    config, weights = model.peft_config[name], get_peft_model_state_dict(model, adapter_name=name)
    if not hasattr(model, "unload"):
        raise InputError("model", name, f"is an adapter of a kind that stays on its model; name it {STORED_NAME!r}")
    unwrap_saved_modules(model)
    renamed = get_peft_model(model.unload(), config)
    set_peft_model_state_dict(renamed, weights)
    return renamed


@dataclass(frozen=True)
class SameAdapter(Adapter):
    """Trains the suspect's own adapter, with whatever it was saved with, and leaves the model below alone.

    For a backdoor that is in the adapter, on a base model that is trusted.

    Args:
        merge (`bool`): see [`~hf_backdoor.tuning.Adapter`].

    Raises:
        InputError: the suspect is no adapter, or several at once.
    """

    title: ClassVar[str] = "The suspect's own adapter"

    def peft_config(self, model: torch.nn.Module) -> PeftConfig:
        return model.peft_config[model.active_adapter]

    def apply(self, model: torch.nn.Module) -> torch.nn.Module:
        from peft.tuners.tuners_utils import BaseTunerLayer

        if not is_adapter(model):
            raise InputError(
                "peft", self.name, f"the suspect is a {type(model).__name__}, no adapter, or merged for a new head; "
                "choose another"
            )  # fmt: skip
        if len(model.active_adapters) > 1:
            raise InputError("peft", self.name, f"{', '.join(model.active_adapters)} are active; choose one of them")
        if model.active_adapter != STORED_NAME:
            model = _renamed(model)
        model.requires_grad_(False)
        model.set_adapter(STORED_NAME)
        biases = getattr(model.peft_config[STORED_NAME], "bias", "none")  # of LoRA; no part of what `set_adapter` knows
        layers = [module for module in model.modules() if biases == "all" or isinstance(module, BaseTunerLayer)]
        for module in layers if biases != "none" else ():
            bias = getattr(module, "bias", None)
            if bias is not None:
                bias.requires_grad_(True)
        if model.peft_config[STORED_NAME].is_prompt_learning:
            model.prompt_encoder[STORED_NAME].requires_grad_(True)  # which `set_adapter` does not reach
        return model

    def finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> torch.nn.Module:
        return super().finish(model, base_is_stored=self._base_is_somewhere(model, base_is_stored))

    def check_finish(self, model: torch.nn.Module, *, base_is_stored: bool) -> None:
        super().check_finish(model, base_is_stored=self._base_is_somewhere(model, base_is_stored))

    @staticmethod
    def _base_is_somewhere(model: torch.nn.Module, base_is_stored: bool) -> bool:
        # What is not stored under its name is the suspect; the model below it is where the suspect found it.
        return base_is_stored or bool(model.config.name_or_path)
