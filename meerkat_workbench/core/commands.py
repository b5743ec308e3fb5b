"""Commands of the scripts: how a user runs them, for messages, and their verbs."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence

from meerkat_workbench.core.errors import UserError

_console_commands: dict[str, str] = {}


def use_console_commands(names: Mapping[str, str]) -> None:
    """Name console commands in messages from now on; `names` is from script to command."""
    _console_commands.update(names)


def command_of(script: str, *arguments: str) -> str:
    """How to run a script with these arguments, as a shell reads it: "python fine_tuning.py --demo" or "meerkat train --demo"."""
    if command := _console_commands.get(script):
        return shlex.join([*command.split(), *arguments])
    return shlex.join(["python", script, *arguments])


def verb_of(script: str, verbs: Sequence[str]) -> tuple[str, list[str]]:
    """The verb on this process' command line, and the arguments behind it; "--help" where it asks for help or has none.

    Raises:
        UserError: the first argument is no verb.
    """
    verb = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if verb in ("-h", "--help"):
        return "--help", ["--help"]
    if verb not in verbs:
        raise UserError("is not a verb", where=script, item=verb, remedy=f"The verbs are {', '.join(verbs)}.")
    return verb, sys.argv[2:]


def demo_flag(arguments: argparse.Namespace) -> list[str]:
    """`--demo` again, for the next command."""
    return ["--demo"] if arguments.demo else []
