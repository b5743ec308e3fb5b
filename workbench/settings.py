"""Settings of the scripts: a class with comments, `KEY=VALUE`, `--config FILE.yaml`, `--demo` and `--help`.

A script states its defaults in a class derived from `Settings`. The command line wins over `--config`, that over
`--demo`, and that over the class. Unknown names and values of the wrong kind are refused, in Python as well.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import math
import shlex
import sys
import textwrap
import types
import typing
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from workbench import foreign_files
from workbench.errors import UserError

KIND_NAMES = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
TRUE_WORDS, FALSE_WORDS = {"true", "yes", "on", "1"}, {"false", "no", "off", "0"}


def _kind_of(cls: type, name: str) -> Any:
    return typing.get_type_hints(cls)[name]


def _kind_name(kind: Any) -> str:
    if kind in KIND_NAMES:
        return KIND_NAMES[kind]
    if typing.get_origin(kind) is types.UnionType:
        return " or ".join("None" if k is type(None) else _kind_name(k) for k in typing.get_args(kind))
    if typing.get_origin(kind) is list:
        return "a list such as a,b"
    return "a mapping such as {cardiology: 0.8}"


def _fits(value: Any, kind: Any) -> bool:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return any(_fits(value, k) for k in arguments)
    if origin is list:
        return isinstance(value, list) and all(_fits(v, arguments[0]) for v in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, arguments[0]) and _fits(v, arguments[1]) for k, v in value.items())
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
    if kind == list[str] and not text.lstrip().startswith("["):  # as it is typed: 01 and NO are names
        return [part.strip() for part in text.split(",") if part.strip()]
    import yaml

    try:
        value = yaml_value(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(text) from error
    if typing.get_origin(kind) is list and value is None and not text.strip():
        return []
    if typing.get_origin(kind) is list and isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not _fits(value, kind):
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
                        raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", key_node.start_mark)
                    seen.add(key)
            return super().construct_mapping(node, deep=deep)

    try:
        return yaml.load(text, Loader)
    except (ValueError, TypeError, AttributeError, OverflowError) as error:  # PyYAML's own, on values such as !!timestamp x
        raise yaml.YAMLError(str(error)) from error


def at_home(value: Any) -> Any:
    """A path that begins with "~" in full, also within a list or mapping: shells expand it in few of the places where it may stand."""
    if isinstance(value, str):
        return str(Path(value).expanduser()) if value == "~" or value.startswith(("~/", "~\\")) else value
    if isinstance(value, list):
        return [at_home(one) for one in value]
    return {name: at_home(one) for name, one in value.items()} if isinstance(value, dict) else value


def path(text: str) -> Path:
    """The kind of a command-line option that takes a file or folder."""
    return Path(at_home(text))


class _StrictNames(type):
    """Assigning a name that the class does not have, or a value of another kind, is an error."""

    def __setattr__(cls, name: str, value: Any) -> None:
        if name.isupper():
            _check(cls, name, value)
        super().__setattr__(name, at_home(value) if name.isupper() else value)


def _check(cls: type, name: str, value: Any) -> None:
    known = names(cls)
    if name not in known:
        nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.5)
        hint = f"Did you mean {nearest[0]}?" if nearest else "--help lists the settings."
        raise UserError(f"{cls.__name__} has no setting {name}. {hint}")
    kind = _kind_of(cls, name)
    if not _fits(value, kind):
        raise UserError(f"{cls.__name__}.{name} must be {_kind_name(kind)}, not {value!r}.")


class Settings(SimpleNamespace, metaclass=_StrictNames):
    """Base of the scripts' settings: `TrainingConfig(LORA_RANK=16)`, or assign afterwards; both are checked."""

    def __init__(self, **overrides: Any) -> None:
        super().__init__()
        for name in names(type(self)):
            default = getattr(type(self), name)
            super().__setattr__(name, at_home(default.copy() if isinstance(default, list | dict) else default))
        for name, value in overrides.items():
            setattr(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        _check(type(self), name, value)
        if name.endswith("_DIR") and not str(value).strip():
            raise UserError(f"{name} is empty. Name a folder; '.' is the present one.")
        value = at_home(value)
        super().__setattr__(name, float(value) if _kind_of(type(self), name) is float else value)


SettingsType = TypeVar("SettingsType", bound=Settings)


def names(cls: type) -> list[str]:
    """Upper-case names of a settings class, in the order they are written."""
    return [name for base in reversed(cls.__mro__) for name in inspect.get_annotations(base) if name.isupper()]


def as_dict(config: Settings) -> dict[str, Any]:
    """Every setting and its value, in the order of the class."""
    return {name: getattr(config, name) for name in names(type(config))}


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
        values = yaml_value(foreign_files.text_of(path))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file. --config takes a YAML file of KEY: value lines.") from None
    except (UserError, OSError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())}).") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}, not KEY: value lines.")
    return values


def _set_from_yaml(config: Settings, name: str, value: Any, path: Path) -> None:
    """YAML reads 2e-4 as text; where a number is asked for, text that is one is taken as one."""
    kind = _kind_of(type(config), name) if name in names(type(config)) else None
    if isinstance(value, str) and kind is not None and not _fits(value, kind):
        with contextlib.suppress(ValueError):
            value = _parse(value, kind)
    try:
        setattr(config, name, value)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


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
            raise UserError(f"{item!r} is neither an option nor KEY=VALUE. --help lists both.")
        if name not in names(cls):
            _check(cls, name, None)
        try:
            value = _parse(text, _kind_of(cls, name))
        except (ValueError, OverflowError):
            raise UserError(f"{name} must be {_kind_name(_kind_of(cls, name))}, not {text!r}.") from None
        setattr(config, name, value)
    return config, arguments


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


def check_range(config: Settings, name: str, low: float, high: float, *, low_open: bool = False) -> None:
    """Raise UserError unless `low <= value <= high` (`low <` where `low_open`)."""
    value = getattr(config, name)
    if not (low < value <= high if low_open else low <= value <= high):
        sign = "above" if low_open else "at least"
        raise UserError(f"{name} must be {sign} {low:g} and at most {high:g}, not {value!r}.")
