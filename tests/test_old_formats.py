"""What earlier versions wrote is read as the artifacts of this one, with the values that it had."""

import copy
import json
import math

import msgspec
import pytest

from meerkat_workbench.core import artifacts, files, runs
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import (
    CorpusBleu,
    DatasetManifest,
    EvalPoint,
    EvaluationManifest,
    ExportRecord,
    HistoryRow,
    IterationRecord,
    Likeness,
    LoadNotes,
    LoadRecord,
    LossSummary,
    SampleAnswer,
    Sizes,
    SplitHashes,
    TrainingResult,
    UpstreamChanges,
    read_ledger,
)
from meerkat_workbench.tuning.old_formats import UNKNOWN_TRAIN_SET

SPLITS = {"holdout": "h1", "eval": "e1", "train": "t1", "pool": "p1"}
HASHES = SplitHashes(holdout="h1", eval="e1", train="t1", pool="p1")
EVERY_MANIFEST = {
    "fingerprint": "f1", "command": "a_script.py --demo", "code": {"commit": "8089ab9", "dirty": False}, "libraries": {"torch": "2.12.0"},
    "python": "3.11.7", "finished": "2026-11-26T10:07:24+0000", "seconds": 0.9, "iteration": 2,
}  # fmt: skip
MEASURED = {"examples": 20, "tokens": 794, "loss": 3.25, "perplexity": 25.79, "token_accuracy": 0.45}

PREPARATION = {
    **EVERY_MANIFEST,
    "made_by": "dataset_preparation.py",
    "settings": {"SYSTEM_MESSAGE": "Be brief.", "NEAR_DUPLICATE_THRESHOLD": 0.8, "OUTPUT_DIR": "datasets/demo"},
    "inputs": {"data_dir": "examples/specialties", "files": {"dataset_with_answers_cardiology.json": "c1"}},
    "arguments": ["--demo"],
    "splits": SPLITS,
    "recommendations_sha256": "r1",
}
TRAINING = {
    **EVERY_MANIFEST,
    "made_by": "fine_tuning.py",
    "settings": {"MODEL_NAME": "smollm2", "LOAD_IN_4BIT": True, "INIT_ADAPTER": ""},
    "inputs": {"dataset": "f0", "splits": SPLITS, "trained_on": ["t0", "t1"], "base_weights": "b1", "adapter": "a1"},
    "device": "CPU, 2 threads",
    "compute_dtype": "fp32",
    "processes": 2,
    "kept": {"step": 16, "epoch": 2.0, **MEASURED},
    "before": {"step": 0, "epoch": 0.0, **MEASURED, "loss": 3.98},
    "tokens": 9012,
    "recipe": "65e285dcb8fb",
}
EVALUATION = {
    **EVERY_MANIFEST,
    "made_by": "evaluation.py",
    "settings": {"MAX_NEW_TOKENS": 24},
    "inputs": {"adapter": "a1", "base_weights": "b1", "dataset": "f0", "splits": SPLITS},
    "failed": 1,
    "device": "CPU, 2 threads",
    "compute_dtype": "fp32",
    "run": {"engine": "v1", "generated": 40, "arms": {"base": "b1 nf4 fp32", "tuned": "b1 nf4 fp32 a1"}, "largest_logit_change": {"tuned": 23.86},
            "order": "in turn", "batch_size": 40, "batches": "refilled"},
    "missing": {"METEOR": "WordNet is missing"},
    "corpus_bleu": {"holdout": {"signature": "tok:13a", "base": 1.5, "tuned": 3.5}, "eval": {"signature": "tok:13a", "base": 2.5}},
}  # fmt: skip
EXPORT = {
    "adapter": "a1", "inputs": {"splits": SPLITS, "trained_on": ["t0", "t1"]}, "answers": 20, "equal": 0.95, "word_overlap": 0.97,
    "merge": 1.0, "precision": "fp32", "as_trained": 0.9,
}  # fmt: skip
LEDGER_LINE = {
    "iteration": 1, "made": "2026-11-26T10:02:42+0000", "derived_from": None, "adjustments": {}, "specialty_adjustments": {},
    "recommendations_sha256": "", "comparability_break": "", "changes": {"added": 0, "edited": 1, "removed": 0, "returned": 0, "fixed_waiting": 1},
    "shares": {"cardiology": 0.28}, "share_base": {"cardiology": 61}, "capped": {}, "small_specialties": {},
    "sizes": {"holdout": {"cardiology": 5}, "eval": {"cardiology": 5}, "train": {"cardiology": 12}, "pool": {"cardiology": 44}, "set_aside": {}},
    "hashes": SPLITS, "template_sha256": "m1", "settings": {"RANDOM_SEED": 42},
}  # fmt: skip
EVALUATED = {"step": 8, "epoch": 1.0, **MEASURED, "specialties": {"cardiology": MEASURED}}


def without(value, *path):
    """A copy without the field at the end of a path."""
    changed = copy.deepcopy(value)
    inner = changed
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return changed


def written(folder, name, value):
    files.write_json(folder / name, value)
    return folder


# --- files that hold one artifact


def read_everywhere(kind, folder, value):
    """A manifest, by its own class and by what it was made by; what is written of it now is read as the same."""
    written(folder, runs.MANIFEST, value)
    manifest = kind.require(folder)
    assert kind.find(folder) == runs.read_manifest(folder) == manifest
    assert (manifest.version, manifest.stage) == (2, kind.STAGE)
    assert (manifest.fingerprint, manifest.iteration, manifest.seconds, manifest.finished) == (
        "f1", 2, 0.9, "2026-11-26T10:07:24+0000"
    )  # fmt: skip
    assert (manifest.command, msgspec.to_builtins(manifest.code), manifest.libraries) == (
        "a_script.py --demo", {"commit": "8089ab9", "dirty": False}, {"torch": "2.12.0"}
    )  # fmt: skip
    artifacts.write(folder / runs.MANIFEST, manifest)
    assert "made_by" not in files.read_json(folder / runs.MANIFEST)
    assert kind.require(folder) == manifest
    return manifest


def test_the_manifest_of_a_preparation(tmp_path):
    manifest = read_everywhere(DatasetManifest, tmp_path, PREPARATION)
    assert manifest.splits == HASHES and manifest.arguments == ("--demo",) and manifest.recommendations_sha256 == "r1"
    assert manifest.inputs.data_dir == "examples/specialties"
    assert manifest.inputs.files == {"dataset_with_answers_cardiology.json": "c1"}
    assert (manifest.system_message, manifest.near_duplicate_threshold, str(manifest.output_dir)) == (
        "Be brief.", 0.8, "datasets/demo"
    )  # fmt: skip
    assert manifest.restored_from is None


def test_the_manifest_of_a_preparation_that_brought_an_iteration_back(tmp_path):
    assert read_everywhere(DatasetManifest, tmp_path, {**PREPARATION, "restored_from": 1}).restored_from == 1


def test_the_manifest_of_a_training(tmp_path):
    manifest = read_everywhere(TrainingResult, tmp_path, TRAINING)
    # the adapter is an output now
    assert manifest.outputs.adapter == "a1"
    assert (manifest.inputs.dataset, manifest.inputs.splits, manifest.inputs.base_weights) == ("f0", HASHES, "b1")
    assert manifest.inputs.trained_on == ("t0", "t1")
    assert (manifest.base_model, manifest.load_in_4bit, manifest.encoder_decoder) == ("smollm2", True, False)
    assert (manifest.processes, manifest.tokens, manifest.recipe) == (2, 9012, "65e285dcb8fb")
    assert (manifest.compute_dtype, manifest.device) == ("fp32", "CPU, 2 threads")
    assert (manifest.kept.step, manifest.kept.epoch, manifest.kept.overall) == (16, 2.0, LossSummary(**MEASURED))
    assert (manifest.before.step, manifest.before.loss, manifest.before.rouge_l) == (0, 3.98, None)


@pytest.mark.parametrize(
    ("init_adapter", "trained_on"),
    [(None, ("t1",)), ("", ("t1",)), ("results/archive/iteration_001", (UNKNOWN_TRAIN_SET, "t1"))],
    ids=["setting unknown", "new adapter", "trained further"],
)
def test_the_manifest_of_a_training_that_did_not_record_its_train_sets(tmp_path, init_adapter, trained_on):
    old = without(TRAINING, "inputs", "trained_on")
    old = without(old, "settings", "INIT_ADAPTER") if init_adapter is None else old
    if init_adapter is not None:
        old["settings"]["INIT_ADAPTER"] = init_adapter
    assert read_everywhere(TrainingResult, tmp_path, old).inputs.trained_on == trained_on


def test_the_manifest_of_a_training_that_counted_no_tokens_and_had_no_recipe(tmp_path):
    old = without(without(without(TRAINING, "tokens"), "recipe"), "processes")
    manifest = read_everywhere(TrainingResult, tmp_path, old)
    assert (manifest.tokens, manifest.recipe, manifest.processes) == (None, "", 1)


def test_the_manifest_of_an_evaluation(tmp_path):
    manifest = read_everywhere(EvaluationManifest, tmp_path, EVALUATION)
    assert (manifest.inputs.adapter, manifest.inputs.base_weights, manifest.inputs.dataset) == ("a1", "b1", "f0")
    assert manifest.inputs.splits == HASHES and manifest.failed == 1 and manifest.missing == EVALUATION["missing"]
    assert (manifest.run.engine, manifest.run.generated) == ("v1", 40)
    assert manifest.run.identities == {"base": "b1 nf4 fp32", "tuned": "b1 nf4 fp32 a1"}
    assert manifest.run.largest_logit_change == {"tuned": 23.86}
    assert manifest.run.loads == (LoadRecord(systems=("base", "tuned"), order="in turn", batch_size=40, batches="refilled"),)
    assert manifest.corpus_bleu == {
        "holdout": CorpusBleu(signature="tok:13a", scores={"base": 1.5, "tuned": 3.5}),
        "eval": CorpusBleu(signature="tok:13a", scores={"base": 2.5}),
    }


def test_the_manifest_of_an_evaluation_that_loaded_no_model(tmp_path):
    old = copy.deepcopy(EVALUATION)
    old["run"] = {"engine": "v1", "generated": 0, "arms": {"base": "b1", "tuned": "b1 a1"}}
    run = read_everywhere(EvaluationManifest, tmp_path, old).run
    assert (run.loads, run.generated, run.largest_logit_change) == ((), 0, {})


def test_a_manifest_of_another_script_or_of_none_is_refused(tmp_path):
    written(tmp_path, runs.MANIFEST, TRAINING)
    assert DatasetManifest.find(tmp_path) is None
    with pytest.raises(UserError) as caught:
        DatasetManifest.require(tmp_path)
    assert caught.value.where == str(tmp_path)
    assert TrainingResult.SCRIPT in caught.value.fault and DatasetManifest.SCRIPT in caught.value.fault
    path = tmp_path / runs.MANIFEST
    for foreign, where in (
        ({**TRAINING, "made_by": "another.py"}, tmp_path),
        (without(TRAINING, "made_by"), tmp_path),
        (without(TRAINING, "fingerprint"), path),
        ([], path),
    ):
        written(tmp_path, runs.MANIFEST, foreign)
        with pytest.raises(UserError) as caught:
            runs.read_manifest(tmp_path)
        assert caught.value.where == str(where)


def read_export(folder, value):
    path = written(folder, ExportRecord.FILE, value) / ExportRecord.FILE
    record = artifacts.read(ExportRecord, path)
    artifacts.write(path, record)
    assert artifacts.read(ExportRecord, path) == record and record.version == 2
    return record


def test_the_record_of_an_export(tmp_path):
    record = read_export(tmp_path, EXPORT)
    assert record.adapter == "a1" and record.inputs.splits == HASHES and record.inputs.trained_on == ("t0", "t1")
    assert record.likeness == Likeness(answers=20, equal=0.95, word_overlap=0.97, merge=1.0, as_trained=0.9, precision="fp32")


def test_the_record_of_an_export_without_likeness_and_train_sets(tmp_path):
    record = read_export(tmp_path, {"adapter": "a1", "inputs": {"splits": SPLITS}, "equal": 0.95})
    assert record.likeness is None and record.inputs.trained_on == ("t1",)


# --- files of many lines


def test_a_line_of_the_ledger_without_changes_of_specialties_former_names_and_notes(tmp_path):
    later = {
        **LEDGER_LINE, "iteration": 2, "derived_from": SPLITS, "specialties": {"added": ["urology"], "removed": [], "returned": [], "renamed": {"heart": "cardiology"},
        "absent": ["neurology"]}, "known_as": {"cardiology": "heart"}, "notes": {"identical_dropped": 3, "invalid_skipped": 1},
    }  # fmt: skip
    path = tmp_path / IterationRecord.FILE
    files.write_json_lines(path, [LEDGER_LINE, later])
    first, second = read_ledger(tmp_path)
    assert (first.iteration, first.made, first.derived_from) == (1, "2026-11-26T10:02:42+0000", None)
    assert (first.specialties, first.absent, first.original_names, first.notes) == (None, (), {}, LoadNotes())
    assert first.changes == UpstreamChanges(edited=1, fixed_waiting=1)
    assert (first.shares, first.share_base, first.hashes) == ({"cardiology": 0.28}, {"cardiology": 61}, HASHES)
    assert first.sizes == Sizes(**LEDGER_LINE["sizes"])
    assert (first.template_sha256, first.settings, first.restored_from) == ("m1", {"RANDOM_SEED": 42}, None)
    assert (second.derived_from, second.absent, second.original_names) == (HASHES, ("neurology",), {"cardiology": "heart"})
    assert second.specialties.renamed == {"heart": "cardiology"} and second.notes == LoadNotes(3, 1)
    # written again by this version, it is read as the same
    artifacts.write_lines(path, [first, second])
    assert read_ledger(tmp_path) == [first, second]
    assert files.read_json_lines(path)[1]["known_as"] == {"cardiology": "heart"}


def test_a_line_of_the_eval_history_without_samples(tmp_path):
    path = tmp_path / EvalPoint.FILE
    sampled = {**EVALUATED, "step": 16, "ROUGE-L": 0.25, "bertscore_f1": 0.5,
               "answers": [{"question": "q", "reference": "r", "answer": "a"}]}  # fmt: skip
    files.write_json_lines(path, [EVALUATED, sampled])
    first, second = artifacts.read_lines(EvalPoint, path)
    assert (first.step, first.epoch, first.overall) == (8, 1.0, LossSummary(**MEASURED))
    assert first.specialties == {"cardiology": LossSummary(**MEASURED)}
    assert (first.rouge_l, first.bertscore_f1, first.answers) == (None, None, ())
    assert (second.rouge_l, second.bertscore_f1, second.answers) == (0.25, 0.5, (SampleAnswer("q", "r", "a"),))
    assert first.brief() == artifacts.from_json(EvalPoint, without(EVALUATED, "specialties"), "here")


def test_a_last_line_of_the_eval_history_that_a_kill_cut_off_is_left_out(tmp_path):
    path = tmp_path / EvalPoint.FILE
    path.write_text(json.dumps(EVALUATED) + "\n" + json.dumps(EVALUATED)[:40])
    assert [point.step for point in artifacts.read_lines(EvalPoint, path, drop_torn_tail=True)] == [8]
    with pytest.raises(UserError) as caught:
        artifacts.read_lines(EvalPoint, path)
    assert str(path) in str(caught.value) and "line 2" in str(caught.value)


HISTORY = {
    "iteration": "1", "finished": "2026-11-26T10:07:13+0000", "evaluation": "v1", "alike": "dffd9ab8b4bf", "adapter": "a1", "train": "48",
    "split": "holdout", "metric": "BLEU-1", "n": "20", "base": "0.15", "tuned": "0.21", "tuned_low": "0.18", "tuned_high": "0.24",
    "difference": "0.06", "ci_low": "0.02", "ci_high": "0.1", "change": "", "change_low": "", "change_high": "", "change_p": "",
}  # fmt: skip
SPENT = {"recipe": "012345678901", "share": "0.28", "train_seconds": "120.2", "train_tokens": "7270", "seconds": "126.8"}


def history(folder, *rows):
    path = folder / HistoryRow.FILE
    path.write_text("".join(",".join(row) + "\n" for row in (rows[0].keys(), *(row.values() for row in rows))))
    return tables.read_rows(path, HistoryRow)


def test_a_history_without_recipe_and_without_what_an_iteration_cost(tmp_path):
    [row] = history(tmp_path, HISTORY)
    assert row.recipe == "" and all(map(math.isnan, (row.share, row.train_seconds, row.train_tokens, row.seconds)))
    assert (row.iteration, row.finished, row.evaluation, row.comparability_key, row.adapter) == (
        1, "2026-11-26T10:07:13+0000", "v1", "dffd9ab8b4bf", "a1"
    )  # fmt: skip
    assert (row.train, row.split, row.metric, row.n) == (48, "holdout", "BLEU-1", 20)
    assert (row.base, row.tuned, row.tuned_low, row.tuned_high) == (0.15, 0.21, 0.18, 0.24)
    assert (row.difference, row.ci_low, row.ci_high) == (0.06, 0.02, 0.1)
    assert all(map(math.isnan, (row.change, row.change_low, row.change_high, row.change_p)))
    # written by this version, it has every column
    tables.write_rows(tmp_path / HistoryRow.FILE, [row], HistoryRow)
    [again] = tables.read_rows(tmp_path / HistoryRow.FILE, HistoryRow)
    assert again.recipe == "" and (again.iteration, again.tuned, again.comparability_key) == (1, 0.21, "dffd9ab8b4bf")


def test_a_history_with_all_columns(tmp_path):
    [row] = history(
        tmp_path, HISTORY | SPENT | {"change": "0.01", "change_low": "-0.02", "change_high": "0.04", "change_p": "0.5"}
    )
    assert row.recipe == "012345678901"  # text, though it has digits alone
    assert (row.share, row.train_seconds, row.train_tokens, row.seconds) == (0.28, 120.2, 7270, 126.8)
    assert (row.change, row.change_low, row.change_high, row.change_p) == (0.01, -0.02, 0.04, 0.5)


def test_a_history_that_lacks_another_column_is_refused_by_the_name_of_the_column(tmp_path):
    with pytest.raises(UserError) as caught:
        history(tmp_path, without(HISTORY, "adapter"))
    assert (caught.value.where, caught.value.item) == (str(tmp_path / HistoryRow.FILE), "adapter")
