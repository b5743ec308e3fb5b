#!/usr/bin/env python3
"""Split specialty files into a fixed holdout, a fixed eval set, a train set that grows and a pool that shrinks.

    python dataset_preparation.py --demo                        the sample specialties
    python dataset_preparation.py DATA_DIR=my_files             iteration 1
    python dataset_preparation.py --recommendations evaluation_results/training_recommendations.json
                                                                the next iteration, as evaluation.py advises
    (or edit `specialty_adjustments` below and run it without options)
    python dataset_preparation.py --iteration 2                 the sets of iteration 2 again, as a new iteration

Reads dataset_with_answers_{specialty}.json (or JSON lines, CSV) from DATA_DIR. Writes OUTPUT_DIR; datasets/README.md lists its files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from meerkat_workbench.core import console, files, settings
from meerkat_workbench.core.errors import UserError, run_script
from meerkat_workbench.core.settings import DERIVED, EXECUTION, RESULT, SERIES, Range
from meerkat_workbench.recipes import sample_specialties
from meerkat_workbench.tuning import chat

if TYPE_CHECKING:
    from datasets import Dataset

    from meerkat_workbench.core.runs import Run
    from meerkat_workbench.text.contamination import Contaminated
    from meerkat_workbench.tuning.artifacts import DatasetManifest, IterationRecord
    from meerkat_workbench.tuning.data.record_index import RecordIndex
    from meerkat_workbench.tuning.data.specialty_files import FoundFiles, LoadedRecords
    from meerkat_workbench.tuning.data.split_assignment import SplitSettings

# --- settings

# Shares for the next iteration: specialty -> absolute share of its records (all but the holdout) in train and eval.
# Other specialties keep their last share. Example: {"cardiology": 0.8, "urology": 0.65}
specialty_adjustments: dict[str, float] = {}


class DatasetConfig(settings.Settings):
    """Settings of the split. Change a line, or give KEY=VALUE on the command line."""

    # Folder of dataset_with_answers_{specialty}.json files (or .jsonl; or CSV with question, answer and, optionally, specialty).
    DATA_DIR: Annotated[str, DERIVED] = "data"
    # Only these specialties, by the names of their files; empty takes all.
    SPECIALTIES: Annotated[list[str], RESULT] = []
    # Folder of the four splits. Each series of iterations needs a folder of its own.
    OUTPUT_DIR: Annotated[str, EXECUTION] = "datasets"
    # Questions of each specialty that are never trained on and give the headline figures. 10 show only large effects; more
    # cost training records.
    HOLDOUT_SAMPLES_PER_SPECIALTY: Annotated[int, Range(1, 100_000), SERIES] = 10
    # Share of a specialty's records (all but the holdout) that the first iteration uses for train and eval together.
    INITIAL_TRAIN_PERCENTAGE: Annotated[float, Range(0, 1, exclude_low=True), SERIES] = 0.5
    # Fraction of a specialty's first share that becomes the eval set, which then stays fixed. Recommendations are based on it.
    EVAL_SPLIT_SIZE: Annotated[float, Range(0, 0.9, exclude_low=True), SERIES] = 0.2
    # First shares of specialties for which INITIAL_TRAIN_PERCENTAGE is not used, e.g. {cardiology: 0.8}.
    SPECIALTY_SAMPLE_PERCENTAGES: Annotated[dict[str, float], SERIES] = {}
    # Instruction to the model before each question, in training and evaluation. Empty for none.
    SYSTEM_MESSAGE: Annotated[str, DERIVED] = "You are a medical assistant. Answer accurately and concisely."
    # "llama3"; "smollm2"; "plain" for encoder-decoder models; or a tokenizer's folder or .jinja file for another family.
    CHAT_TEMPLATE: Annotated[str, DERIVED] = "llama3"
    # Jaccard index of the words, of question and of answer, from which two records are near-duplicates. These are never on both
    # sides of the split. 0 turns this off; equal questions and identical answers are always kept apart.
    NEAR_DUPLICATE_THRESHOLD: Annotated[float, Range(0, 1), SERIES] = 0.8
    # Folders of benchmark questions that must not be trained on (JSON, JSON lines, CSV, parquet, or text with one question per line).
    CONTAMINATION_SETS: Annotated[list[str], DERIVED] = []
    # Seed of all random choices. Another seed draws another holdout, so scores do not compare.
    RANDOM_SEED: Annotated[int, SERIES] = 42
    # True leaves bad records out and counts them; False stops and names them.
    SKIP_INVALID: Annotated[bool, RESULT] = False


DEMO = {
    "DATA_DIR": str(sample_specialties()),
    "OUTPUT_DIR": "datasets/demo",
    "CHAT_TEMPLATE": "smollm2",
    # four of the 42 specialties and few questions, so that two iterations take minutes on any CPU; SPECIALTIES= takes all
    "SPECIALTIES": ["cardiology", "dermatology", "neurology", "psychiatry"],
    "HOLDOUT_SAMPLES_PER_SPECIALTY": 5,
    "INITIAL_TRAIN_PERCENTAGE": 0.28,
    "EVAL_SPLIT_SIZE": 0.3,
}


def apply_chat_template(question: str, answer: str | None, system_message: str) -> str:
    """The text of a conversation. Edit this to change the format in preparation, training and evaluation at once.

    With `answer=None` the text ends where the assistant's answer begins. With an answer it is the same text, followed by the answer
    and the end of the turn. The default is Llama-3's format.
    """
    return chat.render_llama3(question, answer, system_message)


# --- the steps


@dataclass(frozen=True)
class Preparation:
    """The manifest of the prepared folder, and whether it was already up to date."""

    manifest: DatasetManifest
    up_to_date: bool = False


def prepare(
    config: DatasetConfig, adjustments: Mapping[str, float], *, in_script: Mapping[str, float] | None = None,
    recommendations: Path | None = None, accept_edits: bool = False, fresh: bool = False,
) -> Preparation:  # fmt: skip
    """Make the next iteration in OUTPUT_DIR, or find the present one up to date.

    Args:
        adjustments: new absolute shares by specialty.
        in_script: shares set in the script. Once applied, one does not override a later recommendation or rollback.
        recommendations: a file whose shares are applied too.
        accept_edits: take records that were edited upstream into the fixed sets.
        fresh: start a new series; the old one moves to the archive.
    """
    from meerkat_workbench.core.garbage import collection_suspended
    from meerkat_workbench.core.runs import Run
    from meerkat_workbench.tuning.artifacts import DatasetInputs, DatasetManifest, read_ledger
    from meerkat_workbench.tuning.data import iteration_store, iterations, share_requests, specialty_files, split_assignment

    with Run(Path(config.OUTPUT_DIR), DatasetManifest, fresh=fresh, kept=iterations.KEPT_IN_PLACE) as run, collection_suspended():
        # 1. The files, the earlier iterations and the chat format
        sources = specialty_files.find_files(Path(config.DATA_DIR), config.SPECIALTIES)
        ledger = [] if fresh else read_ledger(run.folder)
        chat_format, control_tokens = chat_format_of(config, ledger)
        specialty_files.print_unread(sources)
        series = settings.with_effect(config, SERIES)
        iteration_store.check_same_series(run.folder, ledger, series)

        # 2. The requested shares; is the folder already up to date?
        recommended = share_requests.recommended_shares(recommendations, ledger) if recommendations else {}
        requests = share_requests.ShareRequests(as_floats({**adjustments, **recommended}), in_script and as_floats(in_script))
        file_hashes = {path.name: files.sha256_file(path) for path in sources.paths}
        depends_on = [file_hashes, series, chat_format.probe, *result_of(config)]
        run.find(files.sha256_of([*depends_on, requests.shares(ledger, {})]))
        requests.print_superseded()
        takes_edits = accept_edits and bool(ledger) and ledger[-1].changes.fixed_waiting > 0
        if not takes_edits and (present := unchanged_output(run)):
            return Preparation(present, up_to_date=True)

        # 3. Read the records, and compare them with those of earlier iterations
        loaded = specialty_files.read_folder(Path(config.DATA_DIR), skip_invalid=config.SKIP_INVALID, found=sources,
                                             only=config.SPECIALTIES, control_tokens=control_tokens)  # fmt: skip
        index, last = compare_records(config, loaded, sources, ledger, accept_edits=accept_edits)
        shares = requests.shares(ledger, index.renamed)  # the requests may use names from before a renaming
        requests.check(index, last, config.SPECIALTY_SAMPLE_PERCENTAGES)

        # 4. Draw fixed sets for specialties that have none, then give the rest to train and pool
        questions, contaminated = find_contaminated(config, index)
        with console.working("drawing the splits", announced=False):
            plan = split_assignment.assign_splits(index, last, split_settings(config, loaded, shares), contaminated)

        # 5. Write the iteration into a subfolder, then replace the present one
        request = requests.for_ledger(series, recommendations, chat_format.probe)
        record = iteration_store.iteration_record(plan, index, last, request, loaded, benchmark_questions=questions)
        run.claim()
        iteration_store.write(run.workspace, plan, index, [*ledger, record], chat_format)
        run.fingerprint = files.sha256_of([*depends_on, plan.shares])
        return Preparation(run.finish(run.manifest(
            config, iteration=record.iteration, inputs=DatasetInputs(str(config.DATA_DIR), file_hashes), splits=record.hashes,
            arguments=tuple(settings.as_arguments(config, DEMO)), recommendations_sha256=request.recommendations_sha256,
        )))  # fmt: skip


def chat_format_of(config: DatasetConfig, ledger: Sequence[IterationRecord]) -> tuple[chat.ChatFormat, chat.ControlTokens]:
    """The chat format of the settings, and the control tokens that no text may contain."""
    from meerkat_workbench.tuning import chat_formats

    template, source = chat_formats.template_of(config.CHAT_TEMPLATE, apply_chat_template, ledger[0].made if ledger else "")
    return chat_formats.checked_format(template, source, config.SYSTEM_MESSAGE)


def unchanged_output(run: Run[DatasetManifest]) -> DatasetManifest | None:
    """The manifest of this run, if it is finished and its splits are as they were written."""
    from meerkat_workbench.tuning.data import rollback

    present = run.up_to_date()
    if present and (edited := rollback.edited_splits(run.folder, present)):
        print(f"  {', '.join(edited)}: changed since they were written, so they are made again, as another iteration", flush=True)
        return None
    return present


def split_settings(config: DatasetConfig, loaded: LoadedRecords, shares: Mapping[str, float]) -> SplitSettings:
    """What decides how records are divided; specialties without a share get the first one."""
    from meerkat_workbench.tuning.data.split_assignment import SplitSettings

    first_shares = dict.fromkeys(loaded.records, config.INITIAL_TRAIN_PERCENTAGE) | config.SPECIALTY_SAMPLE_PERCENTAGES
    return SplitSettings(shares, first_shares, config.HOLDOUT_SAMPLES_PER_SPECIALTY, config.EVAL_SPLIT_SIZE,
                         config.NEAR_DUPLICATE_THRESHOLD, config.RANDOM_SEED)  # fmt: skip


def result_of(config: DatasetConfig) -> list[object]:
    """What the result depends on, apart from the files, the series, the chat format and the shares."""
    from meerkat_workbench.text import contamination

    benchmarks = [files.sha256_file(path) for path in contamination.find_files(config.CONTAMINATION_SETS)]
    ordered = [config.SKIP_INVALID, *benchmarks, *sorted(config.SPECIALTIES)]  # in the order of earlier versions
    more = {
        name: value for name, value in settings.with_effect(config, RESULT).items() if name not in ("SKIP_INVALID", "SPECIALTIES")
    }
    return [*ordered, more] if more else ordered


def compare_records(
    config: DatasetConfig, loaded: LoadedRecords, sources: FoundFiles, ledger: Sequence[IterationRecord], *, accept_edits: bool
) -> tuple[RecordIndex, IterationRecord | None]:
    """All records compared with earlier iterations, and the previous iteration under the specialties' present names."""
    from meerkat_workbench.text import texts
    from meerkat_workbench.tuning.data import iterations, record_index, renames

    for note in loaded.notes:
        print(f"  {note}", flush=True)
    last = ledger[-1] if ledger else None
    earlier = set(last.shares) if last else set()
    wanted = {texts.nfc(name) for name in config.SPECIALTIES}
    loaded.check_no_specialty_lost(earlier & wanted if wanted else earlier, sources)
    folder = Path(config.OUTPUT_DIR)
    register = iterations.read_register(folder) if ledger else {}
    near = config.NEAR_DUPLICATE_THRESHOLD > 0
    index = record_index.build_index(folder, loaded.records, register, ledger, near=near, accept_edits=accept_edits)
    return index, renames.with_new_names(last, index.renamed) if last else None


def find_contaminated(config: DatasetConfig, index: RecordIndex) -> tuple[int | None, Contaminated]:
    """The number of benchmark questions (None if no benchmark was given), and the rows of the index that contain one."""
    from meerkat_workbench.text import contamination
    from meerkat_workbench.tuning.data import multiple_choice

    paths = contamination.find_files(config.CONTAMINATION_SETS)
    questions = contamination.read_questions(paths, multiple_choice.questions_in)
    records = [item.record for item in index.items]
    contaminated = contamination.find_contaminated(records, index.fingerprints, questions) if questions else {}
    return len(questions) if paths else None, contaminated


def as_floats(shares: Mapping[str, float]) -> dict[str, float]:
    """Shares as floats and names in Unicode form NFC, so that equal shares and equal names have the same hash."""
    from meerkat_workbench.text import texts

    return {texts.nfc(name): float(share) if type(share) is int else share for name, share in shares.items()}


# --- from Python


def create_datasets(config: object = DatasetConfig) -> tuple[Dataset, Dataset, Dataset, Dataset]:
    """Prepare the folder of the settings, with each specialty's last share.

    Args:
        config: a DatasetConfig, or any object with some of its names.

    Returns:
        holdout, train, eval and pool, as Hugging Face datasets.
    """
    return update_training_data(config, {})


def update_training_data(config: object, specialty_adjustments: Mapping[str, float]) -> tuple[Dataset, Dataset, Dataset, Dataset]:
    """Like `create_datasets`, with new absolute shares for some specialties. The others keep their shares."""
    from meerkat_workbench.tuning.artifacts import Split
    from meerkat_workbench.tuning.data import dataset_folders

    full = settings.resolve(config, DatasetConfig)
    prepare(full, dict(specialty_adjustments))
    holdout, train, evaluation, pool = (
        dataset_folders.load_dataset(Path(full.OUTPUT_DIR), split)
        for split in (Split.HOLDOUT, Split.TRAIN, Split.EVAL, Split.POOL)
    )
    return holdout, train, evaluation, pool


# --- on the command line


def main() -> None:
    config, arguments = settings.load(
        DatasetConfig, None, __doc__ or "", DEMO,
        {
            "--recommendations": {"type": settings.path, "metavar": "FILE", "help": "shares from training_recommendations.json"},
            "--iteration": {"type": int, "metavar": "N", "help": "restore the sets of this earlier iteration, and end"},
            "--accept-edits": {"action": "store_true", "help": "take records edited upstream into the fixed sets"},
        },
    )  # fmt: skip
    from meerkat_workbench.tuning.data import preparation_report, rollback

    folder = Path(config.OUTPUT_DIR)
    if arguments.iteration is not None:
        if arguments.recommendations or arguments.accept_edits or arguments.fresh:
            raise UserError(
                "cannot be used with other options",
                where="--iteration",
                remedy="Restore the sets first, then run again with the others.",
            )
        manifest, changed = rollback.restore(folder, arguments.iteration)
        made = Preparation(manifest, up_to_date=not changed)
    else:
        print(f"reading {config.DATA_DIR} …", flush=True)
        made = prepare(
            config, {}, in_script=specialty_adjustments, recommendations=arguments.recommendations,
            accept_edits=arguments.accept_edits, fresh=arguments.fresh,
        )  # fmt: skip
    if not preparation_report.print_report(folder, made.manifest, up_to_date=made.up_to_date):
        return
    names = {"OUTPUT_DIR": "DATASET_DIR"}
    print(f"next: {settings.next_command('fine_tuning.py', config, DEMO, names, with_demo=arguments.demo)}")
    if arguments.iteration is not None:
        print("      (an adapter that was trained on these sets is in the archive of its results folder, unchanged)")


if __name__ == "__main__":
    run_script(main)
