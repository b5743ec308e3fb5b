"""Asks models every question: batches are planned, answers are stored at once, and several processes share the work."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from meerkat_workbench.core import console
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.device import devices
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import Finish, Prediction
from meerkat_workbench.tuning.generation.decoding import NO_ADAPTER, Decoded, Decoder, Decoding, PromptRow
from meerkat_workbench.tuning.generation.endpoint import Endpoint, ServerDecoding
from meerkat_workbench.tuning.generation.growing_cache import GROWTH
from meerkat_workbench.tuning.generation.prediction_store import PredictionStore
from meerkat_workbench.tuning.generation.prefixes import prefix_lengths
from meerkat_workbench.tuning.generation.questions import Question

MAX_BATCHES_IN_GROUP = 4  # batches that are planned, answered and stored as one if waiting questions take free places
ROWS_ON_CPU, MAX_ROWS = 128, 512
FREE_MEMORY_USED = 0.6  # fraction of the free GPU memory that a batch may take


def plan_batches(questions: Sequence[Question], batch_size: int) -> list[list[int]]:
    """Indices of each batch's questions, longest prompts first: if memory runs out, it does so in the first batch."""
    order = sorted(range(len(questions)), key=lambda i: (-len(questions[i].prompt_ids), questions[i].id))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def find_batch_size(device_type: str, questions: Sequence[Question], decoding: Decoding, config: Any, systems: int) -> int:
    """Questions at a time: as many as fit the free GPU memory by the size of the key-value cache, or 128 rows on a CPU.

    Args:
        systems: number of systems in a batch; each question has a row for each.
    """
    if device_type != "cuda":
        return max(1, ROWS_ON_CPU // systems)
    devices.free_memory()
    free, _ = torch.cuda.mem_get_info()
    longest = max(len(question.prompt_ids) for question in questions) + decoding.max_new_tokens + GROWTH
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    bytes_per_row = 4 * config.num_hidden_layers * heads * head_width * longest + 12 * config.vocab_size
    return int(max(1, min(MAX_ROWS, FREE_MEMORY_USED * free // bytes_per_row) // systems))


class GenerationProgress(console.Progress):
    """Progress of answers and tokens, with an upper bound of the time left, because an answer may end at any token.

    Args:
        max_tokens: the most tokens of an answer.
    """

    def __init__(self, total: int, name: str, max_tokens: int) -> None:
        super().__init__(name, total, "answers")
        self.tokens = self._tokens_of_finished = 0
        self.max_tokens = max_tokens

    def state(self) -> tuple[int, int, int]:
        """The present state, for `return_to`."""
        return self.done, self.tokens, self._tokens_of_finished

    def return_to(self, state: tuple[int, int, int]) -> None:
        """Go back to an earlier state; the answers since then are repeated."""
        self.back_to(state[0])
        self.tokens, self._tokens_of_finished = state[1:]

    def add_tokens(self, tokens: int) -> None:
        """Count new tokens, of any answers."""
        self.tokens += tokens

    def finish_answer(self, tokens: int) -> None:
        """Count one more answer as done, with its number of tokens."""
        self._tokens_of_finished += tokens
        self.advance(1, f"{self.tokens / self.elapsed:.0f} tokens/s")

    def line(self) -> str:
        if not self.tokens:
            return super().line()
        left = (self.total - self.done) * self.max_tokens - (self.tokens - self._tokens_of_finished)
        rate = self.tokens / self.elapsed
        return f"{self.name}: {self.done:,}/{self.total:,} answers, {rate:.0f} tokens/s, at most {console.duration(left / rate)} left"


@dataclass(frozen=True)
class AnswerRequest:
    """A wanted answer.

    Attributes:
        adapter: the adapter of its row in the batch; None for the one that is active.
        key: of the answer.
        prefix_length: tokens at the beginning of the prompt that other prompts of the system share.
    """

    question: Question
    system: str
    adapter: str | None
    key: str
    prefix_length: int

    @property
    def row(self) -> PromptRow:
        return PromptRow(self.question.id, self.question.prompt_ids, self.adapter, self.prefix_length)


class Generator:
    """Asks a model questions and stores its answers.

    Batches are planned from the whole list, and a batch that lacks any answer is answered as a whole, so that a resumed run ends
    with the same answers as an uninterrupted one. If memory runs out, the rows at a time are halved for the rest of the run. A
    row that fails alone is stored as a failed answer.

    Args:
        batch_size: questions at a time.
        rank: this process; each process stores its own answers.
        ranks: number of processes that share the questions.
        refill: plan groups of several batches, in which waiting questions take the place of answered ones.
    """

    def __init__(
        self, store: PredictionStore, tokenizer: Any, decoding: Decoding, batch_size: int, rank: int = 0, ranks: int = 1,
        *, refill: bool = False,
    ) -> None:  # fmt: skip
        self.store, self.tokenizer, self.decoding, self.batch_size = store, tokenizer, decoding, batch_size
        self.rank, self.ranks, self.refill = rank, ranks, refill
        self.max_rows = sys.maxsize  # lowered when memory runs out

    def generate_sequential(
        self, model: Any, system: str, adapter: str | None, questions: Sequence[Question], keys: Sequence[str]
    ) -> int:
        """Generate one system's answers through `adapter`, or with all adapters switched off (None).

        Returns:
            Number of answers generated.
        """
        requests = _requests(system, None, questions, keys)
        with active_adapter(model, adapter):
            return self._generate(model, questions, f"{system} answers", lambda i: [requests[i]])

    def generate_mixed(
        self, model: Any, adapters: Mapping[str, str | None], questions: Mapping[str, Sequence[Question]],
        keys: Mapping[str, Sequence[str]],
    ) -> int:  # fmt: skip
        """Generate answers of several systems of one base, in batches that hold rows of all of them.

        Args:
            adapters: system to its adapter, None for the base.
            questions: system to its questions, the same in the same order but with prompts of its own; the last may be left out.
            keys: system to the key of each question's answer.

        Returns:
            Number of answers generated.
        """
        wanted = [
            _requests(system, adapter or NO_ADAPTER, questions[system], keys[system]) for system, adapter in adapters.items()
        ]
        longest = max(questions.values(), key=len)

        def requests(i: int) -> list[AnswerRequest]:
            return [of_system[i] for of_system in wanted if i < len(of_system)]

        return self._generate(model, longest, f"{', '.join(adapters)} answers", requests)

    def _generate(
        self, model: Any, questions: Sequence[Question], name: str, requests_of: Callable[[int], list[AnswerRequest]]
    ) -> int:
        """Generate the lacking answers, and return their number; `requests_of` gives the answers that a question needs."""
        batches = self._lacking_batches(questions, requests_of)
        if not batches:
            return 0
        decoder = Decoder(model, self.decoding)
        self.max_rows = min(self.max_rows, self.batch_size * len(requests_of(batches[0][0])))
        requests_by_batch = [[request for i in batch for request in requests_of(i)] for batch in batches]
        generated = 0
        with GenerationProgress(sum(map(len, requests_by_batch)), name, self.decoding.max_new_tokens) as progress:
            for batch in requests_by_batch:
                answers = [
                    self._prediction(request, answer)
                    for request, answer in zip(
                        batch, self._decode(decoder, [request.row for request in batch], progress), strict=True
                    )
                ]
                self.store.add(answers)
                generated += len(answers)
        return generated

    def _lacking_batches(
        self, questions: Sequence[Question], requests_of: Callable[[int], list[AnswerRequest]]
    ) -> list[list[int]]:
        """This process's batches that lack an answer, as indices of questions."""
        # several groups for each process, so that the processes end together and a kill loses little
        batches = len(questions) // (MAX_BATCHES_IN_GROUP * self.ranks * self.batch_size)
        group = self.batch_size * max(1, min(MAX_BATCHES_IN_GROUP, batches) if self.refill else 1)
        lacking_batches = []
        for batch in plan_batches(questions, group)[self.rank :: self.ranks]:
            lacking = [i for i in batch if any(self.store.lacks(request.key) for request in requests_of(i))]
            # failed answers are repeated by themselves, because their batch was complete
            only_failed = all(request.key in self.store.records for i in lacking for request in requests_of(i))
            if lacking:
                lacking_batches.append(lacking if only_failed else batch)
        return lacking_batches

    def _prediction(self, request: AnswerRequest, answer: Decoded | str) -> Prediction:
        """The record that is stored; `answer` is the error's text if the answer failed."""
        question = request.question
        if isinstance(answer, str):
            return Prediction(key=request.key, id=question.id, system=request.system, text="", finish=Finish.FAILED, tokens=0,
                              error=answer)  # fmt: skip
        text = chat.decode_answer(self.tokenizer, answer.ids)
        # the loss is of the text as it is stored, if the tokenizer makes the same tokens of it
        loss = answer.loss if chat.encode_text(self.tokenizer, text) == answer.ids else None
        return Prediction(key=request.key, id=question.id, system=request.system, text=text, finish=answer.finish,
                          tokens=len(answer.ids), loss=None if loss is None else round(loss, 6))  # fmt: skip

    def _decode(self, decoder: Decoder, rows: Sequence[PromptRow], progress: GenerationProgress) -> Sequence[Decoded | str]:
        """Answers in the order of `rows`; for a failed answer the error's text."""
        before = progress.state()

        def attempt(at_once: int) -> list[Decoded]:
            return decoder.decode(
                rows, at_once, refill=self.refill, on_tokens=progress.add_tokens, on_answer=progress.finish_answer
            )

        def halved(at_once: int) -> None:
            print(f"  out of memory with {self.max_rows} rows at a time, continuing with {at_once}", flush=True)
            self.max_rows = at_once
            progress.return_to(before)  # all of these rows are answered again

        try:
            return devices.halve_on_oom(min(self.max_rows, len(rows)), attempt, halved=halved)
        except devices.MemoryExhaustedError as error:
            error_text = str(error)
        progress.return_to(before)
        if len(rows) == 1:
            return [error_text]
        half = (len(rows) + 1) // 2  # one of the rows is too long by itself
        return [*self._decode(decoder, rows[:half], progress), *self._decode(decoder, rows[half:], progress)]


def _requests(system: str, adapter: str | None, questions: Sequence[Question], keys: Sequence[str]) -> list[AnswerRequest]:
    """The answers that are wanted of one system."""
    shared = prefix_lengths([question.prompt_ids for question in questions], [question.specialty for question in questions])
    return [
        AnswerRequest(question, system, adapter, key, length)
        for question, key, length in zip(questions, keys, shared, strict=True)
    ]


def generate_remote(
    endpoint: Endpoint, system: str, questions: Sequence[Question], keys: Sequence[str], store: PredictionStore,
    decoding: ServerDecoding, requests: int,
) -> int:  # fmt: skip
    """Ask a server, and store each answer as soon as it comes.

    Args:
        requests: requests at a time.

    Returns:
        Number of answers that were asked for.

    Raises:
        UserError: every request failed, and none had an earlier answer.
    """
    todo = [i for i, key in enumerate(keys) if store.lacks(key)]
    tokens = 0
    # the time left by the rate of answers: a bound by the most tokens would be far too high for the short replies of a judge
    with console.Progress(f"{system} answers", len(todo), "answers") as progress:
        for number, reply in endpoint.answers([questions[i] for i in todo], decoding, requests):
            i = todo[number]
            store.add([Prediction(key=keys[i], id=questions[i].id, system=system, text=reply.text, finish=reply.finish,
                                  tokens=reply.tokens, error=reply.error)])  # fmt: skip
            tokens += reply.tokens
            progress.advance(1, f"{tokens / progress.elapsed:.0f} tokens/s")
    failed = [store.records[keys[i]] for i in todo if store.records[keys[i]].finish == Finish.FAILED]
    if todo and all(map(store.lacks, keys)):
        fault = f"none of {len(todo)} requests was answered"
        raise UserError(fault, where=endpoint.address, remedy=f"The last error: {failed[-1].error}")
    return len(todo)


def active_adapter(model: Any, adapter: str | None) -> contextlib.AbstractContextManager[Any]:
    """A context in which the model answers through `adapter`; with None all of its adapters are switched off."""
    if not hasattr(model, "peft_config"):
        return nullcontext()
    if adapter is None:
        disabled: contextlib.AbstractContextManager[Any] = model.disable_adapter()
        return disabled
    model.set_adapter(adapter)
    return nullcontext()


def supports_mixed_batches(model: Any) -> bool:
    """Whether different adapters can answer rows of one batch; DoRA, adapters on bare parameters and encoder-decoders cannot."""
    if model.config.is_encoder_decoder:
        return False
    unsupported = ("use_dora", "target_parameters")
    return not any(getattr(config, name, None) for config in getattr(model, "peft_config", {}).values() for name in unsupported)


def check_adapter_has_effect(model: Any, adapter: str, question: Question) -> float:
    """The largest change of a logit that the adapter makes on a question; UserError if it changes nothing."""
    inputs = {"input_ids": torch.tensor([list(question.prompt_ids)]).to(model.device)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[model.config.decoder_start_token_id]]).to(model.device)
    logits = []
    for name in (adapter, None):
        with torch.inference_mode(), devices.autocast(model), active_adapter(model, name):
            logits.append(model(**inputs).logits.float())
    change = float((logits[0] - logits[1]).abs().max())
    if not change > 0:
        fault = "changes nothing: the logits with and without it are equal"
        raise UserError(fault, where="adapter", item=adapter, remedy="Train it, or name another one.")
    return change
