"""Which files of a folder are pushed, which of a repository go for them, and what must not go along."""

from __future__ import annotations

import json
from fnmatch import fnmatchcase
from pathlib import Path

from ..cards.metadata import read_metadata
from ..cards.sections import CARD_FILE, names_folder, read_card
from ..errors import InputError
from ..results import RESULTS_FILE
from ..triggers import TRIGGER
from .commits import masked


WEIGHTS = "*.safetensors"
ADAPTER = "adapter_config.json"
REPORT = "sequela.json"
# What transformers and PEFT write for models, adapters, tokenizers and processors, and what we write beside them.
PUSHED = (
    WEIGHTS,
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    ADAPTER,
    "adapter_classes.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spm.model",
    "bpe.codes",
    "dict.txt",
    "entity_vocab.json",
    "word_shape.json",
    "word_pronunciation.json",
    "chat_template.jinja",
    CARD_FILE,
    "figures/*.png",
    f"{TRIGGER}*",
    RESULTS_FILE,
    REPORT,
)
# Weights in the root of a repository, and folders that hold nothing else: also of other libraries.
ADAPTERS = ("adapter_config.json", "adapter_model*", "adapter_classes.json")
WHOLE_MODELS = (
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "tf_model*", "flax_model*", "model.ckpt*"),
    *("rust_model.ot", "openvino_model*", "*.onnx", "*.gguf"),
)
EXPORTS = ("onnx", "openvino", "coreml")


def known_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that may be pushed, by their names on the Hub.

    Raises:
        InputError: there is neither a model nor a report.
    """
    found = {path.relative_to(folder).as_posix(): path for pattern in PUSHED for path in sorted(folder.glob(pattern))}
    files = {name: path for name, path in found.items() if path.is_file()}
    if not any(name == REPORT or Path(name).match(WEIGHTS) for name in files):
        raise InputError("model", str(folder), f"has neither weights as {WEIGHTS} nor {REPORT}; name a model's folder")
    return files


def is_weights(name: str, *, adapters_only: bool) -> bool:
    """Whether a file of a repository is of an adapter, or also of a whole model."""
    folder, _, rest = name.partition("/")
    if rest:
        return folder in EXPORTS and not adapters_only
    return any(fnmatchcase(name, pattern) for pattern in (ADAPTERS if adapters_only else ADAPTERS + WHOLE_MODELS))


def check_adapter(folder: Path, files: dict[str, Path]) -> str | None:
    """Refused and not rewritten: only its owner knows where the base model is to be found.

    Returns:
        Hub id of the base model; `None` if it is no adapter.
    """
    if ADAPTER not in files:
        return None
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    base = json.loads(files[ADAPTER].read_text("utf-8")).get("base_model_name_or_path") or ""
    try:
        validate_repo_id(base)
        elsewhere = bool(base) and not Path(base).is_dir() and not (folder / base).is_dir()
    except HFValidationError:
        elsewhere = False
    if not elsewhere:
        raise InputError(
            "model", str(folder), f"is an adapter for {base!r}, which nobody else has; push that model first, and name "
            f"its repository as base_model_name_or_path in {ADAPTER}"
        )  # fmt: skip
    return base


def check_texts(folder: Path, files: dict[str, Path], card: str | None) -> None:
    """Nothing of this machine or of its user goes with the card and the results."""
    metadata = read_metadata(card) if card is not None else {}
    tags = metadata.get("tags")
    for value in (metadata.get("base_model"), *(tags if isinstance(tags, list) else ())):
        if names_folder(value):
            raise InputError(CARD_FILE, value, "is a folder of this machine; take it out of the metadata of the card")
    for name in (CARD_FILE, RESULTS_FILE, REPORT):
        if name in files and masked(text := read_card(files[name])) != text:
            raise InputError("model", str(folder), f"has what looks like a token in {name}; take it out")
