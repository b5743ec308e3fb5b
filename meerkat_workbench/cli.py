"""The console command `meerkat`: the scripts by short names, with the same options and settings.

meerkat prepare --demo          python dataset_preparation.py --demo
meerkat train --demo            python fine_tuning.py --demo
meerkat evaluate --demo         python evaluation.py --demo
meerkat iterate --demo          python iterate.py --demo
meerkat rerank VERB --demo      python reranking.py VERB --demo
meerkat link VERB --demo        python entity_linking.py VERB --demo
meerkat copy-scripts FOLDER     copies of the scripts, to be edited and run there
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from meerkat_workbench import recipes
from meerkat_workbench.core import commands
from meerkat_workbench.core.errors import UserError, did_you_mean, run_script

# command: the script, and the option that it begins with
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "prepare": ("dataset_preparation", ()),
    "train": ("fine_tuning", ()),
    "plan": ("fine_tuning", ("--plan",)),
    "export": ("fine_tuning", ("--export",)),
    "evaluate": ("evaluation", ()),
    "ask": ("evaluation", ("--ask",)),
    "rescore": ("evaluation", ("--rescore",)),
    "history": ("evaluation", ("--history",)),
    "iterate": ("iterate", ()),
    "rerank": ("reranking", ()),
    "link": ("entity_linking", ()),
}
# commands that begin with a value of the user's, and what it is
FIRST_ARGUMENT = {"ask": "a question", "export": "a folder"}
COPY = "copy-scripts"


def main() -> None:
    run_script(_main)


def _main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        print(f"{__doc__}\nalso: {', '.join(COMMANDS)}. `meerkat COMMAND --help` lists options and settings.")
        return
    name, arguments = sys.argv[1], sys.argv[2:]
    if name == COPY:
        copy_scripts(arguments)
        return
    if name not in COMMANDS:
        hint = did_you_mean(name, [*COMMANDS, COPY], f"There are {', '.join([*COMMANDS, COPY])}.")
        raise UserError(f"there is no command {name!r}", where="meerkat", item=name, remedy=hint)
    if name in FIRST_ARGUMENT and (not arguments or arguments[0].startswith("-")) and not {"-h", "--help"} & set(arguments):
        raise UserError(f"takes {FIRST_ARGUMENT[name]} first, then options and settings", where=f"meerkat {name}")
    script, options = COMMANDS[name]
    path = recipes.FOLDER / f"{script}.py"
    # the script's own path, as it reads its options from there and starts itself again on several GPUs
    sys.argv = [str(path), *options, *arguments]
    commands.use_console_commands(
        {f"{script}.py": f"meerkat {name}" for name, (script, options) in COMMANDS.items() if not options}
    )
    recipes.load(path).main()


def copy_scripts(arguments: list[str]) -> None:
    """Copy the scripts to a folder; what is there already is not overwritten."""
    if len(arguments) != 1:
        raise UserError("takes one folder", where=f"meerkat {COPY}")
    folder = Path(arguments[0]).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for name in recipes.SCRIPTS:
        target = folder / f"{name}.py"
        if target.exists():
            raise UserError("exists already", where=target, remedy="Name another folder.")
        shutil.copyfile(recipes.FOLDER / f"{name}.py", target)
    print(f"copied {len(recipes.SCRIPTS)} scripts to {folder}: cd {folder}; python dataset_preparation.py --demo")
