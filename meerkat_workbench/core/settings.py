"""Settings of the scripts: a class with comments, `KEY=VALUE`, `--config FILE.yaml`, `--demo` and `--help`.

A script states its defaults in a class derived from `Settings`. The command line wins over `--config`, `--config` over `--demo`,
and `--demo` over the class. A field says all that concerns it alone:

    # Rank of the adapter's matrices.
    LORA_RANK: Annotated[int, Range(1, 4096), RESULT] = 8
    # What computes the answers.
    BATCHING: Annotated[Literal["auto", "mixed", "sequential"], RESULT, Renamed("ARMS", together="mixed")] = "auto"

`Literal` lists the allowed values, `Range` bounds a number, `RESULT` and its like (`Effect`) say whether the result depends on the
setting, and `Renamed` gives the name that earlier versions used. Unknown names and wrong values are refused, in
Python as well.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import functools
import inspect
import math
import shlex
import sys
import textwrap
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError, did_you_mean


class Effect(enum.Enum):
    """Whether the result of a run depends on a setting, and so whether the run's fingerprint does."""

    RESULT = "result"  # another value gives another result
    SERIES = "series"  # as RESULT, and all runs in one folder must have the same value
    DERIVED = "derived"  # the result depends on what it leads to, such as a file's contents, which the script adds itself
    EXECUTION = "execution"  # another value gives the same result, in another way or in another place


RESULT, SERIES, DERIVED, EXECUTION = Effect.RESULT, Effect.SERIES, Effect.DERIVED, Effect.EXECUTION


@dataclass(frozen=True)
class Range:
    """Bounds of a number, both included unless `above` is set: then the value must be greater than `low`."""

    low: float
    high: float = math.inf
    above: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise UserError unless the value is None or within the bounds."""
        if value is None:
            return
        if not (self.low < value if self.above else self.low <= value) or not value <= self.high:
            least = f"{'above' if self.above else 'at least'} {self.low:g}"
            most = "" if math.isinf(self.high) else f" and at most {self.high:g}"
            raise UserError(f"must be {least}{most}, not {value!r}", where=name)


class Renamed:
    """The former name of a setting, and former names of its values: `Renamed("ARMS", together="mixed")`.

    Both are still accepted. Fingerprints use the former ones, so that a finished run is still recognised.
    """

    def __init__(self, former: str, **values: Any) -> None:
        self.former, self.values = former, values

    def present(self, value: Any) -> Any:
        return self.values.get(value, value) if isinstance(value, str) else value

    def past(self, value: Any) -> Any:
        return next((old for old, new in self.values.items() if new == value and isinstance(value, str)), value)


@dataclass(frozen=True)
class Field:
    """One setting of a class: its type, and what its annotation says beside the type."""

    name: str
    type: Any
    range: Range | None
    effect: Effect | None
    renamed: Renamed | None


T = TypeVar("T")
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
TRUE_WORDS, FALSE_WORDS = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@functools.cache
def fields(cls: type) -> dict[str, Field]:
    """Settings of a class by name, in the order they are written."""
    hints = typing.get_type_hints(cls, include_extras=True)
    found = {}
    for name in names(cls):
        hint, extras = hints[name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, extras = typing.get_args(hint)[0], typing.get_args(hint)[1:]
        found[name] = Field(name, hint, _of_kind(Range, extras), _of_kind(Effect, extras), _of_kind(Renamed, extras))
    return found


def _of_kind(kind: type[T], extras: Sequence[Any]) -> T | None:
    return next((extra for extra in extras if isinstance(extra, kind)), None)


def _type_of(cls: type, name: str) -> Any:
    return fields(cls)[name].type


def _present_name(cls: type, name: str) -> str:
    """The name that a setting has now, given the present or a former one."""
    return next((field.name for field in fields(cls).values() if field.renamed and field.renamed.former == name), name)


def _type_name(kind: Any) -> str:
    if kind in TYPE_NAMES:
        return TYPE_NAMES[kind]
    if typing.get_origin(kind) is types.UnionType:
        return " or ".join("None" if k is type(None) else _type_name(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    if typing.get_origin(kind) is list:
        return "a list such as a,b"
    return "a mapping such as {cardiology: 0.8}"


def _matches(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_matches(value, k) for k in arguments)
    if origin is Literal:
        return value in arguments
    if origin is list:
        return isinstance(value, list) and all(_matches(v, arguments[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_matches(k, arguments[0]) and _matches(v, arguments[1]) for k, v in value.items())
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _parse(text: str, kind: Any) -> Any:
    """The value that `text` stands for where `kind` is asked for; raises ValueError where it stands for none."""
    if typing.get_origin(kind) is types.UnionType:
        kinds = typing.get_args(kind)
        if type(None) in kinds and text.lower() in ("none", "null", ""):
            return None
        return _parse(text, next(k for k in kinds if k is not type(None)))
    if kind is bool:
        if text.lower() in TRUE_WORDS | FALSE_WORDS:
            return text.lower() in TRUE_WORDS
        raise ValueError(text)
    if kind in (int, float, str):
        return kind(text)
    if typing.get_origin(kind) is Literal:
        if text not in typing.get_args(kind):
            raise ValueError(text)
        return text
    if kind == list[str] and not text.lstrip().startswith("["):  # as it is typed: 01 and NO are names
        return [part.strip() for part in text.split(",") if part.strip()]
    import yaml

    if typing.get_origin(kind) is dict and "=" in text and not text.lstrip().startswith("{"):
        value: Any = dict(part.split("=", 1) for part in shlex.split(text))  # as settings are given to a script
        return value
    try:
        value = yaml_value(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(text) from error
    if typing.get_origin(kind) is list and value is None and not text.strip():
        return []
    if typing.get_origin(kind) is list and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not _matches(value, kind):
        raise ValueError(text)
    return value


def yaml_value(text: str) -> Any:
    """The value of a YAML text; yaml.YAMLError where it is none, or names a key twice, of which YAML itself keeps the last."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen: set[Any] = set()
            for key_node, _ in node.value:
                if key_node.tag == "tag:yaml.org,2002:merge":
                    continue
                key = self.construct_object(key_node, deep=True)
                if isinstance(key, Hashable):
                    if key in seen:
                        raise yaml.constructor.ConstructorError(None, None, f"has the key {key!r} twice", key_node.start_mark)
                    seen.add(key)
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # PyYAML's own, on values such as !!timestamp x
        raise yaml.YAMLError(str(error)) from error


def expand_home(value: Any) -> Any:
    """A path that begins with "~" in full, also within a list or mapping: shells expand it in few of the places where it may stand."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value == "~" or value.startswith(("~/", "~\\")) else value
    if isinstance(value, list):
        return [expand_home(one) for one in value]
    return {name: expand_home(one) for name, one in value.items()} if isinstance(value, dict) else value


def path(text: str) -> Path:
    """The kind of a command-line option that takes a file or folder."""
    return Path(expand_home(text))


class _StrictNames(type):
    """Assigning a name that the class does not have, or a value that the setting does not allow, is an error."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if name.isupper():
            name, value = _checked(cls, name, value)
        super().__setattr__(name, value)


def _checked(cls: type, name: str, value: Any) -> tuple[str, Any]:
    """Present name and value of a setting; UserError where the class has no such setting, or it does not allow the value."""
    given, name = name, _present_name(cls, name)
    if name not in fields(cls):
        hint = did_you_mean(name.upper(), fields(cls), "--help lists the settings.", cutoff=0.5)
        raise UserError(f"{cls.__name__} has no setting {name}", item=name, remedy=hint)
    field = fields(cls)[name]
    if field.renamed:
        value = field.renamed.present(value)
    if not _matches(value, field.type):
        raise UserError(f"must be {_type_name(field.type)}, not {value!r}", where=f"{cls.__name__}.{given}")
    if field.range:
        field.range.check(name, value)
    value = expand_home(value)
    return name, float(value) if field.type is float else value


class Settings(SimpleNamespace, metaclass=_StrictNames):
    """Base of the scripts' settings: `TrainingConfig(LORA_RANK=16)`, or assign afterwards; both are checked."""

    def __init__(self, **overrides: Any) -> None:
        super().__init__()
        for name in names(type(self)):
            default = getattr(type(self), name)  # checked too, as it may have been edited in the script
            setattr(self, name, default.copy() if isinstance(default, list | dict) else default)
        for name, value in overrides.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        name, value = _checked(type(self), name, value)
        if name.endswith("_DIR") and not str(value).strip():
            raise UserError("is empty", where=name, remedy="Name a folder; '.' is the present one.")
        super().__setattr__(name, value)


SettingsType = TypeVar("SettingsType", bound=Settings)


def names(cls: type) -> list[str]:
    """Upper-case names of a settings class, in the order they are written."""
    return [name for base in reversed(cls.__mro__) for name in inspect.get_annotations(base) if name.isupper()]


def as_dict(config: Settings) -> dict[str, Any]:
    """Every setting and its value, in the order of the class."""
    return {name: getattr(config, name) for name in names(type(config))}


def with_effect(config: Settings, effect: Effect) -> dict[str, Any]:
    """The settings with this effect, for a fingerprint; under their former names where they were renamed.

    Raises:
        TypeError: a field of the class does not say its effect.
    """
    found = {}
    for field in fields(type(config)).values():
        if field.effect is None:
            raise TypeError(f"{type(config).__name__}.{field.name}: its annotation must say RESULT, SERIES, DERIVED or EXECUTION")
        if field.effect is effect:
            value = getattr(config, field.name)
            name, value = (field.renamed.former, field.renamed.past(value)) if field.renamed else (field.name, value)
            found[name] = value
    return found


def resolve(config: Any, cls: type[SettingsType]) -> SettingsType:
    """A full `cls` from an instance, a class, or any object of the user's own with only some of the names."""
    if isinstance(config, cls):
        return config
    given = {name: getattr(config, name) for name in dir(config) if name.isupper()}
    return cls(**given)


def comments(cls: type) -> dict[str, str]:
    """The comment that stands above (or behind) each setting in the source of its class."""
    found: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        line = line.strip()
        if line.startswith("#"):
            above.append(line.lstrip("# "))
        elif ":" in line and line.split(":")[0].isupper():
            behind = line.rpartition("  # ")[2] if "  # " in line else ""
            found[line.split(":")[0]] = " ".join([*above, behind]).strip()
            above = []
        else:
            above = []
    return found


def _help_of_settings(cls: type) -> str:
    texts = comments(cls)
    lines = ["settings (KEY=VALUE, or in a --config file):"]
    for name in names(cls):
        lines.append(f"  {name}={getattr(cls, name)!r}")
        lines += textwrap.wrap(texts.get(name, ""), 96, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def _read_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        values = yaml_value(input_files.read_text(path))
    except FileNotFoundError:
        raise UserError("there is no such file", where=path, remedy="--config takes a YAML file of KEY: value lines.") from None
    except (UserError, OSError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"cannot be read as YAML ({' '.join(str(error).split())})", where=path) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"holds a {type(values).__name__}, not KEY: value lines", where=path)
    return values


def _set_from_yaml(config: Settings, name: str, value: Any, path: Path) -> None:
    """YAML reads 2e-4 as text; where a number is asked for, text that is one is taken as one."""
    name = _present_name(type(config), name)
    kind = _type_of(type(config), name) if name in fields(type(config)) else None
    if isinstance(value, str) and kind is not None and not _matches(value, kind):
        with contextlib.suppress(ValueError):
            value = _parse(value, kind)
    try:
        setattr(config, name, value)
    except UserError as error:
        raise UserError(str(error), where=path) from None


def update(config: Settings, values: Mapping[str, Any]) -> None:
    """Set several settings; a text is taken as the value that it stands for, where the setting holds no texts."""
    for name, value in values.items():
        if isinstance(value, str):
            set_from_text(config, name, value)
        else:
            setattr(config, name, value)


def load(
    cls: type[SettingsType],
    argv: Sequence[str] | None,
    description: str,
    demo: Mapping[str, Any],
    flags: Mapping[str, dict[str, Any]] | None = None,
) -> tuple[SettingsType, argparse.Namespace]:
    """Settings and flags from a command line.

    Args:
        cls: the script's settings class.
        argv: arguments without the program's name; None takes `sys.argv`.
        description: what the script does, for `--help`.
        demo: the values that `--demo` sets.
        flags: further options of the script, `{"--plan": {argparse keywords}}`.

    Returns:
        The settings, and argparse's namespace with `demo`, `fresh`, and the script's own flags.

    Raises:
        UserError: an unknown name, a wrong kind, an unreadable file. argparse exits with 2 on an unknown option.
    """
    parser = argparse.ArgumentParser(
        description=description, epilog=_help_of_settings(cls), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a setting, by the names below")
    parser.add_argument("--config", type=path, metavar="FILE.yaml", help="settings from a file")
    parser.add_argument("--demo", action="store_true", help="sample data and a small pretrained model, on any CPU")
    parser.add_argument("--fresh", action="store_true", help="set unfinished work in the output folder aside and start anew")
    for flag, keywords in (flags or {}).items():
        parser.add_argument(flag, **keywords)
    # settings may stand before and after flags, which plain parse_args does not allow for nargs="*"
    arguments = parser.parse_intermixed_args(argv if argv is None else list(argv))
    config = cls()
    if arguments.demo:
        for name, value in demo.items():
            setattr(config, name, value)
    if arguments.config is not None:
        for name, value in _read_yaml(arguments.config).items():
            _set_from_yaml(config, str(name), value, arguments.config)
    for item in arguments.settings:
        name, separator, text = item.partition("=")
        if not separator:
            raise UserError("is neither an option nor KEY=VALUE", item=repr(item), remedy="--help lists both.")
        set_from_text(config, name, text)
    return config, arguments


def set_from_text(config: Settings, name: str, text: str) -> None:
    """Set a setting to the value that a text stands for, as on the command line."""
    cls, present = type(config), _present_name(type(config), name)
    field = fields(cls).get(present)
    if field is None:
        _checked(cls, name, None)
        raise AssertionError("an unknown setting is refused above")
    if field.renamed:
        text = field.renamed.present(text)
    try:
        value = _parse(text, field.type)
    except (ValueError, OverflowError):
        raise UserError(f"must be {_type_name(field.type)}, not {text!r}", where=name) from None
    setattr(config, present, value)


def command_line() -> str:
    """The command as a shell would read it, for manifests."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def as_arguments(config: Settings, demo: Mapping[str, Any]) -> list[str]:
    """The fewest arguments that give a script these settings; `demo` is what its `--demo` sets."""
    import yaml

    def text(value: Any) -> str:
        nested = isinstance(value, list | dict)
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip() if nested else str(value)

    def unlike(usual: Mapping[str, Any]) -> list[str]:
        return [f"{name}={text(value)}" for name, value in as_dict(config).items() if value != usual[name]]

    defaults = as_dict(type(config)())
    return min(unlike(defaults), ["--demo", *unlike({**defaults, **demo})], key=len)


def next_command(
    script: str, config: Settings, demo: Mapping[str, Any], names_there: Mapping[str, str], *, with_demo: bool
) -> str:
    """What to type to run the next script on what this one left.

    Args:
        demo: what `--demo` sets of this script's settings; the next one's looks for the same folders.
        names_there: settings that name folders, and what they are called in the next script.
        with_demo: whether this script ran with `--demo`.
    """
    usual = {**as_dict(type(config)()), **(demo if with_demo else {})}
    moved = [f"{there}={getattr(config, here)}" for here, there in names_there.items() if getattr(config, here) != usual[here]]
    return shlex.join(["python", script, *(["--demo"] if with_demo else []), *moved])
