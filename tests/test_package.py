"""The package: its dependencies, its commands and what it brings along."""

import tomllib
from pathlib import Path

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
