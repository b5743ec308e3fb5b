"""The structure: what may import what, and what must start at once."""

import ast
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from meerkat_workbench.core import runs
from meerkat_workbench.output import tables
from meerkat_workbench.tuning import artifacts as task_artifacts
from meerkat_workbench.tuning.scoring.answer_table import Column

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "meerkat_workbench"
SCRIPTS = ("dataset_preparation", "fine_tuning", "evaluation", "iterate", "reranking", "entity_linking")
# shared capabilities: a package may import those before it
SHARED = ("core", "text", "stats", "output", "device", "retrieval", "concepts", "trainers")
# the rooms of the tuning task, in the order of the work: a room may import those before it
TUNING = ("data", "generation", "training", "scoring", "allocation", "reporting")
TORCHLESS = [
    "core.settings", "core.files", "core.runs", "core.errors", "core.console", "core.input_files", "device.devices",
    "text.texts", "text.near_duplicates", "text.contamination", "text.quantities", "stats.significance", "output.fonts", "tuning.chat", "tuning.smollm2",
    "tuning.llm", "tuning.data.records", "tuning.data.splits", "tuning.data.iterations",
    "tuning.scoring.text_metrics", "tuning.scoring.medical_metrics", "tuning.allocation.recommendations", "tuning.allocation.ranking",
    "tuning.allocation.policies", "tuning.generation.prediction_store",
    "tuning.scoring.retention", "tuning.reporting.history", "tuning.training.examples",
]  # fmt: skip

# these look names up in files that others wrote, in transformers' log, and in old forms of our own
LOOK_UP_NAMES_OF_OTHERS = {f"{PACKAGE}.{name}" for name in ("tuning.data.rows", "trainers.progress", "tuning.training.plots",
                                                            "tuning.old_formats", "tuning.scoring.answer_table", "tuning.data.multiple_choice", "linking.evaluator", "reranking.evaluator", "concepts.vocabulary_files")}  # fmt: skip


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def package_imports(path: Path) -> set[tuple[str, ...]]:
    """Imports of this package's modules, as parts below the package."""
    return {tuple(name.split(".")[1:]) for name in imports(path) if name.startswith(f"{PACKAGE}.")}


def modules(folder: str = "") -> list[Path]:
    return sorted((ROOT / PACKAGE / folder).rglob("*.py"))


def test_no_script_imports_a_script():
    for script in SCRIPTS:
        others = {name for name in SCRIPTS if name != script}
        assert not imports(ROOT / f"{script}.py") & others, script


def test_the_package_imports_no_script():
    for path in modules():
        assert not {name.split(".")[0] for name in imports(path)} & set(SCRIPTS), path


def test_shared_capabilities_import_no_task_and_only_what_lies_below_them():
    for place, name in enumerate(SHARED):
        for path in modules(name):
            for target in package_imports(path):
                assert target[0] in SHARED[: place + 1], (path, target)


def test_tasks_never_import_tasks():
    tasks = {path.name for path in (ROOT / PACKAGE).iterdir() if path.is_dir()} - {*SHARED, "recipes", "__pycache__"}
    assert {"tuning", "reranking", "linking"} <= tasks
    for task in tasks:
        for path in modules(task):
            for target in package_imports(path):
                assert target[0] == task or target[0] in SHARED, (path, target)


def test_rooms_of_the_tuning_task_import_only_rooms_before_them():
    for place, room in enumerate(TUNING):
        for path in modules(f"tuning/{room}"):
            for target in package_imports(path):
                if target[0] == "tuning" and len(target) > 1 and target[1] in TUNING:
                    assert target[1] in TUNING[: place + 1], (path, target)


@pytest.mark.parametrize("module", [*(f"{PACKAGE}.{name}" for name in TORCHLESS), *SCRIPTS])
def test_modules_that_need_no_torch_do_not_load_it(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize(
    "command",
    [
        ["fine_tuning.py", "DATASET_DIR=absent"], ["fine_tuning.py", "--demo", "--push", "me/model"],
        ["evaluation.py", "FINETUNED_MODEL_PATH=absent"], ["evaluation.py", "POLICY=none"], ["evaluation.py", "JUDGE=x"],
        ["dataset_preparation.py", "DATA_DIR=absent"],
    ],
)  # fmt: skip
def test_an_early_mistake_is_refused_before_a_library_is_loaded(command, tmp_path):
    code = f"""if True:
        import sys
        from pathlib import Path
        from meerkat_workbench import recipes
        from meerkat_workbench.core.errors import UserError
        sys.argv = {command!r}
        try:
            recipes.load(Path({str(ROOT / command[0])!r})).main()
        except UserError:
            sys.exit(10 + any(name in sys.modules for name in ("torch", "transformers", "scipy", "nltk")))
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 10


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_names_every_setting_and_starts_quickly(script):
    fastest = min(_seconds_of_help(script) for _ in range(3))
    assert fastest < 2.0  # half a second on a quiet machine; this bound only catches a heavy import


def _seconds_of_help(script: str) -> float:
    started = time.perf_counter()
    done = subprocess.run([sys.executable, f"{script}.py", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert ("N=3" if script == "iterate" else "RANDOM_SEED=42") in done.stdout
    return time.perf_counter() - started


def subclasses(kind: type) -> set[type]:
    return {one for child in kind.__subclasses__() for one in (child, *subclasses(child))}


def literals(path: Path) -> tuple[set[str], set[str]]:
    """String constants of a module but its docstrings, and those by which something is looked up: x["name"], x.get("name")."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {ast.get_docstring(node, clean=False) for node in ast.walk(tree)
                  if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)}  # fmt: skip
    constants, keys = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            constants |= {node.value} - docstrings
        looked_up = [node.slice] if isinstance(node, ast.Subscript) else []
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            looked_up = node.args[:1]
        keys |= {one.value for one in looked_up if isinstance(one, ast.Constant) and isinstance(one.value, str)}
    return constants, keys


def test_no_file_name_and_no_column_of_an_artifact_is_written_outside_its_class():
    for path in modules("tuning"):
        if path.name != "__init__.py":
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    kinds = {kind for kind in subclasses(msgspec.Struct) if kind.__module__.startswith(PACKAGE)}
    file_of = {str(name): task_artifacts.OutputFile.__module__ for name in task_artifacts.OutputFile} | {
        kind.FILE: kind.__module__ for kind in kinds if getattr(kind, "FILE", "")}  # fmt: skip
    file_of |= {runs.MANIFEST: runs.__name__, runs.IN_PROGRESS: runs.__name__}
    columns = {field.encode_name for kind in subclasses(tables.Row) for field in msgspec.structs.fields(kind)} | set(Column)
    assert len(file_of) > 30 and {"ci_low", "finish_reason", "in_words"} - columns == {"in_words"}
    for path in [*modules(), *(ROOT / f"{script}.py" for script in SCRIPTS)]:
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        constants, keys = literals(path)
        for name in constants:
            assert file_of.get(name.rpartition("/")[2], module) == module, (path, name)
        if module not in LOOK_UP_NAMES_OF_OTHERS and not module.startswith(tuple(f"{PACKAGE}.{name}." for name in SHARED)):
            assert not keys & columns, (path, keys & columns)


def test_the_output_folder_does_not_shadow_the_hugging_face_library():
    assert not (ROOT / "datasets" / "__init__.py").exists()
    code = "import datasets; assert hasattr(datasets, 'load_from_disk')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_the_readme_names_only_files_that_are_there():
    import re

    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for name in set(re.findall(r"\]\(([\w./-]+)\)", path.read_text(encoding="utf-8"))):
            assert (path.parent / name).exists(), (path.name, name)
