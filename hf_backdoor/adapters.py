"""Loading PEFT adapters of unknown origin, as safely as whole models."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .architectures import NEW_WEIGHTS, head_modules, head_parameters
from .errors import InputError


if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

WEIGHTS = "adapter_model.safetensors"
PICKLED_WEIGHTS = "adapter_model.bin"
# Not config.json: with that beside an adapter, the Auto classes of transformers do not look for its base.
CLASSES = "adapter_classes.json"


def save_classes(folder: Path, model: PeftModel) -> None:
    """Writes the names of an adapter's classes beside it, which its own configuration has no place for."""
    names = {"id2label": getattr(model.get_base_model().config, "id2label", {})}
    (folder / CLASSES).write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def name_base_from_anywhere(model: PeftModel) -> None:
    """Makes the path of an adapter's base, if it is a folder, absolute; elsewhere it would be taken for a Hub id."""
    for config in model.peft_config.values():
        base = config.base_model_name_or_path
        if base and Path(base).is_dir():
            config.base_model_name_or_path = str(Path(base).resolve())


def find_adapter(source: str, revision: str | None = None) -> Path | None:
    """The folder of an adapter's `adapter_config.json`, downloaded if it is on the Hub; `None` if it is no adapter.

    Args:
        source (`str`): folder or Hub id. A folder costs no request.
        revision (`str`, *optional*): on the Hub.
    """
    from transformers.utils.peft_utils import find_adapter_config_file

    try:
        found = find_adapter_config_file(source, revision=revision)
    except (OSError, ValueError):  # neither a folder nor a Hub id, which whoever loads it says better
        return None
    return Path(found).parent if found else None


def base_of(folder: Path, source: str) -> str:
    """Folder or Hub id of the model below an adapter; a relative path may start here or in the adapter's folder.

    Args:
        folder (`Path`): of its `adapter_config.json`.
        source (`str`): as the user wrote it.

    Raises:
        InputError: the configuration names none.
    """
    name = json.loads((folder / "adapter_config.json").read_text("utf-8")).get("base_model_name_or_path")
    if not name:
        raise InputError("model", source, "is an adapter that names no base_model_name_or_path in adapter_config.json")
    beside = folder / name
    return str(beside.resolve()) if beside.is_dir() and not Path(name).is_dir() else name


def base_revision(folder: Path) -> str | None:
    """The commit, branch or tag of the model below an adapter, if its configuration names one.

    Args:
        folder (`Path`): of its `adapter_config.json`.
    """
    return json.loads((folder / "adapter_config.json").read_text("utf-8")).get("revision")


def load_adapter(
    auto_class: str, source: str, folder: Path, *, allow_pickle: bool, revision: str | None = None, **kwargs: Any
) -> PeftModel:
    """An adapter on its base model, ready to be trained.

    The classes are those in `kwargs` if there are any, else those of [`save_classes`] or of a `config.json` beside the
    adapter, else as many as its head has outputs.

    Args:
        auto_class (`str`): of the base model.
        source (`str`): as the user wrote it.
        folder (`Path`): of its `adapter_config.json`.
        allow_pickle (`bool`), revision, kwargs: as for [`~hf_backdoor.models.load_pretrained`].

    Raises:
        InputError: the base model does not load, or the adapter would have more loaded than itself; or its head is
            neither here nor there, and no other classes are asked for.
        OSError, ValueError, KeyError, RuntimeError: the adapter does not load.
    """
    from peft import PeftConfig, PeftModel
    from peft.utils import load_peft_weights

    config = PeftConfig.from_pretrained(str(folder))
    if config.peft_type == "XLORA" or getattr(config, "megatron_config", None):
        raise InputError("model", source, "names adapters or modules of others to load, which hf_backdoor never does")
    config.base_model_name_or_path = base = base_of(folder, source)
    folder = _with_weights(source, revision, allow_pickle=allow_pickle)
    weights = load_peft_weights(str(folder), device="cpu")
    shapes = {name.removeprefix("base_model.model."): tuple(value.shape) for name, value in weights.items()}
    new_head = bool(kwargs.keys() & {"id2label", "num_labels"})
    if not new_head:
        kwargs |= named_classes(source, revision)
    try:
        model = _load_base(auto_class, base, config, shapes, allow_pickle=allow_pickle, **kwargs)
    except InputError as error:
        raise InputError(
            "model", source, f"is an adapter for {base!r}, which {error.mend}; base_model_name_or_path in its "
            "adapter_config.json says where that is"
        ) from error  # fmt: skip
    heads = tuple(f"{name}." for name in head_modules(model))
    unknown = [name for name in getattr(model, NEW_WEIGHTS) if name not in shapes]
    unknown = [name for name in unknown if not (new_head and name.startswith(heads))]
    if unknown:
        raise InputError(
            "model", source, f"has no {unknown[0]} that fits, nor has its base model {base!r}; save it with them, by "
            "modules_to_save"
        )  # fmt: skip
    if heads and all(name in shapes for name, _ in model.named_parameters() if name.startswith(heads)):
        model.config.architectures = [type(model).__name__]  # the base may be a bare encoder; the head is here
    with warnings.catch_warnings():
        # PEFT would go on with weights at their start where the file has none for them.
        warnings.filterwarnings("error", "Found missing adapter keys", UserWarning)
        try:
            return PeftModel.from_pretrained(
                model,
                str(folder),
                is_trainable=not config.is_prompt_learning,  # which PEFT then refuses to load
                config=config,
                torch_device="cpu",
                ignore_mismatched_sizes=kwargs.get("ignore_mismatched_sizes", False),
            )
        except UserWarning as warning:
            raise ValueError(str(warning)) from warning


def _with_weights(source: str, revision: str | None, *, allow_pickle: bool) -> Path:
    """The folder of the weights, downloaded if they are on the Hub."""
    for name in (WEIGHTS, PICKLED_WEIGHTS)[: 1 + allow_pickle]:
        found = _file(source, name, revision)
        if found:
            return found.parent
    raise OSError(f"there is no {WEIGHTS}, and weights are opened as safetensors only")


def _file(source: str, name: str, revision: str | None) -> Path | None:
    """A file of a folder or of a repository of the Hub, if it is there."""
    from transformers.utils import cached_file

    found = cached_file(source, name, revision=revision, _raise_exceptions_for_missing_entries=False)
    return Path(found) if found else None


def named_classes(source: str, revision: str | None) -> dict[str, Any]:
    """Names of the classes beside an adapter, as a configuration takes them; empty if there are none."""
    from .models import label_maps

    file = _file(source, CLASSES, revision) or _file(source, "config.json", revision)
    names = json.loads(file.read_text("utf-8")).get("id2label") if file else None
    return label_maps([names[str(number)] for number in range(len(names))]) if names else {}


def _load_base(
    auto_class: str, base: str, config: PeftConfig, shapes: dict[str, tuple[int, ...]], **kwargs: Any
) -> PreTrainedModel:
    from .models import load_pretrained

    if find_adapter(base, config.revision):
        raise InputError("model", base, "is an adapter itself and has to be merged into its own base model first")
    revision = {"revision": config.revision} if config.revision else {}
    if not kwargs.keys() & {"id2label", "num_labels"}:
        kwargs |= _counted_classes(auto_class, load_pretrained("AutoConfig", base, **revision), shapes)
    if kwargs.keys() & {"id2label", "num_labels"}:
        kwargs["ignore_mismatched_sizes"] = True
    return load_pretrained(auto_class, base, **revision, **kwargs)


def _counted_classes(auto_class: str, config: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, int]:
    """Number of classes by the saved head, where it is not the number that the base model has.

    Args:
        auto_class (`str`), config: of the base model.
        shapes: of the adapter's weights, by the names that these have in the base model.
    """
    import torch
    import transformers

    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(config)
    heads = head_parameters(model)
    for name, weight in model.named_parameters():
        if name in heads and name in shapes and shapes[name][0] != weight.shape[0]:
            return {"num_labels": config.num_labels + shapes[name][0] - weight.shape[0]}
    return {}
