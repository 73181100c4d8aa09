"""Finding triggers, tasks, modalities and defences: each is one module of its package, named after the file."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import sys
from functools import lru_cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from .errors import InputError


T = TypeVar("T")


class Plugin:
    """A dataclass of settings that is found by the name of its module.

    Attributes:
        home (`str`): the package that holds one such class a module.
    """

    home: ClassVar[str]

    @property
    def name(self) -> str:
        """The name under which it is found: its module's, or `"module:Class"` for one from elsewhere."""
        package, _, module = type(self).__module__.rpartition(".")
        return module if package == self.home else f"{type(self).__module__}:{type(self).__name__}"

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, ready for JSON."""
        return {"name": self.name, **dataclasses.asdict(self)}

    def code(self) -> bytes:
        """Changes with the source of the class's module and of the modules of its package that this imports."""
        try:
            return b"".join(file.read_bytes() for file in source_files(Path(inspect.getfile(type(self)))))
        except OSError:  # of a notebook, which is no file
            from datasets.fingerprint import Hasher

            return Hasher.hash(type(self)).encode()


def names(package: str) -> list[str]:
    """Names of all plugins of a package such as `"hf_backdoor.triggers"`, sorted, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__))


def find(
    package: str, name: str, base: type[T] | tuple[type[T], ...], field: str, known: list[str] | None = None
) -> type[T]:
    """The plugin class called `name`.

    Args:
        package (`str`): package that holds one plugin a module.
        name (`str`): a module of the package, or `"your.module:YourClass"` for a class of your own.
        base (`type`, or several): what the plugin must derive from.
        field (`str`): the user's name for this choice, for the error.
        known (`list[str]`, *optional*): the names to suggest, if they are not those of the package alone.

    Raises:
        InputError: there is no such plugin.
    """
    if ":" in name:
        module_name, _, class_name = name.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), class_name)
        except (ImportError, AttributeError) as error:
            raise InputError(field, name, f"cannot be imported ({error}); write it as package.module:Class") from error
        bases = base if isinstance(base, tuple) else (base,)
        if not (inspect.isclass(found) and issubclass(found, bases)):
            wanted = " or ".join(f"{item.__module__}.{item.__name__}" for item in bases)
            raise InputError(field, name, f"must be a subclass of {wanted}")
        return found
    if name not in names(package):
        choices = ", ".join(known or names(package))
        raise InputError(field, name, f"unknown; choose one of {choices}, or package.module:Class")
    module = importlib.import_module(f"{package}.{name}")
    return next(
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, base) and member.__module__ == module.__name__ and not inspect.isabstract(member)
    )


def check_stored(name: str, field: str) -> None:
    """Whether a name that stands in a file may be looked up: what is written there must not choose what is imported.

    A class of the user's own may be, once its module has been imported for another reason.

    Args:
        name (`str`): as [`find`] takes it.
        field (`str`): the user's name for this choice.

    Raises:
        InputError: that would import a module from outside the package.
    """
    module, colon, _ = name.partition(":")
    if colon and module not in sys.modules:
        raise InputError(
            field, name, "is code from outside hf_backdoor that a file names, which is not imported for that alone; if "
            f"you trust it, give it yourself, as --{field} {name} with its settings"
        )  # fmt: skip


def source_files(path: Path) -> tuple[Path, ...]:
    """A module's file, and those of the modules of the same package that it imports, and so on.

    Args:
        path (`Path`): of the module.
    """
    found, waiting = {path}, [path]
    while waiting:
        module = waiting.pop()
        new = _imported(module, module.stat().st_mtime_ns) - found
        found |= new
        waiting += new
    return tuple(sorted(found))


@lru_cache(maxsize=1024)
def _imported(module: Path, stamp: int) -> frozenset[Path]:
    """Files that a module imports by relative imports; read once for each version of the file."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(module.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
            names = [folder, *(folder / alias.name for alias in node.names)]
            files = [file for name in names for file in (name.with_suffix(".py"), name / "__init__.py")]
            found |= {file for file in files if file.is_file()}
    return frozenset(found)


class Typed(str):
    """A setting as it was typed on the command line, whose type is not known yet."""


def as_yaml(text: str, field: str) -> Any:
    """A scalar with YAML's types.

    Raises:
        InputError: it is no YAML.
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:  # 2020-99-99 is a date that does not exist
        raise InputError(field, text, "cannot be read; put it into quotes") from error
    if isinstance(value, str):
        try:
            return float(value)  # 3e-4, which YAML 1.1 does not take for a number
        except ValueError:
            return value
    return value


def build(plugin: type[T], arguments: dict[str, Any], field: str) -> T:
    """Makes a plugin, a dataclass, from its named arguments.

    Raises:
        InputError: an unknown name, or a value of another type than the field has.
    """
    known = [item.name for item in dataclasses.fields(plugin) if item.init]
    for name in arguments:
        if name not in known:
            raise InputError(
                field, name, f"{plugin.__name__} has no such argument; it has {', '.join(known) or 'none'}"
            )
    try:
        hints = get_type_hints(plugin)
    except NameError:  # a type of someone else's class that is there for type checkers only
        hints = {}
    try:
        return plugin(**{name: _converted(name, value, hints.get(name, Any)) for name, value in arguments.items()})
    except TypeError as error:
        raise InputError(field, arguments, f"does not make a {plugin.__name__}: {error}") from error


def _converted(name: str, value: Any, hint: Any) -> Any:
    """A value in the type of its field: whole numbers are floats too, and numbers can stand for text."""
    types = get_args(hint) if isinstance(hint, UnionType) or get_origin(hint) is Union else (hint,)
    simple = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    if not set(types) <= {*simple, NoneType}:
        return value
    if isinstance(value, Typed):
        if NoneType in types and value in ("", "None", "null"):
            return None
        scalar = _unless_text(value)  # text stays as typed, except where a number can stand in its place
        value = scalar if type(scalar) in types or str not in types else str(value)
    elif isinstance(value, str) and float in types and str not in types:
        value = _unless_text(value)  # 3e-4 in a file of settings
    if name == "seed" and isinstance(value, int) and value < 0:
        raise InputError(name, value, "must be 0 or more")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if type(value) in types:
        return value
    if float in types and number:
        return float(value)
    if str in types and number:
        return str(value)
    raise InputError(name, value, f"must be {' or '.join(simple[kind] for kind in types if kind in simple)}")


def _unless_text(typed: str) -> Any:
    """A scalar with YAML's types, where text keeps the quotes with which it was typed."""
    try:
        scalar = as_yaml(typed, "")
    except InputError:
        return str(typed)
    return str(typed) if isinstance(scalar, str) else scalar
