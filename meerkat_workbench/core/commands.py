"""The command by which a user runs a script, for messages: the file itself, or the console command `meerkat`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping

_console_commands: dict[str, str] = {}


def use_console_commands(names: Mapping[str, str]) -> None:
    """Name console commands in messages from now on; `names` is from script to command."""
    _console_commands.update(names)


def command_of(script: str, *arguments: str) -> str:
    """How to run a script with these arguments, as a shell reads it: "python fine_tuning.py --demo" or "meerkat train --demo"."""
    if command := _console_commands.get(script):
        return shlex.join([*command.split(), *arguments])
    return shlex.join(["python", script, *arguments])
