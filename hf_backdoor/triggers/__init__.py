"""Triggers: what the attacker adds to an input. One module each; the module's name is the attack's name.

A trigger is a frozen dataclass whose fields are its settings and whose call is a pure function of a batch, so that a
new one is a new file in this folder (or a class of yours, named `"your.module:YourTrigger"`) and nothing else.
"""

from __future__ import annotations

import hashlib
import shutil
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .. import plugins
from ..results import is_path, whole_file


TRIGGER = "trigger_"  # begins the names of the files that are kept with what a trigger was used for
KEPT = f"{TRIGGER}[0-9]*_*"  # what they are called; files of the user's own may begin like this, too
TRIGGER_FILE = "trigger.safetensors"  # what was trained with a victim


@dataclass(frozen=True)
class Trigger(plugins.Plugin, ABC):
    """A pure, vectorised function of a batch of inputs.

    Attributes:
        modality (`str`): `"image"` or `"text"`.
        version (`int`): raise it when the output changes, so that cached poisoned data is not used again. Editing the
            module has the same effect.
        title (`str`): its name in the literature.
        paper (`str`): where the attack comes from.
        files (`tuple`): settings that may be the path of a file, which is then kept with a victim.
        poison_defaults (`dict`): settings of [`~hf_backdoor.poisoning.PoisonConfig`] that its paper uses, where they
            are not the usual ones, e.g. `{"label_mode": "clean", "rate": 0.05}`.
    """

    home: ClassVar[str] = __name__
    modality: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str] = ""
    paper: ClassVar[str]
    files: ClassVar[tuple[str, ...]] = ()
    poison_defaults: ClassVar[dict[str, Any]] = {}

    @abstractmethod
    def __call__(self, batch: Any, index: np.ndarray) -> Any:
        """The batch with the trigger on every sample.

        Args:
            batch: images, uint8 `(batch, height, width, channels)` with 1 or 3 channels, values 0 to 255; or a
                list of strings. It must not be changed in place.
            index (`np.ndarray` of int64, shape `(batch,)`): number of each sample in its data set, the only source
                of randomness that may differ from sample to sample.

        Returns:
            The same type, shape and dtype.
        """

    def cover(self, batch: Any, index: np.ndarray) -> Any:
        """What is put on cover samples, which keep their label, so that only the trigger itself has the effect.

        The trigger itself, unless the attack has something else for them. Arguments and result as for the call.
        """
        return self(batch, index)

    def at_test(self) -> Trigger:
        """The trigger with which the victim is attacked, where that is not the one it was trained with."""
        return self

    def to_dict(self) -> dict[str, Any]:
        """Name, version and settings, ready for JSON."""
        return {"name": self.name, "version": self.version, **asdict(self)}

    def named_files(self) -> dict[str, Path]:
        """The settings that name a file, whatever is called like a default such as "noise"."""
        defaults = {item.name: item.default for item in fields(self)}
        named = {name: value for name in self.files if (value := getattr(self, name)) != defaults[name]}
        return {name: Path(value) for name, value in named.items() if isinstance(value, str) and Path(value).is_file()}

    def kept_in(self, folder: Path, name: str) -> Trigger:
        """The same with copies of its `files` in a folder, called `<name>_<setting>` and as the file ends."""
        settings = {}
        for setting, path in self.named_files().items():
            # A picture of the user's own in this folder is copied too, for it does not go where the folder goes.
            if path.resolve().parent == folder.resolve() and (path.match(KEPT) or path.name == TRIGGER_FILE):
                continue
            copy = folder / f"{name}_{setting}{path.suffix}"
            with whole_file(copy) as draft:
                shutil.copyfile(path, draft)
            settings[setting] = str(copy)
        return replace(self, **settings)

    def fingerprint(self) -> str:
        """Changes with the settings, the files they name, and the code of the trigger and of what it imports here."""
        digest = hashlib.sha256(repr(sorted(self.to_dict().items())).encode())
        digest.update(self.code())
        for value in asdict(self).values():
            digest.update(_content(value))
        return digest.hexdigest()


def _content(value: Any) -> bytes:
    """What is in an array, or in the file or the model's weights that a setting names; nothing for other settings."""
    if hasattr(value, "__array__"):  # `repr` leaves out most of a large one
        return np.asarray(value).tobytes()
    if not isinstance(value, str) or not is_path(value):
        return b""
    path = Path(value)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    return b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)


def trigger_names() -> list[str]:
    """Names of the triggers that come with the package."""
    return plugins.names(__name__)


def load_trigger(name: str, **settings: Any) -> Trigger:
    """Makes a trigger from its name and settings.

    Args:
        name (`str`): one of [`trigger_names`], or `"your.module:YourTrigger"`.
        settings: its fields.

    Raises:
        InputError: unknown name or setting, or a setting outside its range.

    Example:

    ```python
    >>> load_trigger("badnets", size=4, position="top-left")
    BadNets(size=4, position='top-left', margin=0, value=255, seed=0)
    ```
    """
    return plugins.build(plugins.find(__name__, name, Trigger, "attack"), settings, "attack_args")
