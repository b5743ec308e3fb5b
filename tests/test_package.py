"""The package: its dependencies, its commands and what it brings along."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from meerkat_workbench import cli, recipes
from meerkat_workbench.core import commands
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.artifacts import DatasetManifest

ROOT = Path(__file__).resolve().parent.parent


def requirements(name: str) -> list[str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line]


def test_requirements_bound_every_package_and_say_why():
    lines = [line for path in ROOT.glob("requirements*.txt") for line in path.read_text().splitlines()]
    assert len(lines) > 30
    for line in lines:
        if line and not line.startswith("#"):
            requirement, _, reason = line.partition("#")
            assert reason.strip(), line
            assert "==" in requirement or (">=" in requirement and "<" in requirement), line


def test_pyproject_and_requirements_agree():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert project["dependencies"] == requirements("requirements.txt")
    assert extras["dev"] == requirements("requirements-dev.txt")
    assert set(extras["tracking"]) < set(extras["dev"])


def test_a_wheel_brings_scripts_samples_and_templates_and_its_command_prepares_the_demo(tmp_path, smollm2_model):
    """Built and unpacked here; its files alone are on the path of the process that runs it."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path, ROOT], check=True)
    [wheel] = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = archive.namelist()
    assert {"meerkat_workbench/recipes/fine_tuning.py", "meerkat_workbench/tuning/reporting/report.html.j2",
            "meerkat_workbench/tuning/scoring/retention.jsonl", "meerkat_workbench/tuning/training/model_card.md.j2"} <= set(names)  # fmt: skip
    work = tmp_path / "work"
    work.mkdir()
    code = "import sys; from meerkat_workbench import cli; assert cli.__file__.startswith(sys.argv.pop(1)); cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(site), "prepare", "--demo", "SPECIALTIES=cardiology"], cwd=work, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(site)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert DatasetManifest.require(work / "datasets" / "demo").iteration == 1


def test_an_unknown_command_is_refused_with_the_nearest_one(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["meerkat", "evalute"])
    with pytest.raises(UserError) as caught:
        cli._main()
    assert caught.value.item == "evalute" and "evaluate" in caught.value.remedy


@pytest.mark.parametrize("command", ["ask", "export"])
def test_a_command_that_needs_a_value_takes_it_first(monkeypatch, command):
    monkeypatch.setattr(sys, "argv", ["meerkat", command, "--demo"])
    with pytest.raises(UserError) as caught:
        cli._main()
    assert caught.value.where == f"meerkat {command}"


def test_messages_name_the_console_command_where_the_user_gave_one(monkeypatch, tmp_path):
    monkeypatch.setattr(commands, "_console_commands", {})
    monkeypatch.setattr(sys, "argv", ["meerkat", "train", f"DATASET_DIR={tmp_path / 'absent'}"])
    with pytest.raises(UserError) as caught:
        cli._main()
    assert "meerkat prepare" in caught.value.remedy and ".py" not in caught.value.remedy


def test_copied_scripts_are_complete_and_nothing_is_overwritten(tmp_path):
    cli.copy_scripts([str(tmp_path)])
    for name in recipes.SCRIPTS:
        assert (tmp_path / f"{name}.py").read_bytes() == (ROOT / f"{name}.py").read_bytes()
    with pytest.raises(UserError) as caught:
        cli.copy_scripts([str(tmp_path)])
    assert caught.value.where.startswith(str(tmp_path))
