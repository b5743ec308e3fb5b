"""Asking base and tuned model the same questions: planned batches, left padding, one load, answers stored as they come."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from workbench import chat, files
from workbench.errors import UserError

if TYPE_CHECKING:
    import torch

ARMS = ("base", "tuned")
LINE_EVERY_S = 15.0


@dataclass(frozen=True, slots=True)
class Question:
    """A question as it is asked: `prompt` is the stored text, `prompt_ids` what the model is given."""

    id: str
    split: str
    specialty: str
    question: str
    reference: str
    prompt: str
    prompt_ids: tuple[int, ...]


@dataclass(slots=True)
class Answer:
    """What a model answered. `finish` is "stop", "length" or "failed"; `key` names prompt, model and settings."""

    key: str
    id: str
    arm: str
    text: str
    finish: str
    tokens: int
    error: str = ""


@dataclass(frozen=True, slots=True)
class Decoding:
    """How answers are made. Temperature 0 is greedy; `seed` counts only above it."""

    max_new_tokens: int
    temperature: float
    seed: int
    stop_ids: tuple[int, ...]
    pad_id: int


def questions_of(split: str, rows: Any, tokenizer: Any, limit: int | None, *, encoder_decoder: bool = False) -> list[Question]:
    """The questions of a split, at most `limit` a specialty, in the order of the file."""
    encode = chat.encode_source if encoder_decoder else chat.encode_prompt
    taken: dict[str, int] = {}
    found = []
    for row in rows:
        specialty = row["specialty"]
        taken[specialty] = taken.get(specialty, 0) + 1
        if limit is not None and taken[specialty] > limit:
            continue
        ids = encode(tokenizer, row["formatted_prompt"])
        found.append(Question(row["id"], split, specialty, row["question"], row["response"], row["formatted_prompt"], tuple(ids)))
    return found


def answer_key(question: Question, model_identity: str, decoding: Decoding, engine: str) -> str:
    """Identity of an answer: equal only for the same prompt, weights, settings and engine."""
    return files.sha256_of([question.prompt, model_identity, asdict(decoding), engine])[:32]


def plan_batches(questions: Sequence[Question], batch_size: int) -> list[list[int]]:
    """Rows of each batch, longest prompts first, so that memory runs out at once or never."""
    order = sorted(range(len(questions)), key=lambda i: (-len(questions[i].prompt_ids), questions[i].id))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


class AnswerStore:
    """`predictions.jsonl`: a line an answer, appended as batches finish; a torn last line is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers = {row["key"]: Answer(**row) for row in files.read_json_lines(path, drop_torn_tail=True)}
        if self.answers:
            files.write_json_lines(path, (asdict(answer) for answer in self.answers.values()))

    def add(self, answers: Sequence[Answer]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            for answer in answers:
                file.write(json.dumps(asdict(answer), ensure_ascii=False) + "\n")
                self.answers[answer.key] = answer
            file.flush()
            os.fsync(file.fileno())

    def adopt(self, others: Path, keys: set[str]) -> int:
        """Take answers with these keys from another evaluation's file; returns how many."""
        found = [
            Answer(**row)
            for row in files.read_json_lines(others, drop_torn_tail=True)
            if row["key"] in keys and row["key"] not in self.answers and row["finish"] != "failed"
        ]
        if found:
            self.add(found)
        return len(found)


def question_noise(decoding: Decoding, question: Question, step: int, width: int) -> torch.Tensor:
    """Gumbel noise of one question at one step, (width,): the same for both arms and for any batch.

    Adding it, times the temperature, to the logits and taking the largest draws from the softmax at that temperature
    (the Gumbel-max trick, Maddison et al. 2014).
    """
    import torch

    seed = hashlib.sha256(f"{decoding.seed}|{question.id}|{step}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(seed[:7], "big"))
    return -torch.log(-torch.log(torch.rand(width, generator=generator).clamp_(1e-20, 1 - 1e-7)))


def generate_batch(model: Any, batch: Sequence[Question], decoding: Decoding) -> list[tuple[list[int], str]]:
    """Token ids and finish reason of each answer, in the order of `batch`."""
    import torch
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

    width = max(len(question.prompt_ids) for question in batch)
    # left padding: a decoder's next token follows the last position; an encoder counts positions from the left
    side = 1 if model.config.is_encoder_decoder else -1
    gaps = [width - len(question.prompt_ids) for question in batch]
    rows = [(list(q.prompt_ids), [decoding.pad_id] * gap)[::side] for q, gap in zip(batch, gaps, strict=True)]
    masks = [([1] * (width - gap), [0] * gap)[::side] for gap in gaps]
    ids, mask = (torch.tensor([first + second for first, second in parts]) for parts in (rows, masks))

    # a decoder's output begins with the prompt, an encoder-decoder's with its start token
    given = 1 if model.config.is_encoder_decoder else width

    class OwnDraw(LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            step = input_ids.shape[1] - given
            noise = torch.stack([question_noise(decoding, question, step, scores.shape[1]) for question in batch])
            return scores.float() + decoding.temperature * noise.to(scores.device)

    processors = LogitsProcessorList([OwnDraw()] if decoding.temperature > 0 else [])
    settings = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # sampling is in the processor, so that a question's draw is its own
        eos_token_id=list(decoding.stop_ids),
        pad_token_id=decoding.pad_id,
        decoder_start_token_id=getattr(model.config, "decoder_start_token_id", None),
        use_cache=True,
    )
    with torch.inference_mode(), torch.autocast(ids.device.type, dtype=torch.bfloat16):
        output = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            generation_config=settings,
            logits_processor=processors,
        )
    answers = []
    for row in output[:, given:].tolist():
        stop = next((place for place, token in enumerate(row) if token in decoding.stop_ids), None)
        answers.append((row if stop is None else row[:stop], "length" if stop is None else "stop"))
    return answers


def find_batch_size(device_type: str, questions: Sequence[Question], decoding: Decoding, config: Any) -> int:
    """A batch that fits: from free GPU memory and the size of the key-value cache, or 128 rows on a CPU."""
    import torch

    if device_type != "cuda":
        return 128
    free, _ = torch.cuda.mem_get_info()
    longest = max(len(question.prompt_ids) for question in questions) + decoding.max_new_tokens
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    a_row = 4 * config.num_hidden_layers * heads * head_width * longest + 12 * config.vocab_size
    return int(max(1, min(256, 0.6 * free // a_row)))


class Progress:
    """A bar on a terminal, a plain line every 15 seconds elsewhere."""

    def __init__(self, total: int, name: str) -> None:
        self.total, self.name, self.done, self.tokens = total, name, 0, 0
        self.started = self.last = time.time()
        self.bar = tqdm(total=total, desc=name, unit="answer") if sys.stderr.isatty() else None

    def advance(self, answers: int, tokens: int) -> None:
        self.done, self.tokens = self.done + answers, self.tokens + tokens
        elapsed = max(time.time() - self.started, 1e-9)
        if self.bar is not None:
            self.bar.update(answers)
            self.bar.set_postfix_str(f"{self.tokens / elapsed:.0f} tokens/s")
        elif time.time() - self.last > LINE_EVERY_S:
            self.last = time.time()
            left = (self.total - self.done) * elapsed / max(self.done, 1)
            print(f"  {self.name}: {self.done}/{self.total}, {self.tokens / elapsed:.0f} tokens/s, {left:.0f} s left", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def speaking_as(arm: str, model: Any) -> Any:
    """A context in which the model answers as `arm`: for "base" an adapter, where there is one, is switched off."""
    return model.disable_adapter() if arm == "base" and hasattr(model, "peft_config") else nullcontext()


def ask(
    model: Any,
    arm: str,
    questions: Sequence[Question],
    keys: Sequence[str],
    store: AnswerStore,
    tokenizer: Any,
    decoding: Decoding,
    batch_size: int,
) -> int:
    """Fill the store with this arm's answers; returns how many were made now.

    Batches are planned from the whole list, and one that lacks any answer runs whole, so that a resumed run ends with
    the answers it would have ended with. On out-of-memory a batch is halved; what fails at one row is stored as failed.

    Args:
        model: a PEFT model, whose adapter is switched off for the arm "base"; or any model that generates.
        keys: of each question, as `answer_key` gives them.
    """
    todo = [
        batch for batch in plan_batches(questions, batch_size)
        if any(keys[i] not in store.answers or store.answers[keys[i]].finish == "failed" for i in batch)
    ]  # fmt: skip
    if not todo:
        return 0
    progress = Progress(sum(map(len, todo)), f"{arm} answers")
    with speaking_as(arm, model):
        for batch in todo:
            made = _ask_batch(model, [questions[i] for i in batch], decoding)
            answers = [
                Answer(keys[i], questions[i].id, arm, "" if ids is None else tokenizer.decode(ids, skip_special_tokens=True).strip(),
                       finish, 0 if ids is None else len(ids), error)
                for i, (ids, finish, error) in zip(batch, made, strict=True)
            ]  # fmt: skip
            store.add(answers)
            progress.advance(len(batch), sum(answer.tokens for answer in answers))
    progress.close()
    return sum(map(len, todo))


def _ask_batch(model: Any, batch: Sequence[Question], decoding: Decoding) -> list[tuple[list[int] | None, str, str]]:
    import torch

    try:
        return [(ids, finish, "") for ids, finish in generate_batch(model, batch, decoding)]
    except (torch.OutOfMemoryError, MemoryError) as error:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return [(None, "failed", f"out of memory: {error}"[:200])]
        half = len(batch) // 2
        print(f"  out of memory at {len(batch)} rows, going on with {half}", flush=True)
        return _ask_batch(model, batch[:half], decoding) + _ask_batch(model, batch[half:], decoding)


def assert_adapter_works(model: Any, questions: Sequence[Question]) -> float:
    """UserError unless the adapter changes what the model says; returns the largest change of a logit."""
    import torch

    inputs = {"input_ids": torch.tensor([list(questions[0].prompt_ids)]).to(model.device)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]]).to(model.device)
    with torch.inference_mode(), torch.autocast(model.device.type, dtype=torch.bfloat16):
        tuned = model(**inputs).logits.float()
        with model.disable_adapter():
            base = model(**inputs).logits.float()
    change = float((tuned - base).abs().max())
    if not change > 0:
        raise UserError("the adapter changes nothing: base and tuned model give equal logits. Train it, or name another.")
    return change


def check_complete(questions: Sequence[Question], keys: Sequence[str], store: AnswerStore, arm: str) -> None:
    """Every question has its answer, or the run is a fault of ours."""
    missing = [question.id for question, key in zip(questions, keys, strict=True) if key not in store.answers]
    if missing:
        raise RuntimeError(f"{len(missing)} questions have no {arm} answer, the first is {missing[0]}")
