"""Looks for the questions of benchmarks in what a model was trained on.

The preparation sets such records aside if CONTAMINATION_SETS names the benchmark's files. This module looks at the train sets that
the model has really learnt, by the same comparison (`text/contamination.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from meerkat_workbench.core import files, input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import contamination
from meerkat_workbench.text.contamination import BenchmarkQuestion
from meerkat_workbench.text.near_duplicates import fingerprint
from meerkat_workbench.tuning.artifacts import DatasetManifest, Split
from meerkat_workbench.tuning.data import dataset_folders, leakage
from meerkat_workbench.tuning.data.multiple_choice import SETTING, Benchmark
from meerkat_workbench.tuning.data.records import Record


@dataclass(frozen=True)
class Overlap:
    """What of a benchmark a model was trained on.

    Attributes:
        questions: texts of the questions that are in training records; at least these, because each record names one only.
        records: number of training records that contain one.
        items: number of the benchmark's items with such a question.
        unguarded: names of the files against which the preparation of a train set did not guard.
        unread: number of train sets that the model has learnt and that are not in the folder or its archive any more.
    """

    questions: frozenset[str]
    records: int
    items: int
    unguarded: tuple[str, ...]
    unread: int

    def sentences(self, folder: Path) -> list[str]:
        """What the reader of the scores must know; `folder` is the benchmark's."""
        said = []
        guard = f"{contamination.SETTING}={folder}"
        if self.records:
            said.append(
                f"Multiple-choice questions in the train set: {self.items}, in {self.records} of its records. The tuned model's "
                f"accuracy may be too high because of them. They are marked in the table of items. Prepare the data with {guard} and "
                "train again."
            )
        if self.unguarded:
            found = "" if self.records else ", but none of its records contains one of their questions"
            names = input_files.shorten_list(self.unguarded)
            said.append(f"The train set was prepared without {guard} for {names}{found}.")
        if self.unread:
            said.append(
                f"Train sets of the model that are gone, so that {SETTING} could not be compared with them: {self.unread}."
            )
        return said


def find(benchmark: Benchmark, data_folder: Path, trained_on: Sequence[str]) -> Overlap:
    """Compare a benchmark with the train sets that a model has learnt.

    Args:
        data_folder: the prepared folder; earlier train sets are in its archive.
        trained_on: hashes of the train sets' record ids. The folder's own train set is taken if none of them is there.

    Raises:
        UserError: the folder is not a prepared one, or cannot be read.
    """
    present, _ = leakage.find_train_sets(data_folder)
    learnt = {
        train_set.hash_of_records: train_set.folder for train_set in present if train_set.hash_of_records in set(trained_on)
    }
    folders = sorted(set(learnt.values())) or [data_folder]
    records: dict[str, Record] = {}
    for folder in folders:
        records |= {record.id: record for record in dataset_folders.read_records(folder, Split.TRAIN)}
    asked = [
        BenchmarkQuestion(file, text) for file, text in dict.fromkeys((item.file, item.question) for item in benchmark.items)
    ]
    training = list(records.values())
    found = contamination.find_contaminated(training, fingerprint(training, near=True), asked) if training and asked else {}
    contained = frozenset(question.text for _, question in found.values())
    unguarded = sorted({name for folder in folders for name in _unguarded(benchmark, folder)})
    return Overlap(contained, len(found), sum(item.question in contained for item in benchmark.items), tuple(unguarded),
                   len(set(trained_on) - set(learnt)))  # fmt: skip


def _unguarded(benchmark: Benchmark, folder: Path) -> list[str]:
    """The benchmark's files that the preparation of a folder was not told of, by their contents."""
    try:
        guarded = {
            files.sha256_file(path) for path in contamination.find_files(DatasetManifest.require(folder).contamination_sets)
        }
    except UserError:  # its folders are gone or have changed
        guarded = set()
    return [path.name for path in benchmark.paths if files.sha256_file(path) not in guarded]
