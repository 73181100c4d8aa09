"""Loading models of unknown origin: safetensors only, no remote code, float32."""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils import logging

from .architectures import NEW_WEIGHTS, TOWER_OF
from .errors import InputError


if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.get_logger(__name__)

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "adapter_model.bin")


def _has_pickles(source: str, *, on_hub: bool) -> bool:
    if Path(source).is_dir():
        return any((Path(source) / name).is_file() for name in PICKLES)
    if not on_hub:
        return False
    from huggingface_hub import HfApi

    try:
        return any(HfApi().file_exists(source, name) for name in PICKLES)
    except Exception:  # the Hub is out of reach; the first error says so
        return False


def _explain(source: str, error: Exception) -> InputError:
    text = " ".join(str(error).split())
    if _has_pickles(source, on_hub="safetensors" in text):
        return InputError(
            "model", source, "has its weights as pickles only, which can run code when opened; convert them to "
            "safetensors, or pass --allow-pickle (allow_pickle=True) if you trust their author"
        )  # fmt: skip
    if "trust_remote_code" in text:
        return InputError("model", source, "needs code of its own repository to run, which hf_backdoor never does")
    return InputError("model", source, f"cannot be loaded ({type(error).__name__}: {text[:300]})")


def load_pretrained(auto_class: str, source: str, *, allow_pickle: bool = False, **kwargs: Any) -> Any:
    """`transformers.<auto_class>.from_pretrained`, safely; a PEFT adapter comes on its base model.

    Args:
        auto_class (`str`): e.g. `"AutoModelForImageClassification"` or `"AutoImageProcessor"`.
        source (`str`): folder or Hub id; of an adapter too, see [`~hf_backdoor.adapters.load_adapter`].
        allow_pickle (`bool`): also load weights that are only stored as pickles (by `torch.load(weights_only=True)`).
        kwargs: for `from_pretrained`.

    Returns:
        A model has the names of the weights that its files left to chance as an attribute,
        [`~hf_backdoor.architectures.NEW_WEIGHTS`].

    Raises:
        InputError: nothing is there, it does not load, or only unsafely.
    """
    import transformers

    from .adapters import base_of, base_revision, find_adapter, load_adapter

    # Else transformers has a Space convert pickles, and loads the weights in whatever pull request has its title.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    is_model, safely = auto_class.startswith("AutoModel"), {}
    try:
        if is_model and (adapter := find_adapter(source, kwargs.get("revision"))):
            return load_adapter(auto_class, source, adapter, allow_pickle=allow_pickle, **kwargs)
        if is_model:
            import torch

            # A checkpoint in half precision would otherwise stay in half precision, and not train.
            safely = {"dtype": torch.float32, "use_safetensors": None if allow_pickle else True}
            safely |= {"output_loading_info": True}
        loaded = getattr(transformers, auto_class).from_pretrained(source, trust_remote_code=False, **kwargs | safely)
        if not is_model:
            return loaded
        model, info = loaded
        setattr(model, NEW_WEIGHTS, sorted({*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])}))
        return model
    except InputError:
        raise
    except Exception as error:  # a stranger's files make all kinds, and those of tokenizers have no class of their own
        if not is_model and (adapter := find_adapter(source, kwargs.pop("revision", None))):
            # It has no processor of its own.
            return load_pretrained(auto_class, base_of(adapter, source), revision=base_revision(adapter), **kwargs)
        if auto_class in TOWER_OF and "VisionTextDualEncoderConfig" in str(error):
            return _on_a_tower(auto_class, source, allow_pickle=allow_pickle, **kwargs)
        raise _explain(source, error) from error


def without_autocast(model: Any) -> Any:
    """A model whose forward pass is that of its class again, in place, after a Trainer has trained or evaluated it.

    `Accelerator.prepare` wraps it in the precision of the training. `extract_model_from_parallel` unwraps more than
    that, what transformers has put around it, too.
    """
    if vars(model).pop("_original_forward", None) is not None:
        vars(model).pop("forward", None)
    return model


def commit_of(model: Any, revision: str | None = None) -> str | None:
    """The commit that a model on the Hub would be loaded from now; `None` for a folder, an object or what is not there.

    Args:
        model: folder, Hub id or object.
        revision (`str`, *optional*): a branch, a tag or a commit.

    Raises:
        InputError: a revision is named, and the model is not on the Hub.
    """
    from transformers.utils import ADAPTER_CONFIG_NAME, CONFIG_NAME, cached_file
    from transformers.utils.hub import extract_commit_hash

    if not isinstance(model, str) or Path(model).is_dir():
        if revision is not None:
            raise InputError("revision", revision, "is for a model on the Hub, and this one is here; leave it out")
        return None
    try:
        for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME):
            if found := cached_file(model, name, revision=revision, _raise_exceptions_for_missing_entries=False):
                return extract_commit_hash(found, None)
    except OSError:  # whoever loads it says why
        pass
    return None


def _on_a_tower(
    auto_class: str, source: str, *, allow_pickle: bool, revision: str | None = None, **kwargs: Any
) -> PreTrainedModel:
    """A classifier on one tower of a pair of any two encoders, which transformers knows as a pair alone."""
    pair = load_pretrained("AutoModel", source, allow_pickle=allow_pickle, revision=revision)
    with tempfile.TemporaryDirectory() as folder:
        getattr(pair, TOWER_OF[auto_class]).save_pretrained(folder)
        model = load_pretrained(auto_class, folder, **kwargs)
    model.config.name_or_path = ""  # nowhere is it stored by itself
    return model


# What a configuration says of a classifier for one class each, and nothing where it says it by default.
SINGLE_LABEL = "single_label_classification"


def check_head(model: PreTrainedModel, names: list[str]) -> None:
    """Compares a classifier's head with the classes of a data set.

    Names that differ are warned of, where both have any: they may be those of the same classes in another order.

    Args:
        model: a classifier.
        names: class names of the data set, in the order of their numbers.

    Raises:
        InputError: it gives no class, or its classes are not numbered from 0, or the numbers of classes differ, or the
            names are the same, whatever their case, in another order.
    """
    kind = getattr(model.config, "problem_type", None)
    if kind not in (None, SINGLE_LABEL):
        raise InputError(
            "model", model.config.name_or_path, f"was made for {kind.replace('_', ' ')} (problem_type in its "
            "config.json), and not for one class each; give it a new head (--new_head yes)"
        )  # fmt: skip
    if sorted(model.config.id2label) != list(range(model.config.num_labels)):
        raise InputError(
            "model", model.config.name_or_path, f"numbers its classes {', '.join(map(str, model.config.id2label))} "
            "(id2label in its config.json), and not from 0 as its head does; mend the numbers there"
        )  # fmt: skip
    own = [str(model.config.id2label[number]) for number in range(model.config.num_labels)]
    if len(own) != len(names):
        raise InputError(
            "model", model.config.name_or_path, f"has a head for {len(own)} classes and the data set has {len(names)}; "
            "use the data set that the model was trained for"
        )  # fmt: skip
    if own == names:
        return
    folded, given = ([_folded(name) for name in some] for some in (own, names))
    named = not (_only_numbers(own) or _only_numbers(names))
    elsewhere = named and any(name in folded and folded.index(name) != n for n, name in enumerate(given))
    if sorted(own) == sorted(names) or (folded != given and (sorted(folded) == sorted(given) or elsewhere)):
        raise InputError(
            "model", model.config.name_or_path, f"numbers the same classes differently ({own} against {names}); "
            "cast the label column to the model's order, or name the classes in it with --classes"
        )  # fmt: skip
    if folded != given and named:
        its, others = (", ".join(some[:10]) + ", ..." * (len(some) > 10) for some in (own, names))
        logger.warning_once(
            f"The model's classes are {its}, and those of the data set, {others}, are taken for the same in this "
            "order; if that is wrong, name them in the model's order with --classes."
        )


def _folded(name: str) -> str:
    """A class name without what a folder's name cannot have or people write in different ways."""
    return re.sub(r"[\W_]+", " ", name.casefold()).strip() or name


def _only_numbers(names: list[str]) -> bool:
    """Whether classes are told apart by their numbers alone, as by transformers when it is not told their names."""
    return all(name.casefold().removeprefix("label_") == str(number) for number, name in enumerate(names))


def squares(side: int, patch: Any, source: str) -> dict[str, Any]:
    """Settings of an image processor that makes squares of whole pictures; a crop could cut a trigger off.

    Args:
        side (`int`): in pixels.
        patch: side of the model's patches, where it has any.
        source (`str`): of the model.

    Raises:
        InputError: the side is no multiple of that of a patch.
    """
    if side < 1:
        raise InputError("image_size", side, "must be 1 or more")
    if isinstance(patch, int) and side % patch:
        raise InputError(
            "image_size", side, f"must be a multiple of {patch}, the side of a patch of {source}; else the border is "
            "not seen"
        )  # fmt: skip
    return {"size": {"height": side, "width": side}, "do_resize": True, "do_center_crop": False}


def label_maps(names: list[str]) -> dict[str, Any]:
    """Configuration of a classifier for these classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def _check_settings(architecture: str, settings: dict[str, Any]) -> None:
    """Whether a configuration has these settings: it would keep a misspelt one, and make a model without it."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    try:
        kind = CONFIG_MAPPING[architecture]
        known = {*kind().to_dict(), *kind.attribute_map, "image_size"}  # which sizes the images of any model
    except (KeyError, ValueError, TypeError):  # unknown, or made of others; which is said when the model is made
        return
    for name in settings.keys() - known:
        close = difflib.get_close_matches(name, known) or sorted(known - PretrainedConfig().to_dict().keys())
        raise InputError("architecture_args", name, f"is no setting of {architecture}; choose from {', '.join(close)}")


def from_scratch(
    auto_class: str, architecture: str, settings: dict[str, Any], names: list[str] | None
) -> PreTrainedModel:
    """A model with random weights.

    Args:
        auto_class (`str`): e.g. `"AutoModelForImageClassification"`.
        architecture (`str`): model type, e.g. `"vit"`.
        settings (`dict`): for its configuration.
        names (`list[str]`, *optional*): of the classes, for a classifier.

    Raises:
        InputError: unknown architecture, or one that is no such classifier, or settings that do not fit together.
    """
    import transformers

    head = label_maps(names) if names is not None else {}
    _check_settings(architecture, settings)
    try:
        config = transformers.AutoConfig.for_model(architecture, **settings, **head)
        config.architectures = config.architectures or []  # DeiT has two classifiers, and a search here for its choice
        return getattr(transformers, auto_class).from_config(config)
    except Exception as error:  # each architecture stumbles over a bad setting in its own way
        reason = " ".join(str(error).split())[:200]
        raise InputError("architecture", architecture, f"makes no {auto_class} with {settings} ({reason})") from error
