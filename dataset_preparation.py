#!/usr/bin/env python3
"""Split specialty files into a fixed holdout, a fixed eval set, a train set that grows and a pool that shrinks.

    python dataset_preparation.py --demo                        the sample specialties
    python dataset_preparation.py DATA_DIR=my_files             iteration 1
    python dataset_preparation.py --recommendations evaluation_results/training_recommendations.json
                                                                the next iteration, as evaluation.py advises
    (or edit `specialty_adjustments` below and run it plainly)
    python dataset_preparation.py --iteration 2     the sets of iteration 2 again, as a new iteration; nothing is lost

Reads dataset_with_answers_{specialty}.json (or JSON lines, CSV) from DATA_DIR; writes OUTPUT_DIR, see datasets/README.md.
"""

from __future__ import annotations

import gc
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import chat, console, files, manifest, settings, smollm2, texts
from workbench.errors import UserError, run_script

if TYPE_CHECKING:
    from datasets import Dataset

    from workbench.data.specialty_files import Found, Reading

# The next iteration's shares: specialty -> absolute share of its records (all but the holdout) in train and eval.
# A specialty that is not named keeps its last share. Example: {"cardiology": 0.8, "urology": 0.65}
specialty_adjustments: dict[str, float] = {}


class DatasetConfig(settings.Settings):
    """Settings of the split. Change a line, or give KEY=VALUE on the command line."""

    # Folder of dataset_with_answers_{specialty}.json files (or .jsonl; or CSV with question, answer and, if you like, specialty).
    DATA_DIR: str = "data"
    # Only these specialties, as their files are called; empty takes all that are there.
    SPECIALTIES: list[str] = []
    # Where the four splits go. One series of iterations lives in one folder.
    OUTPUT_DIR: str = "datasets"
    # Questions a specialty that are never trained on and carry the headline. 10 show only large effects; more cost data.
    HOLDOUT_SAMPLES_PER_SPECIALTY: int = 10
    # Share of a specialty's records (all but the holdout) that the first iteration uses for train and eval together.
    INITIAL_TRAIN_PERCENTAGE: float = 0.5
    # Share of the first training share that becomes the eval set, fixed from then on. Recommendations rest on it.
    EVAL_SPLIT_SIZE: float = 0.2
    # First shares of single specialties, where they differ from the above, e.g. {cardiology: 0.8}.
    SPECIALTY_SAMPLE_PERCENTAGES: dict[str, float] = {}
    # What the model is told before each question, in training and evaluation alike. Empty for none.
    SYSTEM_MESSAGE: str = "You are a medical assistant. Answer accurately and concisely."
    # "llama3"; "smollm2"; "plain" for encoder-decoder models; or a tokenizer's folder or .jinja file for another family.
    CHAT_TEMPLATE: str = "llama3"
    # Records whose questions and answers both share this much of their words say the same and do not stand on two
    # sides. 0 turns it off; equal questions and identical answers are kept apart all the same.
    NEAR_DUPLICATE_THRESHOLD: float = 0.8
    # Folders of benchmark questions that must not be trained on (JSON, JSON lines, CSV, parquet, or text with a question a line).
    CONTAMINATION_SETS: list[str] = []
    # Everything random here depends on it. Another seed is another holdout, and scores do not compare.
    RANDOM_SEED: int = 42
    # True leaves bad records out and counts them; False stops and names them.
    SKIP_INVALID: bool = False


DEMO = {
    "DATA_DIR": "examples/specialties",
    "OUTPUT_DIR": "datasets/demo",
    "CHAT_TEMPLATE": "smollm2",
    # four of the 42 and few questions, so that two iterations take minutes on any CPU; SPECIALTIES= takes all
    "SPECIALTIES": ["cardiology", "dermatology", "neurology", "psychiatry"],
    "HOLDOUT_SAMPLES_PER_SPECIALTY": 5,
    "INITIAL_TRAIN_PERCENTAGE": 0.28,
    "EVAL_SPLIT_SIZE": 0.3,
}
MOST_NAMED = 40  # files that are not read
# Another value of these is another series: other fixed sets, scores that do not compare
SERIES_SETTINGS = ("HOLDOUT_SAMPLES_PER_SPECIALTY", "INITIAL_TRAIN_PERCENTAGE", "EVAL_SPLIT_SIZE",
                   "SPECIALTY_SAMPLE_PERCENTAGES", "NEAR_DUPLICATE_THRESHOLD", "RANDOM_SEED")  # fmt: skip


def apply_chat_template(question: str, answer: str | None, system_message: str) -> str:
    """The text of a conversation: edit this to change the format in preparation, training and evaluation at once.

    With `answer=None` it ends where the assistant is to speak; with an answer it is the same text followed by the
    answer and whatever ends the turn. Llama-3's format by default.
    """
    return chat.render_llama3(question, answer, system_message)


def create_datasets(config: Any = DatasetConfig) -> tuple[Dataset, Dataset, Dataset, Dataset]:
    """Prepare the folder as the settings say, with each specialty's last share.

    Args:
        config: a DatasetConfig, or any object with some of its names.

    Returns:
        holdout, train, eval and pool, as Hugging Face datasets.
    """
    return update_training_data(config, {})


def update_training_data(config: Any, specialty_adjustments: Mapping[str, float]) -> tuple[Dataset, Dataset, Dataset, Dataset]:
    """Like `create_datasets`, with new absolute shares for the specialties named; the rest keep theirs."""
    from workbench.data import dataset_folders

    full = settings.resolve(config, DatasetConfig)
    folder = Path(full.OUTPUT_DIR)
    with files.output_lock(folder):
        prepare(full, dict(specialty_adjustments))
    holdout, train, evaluation, pool = (
        dataset_folders.read_split(folder, split) for split in ("holdout", "train", "eval", "pool")
    )
    return holdout, train, evaluation, pool


def check(config: DatasetConfig) -> None:
    settings.check_range(config, "HOLDOUT_SAMPLES_PER_SPECIALTY", 1, 100_000)
    settings.check_range(config, "INITIAL_TRAIN_PERCENTAGE", 0, 1, low_open=True)
    settings.check_range(config, "EVAL_SPLIT_SIZE", 0, 0.9, low_open=True)
    settings.check_range(config, "NEAR_DUPLICATE_THRESHOLD", 0, 1)


def template_source(config: DatasetConfig) -> Path | None:
    """The file or folder of a template that is none of this project's."""
    if config.CHAT_TEMPLATE in ("llama3", "plain"):
        return None
    return smollm2.ensure() if config.CHAT_TEMPLATE == smollm2.NAME else Path(config.CHAT_TEMPLATE)


def template_of(config: DatasetConfig, began: str) -> chat.Template:
    """The template the settings ask for: the function above, or another family's own.

    Args:
        began: when the series began. A template that writes the date writes that day's, so that prompts of later iterations stay the
            same.
    """
    if config.CHAT_TEMPLATE == "llama3":
        return apply_chat_template
    if config.CHAT_TEMPLATE == "plain":
        return chat.render_plain
    source = template_source(config)
    assert source is not None
    if not source.exists():
        raise UserError(f'CHAT_TEMPLATE={source}: is neither "llama3", "smollm2" nor "plain", nor a file or folder that exists.')
    return chat.JinjaTemplate.read(source, datetime.strptime(began, manifest.TIME_FORMAT)).render


def prepare(
    config: DatasetConfig,
    adjustments: dict[str, float],
    *,
    standing: Mapping[str, float] | None = None,
    recommendations: Path | None = None,
    accept_edits: bool = False,
    fresh: bool = False,
) -> dict[str, Any]:
    """Make the next iteration in OUTPUT_DIR, or find the present one up to date; the caller holds the folder's lock.

    Args:
        adjustments: new absolute shares by specialty.
        standing: shares that are written down and given to each run alike. Those that an earlier run has taken do not undo what
            was recommended, or brought back, since.

    Returns the folder's manifest, with "up_to_date" added.
    """
    from workbench.data import assignment, contamination, iterations, restoring, series, specialty_files
    from workbench.data.catalogue import take_stock
    from workbench.data.wishes import Wishes, recommended_shares

    started = time.time()
    check(config)
    folder = Path(config.OUTPUT_DIR)
    found = specialty_files.find_files(Path(config.DATA_DIR), config.SPECIALTIES)
    series.finish_interrupted(folder)
    ledger = [] if fresh else iterations.read_ledger(folder)
    last = ledger[-1] if ledger else None
    chat_format = chat.ChatFormat.of(template_of(config, ledger[0]["made"] if ledger else manifest.now()), config.SYSTEM_MESSAGE)
    control_tokens = chat.ControlTokens.of_format(chat_format, template_source(config))
    if token := control_tokens.in_text(config.SYSTEM_MESSAGE):
        raise UserError(f"SYSTEM_MESSAGE holds {token}, a control token of chat templates. Write it as plain text.")
    if note := chat_format.note():
        print(f"  {note}", flush=True)
    for one in found.unread[:MOST_NAMED]:
        print(f"  not read: {one.path.name} ({one.why})", flush=True)
    if len(found.unread) > MOST_NAMED:
        print(f"  … and {len(found.unread) - MOST_NAMED} more that are not read", flush=True)
    if fresh:
        series.archive_all(folder)
    series_settings = {name: getattr(config, name) for name in SERIES_SETTINGS}
    if last is not None:
        series.check_same_series(folder, last, series_settings)

    advice = ""
    if recommendations is not None:
        adjustments = adjustments | recommended_shares(recommendations, ledger)
        advice = files.sha256_file(recommendations)
    wishes = Wishes(as_floats(adjustments), None if standing is None else as_floats(standing))

    # 1. what would be made, and whether it is there already
    adjustments = wishes.under(last, iterations.present_names(ledger, {}))
    shares = (last["shares"] if last else {}) | adjustments
    for name, share in wishes.overtaken.items():
        print(
            f"  {name}: {wishes.written[name]:g} in specialty_adjustments was taken in an earlier iteration; what was chosen since, "
            f"{share:g}, stands. Write another number there to change it.",
            flush=True,
        )
    inputs = {path.name: files.sha256_file(path) for path in found.paths}
    benchmarks = contamination.find_files(config.CONTAMINATION_SETS)
    result_depends_on = [inputs, series_settings, chat_format.probe, config.SKIP_INVALID]
    result_depends_on += [files.sha256_file(path) for path in benchmarks]
    result_depends_on += sorted(config.SPECIALTIES)
    present = manifest.read(folder)
    edits_to_take = accept_edits and last is not None and last["changes"]["fixed_waiting"]
    same = present is not None and present["fingerprint"] == files.sha256_of([*result_depends_on, shares])
    if present is not None and same and not edits_to_take:
        if not (changed := restoring.changed_by_hand(folder, present)):
            return {**present, "up_to_date": True}
        print(f"  {', '.join(changed)} no longer hold what was written: they are made anew, as another iteration", flush=True)

    # 2. read, and hold against what earlier iterations saw
    reading = specialty_files.read_folder(
        Path(config.DATA_DIR),
        skip_invalid=config.SKIP_INVALID,
        found=found,
        only=config.SPECIALTIES,
        control_tokens=control_tokens,
    )
    for note in reading.notes:
        print(f"  {note}", flush=True)
    known_before = set(last["shares"]) if last else set()
    refuse_lost_specialties(
        known_before & {texts.nfc(name) for name in config.SPECIALTIES} if config.SPECIALTIES else known_before, reading, found
    )
    catalogue = take_stock(folder, reading.records, last, near=config.NEAR_DUPLICATE_THRESHOLD > 0, accept_edits=accept_edits)
    if last is not None:
        last = iterations.under_new_names(last, catalogue.renamed)
        # wishes may be older than a new name
        adjustments = wishes.under(last, iterations.present_names(ledger, catalogue.renamed))
        shares = last["shares"] | adjustments
    known = sorted(set(reading.records) | set(last["shares"] if last else {}) | set(catalogue.known_as.values()))
    iterations.check_shares(adjustments, known, "specialty_adjustments")
    iterations.check_shares(config.SPECIALTY_SAMPLE_PERCENTAGES, known, "SPECIALTY_SAMPLE_PERCENTAGES")

    questions = contamination.read(benchmarks)
    contaminated = contamination.find([item.record for item in catalogue.items], catalogue.prints, questions) if questions else {}

    # 3. fixed sets for what has none, then the shares of the rest
    with console.working("drawing the splits", announced=False):
        plan = assignment.split(
            catalogue,
            last,
            shares=shares,
            first_shares=dict.fromkeys(reading.records, config.INITIAL_TRAIN_PERCENTAGE) | config.SPECIALTY_SAMPLE_PERCENTAGES,
            holdout_wanted=config.HOLDOUT_SAMPLES_PER_SPECIALTY,
            eval_share=config.EVAL_SPLIT_SIZE,
            threshold=config.NEAR_DUPLICATE_THRESHOLD,
            seed=config.RANDOM_SEED,
            contaminated=contaminated,
        )

    # 4. write beside what is there, then change places
    entry = series.ledger_entry(
        plan, catalogue, last,
        settings=series_settings, adjustments=adjustments, written=wishes.written, advice=advice, probe=chat_format.probe,
    )  # fmt: skip
    entry["notes"] = {"identical_dropped": reading.identical_dropped, "invalid_skipped": reading.invalid_skipped}
    if benchmarks:
        entry["contamination"] = contamination.summary(plan.set_aside, len(questions))
    building = series.write(folder, plan, catalogue, [*ledger, entry], chat_format)
    contents = manifest.build(
        files.sha256_of([*result_depends_on, plan.shares]), settings.as_dict(config), {"data_dir": str(config.DATA_DIR), "files": inputs}, started,
        made_by="dataset_preparation.py", arguments=settings.as_arguments(config, DEMO), iteration=entry["iteration"], splits=entry["hashes"], recommendations_sha256=advice,
    )  # fmt: skip
    manifest.finish(building, contents)
    series.finish_interrupted(folder)
    return {**contents, "up_to_date": False}


def refuse_lost_specialties(known: set[str], reading: Reading, found: Found) -> None:
    """UserError where a specialty seems to be gone, and only its file is not read any more.

    Args:
        known: the specialties of earlier iterations that are still wanted.
    """
    for name in sorted(known - set(reading.records)):
        for one in found.unread:
            if one.may_be_of(name):
                raise UserError(
                    f"{one.path.name}: {name} has records in earlier iterations, and this file, which may be its own, is not read ({one.why}). "
                    f"Do that, or, if {name} is to go, take the file away."
                )


def as_floats(shares: Mapping[str, float]) -> dict[str, float]:
    """1 and 1.0 are one share, and must hash alike; so are two ways of writing a letter of a name."""
    return {texts.nfc(name): float(share) if type(share) is int else share for name, share in shares.items()}


def go_back(config: DatasetConfig, number: int) -> dict[str, Any]:
    """`--iteration`: the sets of an earlier iteration, exactly; the caller holds the folder's lock."""
    from workbench.data import iterations, restoring, series

    folder = Path(config.OUTPUT_DIR)
    series.finish_interrupted(folder)
    return restoring.restore(folder, number, iterations.read_ledger(folder))


def report(folder: Path, made: dict[str, Any]) -> None:
    """The closing table: sizes, what moved, what to know, what to run next."""
    from workbench.data import iterations

    entry = iterations.read_ledger(folder)[-1]
    before = iterations.read_ledger(folder)[-2] if len(iterations.read_ledger(folder)) > 1 else None
    state = "up to date" if made["up_to_date"] else f"prepared in {made['seconds']} s"
    again = f", the sets of iteration {entry['restored_from']}" if "restored_from" in entry else ""
    print(f"\niteration {entry['iteration']}{again}: {state}")
    or_benchmark = " or holds a benchmark's question" if "contamination" in entry else ""
    totals = Counter({split: sum(sizes.values()) for split, sizes in entry["sizes"].items()})
    print(f"  {len(entry['shares'])} specialties, {sum(totals.values())} records")
    for split, what in (("holdout", "fixed, never trained on, carries the headline"),
                        ("eval", "fixed, never trained on, steers the next iteration"),
                        ("train", "grows"), ("pool", "waits"),
                        ("set_aside", f"says the same as a fixed record{or_benchmark}, so it is left out")):  # fmt: skip
        print(f"  {split.replace('_', ' '):<10}{totals[split]:>9,}   {what}")
    if "contamination" in entry:
        print_contamination(entry["contamination"], folder)
    notes, changes = entry["notes"], entry["changes"]
    if notes["identical_dropped"]:
        print(f"  {notes['identical_dropped']} identical pairs were dropped")
    if notes["invalid_skipped"]:
        print(f"  {notes['invalid_skipped']} invalid records were left out (SKIP_INVALID=True)")
    if entry["small_specialties"]:
        names = ", ".join(f"{name} ({count})" for name, count in entry["small_specialties"].items())
        print(f"  too small for a full holdout, so it holds fewer questions: {names}")
    if before is not None:
        print_specialties(entry)
        print_moves(entry, iterations.under_new_names(before, entry.get("specialties", {}).get("renamed", {})))
        print(
            f"  since iteration {before['iteration']}: {changes['added']} records added, {changes['edited']} edited, "
            f"{changes['removed']} removed upstream" + (f", {changes['returned']} came back" if changes["returned"] else "")
        )
        if changes["fixed_waiting"]:
            print(
                f"  {changes['fixed_waiting']} of the edited or removed records stand in a fixed set, which keeps their "
                "old text (listed in dataset_stats.json). --accept-edits takes the new text and breaks comparability."
            )
        if entry["comparability_break"]:
            print(f"  scores do not compare with earlier iterations: {entry['comparability_break']}")
    print(f"  details: {folder / 'dataset_stats.json'}, {folder / 'set_aside.jsonl'}, {folder / 'iterations.jsonl'}")


def print_contamination(found: dict[str, Any], folder: Path) -> None:
    """What of CONTAMINATION_SETS stood in the files."""
    print(
        f"  {found['questions']:,} benchmark questions were looked for; {found['records']} records hold one and are not trained on"
    )
    for name, by in (("in", found["by_file"]), ("by", found["by_kind"])):
        if by:
            print(f"    {name} {', '.join(f'{what} {count}' for what, count in list(by.items())[:6])}")
    if found["records"]:
        print(f"    each is listed in {folder / 'set_aside.jsonl'}, beside the question it holds")


def print_specialties(entry: dict[str, Any]) -> None:
    """Specialties that came, went or are called otherwise."""
    from workbench.data.dataset_folders import FIXED

    changes, sizes = entry.get("specialties"), entry["sizes"]
    if changes is None:  # a line that an earlier version wrote
        return
    for old, new in changes["renamed"].items():
        print(f"  {old} is called {new} now: known by its records, it keeps its sets, its share and its curve")
    for name in changes["added"]:
        held = ", ".join(f"{sizes[split].get(name, 0)} {split}" for split in ("holdout", "eval", "train"))
        print(f"  new specialty {name}: {held}; overall scores hold its questions from now on")
    for name in changes["removed"]:
        fixed = sum(sizes[split].get(name, 0) for split in FIXED)
        kept = (
            f"its {fixed} fixed questions are still asked, so that scores compare (--accept-edits drops them)"
            if fixed
            else "it is gone"
        )
        print(f"  {name} has no records any more: nothing of it is trained on; {kept}")
    for name in changes["returned"]:
        print(f"  {name} has records again: it is taken up where it was")


def print_moves(entry: dict[str, Any], before: dict[str, Any]) -> None:
    """Specialties whose share changed, and by how many training records."""
    train, train_before = entry["sizes"]["train"], before["sizes"]["train"]
    moved = [name for name in entry["shares"] if train.get(name, 0) != train_before.get(name, 0)]
    for name in moved[:12]:
        print(
            f"  {name:<28} share {before['shares'].get(name, 0):.2f} -> {entry['shares'][name]:.2f}"
            f"   train {train_before.get(name, 0)} -> {train.get(name, 0)}"
        )
    if len(moved) > 12:
        print(f"  … and {len(moved) - 12} more")
    if not moved:
        print("  no specialty's share changed")


def main() -> None:
    from workbench.data import iterations

    config, arguments = settings.load(
        DatasetConfig, None, __doc__ or "", DEMO,
        {
            "--recommendations": {"type": settings.path, "metavar": "FILE", "help": "shares from training_recommendations.json"},
            "--iteration": {"type": int, "metavar": "N", "help": "bring the sets of this earlier iteration back, and end"},
            "--accept-edits": {"action": "store_true", "help": "take records edited upstream into the fixed sets"},
        },
    )  # fmt: skip
    check(config)
    # records form no cycles, and walking over a million of them again and again took a fifth of the time
    gc.disable()
    folder = Path(config.OUTPUT_DIR)
    if arguments.iteration is not None and (arguments.recommendations or arguments.accept_edits or arguments.fresh):
        raise UserError("--iteration only brings sets back. Run it alone; what follows is a run of its own.")
    with files.output_lock(folder):
        if arguments.iteration is not None:
            made = go_back(config, arguments.iteration)
        else:
            print(f"reading {config.DATA_DIR} …", flush=True)
            made = prepare(
                config,
                {},
                standing=specialty_adjustments,
                recommendations=arguments.recommendations,
                accept_edits=arguments.accept_edits,
                fresh=arguments.fresh,
            )
    report(folder, made)
    if empty := [split for split in ("eval", "train") if not sum(iterations.read_ledger(folder)[-1]["sizes"][split].values())]:
        print(
            f"nothing can be trained and evaluated yet: {' and '.join(empty)} empty. More records, with different questions, fill them."
        )
        return
    there = {"OUTPUT_DIR": "DATASET_DIR"}
    print(f"next: {settings.next_command('fine_tuning.py', config, DEMO, there, with_demo=arguments.demo)}")
    if arguments.iteration is not None:
        print("      (an adapter trained on these sets stands in the archive of its results, as training left it)")


if __name__ == "__main__":
    run_script(main)
