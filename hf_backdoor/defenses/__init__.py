"""Defences: each changes how a Trainer trains, and nothing else. One module each; its name is the defence's name.

A defence is a frozen dataclass of its settings. It names the Trainer class and the callbacks that do the work; data,
measuring and reporting are the same for all of them, and none of them ever sees a triggered input.
"""

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from .. import plugins
from ..errors import InputError
from ..results import as_json


if TYPE_CHECKING:
    import torch
    from transformers import TrainerCallback

    from ..trainer import BackdoorTrainer


@dataclass(frozen=True)
class Defense(plugins.Plugin, ABC):
    """How to train on clean data so that a backdoor is forgotten.

    Attributes:
        title (`str`): as it stands on a card.
        paper (`str`): where the defence comes from.
    """

    home: ClassVar[str] = __name__
    title: ClassVar[str]
    paper: ClassVar[str]

    def described(self) -> dict[str, Any]:
        """Name, settings, title and paper, for the results file and the card.

        Raises:
            InputError: there is no title or no paper, or a setting is nothing that JSON has.
        """
        for field in ("title", "paper"):
            if not isinstance(getattr(self, field, None), str):
                raise InputError(
                    "defense", self.name, f"has no {field}, which stands on the card; add `{field}: ClassVar[str]` to "
                    "its class"
                )  # fmt: skip
        try:
            settings = self.to_dict()
            as_json(settings)
        except (TypeError, ValueError) as error:
            raise InputError(
                "defense", self.name, f"has settings that no JSON can hold ({error}); have its to_dict return others"
            ) from error
        return settings | {"title": self.title, "paper": self.paper}

    def for_suspect(self, *, new_head: bool) -> Defense:
        """This defence, with what its settings leave to the kind of suspect decided.

        Args:
            new_head (`bool`): the suspect's head is new, and knows the task from a linear probe alone.
        """
        return self

    def check_model(self, model: torch.nn.Module) -> None:  # noqa: B027, most defences take any model
        """Whether the defence can work on a model, asked before its head is probed.

        Args:
            model: as it will be trained, see [`~hf_backdoor.tuning.Tuning.apply`].

        Raises:
            InputError: it cannot.
        """

    def training_defaults(self) -> dict[str, Any]:
        """`TrainingArguments` where the user says nothing."""
        return {}

    def trainer_class(self) -> type[BackdoorTrainer]:
        """The Trainer to use."""
        from ..trainer import BackdoorTrainer

        return BackdoorTrainer

    def trainer_kwargs(self) -> dict[str, Any]:
        """Extra arguments for it."""
        return {}

    def callbacks(self) -> list[TrainerCallback]:
        """Callbacks for it."""
        return []

    def report(self, trainer: BackdoorTrainer) -> dict[str, Any]:
        """What the defence chose by itself, for the results file, ready for JSON."""
        return {}

    def gentler(self, trainer: BackdoorTrainer) -> Defense | None:
        """What to try instead when this defence broke the model; none where the user decided all that it did.

        Args:
            trainer: that broke it.
        """
        return None


def defense_names() -> list[str]:
    """Names of the defences that come with the package."""
    return plugins.names(__name__)


def load_defense(name: str, **settings: Any) -> Defense:
    """Makes a defence from its name and settings.

    Raises:
        InputError: unknown name or setting.
    """
    return plugins.build(plugins.find(__name__, name, Defense, "defense"), settings, "defense_args")
