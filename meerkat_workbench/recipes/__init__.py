"""The scripts as modules: `from meerkat_workbench.recipes import fine_tuning`.

A wheel holds copies of the scripts in this folder. In a checkout they are at the root, so this package looks there.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

SCRIPTS = ("dataset_preparation", "fine_tuning", "evaluation", "iterate", "reranking", "entity_linking")
_here = Path(__file__).resolve().parent
_root = _here.parent.parent
FOLDER = _here if (_here / "fine_tuning.py").is_file() else _root

if _here != FOLDER:
    __path__.append(str(FOLDER))


def sample_specialties() -> Path:
    """Folder of the sample specialty files; a relative path where the present folder is the checkout."""
    return example("specialties")


def example(*parts: str) -> Path:
    """A file or folder of `examples`; a relative path where the present folder is the checkout."""
    relative = Path("examples", *parts)
    return relative if relative.exists() else FOLDER / relative


def load(path: Path) -> ModuleType:
    """A script as a module, from wherever it lies: a user may have a copy of the scripts."""
    name = f"{path.stem}_in_{abs(hash(str(path.resolve().parent)))}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]
