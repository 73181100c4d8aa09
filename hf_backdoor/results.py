"""Results files: what was run, where, and what came out."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


SCHEMA_VERSION = 1
RESULTS_FILE = "results.json"
# A list of numbers over several lines; texts in JSON have no line breaks, so none of them is taken for one.
BETWEEN = r",\n *"
NUMBERS = re.compile(rf"\[\n *([-+.\dEe]+(?:{BETWEEN}[-+.\dEe]+)*)\n *\]")
PACKAGES = ("hf_backdoor", "torch", "transformers", "datasets", "accelerate", "peft", "evaluate", "huggingface_hub")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in PACKAGES}


def hardware() -> dict[str, Any]:
    """Processor, accelerator and threads."""
    import torch

    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
        cpu = names[0] if names else cpu
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "accelerator": accelerator}


def describe_run(command: str, **fields: Any) -> dict[str, Any]:
    """The head of every results file, then `fields`."""
    head = {"schema_version": SCHEMA_VERSION, "command": command, "versions": versions(), "hardware": hardware()}
    return head | fields


def as_json(content: dict[str, Any], indent: int = 2) -> str:
    """The text of a file; a list of numbers stands on one line, and those of numpy and torch are numbers, too.

    Raises:
        TypeError: JSON has no place for something.
    """
    text = json.dumps(content, indent=indent, sort_keys=False, default=_plain)
    return NUMBERS.sub(lambda found: f"[{', '.join(re.split(BETWEEN, found[1]))}]", text) + "\n"


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no place in JSON: {value!r}")


def write_json(path: Path, content: dict[str, Any], indent: int = 2) -> None:
    """Writes the whole file or nothing; see [`as_json`]."""
    write_text(path, as_json(content, indent))


def write_text(path: Path, text: str) -> None:
    """Writes the whole file or nothing, with the line ends that the text has."""
    with whole_file(path) as draft:
        draft.write_bytes(text.encode("utf-8", "surrogateescape"))


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another file to write to, which takes the place of this one at the end, or goes if something is raised."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}{path.suffix}")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def rounded(value: Any) -> Any:
    """Settings or results with floats of 6 digits, for what nobody compares bit by bit."""
    if isinstance(value, dict):
        return {name: rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def portable(value: Any) -> Any:
    """Settings in which every absolute path is its last part only, for what may leave this machine."""
    if isinstance(value, dict):
        return {name: portable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def local_name(source: str | None) -> str | None:
    """A Hub id as it is, and only the last part of a local path, for the rest is nobody's business.

    An absolute path is one even if nothing is there any more.
    """
    if source is None or not (is_path(source) or Path(source).is_absolute()):
        return source
    return Path(source).resolve().name


def origin_name(model: Any) -> str:
    """Where a model object comes from: a Hub id if it was loaded from there, else the last part of a path.

    Its folder may be gone, and a relative path then looks like a Hub id.
    """
    source = model.config.name_or_path
    return local_name(source) if getattr(model.config, "_commit_hash", None) else Path(source).name


def is_path(text: str) -> bool:
    """Whether there is a file or folder of this name; a long text is none."""
    try:
        return text != "" and Path(text).exists()
    except OSError:
        return False
