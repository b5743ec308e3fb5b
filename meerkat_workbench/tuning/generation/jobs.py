"""Decides which questions each system is asked, and under which keys its answers are stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meerkat_workbench.core.errors import UserError
from meerkat_workbench.tuning import llm
from meerkat_workbench.tuning.artifacts import BASE, FIXED, Split
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.data.dataset_folders import PreparedRecord, PreparedSplit
from meerkat_workbench.tuning.data.vocabulary import ReferenceVocabulary
from meerkat_workbench.tuning.generation import prediction_store, preference, systems
from meerkat_workbench.tuning.generation.decoding import Decoding
from meerkat_workbench.tuning.generation.distractors import DistractorMaker
from meerkat_workbench.tuning.generation.endpoint import Endpoint, ServerDecoding
from meerkat_workbench.tuning.generation.few_shot import FewShotPrompts
from meerkat_workbench.tuning.generation.generation_run import ENCODER_DECODER_ENGINE, ENGINE, GenerationJob
from meerkat_workbench.tuning.generation.open_book import OpenBook
from meerkat_workbench.tuning.generation.preference import PreferenceItem, PreferencePlan
from meerkat_workbench.tuning.generation.questions import RETENTION, answer_key
from meerkat_workbench.tuning.generation.subject import EvaluationSubject
from meerkat_workbench.tuning.generation.systems import System

__all__ = [
    "RETENTION",
    "DecodingOptions",
    "check_all_stored",
    "check_servers",
    "first_record",
    "make_jobs",
    "plan_preferences",
    "read_fixed_splits",
]
PREFERENCE_SPLITS = (Split.HOLDOUT,)  # preferences give a headline figure; measuring them on eval too would take as long again
SERVER_ENGINE = "server"  # in place of ENGINE, for answers from a server


@dataclass(frozen=True)
class DecodingOptions:
    """How answers are decoded: the settings MAX_NEW_TOKENS, TEMPERATURE and RANDOM_SEED."""

    max_new_tokens: int
    temperature: float
    seed: int

    def on_this_machine(self, tokenizer: Any) -> Decoding:
        stop = tuple(llm.stop_ids(tokenizer))
        return Decoding(self.max_new_tokens, self.temperature, self.seed, stop, tokenizer.pad_token_id)

    def on_server(self) -> ServerDecoding:
        return ServerDecoding(self.max_new_tokens, self.temperature, self.seed)


def read_fixed_splits(folder: Path) -> dict[str, PreparedSplit]:
    """Holdout and eval of a prepared folder; UserError if both are empty."""
    splits = {str(split): dataset_folders.read_split(folder, split) for split in FIXED}
    if not any(map(len, splits.values())):
        remedy = "Prepare the data again with more records, or larger holdout and eval splits."
        raise UserError("holdout and eval are empty, so there is nothing to ask", where=folder, remedy=remedy)
    return splits


def first_record(splits: Mapping[str, PreparedSplit]) -> PreparedRecord:
    """The first record of the splits, as a sample of the prompt's layout."""
    record: PreparedRecord = next(records[0] for records in splits.values() if len(records))
    return record


def make_jobs(
    planned: Sequence[System],
    subject: EvaluationSubject,
    splits: Mapping[str, Sequence[PreparedRecord]],
    more: Mapping[str, Sequence[PreparedRecord]],
    decoding: DecodingOptions,
    limit: int | None,
    few_shot: FewShotPrompts | None = None,
    passages: OpenBook | None = None,
) -> dict[str, GenerationJob]:
    """The questions of each system, in the same order for all, by the system's name.

    Args:
        more: further records by split, asked without a limit, and not of the few-shot base and the open-book systems.
        limit: the most questions of each specialty and split; None for all.
        few_shot: the examples of the few-shot base; None if it is not asked.
        passages: of the open-book systems; None if there are none.
    """
    message = subject.data.system_message
    jobs: dict[str, GenerationJob] = {}
    for system in planned:
        tokenizer = systems.load_tokenizer(system, subject.adapter)
        with_same_prompts = next((job for job in jobs.values() if systems.same_prompts(system, job.system)), None)
        if with_same_prompts is not None:  # they share one list, because there may be many questions
            questions = with_same_prompts.questions
        else:
            questions = systems.questions_for(system, splits, tokenizer, limit, message, few_shot, passages)
            if not (system.few_shot or system.open_book):
                questions += systems.questions_for(system, more, tokenizer, None, message)
        system_decoding = decoding.on_server() if tokenizer is None else decoding.on_this_machine(tokenizer)
        engine = SERVER_ENGINE if tokenizer is None else ENCODER_DECODER_ENGINE if system.encoder_decoder else ENGINE
        keys = [answer_key(question, system.identity, dataclasses.asdict(system_decoding), engine) for question in questions]
        jobs[system.name] = GenerationJob(system, questions, keys, tokenizer, system_decoding)
    return jobs


def plan_preferences(jobs: Mapping[str, GenerationJob], folder: Path, count: int) -> PreferencePlan:
    """Choices between reference and distractors, for every system of this machine that is asked without passages, and for the base without
    the question.

    Args:
        folder: the prepared folder; the references of its fixed splits are the distractors.
        count: distractors a question; 0 plans nothing.
    """
    records = dataset_folders.read_fixed_records(folder)
    references = ReferenceVocabulary.of(records)
    local = {name: job for name, job in jobs.items() if job.system.is_local and not job.system.open_book and count}
    maker = DistractorMaker(records)
    planned: dict[str, dict[str, PreferenceItem]] = {}
    for name, job in local.items():
        asked = [question for question in job.questions if question.split in PREFERENCE_SPLITS]
        items = preference.make_items(asked, maker, count)
        planned[name] = {item.key(job.system.identity, references.hash): item for item in items}
        if name == BASE:
            blind = [
                preference.without_question(item, job.tokenizer, encoder_decoder=job.system.encoder_decoder)
                for item in preference.of_answer_only(items)
            ]
            planned[preference.ANSWER_ONLY] = {item.key(job.system.identity, references.hash): item for item in blind if item}
    return PreferencePlan(planned, references)


def check_servers(planned: Sequence[System], judge: Endpoint | None) -> None:
    """Raise UserError if a server does not answer, or does not serve its model.

    Args:
        judge: the server that judges; None for no judge.
    """
    for system in planned:
        if not system.is_local:
            Endpoint(system.source, system.served_as).check()
    if judge:
        judge.check()


def check_all_stored(output: Path, jobs: Mapping[str, GenerationJob]) -> None:
    """Raise UserError if an answer that is to be scored again is not stored."""
    if absent := {key for job in jobs.values() for key in job.keys} - prediction_store.stored_keys(output):
        raise UserError(
            f"{len(absent)} answers with these models and settings are not stored, so they cannot be scored again",
            where=output,
            remedy="Leave --rescore out, or give the settings that the answers were generated with.",
        )
