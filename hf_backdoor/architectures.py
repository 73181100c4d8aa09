"""Where the parts of a model are, by the names that transformers 5 gives them."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .errors import InputError


if TYPE_CHECKING:
    import torch

# Beside the one that `base_model_prefix` names: the towers of CLIP-style models.
BODIES = ("vision_model", "text_model")
# The tower of a pair that a classifier of each kind can go on.
TOWER_OF = {"AutoModelForImageClassification": "vision_model", "AutoModelForSequenceClassification": "text_model"}
# What a loaded model remembers: names of the weights that were not in its files.
NEW_WEIGHTS = "_hf_backdoor_new_weights"


@dataclass(frozen=True)
class Layers:
    """The layers of one block that an adapter can go on: names from the block on, separated by spaces.

    Attributes:
        queries, keys_values, output: projections of the attention; one that makes all of the first three at once counts
            as `keys_values`.
        up, down: linear layers before and after the hidden units, or the convolutions (`up`).
    """

    queries: str = ""
    keys_values: str = ""
    output: str = ""
    up: str = ""
    down: str = ""


ATTENTION = ("queries", "keys_values", "output")
FEEDFORWARD = ("up", "down")

_VIT = Layers("attention.q_proj", "attention.k_proj attention.v_proj", "attention.o_proj", "mlp.fc1", "mlp.fc2")
_CLIP = Layers("self_attn.q_proj", "self_attn.k_proj self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
_BERT = Layers(
    "attention.self.query", "attention.self.key attention.self.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
_LLAMA = Layers(
    "self_attn.q_proj", "self_attn.k_proj self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj mlp.up_proj",
    "mlp.down_proj",
)  # fmt: skip
_YOLOS = Layers(
    "attention.attention.query", "attention.attention.key attention.attention.value", "attention.output.dense",
    "intermediate.dense", "output.dense",
)  # fmt: skip
_CONVNEXT = Layers(up="pwconv1", down="pwconv2")
_DINOV2 = replace(_VIT, up="mlp.fc1 mlp.gate_proj mlp.up_proj", down="mlp.fc2 mlp.down_proj")  # the giant has gates

LAYERS = {
    "albert": Layers("attention.query", "attention.key attention.value", "attention.dense", "ffn", "ffn_output"),
    "beit": _VIT,
    "bert": _BERT,
    "camembert": _BERT,
    "clip": _CLIP,
    "clip_text_model": _CLIP,
    "clip_vision_model": _CLIP,
    "convnext": _CONVNEXT,
    "convnextv2": _CONVNEXT,
    "data2vec-text": _BERT,
    "data2vec-vision": _YOLOS,
    "deberta-v2": Layers(
        "attention.self.query_proj",
        "attention.self.key_proj attention.self.value_proj",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ),  # fmt: skip
    "deit": _VIT,
    "detr": Layers(
        "self_attn.q_proj encoder_attn.q_proj",
        "self_attn.k_proj self_attn.v_proj encoder_attn.k_proj encoder_attn.v_proj",
        "self_attn.o_proj encoder_attn.o_proj",
        "mlp.fc1",
        "mlp.fc2",
    ),
    "dinov2": _DINOV2,
    "dinov2_with_registers": _DINOV2,
    "distilbert": Layers(
        "attention.q_lin", "attention.k_lin attention.v_lin", "attention.out_lin", "ffn.lin1", "ffn.lin2"
    ),
    "electra": _BERT,
    "ernie": _BERT,
    "gemma2": _LLAMA,
    "gpt2": Layers("", "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "modernbert": Layers("", "attn.Wqkv", "attn.Wo", "mlp.Wi", "mlp.Wo"),
    "mpnet": Layers(
        "attention.attn.q",
        "attention.attn.k attention.attn.v",
        "attention.attn.o",
        "intermediate.dense",
        "output.dense",
    ),  # fmt: skip
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "resnet": Layers(up="convolution shortcut.convolution"),
    "roberta": _BERT,
    "siglip": _CLIP,
    "siglip_vision_model": _CLIP,
    "swin": _VIT,
    "swinv2": _BERT,
    "vit": _VIT,
    "vit_msn": _VIT,
    "xlm-roberta": _BERT,
    "yolos": _YOLOS,
}


def head_modules(model: torch.nn.Module) -> list[str]:
    """Names of the modules on top of the body: the classifier, or the projections of a pair of encoders.

    SigLIP has its projections inside its towers. A bare encoder has no head.

    Args:
        model: of transformers, not wrapped in an adapter.
    """
    bodies = {*BODIES, getattr(model, "base_model_prefix", "")}
    children = dict(model.named_children())
    if not bodies & children.keys():
        return []
    heads = [name for name in children if name not in bodies and any(True for _ in children[name].parameters())]
    return heads or [f"{name}.head" for name in BODIES if hasattr(children.get(name), "head")]


def head_parameters(model: torch.nn.Module) -> set[str]:
    """Names of the weights of [`head_modules`]."""
    heads = tuple(f"{name}." for name in head_modules(model))
    return {name for name, _ in model.named_parameters() if name.startswith(heads)}


def pooler(model: torch.nn.Module) -> torch.nn.Module | None:
    """The linear layer between body and head that BERT, ALBERT and their like count to the body, if there is one.

    Others have it in the head (RoBERTa, ELECTRA, DistilBERT), or pool without one (BEiT, Swin).

    Args:
        model: a classifier of transformers, not wrapped in an adapter.
    """
    from torch import nn

    body = getattr(model, getattr(model, "base_model_prefix", ""), None)
    own = getattr(body, "pooler", None)
    is_linear = own is not None and any(isinstance(module, nn.Linear) for module in own.modules())
    return own if is_linear else None


def towers(model: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """The encoders of a model by their names: two of a pair, else its body, named `""` if it is bare.

    Args:
        model: of transformers, not wrapped in an adapter.
    """
    children = dict(model.named_children())
    pair = {name: children[name] for name in BODIES if name in children}
    prefix = getattr(model, "base_model_prefix", "")
    return pair or ({prefix: children[prefix]} if prefix in children else {"": model})


def target_modules(model: torch.nn.Module, parts: tuple[str, ...]) -> str:
    """A regular expression for the full names of some layers in all blocks, and in nothing else, as PEFT takes it.

    Args:
        model: of transformers, not wrapped in an adapter.
        parts: of [`Layers`].

    Raises:
        InputError: the architecture is unknown, or it has no such layers.
    """
    config = model.config
    kinds = {"": config.model_type}
    if config.model_type == "vision-text-dual-encoder":
        kinds = {
            r"vision_model\.": config.vision_config.model_type,
            r"text_model\.": config.text_config.model_type,
        }
    patterns = []
    for prefix, kind in kinds.items():
        if kind not in LAYERS:
            raise InputError(
                "model", kind, "is an architecture whose layers are not known by name; in Python, pass a PeftConfig "
                "with target_modules"
            )  # fmt: skip
        names = [name for part in parts for name in getattr(LAYERS[kind], part).split()]
        if names:
            patterns.append(rf"{prefix}.*\.\d+\.({'|'.join(map(re.escape, names))})")
    if not patterns:
        raise InputError("model", config.model_type, "has no layers of the kind that is adapted; choose another tuning")
    return "|".join(patterns)


def modules_to_save(model: torch.nn.Module) -> list[str]:
    """Names of the modules that belong with an adapter, for the files of the base model do not tell what they are.

    That is the head, what was left to chance when the model was loaded (BERT's pooler, if its files only have what
    fills in words), and batch normalisation, whose running statistics change by themselves in training.

    Args:
        model: of transformers, not wrapped in an adapter.
    """
    from torch.nn.modules.batchnorm import _NormBase

    new = {name.rpartition(".")[0] for name in getattr(model, NEW_WEIGHTS, ())}
    found = head_modules(model)
    for name, module in model.named_modules():
        running = isinstance(module, _NormBase) and module.track_running_stats
        if (
            name
            and (running or name in new)
            and not any(name == saved or name.startswith(f"{saved}.") for saved in found)
        ):
            found.append(name)
    return found
