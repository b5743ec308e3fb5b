"""The loop over the three scripts: what it decides, where it stops, and that a kill anywhere loses nothing."""

import os
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
import tiny_models
from conftest import EVALUATION, ROOT, TRAINING, run_script

import iterate
from meerkat_workbench.core import files, manifest
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning.reporting import history


def folders(base):
    return {name: base / name.lower() for name in ("DATASETS", "RESULTS", "EVALUATIONS")}


def command(base, source, *more):
    return ["iterate.py", *(f"{name}={path}" for name, path in folders(base).items()),
            f"PREPARATION=DATA_DIR={source} EVAL_SPLIT_SIZE=0.4 INITIAL_TRAIN_PERCENTAGE=0.5",
            f"TRAINING=MODEL_NAME={tiny_models.llama3(ROOT / '.cache')} {' '.join(TRAINING)}",
            f"EVALUATION={' '.join(EVALUATION)} MAX_NEW_TOKENS=16 RETENTION=False POLICY='learning curves' BUDGET=12", "N=2", *more]  # fmt: skip


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


def outcome(base):
    """What a loop leaves: the ledger but for times, and every score of its history."""
    ledger = [{name: line[name] for name in ("iteration", "shares", "hashes", "adjustments")}
              for line in files.read_json_lines(base / "datasets" / "iterations.jsonl")]  # fmt: skip
    scores = history.read(base / "evaluations").drop(columns=["finished", "train_seconds", "seconds"])
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
    ledger, scores = outcome(base)
    assert [line["iteration"] for line in ledger] == [1, 2] and list(scores["iteration"].unique()) == [1, 2]
    added = sum(files.read_json_lines(base / "datasets" / "iterations.jsonl")[1]["sizes"]["train"].values()) - sum(
        files.read_json_lines(base / "datasets" / "iterations.jsonl")[0]["sizes"]["train"].values())  # fmt: skip
    assert added == 12 and (base / "evaluations" / "progress.png").is_file()
    # the table, then the advice, then where to look
    assert said.count("trained on  share    tokens   minutes  asked") == 2
    advice, where = said.strip().splitlines()[-2:]
    assert advice.startswith("Iteration 2 ") and advice.endswith((".", "more.")) and "progress.png" in where
    assert files.read_json(base / "evaluations" / "training_recommendations.json")["policy"]["iterations"] == [1, 2]


def test_run_again_it_finds_all_done_and_says_the_same(whole_loop, small_run):
    base, said = whole_loop
    before = outcome(base)
    again = run_script(*command(base, small_run["files"]), timeout=900, forks=True)
    assert again.returncode == 0 and again.stdout.strip().splitlines()[-2] == said.strip().splitlines()[-2]
    assert again.stdout.count("up to date") == 3
    pd.testing.assert_frame_equal(outcome(base)[1], before[1])


def test_killed_at_every_script_and_run_again_it_ends_as_if_nothing_had_been(whole_loop, small_run, tmp_path):
    again = command(tmp_path, small_run["files"])
    for words in (["scoring "], ["[iteration 2]", "reading "]):
        run_until(words, again, kill_all)
    # told to stop, the loop tells what it runs, and waits for its checkpoint
    said = run_until(["[iteration 2] python fine_tuning.py", "  epoch 0.00"], again, terminate)
    assert "stopped at step " in said and said.strip().endswith("stopped. Run the same command again to go on.")
    done = run_script(*again, timeout=900, forks=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from checkpoint-" in done.stdout
    (ledger, scores), (ledger_whole, scores_whole) = outcome(tmp_path), outcome(whole_loop[0])
    assert ledger == ledger_whole
    same = [name for name in scores if name not in ("evaluation", "adapter", "alike")]  # as `alike` knows one series from another
    pd.testing.assert_frame_equal(scores[same], scores_whole[same])


@pytest.mark.parametrize(
    ("given", "fault"),
    [("POLICY='uniform", "No closing quotation"), ("OUTPUT_DIR=elsewhere", "DATASETS, RESULTS and EVALUATIONS name")],
)
def test_what_the_scripts_are_given_is_read_like_a_command_line(given, fault):
    given_well = iterate.LoopConfig(EVALUATION="POLICY='learning curves' OBJECTIVE='{cardiology: 3}' CONTAMINATION_SETS=a,b")
    assert iterate.Loop(given_well, demo=False).given["evaluation.py"][3:] == [
        "POLICY=learning curves", "OBJECTIVE={cardiology: 3}", "CONTAMINATION_SETS=a,b"]  # fmt: skip
    with pytest.raises(UserError, match=f"EVALUATION.*{fault}"):
        iterate.Loop(iterate.LoopConfig(EVALUATION=given), demo=False)


def test_the_fault_of_a_script_ends_the_loop_with_its_exit_code_and_what_to_do(tmp_path):
    done = run_script(*command(tmp_path, tmp_path / "nowhere"))
    assert done.returncode == 2 and "there is no such folder" in done.stderr
    assert "dataset_preparation.py ended with exit code 2. Mend what it names, and run the same command again." in done.stderr


@pytest.fixture
def loop(tmp_path):
    """A loop after its third iteration, as far as what it reads goes."""
    made = iterate.Loop(iterate.LoopConfig(N=5, **{name: str(path) for name, path in folders(tmp_path).items()}), demo=False)
    for folder in (made.datasets, made.evaluations):
        folder.mkdir()
    manifest.finish(made.datasets, {"fingerprint": "f", "iteration": 3})
    leave(made)
    return made


def leave(loop, *, change=(0.02, 0.01, 0.03), pool=9, increases=True, lower_is_better=False):
    row = dict.fromkeys(history.COLUMNS, 0.0) | {"iteration": 3, "split": "eval", "metric": "ROUGE-L"}
    row |= dict(zip(("change", "change_low", "change_high"), change, strict=True))
    pd.DataFrame([row]).to_csv(loop.evaluations / history.NAME, index=False)
    pd.DataFrame([{"metric": "ROUGE-L", "lower_is_better": lower_is_better}]).to_csv(
        loop.evaluations / "model_comparison.csv", index=False
    )
    files.write_json_lines(loop.datasets / "iterations.jsonl", [{"sizes": {"pool": {"cardiology": pool}}}])
    files.write_json(loop.advice_file, {"steering_metric": "ROUGE-L", "in_words": ["Why."], "recommended_sample_increases": {"cardiology": 0.9} if increases else {}})  # fmt: skip


def test_it_goes_on_while_it_gains_and_stops_where_it_does_not(loop):
    assert loop.reason_to_stop() == ""
    leave(loop, change=(0.01, -0.01, 0.03))
    said = "+0.010 (95% interval -0.010 to +0.030), no more than chance explains: keep it or the one before it ({}), and gather"
    assert said.format(loop.results / "archive") in loop.reason_to_stop()
    for name, number, finished in (
        ("a", 2, "2026-01-01"),
        ("b", 2, "2026-01-02"),
        ("c", 1, "2026-01-03"),
        ("d", 3, "2026-01-04"),
    ):
        (loop.results / "archive" / name).mkdir(parents=True)
        manifest.finish(loop.results / "archive" / name, {"fingerprint": "f", "iteration": number, "finished": finished})
    assert said.format(loop.results / "archive" / "b") in loop.reason_to_stop()
    leave(loop, change=(-0.02, -0.03, -0.01), lower_is_better=True)
    assert loop.reason_to_stop() == ""
    leave(loop, change=(0.02, 0.01, 0.03), lower_is_better=True)
    assert "Iteration 3 is worse by ROUGE-L on eval, +0.020" in loop.reason_to_stop()
    leave(loop, change=(-0.05, -0.08, -0.02))
    assert "is worse" in loop.reason_to_stop() and "keep the one before it" in loop.reason_to_stop()


def test_it_stops_when_the_pool_is_spent_when_nothing_is_recommended_and_at_n(loop):
    leave(loop, pool=0)
    assert loop.reason_to_stop().startswith("The pool is spent")
    leave(loop, increases=False)
    assert loop.reason_to_stop() == "Nothing is recommended after iteration 3: Why."
    leave(loop)
    loop.config.N = 3
    assert "N=3 is reached and the pool still holds 9 records: N=4 goes on with 1 specialties fed more." in loop.reason_to_stop()
