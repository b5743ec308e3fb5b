"""What the manifests of all scripts of this task have in common."""

from __future__ import annotations

from meerkat_workbench.core.artifacts import JsonObject
from meerkat_workbench.core.runs import Manifest
from meerkat_workbench.tuning import old_formats


class TuningManifest(Manifest, frozen=True, kw_only=True):
    """A manifest of one of the task's scripts."""

    @classmethod
    def stage_of(cls, value: JsonObject) -> str:
        return old_formats.stage_of(value)

    @classmethod
    def upgrade(cls, value: JsonObject) -> JsonObject:
        return old_formats.manifest(value)
