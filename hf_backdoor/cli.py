"""The command `hf-backdoor`. Each sub-command is one module of `hf_backdoor.commands`, loaded when it is called."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

from .errors import InputError


RESUMED = ("train", "purify")  # from a checkpoint
COMMANDS = ("demo", "attacks", "poison", "train", "purify", "evaluate", "sequela", "card", "push")


def _summary(command: str) -> str:
    """The first line of a command's docstring, without importing the command."""
    source = Path(find_spec(f"hf_backdoor.commands.{command}").origin).read_text(encoding="utf-8")
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def usage() -> str:
    """The text of `hf-backdoor --help`."""
    lines = [f"  {command:10}{_summary(command)}" for command in COMMANDS]
    return "\n".join(
        [
            "usage: hf-backdoor COMMAND [--config FILE] [flags]",
            "",
            "Builds, measures and removes backdoors in Hugging Face models.",
            "",
            *lines,
            "",
            "Start here:",
            "  hf-backdoor demo                                  all of it on a small ViT, in a few minutes",
            "  hf-backdoor purify --model DIR_OR_HUB_ID --dataset CLEAN --output DIR",
            "",
            "hf-backdoor COMMAND --help lists the flags; each can also stand in the YAML file given by --config.",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Returns:
        0 for success, 2 for bad input, which is explained in one sentence on standard error, 130 after an interrupt.
    """
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(importlib.metadata.version("hf_backdoor"))
        return 0
    if argv[0] not in COMMANDS:
        print(f"hf-backdoor: command={argv[0]!r}: unknown; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # torch asks for an accelerator to pin memory for; there need not be one.
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    try:
        module = importlib.import_module(f"hf_backdoor.commands.{argv[0]}")
        module.main(argv[1:])
    except InputError as error:
        print(f"hf-backdoor {argv[0]}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        again = "; with --save_strategy steps, the same command goes on with --resume_from_checkpoint last"
        print(f"\nhf-backdoor {argv[0]}: interrupted{again if argv[0] in RESUMED else ''}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
