"""The loop over the three scripts: what it decides, where it stops, and that a kill anywhere loses nothing."""

import os
import re
import signal
import subprocess
import sys
import time

import msgspec
import pytest
import tiny_models
from conftest import EVALUATION, ROOT, TRAINING, refusal, run_script

import iterate
from iterate import StopReason
from meerkat_workbench.core import artifacts
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.output import tables
from meerkat_workbench.tuning.artifacts import (
    DatasetInputs,
    DatasetManifest,
    EvalPoint,
    EvaluationInputs,
    EvaluationManifest,
    GenerationRecord,
    HistoryRow,
    IterationRecord,
    MetricComparison,
    Recommendations,
    Sizes,
    SplitHashes,
    TrainingInputs,
    TrainingOutputs,
    TrainingResult,
    Verdict,
    read_ledger,
    read_recommendations,
)
from meerkat_workbench.tuning.reporting import history

HASHES = SplitHashes("h", "e", "t", "p")


def folders(base):
    return {"DATASET_DIR": base / "datasets", "FINETUNED_MODEL_PATH": base / "results", "EVALUATION_DIR": base / "evaluations"}


def command(base, source, *more):
    return ["iterate.py", *(f"{name}={path}" for name, path in folders(base).items()),
            f"PREPARATION=DATA_DIR={source} EVAL_SPLIT_SIZE=0.4 INITIAL_TRAIN_PERCENTAGE=0.5",
            f"TRAINING=MODEL_NAME={tiny_models.llama3(ROOT / '.cache')} {' '.join(TRAINING)}",
            f"EVALUATION={' '.join(EVALUATION)} MAX_NEW_TOKENS=16 RETENTION=False FEW_SHOT_EXAMPLES=0 PREFERENCE_DISTRACTORS=0 "
            "POLICY=learning_curves BUDGET=12", "N=2", *more]  # fmt: skip


def run_until(words, arguments, stop):
    """Start a loop, stop it as soon as it has said these words in turn, and return all that it said."""
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                               start_new_session=True)  # fmt: skip
    said, left = "", list(words)
    for line in process.stdout:
        said += line
        if left and left[0] in line:
            left.pop(0)
            if not left:
                time.sleep(0.5)
                stop(process.pid)
    process.wait()
    assert not left, said
    return said


def kill_all(number):
    os.killpg(number, signal.SIGKILL)


def terminate(number):
    os.kill(number, signal.SIGTERM)


def outcome(base, iterations=(1, 2)):
    """What a loop leaves of these iterations: the ledger but for times, and every score of its history."""
    ledger = [(line.iteration, line.shares, line.hashes, line.adjustments) for line in read_ledger(base / "datasets")
              if line.iteration in iterations]  # fmt: skip
    # `alike` tells one series from another, and a fingerprint knows its folders
    apart = {"finished": "", "train_seconds": 0.0, "seconds": 0.0, "evaluation": "", "adapter": "", "comparability_key": ""}
    scores = [
        repr(msgspec.structs.replace(row, **apart)) for row in history.read(base / "evaluations") if row.iteration in iterations
    ]  # repr: nan is itself
    return ledger, scores


@pytest.fixture(scope="module")
def whole_loop(small_run, tmp_path_factory):
    base = tmp_path_factory.mktemp("loop")
    done = run_script(*command(base, small_run["files"]), timeout=900, forks=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return base, done.stdout


def test_it_runs_the_three_scripts_in_turn_and_ends_with_the_table_and_one_sentence(whole_loop):
    base, said = whole_loop
    steps = [line.split("] python ")[1].split()[0] for line in said.splitlines() if line.startswith("[iteration ")]
    assert steps == [*("dataset_preparation.py", "fine_tuning.py", "evaluation.py") * 2, "evaluation.py"]
    first, second = read_ledger(base / "datasets")
    assert [first.iteration, second.iteration] == [1, 2] == sorted({row.iteration for row in history.read(base / "evaluations")})
    assert sum(second.sizes.train.values()) - sum(first.sizes.train.values()) == 12
    assert (base / "evaluations" / "progress.png").is_file()
    advice, where = said.strip().splitlines()[-2:]  # after the table: the advice, then where to look
    assert "2" in advice and advice.endswith(".") and "progress.png" in where
    assert read_recommendations(base / "evaluations" / Recommendations.FILE).policy.iterations == (1, 2)


def test_run_again_it_finds_all_done_and_says_the_same(whole_loop, small_run):
    base, said = whole_loop
    before = outcome(base)
    again = run_script(*command(base, small_run["files"]), timeout=900, forks=True)
    assert again.returncode == 0 and again.stdout.strip().splitlines()[-2] == said.strip().splitlines()[-2]
    assert "epoch 0.00" not in again.stdout and outcome(base) == before


@pytest.mark.slow
def test_stopped_while_it_trains_and_killed_while_it_scores_it_ends_as_if_nothing_had_been(whole_loop, small_run, tmp_path):
    again = command(tmp_path, small_run["files"], "N=1")
    # asked to stop, the loop passes the signal on to its script, and waits for the checkpoint
    said = run_until(["[iteration 1] python fine_tuning.py", "  epoch 0.00"], again, terminate)
    assert list((tmp_path / "results" / "checkpoints").glob("checkpoint-*")), said
    assert re.search(r"checkpoint-\d+", run_until(["scoring "], again, kill_all))
    done = run_script(*again, timeout=900, forks=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome(tmp_path, [1]) == outcome(whole_loop[0], [1])


@pytest.mark.parametrize("given", [{"OUTPUT_DIR": "elsewhere"}, {"POLCY": "uniform"}, {"POLICY": "no such policy"}])
def test_settings_of_a_script_that_do_not_fit_are_refused_before_anything_runs(given):
    with pytest.raises(UserError) as caught:
        iterate.Loop(iterate.LoopConfig(EVALUATION=given), demo=False)
    assert caught.value.where == "EVALUATION" and next(iter(given)) in str(caught.value)


def test_settings_of_a_script_are_a_mapping_or_a_line_of_them():
    from meerkat_workbench.core import settings

    line = iterate.LoopConfig()
    settings.update(line, {"EVALUATION": "POLICY=learning_curves OBJECTIVE='{cardiology: 3}' ENDPOINT_MODELS=a,b"})
    mapping = iterate.LoopConfig(
        EVALUATION={"POLICY": "learning_curves", "OBJECTIVE": "{cardiology: 3}", "ENDPOINT_MODELS": ["a", "b"]}
    )
    one, other = (iterate.Loop(config, demo=False).evaluation for config in (line, mapping))
    assert one == other and "POLICY=learning_curves" in one.arguments


def test_the_error_of_a_script_ends_the_loop_with_its_exit_code(tmp_path):
    done = run_script(*command(tmp_path, tmp_path / "nowhere"))
    assert done.returncode == 2 and str(tmp_path / "nowhere") in done.stderr and "dataset_preparation.py" in done.stderr
    assert not (tmp_path / "results").exists()


def test_the_script_that_failed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(iterate.subprocesses, "run", lambda command: 2)
    error = refusal(iterate, command(tmp_path, tmp_path / "nowhere"), monkeypatch)
    assert error.where == "dataset_preparation.py" and "2" in error.fault


@pytest.fixture
def loop(tmp_path):
    """A loop after its third iteration, as far as what it reads goes."""
    made = iterate.Loop(iterate.LoopConfig(N=5, **{name: str(path) for name, path in folders(tmp_path).items()}), demo=False)
    data = DatasetManifest(
        stage=DatasetManifest.STAGE, fingerprint="f", iteration=3, inputs=DatasetInputs("files", {}), splits=HASHES
    )
    artifacts.write(made.datasets / "manifest.json", data)
    evaluation = EvaluationManifest(stage=EvaluationManifest.STAGE, fingerprint="f", iteration=3, run=GenerationRecord(engine="e"),
                                    inputs=EvaluationInputs("a", "b", "d", HASHES))  # fmt: skip
    artifacts.write(made.evaluations / "manifest.json", evaluation)
    leave(made)
    return made


def filled(row, **values):
    """A row of a table in which only some values count."""
    empty = {str: "", float: 0.0, int: 0, bool: False, Verdict: Verdict.NONE}
    return row(**{field.name: empty[field.type] for field in msgspec.structs.fields(row)} | values)


def leave(loop, *, change=(0.02, 0.01, 0.03), pool=9, increases=True, lower_is_better=False):
    changes = dict(zip(("change", "change_low", "change_high"), change, strict=True))
    history.write(loop.evaluations, [filled(HistoryRow, iteration=3, split="eval", metric="ROUGE-L", **changes)])
    metrics = [filled(MetricComparison, metric="ROUGE-L", lower_is_better=lower_is_better)]
    tables.write_rows(loop.evaluations / MetricComparison.FILE, metrics, MetricComparison)
    line = IterationRecord(iteration=3, made="", shares={}, share_base={}, hashes=HASHES,
                           sizes=Sizes({}, {}, {}, {"cardiology": pool}))  # fmt: skip
    artifacts.write_lines(loop.datasets / IterationRecord.FILE, [line])
    advice = Recommendations(steering_metric="ROUGE-L", sentences=("Why.",),
                             recommended_sample_increases={"cardiology": 0.9} if increases else {})  # fmt: skip
    artifacts.write(loop.recommendations_file, advice)


def reason(loop):
    ending = loop.ending()
    return ending.reason if ending else None


def test_it_continues_while_it_gains_and_stops_where_it_does_not(loop):
    assert reason(loop) is None
    leave(loop, change=(0.01, -0.01, 0.03))
    assert reason(loop) is StopReason.NO_GAIN and str(loop.results / "archive") in loop.ending().advice
    leave(loop, change=(-0.02, -0.03, -0.01), lower_is_better=True)
    assert reason(loop) is None
    leave(loop, change=(0.02, 0.01, 0.03), lower_is_better=True)
    assert reason(loop) is StopReason.WORSE
    leave(loop, change=(-0.05, -0.08, -0.02))
    assert reason(loop) is StopReason.WORSE and "-0.050" in loop.ending().advice


def test_the_advice_names_the_last_adapter_of_an_earlier_iteration(loop):
    point = EvalPoint(step=0, epoch=0.0, examples=1, tokens=1, loss=1.0, perplexity=1.0, token_accuracy=0.0)
    for name, number, finished in (
        ("a", 2, "2026-01-01"),
        ("b", 2, "2026-01-02"),
        ("c", 1, "2026-01-03"),
        ("d", 3, "2026-01-04"),
    ):
        result = TrainingResult(
            stage=TrainingResult.STAGE, fingerprint="f", iteration=number, finished=finished, kept=point, before=point,
            inputs=TrainingInputs("d", HASHES, (), "b"), outputs=TrainingOutputs("a"),
        )  # fmt: skip
        artifacts.write(loop.results / "archive" / name / "manifest.json", result)
    leave(loop, change=(0.01, -0.01, 0.03))
    assert str(loop.results / "archive" / "b") in loop.ending().advice


def test_it_stops_when_the_pool_is_empty_when_nothing_is_recommended_and_at_n(loop):
    leave(loop, pool=0)
    assert reason(loop) is StopReason.POOL_EMPTY
    leave(loop, increases=False)
    assert reason(loop) is StopReason.NOTHING_RECOMMENDED and "Why." in loop.ending().advice
    leave(loop)
    loop.config.N = 3
    assert reason(loop) is StopReason.LIMIT and "N=4" in loop.ending().advice
