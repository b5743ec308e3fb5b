"""Settings of the scripts: a class with comments, `KEY=VALUE`, `--config FILE.yaml`, `--demo` and `--help`.

A script defines its settings and their defaults in a class derived from `Settings`. The command line overrides `--config`,
`--config` overrides `--demo`, and `--demo` overrides the class. The annotation of a field holds all rules that concern this field alone:

    # Rank of the adapter's matrices.
    LORA_RANK: Annotated[int, Range(1, 4096), RESULT] = 8
    # Whether base and tuned model answer in the same batches.
    BATCHING: Annotated[Literal["auto", "mixed", "sequential"], RESULT, Renamed("ARMS", together="mixed")] = "auto"

`Literal` lists the allowed values, `Range` bounds a number, an `Effect` such as `RESULT` tells whether the result depends on the
setting, and `Renamed` gives the name that earlier versions used. Unknown names and wrong values are refused, in Python as well.
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import functools
import inspect
import math
import re
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
from meerkat_workbench.core.commands import command_of
from meerkat_workbench.core.errors import UserError, did_you_mean, one_line


class Effect(enum.Enum):
    """Whether the result of a run, and with it the run's fingerprint, depends on a setting."""

    RESULT = "result"  # another value gives another result
    SERIES = "series"  # like RESULT, and all runs in one folder must have the same value
    DERIVED = "derived"  # the script adds a resolved form of it, such as a file's hash, the examples per step or the precision
    EXECUTION = "execution"  # another value gives the same result, in another way or in another place


RESULT, SERIES, DERIVED, EXECUTION = Effect.RESULT, Effect.SERIES, Effect.DERIVED, Effect.EXECUTION


@dataclass(frozen=True)
class Range:
    """Bounds of a number. Both are allowed values, but `low` is not if `exclude_low` is set."""

    low: float
    high: float = math.inf
    exclude_low: bool = False

    def check(self, name: str, value: Any) -> None:
        """Raise UserError unless the value is None or within the bounds."""
        if value is None:
            return
        if not (self.low < value if self.exclude_low else self.low <= value) or not value <= self.high:
            lower = f"{'above' if self.exclude_low else 'at least'} {self.low:g}"
            upper = "" if math.isinf(self.high) else f" and at most {self.high:g}"
            raise UserError(f"must be {lower}{upper}, not {value!r}", where=name)


@dataclass(frozen=True)
class Added:
    """Marks a setting that was added after runs were made: at `value` the result is as before there was the setting.

    Fingerprints leave the setting out at this value, so that a run which finished before is still recognised.
    """

    value: Any


@dataclass(frozen=True)
class OfScript:
    """Marks a mapping of another script's settings: values given as KEY=VALUE stay texts, which that script reads by its own types."""


class Renamed:
    """The former name of a setting, and former names of its values: `Renamed("ARMS", together="mixed")`.

    The former names are still accepted. Fingerprints use them, so that a run which finished before is still recognised.
    """

    def __init__(self, former: str, **values: Any) -> None:
        self.former, self.values = former, values

    def to_present(self, value: Any) -> Any:
        """The present name of a value."""
        return self.values.get(value, value) if isinstance(value, str) else value

    def to_former(self, value: Any) -> Any:
        """The former name of a value."""
        return next((old for old, new in self.values.items() if new == value and isinstance(value, str)), value)


@dataclass(frozen=True)
class Field:
    """One setting of a class: its type, and the other parts of its annotation."""

    name: str
    type: Any
    range: Range | None
    effect: Effect | None
    renamed: Renamed | None
    added: Added | None
    of_script: bool


T = TypeVar("T")
TYPE_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
ANOTHER_KEY = re.compile(r"\s*[,\s]\s*(?=[A-Z][A-Z0-9_]*=)")  # what separates settings in one text
TRUE_WORDS, FALSE_WORDS = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


@functools.cache
def fields(cls: type) -> dict[str, Field]:
    """Settings of a class by name, in the order of the source."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields_by_name = {}
    for name in names(cls):
        hint, extras = hints[name], ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, extras = typing.get_args(hint)[0], typing.get_args(hint)[1:]
        fields_by_name[name] = Field(name, hint, _first(Range, extras), _first(Effect, extras), _first(Renamed, extras),
                                     _first(Added, extras), _first(OfScript, extras) is not None)  # fmt: skip
    return fields_by_name


def _first(kind: type[T], extras: Sequence[Any]) -> T | None:
    return next((extra for extra in extras if isinstance(extra, kind)), None)


def _present_name(cls: type, name: str) -> str:
    """The present name of a setting that is given by its present or its former name."""
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
    return "a mapping such as {NAME: VALUE} or NAME=VALUE"


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


def _parse(text: str, kind: Any, *, of_script: bool = False) -> Any:
    """`text` as a value of type `kind`; ValueError if it is none."""
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
    if kind == list[str] and not text.lstrip().startswith("["):  # not as YAML, which does not read 01 and NO as names
        return [part.strip() for part in text.split(",") if part.strip()]
    import yaml

    if typing.get_origin(kind) is dict and "=" in text and not text.lstrip().startswith("{"):
        texts = dict(part.split("=", 1) for part in shlex.split(text))  # KEY=VALUE, as on a command line
        if of_script:
            return texts
    else:
        texts = {}
    try:
        value: Any = {name: yaml_value(value) for name, value in texts.items()} or yaml_value(text)
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
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: the text is not YAML, or has a key twice, of which PyYAML would keep the last.
    """
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
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # raised by PyYAML for values such as !!timestamp x
        raise yaml.YAMLError(str(error)) from error


def expand_home(value: Any) -> Any:
    """Expand a leading "~" in a path, or in the paths of a list or mapping. Shells expand it only in some of these places."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value == "~" or value.startswith(("~/", "~\\")) else value
    if isinstance(value, list):
        return [expand_home(item) for item in value]
    return {name: expand_home(item) for name, item in value.items()} if isinstance(value, dict) else value


def path(text: str) -> Path:
    """Type of a command-line option that names a file or folder."""
    return Path(expand_home(text))


class _StrictNames(type):
    """Metaclass: assigning an unknown setting, or a value that the setting does not allow, is a UserError."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if name.isupper():
            name, value = _checked(cls, name, value)
        super().__setattr__(name, value)


def _checked(cls: type, name: str, value: Any) -> tuple[str, Any]:
    """The present name of a setting and its checked value; UserError if the setting is unknown or does not allow the value."""
    given, name = name, _present_name(cls, name)
    if name not in fields(cls):
        hint = did_you_mean(name.upper(), fields(cls), "--help lists the settings.", cutoff=0.5)
        raise UserError(f"is not a setting of {cls.__name__}", item=name, remedy=hint)
    field = fields(cls)[name]
    if field.renamed:
        value = field.renamed.to_present(value)
    if not _matches(value, field.type):
        raise UserError(f"must be {_type_name(field.type)}, not {value!r}", where=f"{cls.__name__}.{given}")
    if field.range:
        field.range.check(name, value)
    value = expand_home(value)
    return name, float(value) if field.type is float else value


class Settings(SimpleNamespace, metaclass=_StrictNames):
    """Base class of the scripts' settings. Values are checked in `TrainingConfig(LORA_RANK=16)` and when they are assigned later."""

    def __init__(self, **overrides: Any) -> None:
        super().__init__()
        for name in names(type(self)):
            default = getattr(type(self), name)  # checked too, because the user may have edited it in the script
            setattr(self, name, default.copy() if isinstance(default, list | dict) else default)
        for name, value in overrides.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        name, value = _checked(type(self), name, value)
        if name.endswith("_DIR") and not str(value).strip():
            raise UserError("is empty", where=name, remedy="Name a folder; '.' is the current one.")
        super().__setattr__(name, value)


SettingsType = TypeVar("SettingsType", bound=Settings)


def names(cls: type) -> list[str]:
    """Upper-case names of a settings class, in the order of the source."""
    return [name for base in reversed(cls.__mro__) for name in inspect.get_annotations(base) if name.isupper()]


def as_dict(config: Settings) -> dict[str, Any]:
    """Every setting and its value, in the order of the class."""
    return {name: getattr(config, name) for name in names(type(config))}


def with_effect(config: Settings, effect: Effect) -> dict[str, object]:
    """The settings with this effect, for a fingerprint.

    Renamed settings are under their former names, and settings that were added later are left out at the value that changes nothing.

    Raises:
        TypeError: the annotation of a field has no effect.
    """
    values = {}
    for field in fields(type(config)).values():
        if field.effect is None:
            raise TypeError(
                f"{type(config).__name__}.{field.name}: its annotation must have RESULT, SERIES, DERIVED or EXECUTION"
            )
        value = getattr(config, field.name)
        if field.effect is effect and not (field.added and field.added.value == value):
            name, value = (field.renamed.former, field.renamed.to_former(value)) if field.renamed else (field.name, value)
            values[name] = value
    return values


def resolve(config: object, cls: type[SettingsType]) -> SettingsType:
    """`config` as a complete `cls`. It may be an instance, a class, or any object that has only some of the settings."""
    if isinstance(config, cls):
        return config
    given = {name: getattr(config, name) for name in dir(config) if name.isupper()}
    return cls(**given)


def comments(cls: type) -> dict[str, str]:
    """The comment of each setting in the source of its class: above it, at the end of its line, or both."""
    texts: dict[str, str] = {}
    above: list[str] = []
    for line in inspect.getsource(cls).splitlines():
        line = line.strip()
        if line.startswith("#"):
            above.append(line.lstrip("# "))
        elif ":" in line and line.split(":")[0].isupper():
            at_end = line.rpartition("  # ")[2] if "  # " in line else ""
            texts[line.split(":")[0]] = " ".join([*above, at_end]).strip()
            above = []
        else:
            above = []
    return texts


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
        raise UserError(f"cannot be read as YAML ({one_line(error)})", where=path) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"holds a {type(values).__name__}, not KEY: value lines", where=path)
    return values


def _set_from_yaml(config: Settings, name: str, value: Any, path: Path) -> None:
    """Set a setting to a value that YAML read. Text is parsed unless the setting holds text, because YAML reads 2e-4 as text."""
    name = _present_name(type(config), name)
    field = fields(type(config)).get(name)
    if isinstance(value, str) and field is not None and not _matches(value, field.type):
        with contextlib.suppress(ValueError):
            value = _parse(value, field.type, of_script=field.of_script)
    try:
        setattr(config, name, value)
    except UserError as error:
        raise error.within(path) from None


def update(config: Settings, values: Mapping[str, Any]) -> None:
    """Set several settings. Text values are read as on the command line."""
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
    *,
    exclusive: Sequence[str] = (),
) -> tuple[SettingsType, argparse.Namespace]:
    """Settings and flags from a command line.

    Args:
        cls: the script's settings class.
        argv: arguments without the program's name; None takes `sys.argv`.
        description: what the script does, for `--help`.
        demo: the values that `--demo` sets.
        flags: further options of the script, `{"--plan": {argparse keywords}}`.
        exclusive: options of which only one can be given.

    Returns:
        The settings, and argparse's namespace with `demo`, `fresh`, and the script's own flags.

    Raises:
        UserError: an unknown name, a value of the wrong type, an unreadable file. argparse exits with 2 on an unknown option.
    """
    parser = argparse.ArgumentParser(
        description=description, epilog=_help_of_settings(cls), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="a setting, by the names below")
    parser.add_argument("--overrides", nargs="+", default=[], metavar="KEY=VALUE",
                        help="settings as well, separated by spaces or commas, or as a JSON list")  # fmt: skip
    parser.add_argument("--config", type=path, metavar="FILE.yaml", help="settings from a file")
    parser.add_argument("--demo", action="store_true", help="sample data and a small pretrained model, on any CPU")
    parser.add_argument("--fresh", action="store_true", help="set unfinished work in the output folder aside and start again")
    for flag, keywords in (flags or {}).items():
        parser.add_argument(flag, **keywords)
    # settings may come before and after flags, which plain parse_args does not allow for nargs="*"
    arguments = parser.parse_intermixed_args(argv if argv is None else list(argv))
    given = [flag for flag in exclusive if getattr(arguments, flag.removeprefix("--").replace("-", "_")) not in (None, False)]
    if len(given) > 1:
        raise UserError("cannot be given together", where=" and ".join(given), remedy="Run one, then the other.")
    config = cls()
    if arguments.demo:
        for name, value in demo.items():
            setattr(config, name, value)
    if arguments.config is not None:
        for name, value in _read_yaml(arguments.config).items():
            _set_from_yaml(config, str(name), value, arguments.config)
    for item in [*arguments.settings, *split_overrides(arguments.overrides)]:
        name, separator, text = item.partition("=")
        if not separator:
            raise UserError("is neither an option nor KEY=VALUE", item=repr(item), remedy="--help lists both.")
        set_from_text(config, name, text)
    return config, arguments


def split_overrides(texts: Sequence[str]) -> list[str]:
    """The KEY=VALUE items of `--overrides`: texts with one or several, separated by spaces or commas, or a JSON list of them.

    A comma or a space separates only where another KEY= follows, because values hold both: MEASURES=AP,P@1.
    """
    items: list[str] = []
    for text in texts:
        if text.lstrip().startswith("["):
            try:
                listed = input_files.parse_json(text)
            except UserError as error:
                raise error.within("--overrides") from None
            if not all(isinstance(item, str) for item in listed):
                raise UserError("is not a list of texts", where="--overrides", item=text, remedy='For example ["LORA_RANK=16"].')
            items += listed
        else:
            items += [item for item in ANOTHER_KEY.split(text.strip()) if item]
    return items


def set_from_text(config: Settings, name: str, text: str) -> None:
    """Set a setting from text, as on the command line."""
    cls, present = type(config), _present_name(type(config), name)
    field = fields(cls).get(present)
    if field is None:
        _checked(cls, name, None)
        raise AssertionError("an unknown setting is refused above")
    if field.renamed:
        text = field.renamed.to_present(text)
    try:
        value = _parse(text, field.type, of_script=field.of_script)
    except (ValueError, OverflowError):
        raise UserError(f"must be {_type_name(field.type)}, not {text!r}", where=name) from None
    setattr(config, present, value)


def command_line() -> str:
    """The command of this process as a shell would read it, for manifests."""
    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])


def as_arguments(config: Settings, demo: Mapping[str, Any]) -> list[str]:
    """The fewest arguments that give a script these settings; `demo` holds the values that its `--demo` sets."""
    import yaml

    def text(value: Any) -> str:
        nested = isinstance(value, list | dict)
        return yaml.safe_dump(value, default_flow_style=True, width=math.inf).strip() if nested else str(value)

    def changed_from(values: Mapping[str, Any]) -> list[str]:
        return [f"{name}={text(value)}" for name, value in as_dict(config).items() if value != values[name]]

    defaults = as_dict(type(config)())
    return min(changed_from(defaults), ["--demo", *changed_from({**defaults, **demo})], key=len)


def next_command(
    script: str, config: Settings, demo: Mapping[str, Any], names_there: Mapping[str, str], *, with_demo: bool
) -> str:
    """The command that runs the next script on the output of this one.

    Args:
        demo: the values that `--demo` sets in this script. The `--demo` of the next script uses the same folders.
        names_there: settings of this script that name folders, each with its name in the next script.
        with_demo: whether this script ran with `--demo`.
    """
    expected = {**as_dict(type(config)()), **(demo if with_demo else {})}
    moved = [f"{there}={getattr(config, here)}" for here, there in names_there.items() if getattr(config, here) != expected[here]]
    return command_of(script, *(["--demo"] if with_demo else []), *moved)
