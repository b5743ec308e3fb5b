"""Scores multiple-choice questions by log-likelihood: how likely a model finds each option after the question.

Contexts and options are cut into tokens as lm-evaluation-harness does (version 0.4.13: `TemplateLM._encode_pair`,
`HFLM.tok_encode` and `HFLM._loglikelihood_tokens`), so that the sums are those of the harness. There is no chat template.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from meerkat_workbench.core import console, files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.core.jsonl_store import JsonlStore
from meerkat_workbench.device import devices
from meerkat_workbench.device.distributed import Processes
from meerkat_workbench.tuning import chat
from meerkat_workbench.tuning.artifacts import BASE, FEW_SHOT, ChoiceScores
from meerkat_workbench.tuning.data import multiple_choice
from meerkat_workbench.tuning.data.multiple_choice import SETTING, Benchmark, ChoiceItem
from meerkat_workbench.tuning.generation import likelihood, prediction_store
from meerkat_workbench.tuning.generation.few_shot import FewShotPrompts
from meerkat_workbench.tuning.generation.generator import active_adapter
from meerkat_workbench.tuning.generation.likelihood import Continuation, Scorer
from meerkat_workbench.tuning.generation.systems import System

TokenPair = tuple[tuple[int, ...], tuple[int, ...]]  # token ids of a context and of the text after it
VERSION = "multiple choice, lm-eval 0.4.13, v1"  # part of the key of each question
DELIMITER = " "  # between context and option, as in the harness
DEFAULT_MAX_LENGTH = 2048  # tokens of a model that names no limit, as in the harness
UNLIMITED = int(1e30)  # what transformers calls the limit of a tokenizer that has none
CONTEXT_LENGTHS = ("n_positions", "max_position_embeddings", "n_ctx")  # names of a model's limit, in the harness's order
SERVER = "a server gives no log-likelihood of an option through its chat; ask the model on this machine"
SAME_AS_BASE = "the questions are asked without a chat template, so a system message changes nothing"


@dataclass(frozen=True)
class ChoiceArm:
    """A model that is scored: the system `system`, with `prefix` before each context (such as solved examples).

    Attributes:
        name: the name in tables; that of the system, unless there is a prefix.
        adapter: PEFT's name for the adapter; None for a model without one.
    """

    name: str
    system: str
    identity: str
    adapter: str | None
    prefix: str = ""

    def key(self, item: ChoiceItem) -> str:
        """The key of an item's scores: equal only for the same texts, weights and version of this module."""
        return files.sha256_of([self.prefix + item.context, list(item.choices), self.identity, VERSION])[:32]


def arms_of(systems: Sequence[System]) -> tuple[list[ChoiceArm], dict[str, str]]:
    """The systems that can be scored, each as it is, and by name why each other one cannot."""
    arms, missing = [], {}
    for system in systems:
        if not system.is_local:
            missing[system.name] = SERVER
        elif system.few_shot or system.open_book:
            continue  # the few-shot examples are in the prefix of an arm of its own; options are not retrieved for
        elif system.system_message is not None and system.name != BASE:
            missing[system.name] = SAME_AS_BASE
        else:
            arms.append(ChoiceArm(system.name, system.name, system.identity, system.adapter))
    return arms, missing


@dataclass(frozen=True)
class ChoicePlan:
    """What an evaluation scores; `missing` is why each other system has no scores, by its name."""

    benchmark: Benchmark
    arms: Sequence[ChoiceArm]
    missing: Mapping[str, str]

    def start(self, output: Path, ranks: Processes) -> ChoiceScoring:
        """Open the store in the evaluation's folder, once the folder belongs to this run."""
        return ChoiceScoring(output, self.benchmark, self.arms, self.missing, ranks)


def plan(
    folder: str, systems: Sequence[System], output: Path, ranks: Processes, *, stored_only: bool, examples: FewShotPrompts | None = None,
) -> ChoicePlan | None:  # fmt: skip
    """Read the questions, and decide which systems are scored; None without questions.

    Args:
        folder: the setting BENCHMARKS.
        stored_only: whether stored scores are compared again, without a model.
        examples: stand before each question of the few-shot base; None if it is not asked.

    Raises:
        UserError: a question cannot be read or, with `stored_only`, a score is not stored.
    """
    benchmark = ranks.agree(lambda: multiple_choice.read(folder))
    if benchmark is None:
        return None
    arms, missing = arms_of(systems)
    base = next((arm for arm in arms if arm.name == BASE), None)
    if base and examples:
        arms.append(replace(base, name=FEW_SHOT, prefix=examples.as_text()))
    if stored_only:
        check_all_stored(output, benchmark, arms)
    return ChoicePlan(benchmark, arms, missing)


def check_all_stored(output: Path, benchmark: Benchmark, arms: Sequence[ChoiceArm]) -> None:
    """Raise UserError if scores that are to be compared again, without a model, are not stored."""
    wanted = {arm.key(item) for arm in arms for item in benchmark.items}
    if absent := wanted - prediction_store.stored_keys(output, ChoiceScores.FILE):
        fault = f"{len(absent)} scores of multiple-choice questions are not stored, so they cannot be compared again"
        raise UserError(fault, where=output, item=f"{SETTING}={benchmark.folder}", remedy="Leave --rescore out.")


class ChoiceScoring:
    """The scores of one evaluation's multiple-choice questions; several processes share the work that is not stored yet.

    Args:
        output: the folder of the store; scores of archived evaluations in it are reused.
        missing: by the name of a system, why it cannot be scored.
    """

    def __init__(
        self, output: Path, benchmark: Benchmark, arms: Sequence[ChoiceArm], missing: Mapping[str, str], ranks: Processes
    ) -> None:
        self.benchmark, self.arms, self.missing, self.ranks = benchmark, list(arms), dict(missing), ranks
        self._wanted = {arm.key(item) for arm in arms for item in benchmark.items}

        def open_store() -> None:
            self.store: JsonlStore[ChoiceScores] = JsonlStore(output, Path(ChoiceScores.FILE).stem, ChoiceScores, ranks.rank)

        if ranks.is_main:
            open_store()
            self.merge_parts()
            for path in prediction_store.archived_files(output, ChoiceScores.FILE):
                self.store.adopt(path, self._wanted)
        ranks.wait()
        if not ranks.is_main:
            open_store()
        ranks.wait()  # all processes plan from the same file, so none may add to it before all have read it

    def merge_parts(self) -> None:
        """Add the scores of the other processes to those of this one."""
        self.store.merge_parts(self._wanted)

    def lacks_any(self, system: str) -> bool:
        """Whether a question of a system is still to be scored."""
        return any(self._lacking(arm) for arm in self.arms if arm.system == system)

    def _lacking(self, arm: ChoiceArm) -> dict[str, ChoiceItem]:
        return {key: item for item in self.benchmark.items if self.store.lacks(key := arm.key(item))}

    def scores(self, arm: ChoiceArm) -> list[ChoiceScores | None]:
        """The scores of each item of the benchmark; None where an option has no token or a value is not finite."""
        found = (self.store.records[arm.key(item)] for item in self.benchmark.items)
        return [scores if scores.log_likelihoods else None for scores in found]

    def score(self, model: Any, systems: Sequence[str], tokenizers: Mapping[str, Any]) -> None:
        """Score this process's part of what the systems of one loaded model lack, and store it batch by batch.

        Args:
            tokenizers: of each system, by its name.
        """
        for arm in self.arms:
            if arm.system in systems:
                # divided before any is stored, so that all processes divide the same list
                lacking = list(self._lacking(arm).items())[self.ranks.rank :: self.ranks.count]
                if lacking:
                    score_items(model, arm, tokenizers[arm.system], dict(lacking), self.store)


def score_items(
    model: Any, arm: ChoiceArm, tokenizer: Any, items: Mapping[str, ChoiceItem], store: JsonlStore[ChoiceScores]
) -> None:
    """Score items under one arm and store the result of each batch at once.

    Args:
        items: by the key of their scores.
    """
    waiting = sorted(items.items(), key=lambda pair: len(pair[1].context))  # the longest is taken first
    limit = context_length(model.config, tokenizer)
    with (
        active_adapter(model, arm.adapter),
        console.Progress(f"multiple choice, {arm.name}", len(items), "questions") as progress,
    ):
        while waiting:
            batch: list[_EncodedItem] = []
            while waiting:
                key, item = waiting[-1]
                encoded = _encode_item(
                    tokenizer, key, arm.prefix + item.context, item.choices, limit, model.config.is_encoder_decoder
                )
                if batch and _padded_tokens([*batch, encoded]) > likelihood.batch_tokens(model):
                    break
                batch.append(encoded)
                waiting.pop()
            sums = _sums_of_rows(model, [row for encoded in batch for row in encoded.rows], tokenizer.pad_token_id)
            store.add([encoded.scores(sums) for encoded in batch])
            progress.advance(len(batch))


# --- tokens


def context_length(config: Any, tokenizer: Any) -> int:
    """The most tokens of a model's input, by lm-evaluation-harness's order of sources (`resolve_max_length`)."""
    config = getattr(config, "text_config", None) or config
    for name in CONTEXT_LENGTHS:
        if (length := getattr(config, name, None)) is not None:
            return int(length)
    length = getattr(tokenizer, "model_max_length", None)
    return DEFAULT_MAX_LENGTH if length is None or length >= UNLIMITED else int(length)


def encode_pair(tokenizer: Any, context: str, continuation: str, *, encoder_decoder: bool) -> TokenPair:
    """Token ids of a context and of the continuation after it.

    For a decoder both are encoded as one text, which is cut after as many tokens as the context alone has. Spaces at the end of the
    context belong to the continuation. The tokenizer adds its special tokens (such as a BOS token) to the context.
    """
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    if encoder_decoder:
        return tuple(_encode(tokenizer, context)), tuple(chat.encode_text(tokenizer, continuation))
    before = _encode(tokenizer, context)
    return tuple(before), tuple(_encode(tokenizer, context + continuation)[len(before) :])


def _encode(tokenizer: Any, text: str) -> list[int]:
    """Token ids with special tokens, unless the text begins with the BOS token already."""
    first = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    begins = first is not None and text.startswith(tokenizer.decode(first))
    ids: list[int] = tokenizer(text, add_special_tokens=not begins)["input_ids"]
    return ids


@dataclass
class _EncodedItem:
    """An item in tokens.

    Attributes:
        rows: what the model is given; options that differ in their last token only share a row.
        options: for each option its row and its last token.
        cut: tokens cut off at the start of the context.
    """

    key: str
    rows: list[_ChoiceRow]
    options: list[tuple[_ChoiceRow, int]]
    cut: int

    def scores(self, sums: Mapping[int, dict[int, float]]) -> ChoiceScores:
        values = tuple(round(sums[id(row)][last], 6) for row, last in self.options)
        return ChoiceScores(key=self.key, log_likelihoods=values if all(map(math.isfinite, values)) else (), cut=self.cut)


@dataclass
class _ChoiceRow:
    """One row of a batch: context, the option's tokens before the last, and the last tokens whose log-probability is wanted."""

    context: tuple[int, ...]
    before: tuple[int, ...]
    last: list[int]

    @property
    def continuation(self) -> Continuation:
        return Continuation(self.context, (*self.before, self.last[0]))


def _encode_item(
    tokenizer: Any, key: str, context: str, choices: Sequence[str], limit: int, encoder_decoder: bool
) -> _EncodedItem:
    pairs = [encode_pair(tokenizer, context, DELIMITER + choice, encoder_decoder=encoder_decoder) for choice in choices]
    if not all(ids for _, ids in pairs):  # an option without a token has no likelihood, so the item has no scores
        return _EncodedItem(key, [], [], 0)
    rows: dict[tuple[tuple[int, ...], tuple[int, ...]], _ChoiceRow] = {}
    options, cut = [], 0
    for before, ids in pairs:
        # the last token of a continuation is not part of a decoder's input
        room = limit if encoder_decoder else limit + 1 - len(ids)
        cut = max(cut, len(before) - room)
        before = before[-room:] if len(before) > room else before
        row = rows.setdefault((before, ids[:-1]), _ChoiceRow(before, ids[:-1], []))
        row.last.append(ids[-1])
        options.append((row, ids[-1]))
    return _EncodedItem(key, list(rows.values()), options, max(0, cut))


def _padded_tokens(batch: Sequence[_EncodedItem]) -> int:
    """Tokens that the model reads, with padding: each context once, and every option."""
    rows = [row for encoded in batch for row in encoded.rows]
    contexts = {row.context for row in rows}
    return len(contexts) * max(map(len, contexts), default=0) + len(rows) * max((len(row.before) for row in rows), default=0)


# --- log-likelihoods


def _sums_of_rows(model: Any, rows: Sequence[_ChoiceRow], pad_id: int) -> Mapping[int, dict[int, float]]:
    """By the identity of a row: the option's summed log-probability in nats for each last token; halved if memory runs out."""

    scorer = Scorer(model, pad_id)

    @torch.inference_mode()
    def attempt(at_once: int) -> Mapping[int, dict[int, float]]:
        sums: defaultdict[int, dict[int, float]] = defaultdict(dict)
        for start in range(0, len(rows), at_once):
            batch = rows[start : start + at_once]
            for row, logits in zip(batch, scorer.logits([row.continuation for row in batch]), strict=True):
                log_probabilities = torch.log_softmax(logits.float(), dim=-1)
                before = sum(float(log_probabilities[place, token]) for place, token in enumerate(row.before))
                for token in row.last:
                    sums[id(row)][token] = before + float(log_probabilities[-1, token])
        return sums

    return devices.halve_on_oom(len(rows), attempt) if rows else {}
