"""Command-line flags from dataclasses, with a YAML file under them."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from transformers import HfArgumentParser
from transformers.hf_argparser import string_to_bool

from .errors import InputError
from .plugins import Typed, as_yaml


def _places_in_help(types: list[type]) -> dict[str, int]:
    """Where each flag stands in the help: what a command adds of its own comes before what it shares with others."""
    places = {}
    for dtype in types:
        for distance, declaring in enumerate(dtype.__mro__):
            for name in declaring.__dict__.get("__annotations__", {}):
                places.setdefault(name, distance)
    return places


class _Untyped(yaml.SafeLoader):
    """Scalars as the text that they are written as, so that a flag's own type decides: `no` can be a word."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # of merged mappings


class ConfigParser(HfArgumentParser):
    """`HfArgumentParser` with `--config FILE`: flags win over the file, the file over the defaults.

    Args:
        types: dataclasses; their fields become flags and may be keys of the file.
        prog, description (`str`): for `--help`.
    """

    def __init__(self, types: list[type], prog: str, description: str):
        super().__init__(
            types,
            prog=prog,
            usage="%(prog)s [--config FILE] [--setting VALUE ...]",  # with more than a hundred settings it is no help
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )
        self.add_argument("--config", metavar="FILE", help="YAML file with any of these settings, without the dashes")
        place = _places_in_help(types)
        for actions in (self._actions, *(group._group_actions for group in self._action_groups)):
            actions.sort(key=lambda action: place.get(action.dest, -1))

    def parse(self, argv: list[str], lower_defaults: Callable[[Any], dict[str, Any]] | None = None) -> tuple[Any, ...]:
        """Parses a command line into the dataclasses.

        Args:
            argv: the arguments.
            lower_defaults (callable, *optional*): from the settings (a namespace) to defaults that stand in for
                those of the dataclasses where neither a flag nor the file says anything; `max_steps` only if neither
                says `num_train_epochs`.

        Raises:
            InputError: the file is missing, is no mapping, or has an unknown key; or a setting is wrong.
        """
        if lower_defaults is not None and {"-h", "--help"} & set(argv):  # which shows what counts without a flag
            usual = argparse.Namespace(**{action.dest: action.default for action in self._actions})
            self.set_defaults(**lower_defaults(usual))
        file_settings = self._read(argv)
        self.set_defaults(**file_settings)
        for action in self._actions:
            action.required = action.required and action.dest not in file_settings
        if lower_defaults is not None:
            lower = lower_defaults(self.parse_args(argv))
            if "num_train_epochs" in file_settings.keys() | self._flags(argv):
                lower = {name: value for name, value in lower.items() if name != "max_steps"}  # it would outdo them
            self.set_defaults(**{name: value for name, value in lower.items() if name not in file_settings})
        values = vars(self.parse_args(argv))
        return tuple(
            self._built(dtype, {field.name: values[field.name] for field in dataclasses.fields(dtype) if field.init})
            for dtype in self.dataclass_types
        )

    def _flags(self, argv: list[str]) -> set[str]:
        """The settings that flags give, be it their defaults."""
        unset = object()
        values = vars(self.parse_args(argv, argparse.Namespace(**{action.dest: unset for action in self._actions})))
        return {name for name, value in values.items() if value is not unset}

    def _built(self, dtype: type, values: dict[str, Any]) -> Any:
        try:
            return dtype(**values)
        except InputError:
            raise
        except (ValueError, TypeError, ImportError, OSError) as error:  # what TrainingArguments say of their settings
            self.error(" ".join(str(error).split()))

    def _read(self, argv: list[str]) -> dict[str, Any]:
        finder = argparse.ArgumentParser(add_help=False)
        finder.add_argument("--config")
        path = finder.parse_known_args(argv)[0].config
        if path is None:
            return {}
        try:
            text = Path(path).read_text(encoding="utf-8")
            content, untyped = yaml.safe_load(text), yaml.load(text, Loader=_Untyped)
        except (OSError, yaml.YAMLError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise InputError("config", path, f"is not a readable YAML file ({reason})") from error
        if not isinstance(content, dict):
            raise InputError("config", path, "must hold a mapping of settings")
        flags = {flag.lstrip("-"): one for one in self._actions for flag in one.option_strings if one.nargs != 0}
        settings = {}
        for key, as_typed in untyped.items():
            if key not in flags:
                raise InputError("config", path, f"has the unknown setting {key!r}; --help lists them all")
            settings[flags[key].dest] = self._as_flag(flags[key], content[key], as_typed)
        return settings

    def _as_flag(self, action: argparse.Action, value: Any, as_typed: Any) -> Any:
        """A value of the file as a flag would give it; argparse converts a default that is text as it would a flag.

        Args:
            action: of the flag.
            value: with YAML's types, which mappings keep.
            as_typed: the same with all scalars as text.
        """
        if value is None:
            return None
        if action.type in (int, float, string_to_bool):
            return str(value)  # `on` and 0x10 are YAML's, and 3e-4, a text to PyYAML, is argparse's
        if isinstance(value, dict) or (isinstance(value, list) and action.nargs != "+"):
            return value
        if action.nargs != "+":
            return as_typed
        try:
            return [self._get_value(action, one) for one in (as_typed if isinstance(value, list) else [as_typed])]
        except argparse.ArgumentError as error:
            self.error(str(error))

    def error(self, message: str) -> None:
        raise InputError("command line", self.prog, f"{message} (see {self.prog} --help)")


def parse_assignments(pairs: list[str] | dict[str, Any] | None, field: str) -> dict[str, Any]:
    """`["size=3", "position=top-left"]`, or a mapping from YAML, as a dict with YAML's types.

    Raises:
        InputError: a piece has no `=`, or is no YAML.
    """
    typed = plugin_settings(pairs, field)
    return {name: as_yaml(value, field) if isinstance(value, Typed) else value for name, value in typed.items()}


def plugin_settings(pairs: list[str] | dict[str, Any] | None, field: str) -> dict[str, Any]:
    """The same for [`~hf_backdoor.plugins.build`], which knows the type of each setting: texts stay as typed.

    Raises:
        InputError: a piece has no `=`.
    """
    if isinstance(pairs, dict):
        return pairs
    assignments = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(field, pair, "write it as name=value")
        assignments[name] = Typed(value)
    return assignments
