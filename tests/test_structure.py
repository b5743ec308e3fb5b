"""The house: what may import what, and what must start at once."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("dataset_preparation", "fine_tuning", "evaluation", "iterate")
ROOMS = ("data", "training", "evaluation")
TORCHLESS = [
    "workbench.settings", "workbench.files", "workbench.manifest", "workbench.errors", "workbench.chat", "workbench.console", "workbench.devices", "workbench.smollm2",
    "workbench.models", "workbench.data.records", "workbench.data.near_duplicates", "workbench.data.splits",
    "workbench.data.series", "workbench.data.iterations", "workbench.evaluation.text_metrics",
    "workbench.evaluation.medical_metrics", "workbench.evaluation.significance", "workbench.evaluation.recommendations",
    "workbench.evaluation.ranking", "workbench.evaluation.policies",
    "workbench.evaluation.answers", "workbench.evaluation.report", "workbench.evaluation.history", "workbench.evaluation.retention",
    "workbench.evaluation.conclusions", "workbench.training.examples", *SCRIPTS,
]  # fmt: skip


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_no_script_imports_a_script():
    for script in SCRIPTS:
        others = {name for name in SCRIPTS if name != script}
        assert not imports(ROOT / f"{script}.py") & others, script


def test_the_workbench_imports_no_script_and_rooms_do_not_know_each_other():
    for path in (ROOT / "workbench").rglob("*.py"):
        for name in imports(path):
            assert name.split(".")[0] not in SCRIPTS, (path, name)
            room = path.parent.name if path.parent.name in ROOMS else None
            target = name.split(".")[1] if name.startswith("workbench.") and name.count(".") else None
            assert target not in ROOMS or target == room, (path, name)


@pytest.mark.parametrize("module", TORCHLESS)
def test_modules_that_need_no_torch_do_not_load_it(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


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


def test_the_output_folder_does_not_shadow_the_hugging_face_library():
    assert not (ROOT / "datasets" / "__init__.py").exists()
    code = "import datasets; assert hasattr(datasets, 'load_from_disk')"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_requirements_bound_every_package_and_say_why():
    lines = [line for path in ROOT.glob("requirements*.txt") for line in path.read_text().splitlines()]
    assert len(lines) > 30
    for line in lines:
        if line and not line.startswith("#"):
            requirement, _, reason = line.partition("#")
            assert reason.strip(), line
            assert "==" in requirement or (">=" in requirement and "<" in requirement), line


def test_the_readme_names_only_files_that_are_there():
    import re

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"\]\(([\w./-]+)\)", text)):
        assert (ROOT / name).exists(), name
