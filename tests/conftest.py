"""What several tests need: specialty files made here, the scripts as a user runs them, a tiny model."""

from __future__ import annotations

import contextlib
import http.server
import json
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import hypothesis
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
from meerkat_workbench.core.errors import UserError

# times are told by benchmarks: these machines are shared, and the first example loads what the others find there
hypothesis.settings.register_profile("here", deadline=None, max_examples=60, derandomize=True)
hypothesis.settings.load_profile("here")
ROOT = Path(__file__).resolve().parent.parent

SHARED_DATA = ROOT.parent / "shared" / "data"

LOADED = multiprocessing.get_context("forkserver")
LOADED.set_forkserver_preload(
    ["torch", "bitsandbytes", "transformers.trainer", "transformers.models.llama.modeling_llama", "peft", "trl.trainer.sft_trainer",
     "datasets", "pandas", "scipy.stats", "matplotlib.pyplot", "altair"]
)  # fmt: skip

# what the tests train and evaluate with: enough to learn something in a few steps
TRAINING = ("LORA_RANK=64", "LORA_ALPHA=128", "LORA_TARGET_MODULES=all-linear", "LORA_DROPOUT=0", "NUM_EPOCHS=1", "BATCH_SIZE=8",
            "GRADIENT_ACCUMULATION_STEPS=1", "LEARNING_RATE=2e-3", "MAX_SEQ_LENGTH=256", "SAMPLE_QUESTIONS=0", "SAVE_STEPS=2",
            "LOGGING_STEPS=1")  # fmt: skip
EVALUATION = ("MAX_NEW_TOKENS=24", "TEMPERATURE=0", "BERTSCORE_MODEL=packaged", "POLICY=threshold", "BATCH_SIZE=16")

TOPICS = (
    "asthma",
    "gout",
    "migraine",
    "measles",
    "scurvy",
    "croup",
    "rabies",
    "anemia",
    "sepsis",
    "glaucoma",
    "cataract",
    "eczema",
)
ASPECTS = ("symptoms", "causes", "treatment", "outlook", "diagnosis", "prevention")


def pairs(specialty: str, count: int) -> dict[str, str]:
    """Distinct question-answer pairs; no two say the same."""
    made = {}
    for number in range(count):
        topic, aspect = TOPICS[number % len(TOPICS)], ASPECTS[number // len(TOPICS) % len(ASPECTS)]
        question = f"What are the {aspect} of {topic} in {specialty}, part {number}?"
        made[question] = f"In {specialty} the {aspect} of {topic} number {number}: " + " ".join(
            f"{specialty}{number}{aspect}word{place}" for place in range(3 + number % 5)
        )
    return made


def write_specialty(folder: Path, specialty: str, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"dataset_with_answers_{specialty}.json"
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def specialty_files(tmp_path: Path) -> Path:
    """Three specialties of 40, 50 and 60 pairs."""
    folder = tmp_path / "files"
    for specialty, count in (("cardiology", 40), ("neurology", 50), ("urology", 60)):
        write_specialty(folder, specialty, pairs(specialty, count))
    return folder


def run_script(*command: str, timeout: float = 600, forks: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script as a user runs it, in a process of its own.

    Args:
        forks: whether the scripts that it starts are forked from it as well, where it would start Python anew.

    The process is forked from one that has loaded the libraries: loading them takes longer than most scripts run here. All of these have
    the same hashes; those that tests kill start Python anew, as other commands do, and those with an environment.
    """
    if environment or not command[0].endswith(".py"):
        return subprocess.run(
            [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, timeout=timeout,
            env={**os.environ, **environment},
        )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        said = [Path(folder) / name for name in ("stdout", "stderr")]
        process = LOADED.Process(target=_run_here, args=(command, *said, dict(os.environ), forks))
        process.start()
        try:
            process.join(timeout)
            texts = [path.read_text("utf-8") if path.is_file() else "" for path in said]
            if process.exitcode is None:
                raise subprocess.TimeoutExpired(list(command), timeout, *texts)
            return subprocess.CompletedProcess(list(command), process.exitcode, *texts)
        finally:
            if process.exitcode is None and process.pid:
                os.killpg(process.pid, signal.SIGKILL)


def run_processes(count: int, *command: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """A script in several processes that see each other, in the environment that torchrun gives them, forked like `run_script`'s.

    torchrun itself is run by one test of each script; it would load the libraries anew in every process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        started = []
        for rank in range(count):
            said = [Path(folder) / f"{name}{rank}" for name in ("stdout", "stderr")]
            environment = {**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "OMP_NUM_THREADS": "1",
                           "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip
            process = LOADED.Process(target=_run_here, args=(command, *said, environment))
            process.start()
            started.append((process, said))
        for process, _ in started:
            process.join(timeout)
        texts = ["".join(said[stream].read_text("utf-8") for _, said in started if said[stream].is_file()) for stream in (0, 1)]
        codes = [process.exitcode for process, _ in started]
        for process, _ in started:
            if process.exitcode is None and process.pid:
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(list(command), next((code or 1 for code in codes if code != 0), 0), *texts)


def _run_here(command: Sequence[str], stdout: Path, stderr: Path, environment: dict[str, str], forks: bool = False) -> None:
    import numpy as np

    from meerkat_workbench.core import subprocesses

    os.setsid()  # so that what it starts can be ended with it
    np.random.seed()  # else all would go on from the same state
    os.environ.update(environment)
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(ROOT)
    if forks:
        subprocesses.run = _run_forked
    _become(command)


def _become(command: Sequence[str]) -> None:
    sys.argv = list(command)
    runpy.run_path(command[0], run_name="__main__")


def _run_forked(command: Sequence[str], folder: Path | None = None) -> int:
    """In place of `subprocesses.run`, which test_subprocesses.py and the tests of killed loops run for real."""
    sys.stdout.flush()
    number = os.fork()
    if number:
        return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
    code: object = 0
    try:
        _become(command[1:])
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def refused(call: Callable[[], object]) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)


def refusal(script: ModuleType, command: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> UserError:
    """The error with which a script refuses its command, run in this process: loading the libraries anew takes 8 seconds."""
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # with more, the script would start again on all of them
    monkeypatch.setattr(sys, "argv", list(command))
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError) as caught:
        script.main()
    return caught.value


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The loops go first: they take longest, and then one worker has them all and nobody waits for it in the end."""
    items.sort(key=lambda item: item.path.name != "test_iterate.py")


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """The folder of a tiny Llama that has read answers (see tiny_models.py); made once where it is not cached yet."""
    import tiny_models

    return tiny_models.llama3(ROOT / ".cache")


@pytest.fixture(scope="session")
def smollm2_model() -> Path:
    """The folder of the packaged model, converted once; skips where the package is not installed."""
    from meerkat_workbench.tuning import smollm2

    pytest.importorskip("gguf")
    try:
        return smollm2.ensure()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> dict[str, Path]:
    """Four sample specialties prepared, trained for a few steps and evaluated by the three scripts."""
    base = tmp_path_factory.mktemp("run")
    source = base / "files"
    source.mkdir()
    for name in ("cardiology", "dentistry", "neurology", "urology"):
        file = f"dataset_with_answers_{name}.json"
        (source / file).write_text((ROOT / "examples" / "specialties" / file).read_text(encoding="utf-8"), encoding="utf-8")
    folders = {
        "files": source,
        "data": base / "datasets",
        "adapter": base / "results",
        "scores": base / "scores",
        "model": tiny_model,
    }
    commands = (prepare_command(folders), train_command(folders), evaluate_command(folders))
    for command in commands:
        done = run_script(*command)
        assert done.returncode == 0, done.stdout + done.stderr
        folders[command[0]] = done.stdout  # type: ignore[assignment]
    return folders


@pytest.fixture(scope="session")
def exported(small_run: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The small run's adapter merged into its base, and what the export printed."""
    target = tmp_path_factory.mktemp("export") / "merged"
    done = run_script(*train_command(small_run, "--export", str(target)))
    assert done.returncode == 0, done.stderr
    return target, done.stdout


@contextlib.contextmanager
def served(model: Path) -> Iterator[str]:
    """The address of `transformers serve` with this model, really started."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--port", str(port), "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.time() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{address}/health", timeout=5).close()
                break
            assert process.poll() is None and time.time() < deadline, "the server did not start"
            time.sleep(0.2)
        yield address
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def chat_server(reply: Callable[[list[dict[str, str]]], str | None], finish: str = "stop") -> Iterator[str]:
    """The address of an OpenAI-compatible server that says what `reply` makes of the messages; None refuses with 503."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            said = reply(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"])
            body = {} if said is None else {
                "id": "1", "object": "chat.completion", "created": 0, "model": "m",
                "usage": {"completion_tokens": 2, "prompt_tokens": 1, "total_tokens": 3},
                "choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": said}}],
            }  # fmt: skip
            self._send(503 if said is None else 200, body)

        def do_GET(self):
            self._send(200, {"object": "list", "data": [{"id": "m", "object": "model", "created": 0, "owned_by": "us"}]})

        def _send(self, status, body):
            payload = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(payload)))
            self.end_headers()
            self.wfile.write(payload)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def prepare_command(folders: dict[str, Path]) -> list[str]:
    return ["dataset_preparation.py", f"DATA_DIR={folders['files']}", f"OUTPUT_DIR={folders['data']}", "EVAL_SPLIT_SIZE=0.4"]


def train_command(folders: dict[str, Path], *more: str) -> list[str]:
    return ["fine_tuning.py", f"MODEL_NAME={folders['model']}", f"DATASET_DIR={folders['data']}", f"OUTPUT_DIR={folders['adapter']}",
            *TRAINING, *more]  # fmt: skip


def evaluate_command(folders: dict[str, Path], *more: str) -> list[str]:
    return ["evaluation.py", f"DATASET_DIR={folders['data']}", f"FINETUNED_MODEL_PATH={folders['adapter']}",
            f"OUTPUT_DIR={folders['scores']}", *EVALUATION, *more]  # fmt: skip
