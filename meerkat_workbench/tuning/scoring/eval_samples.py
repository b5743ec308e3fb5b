"""Sample answers: asks a model the same few questions of the eval split during training and export."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from meerkat_workbench.device import hub
from meerkat_workbench.tuning import chat, llm
from meerkat_workbench.tuning.artifacts import Finish, Prediction, SampleAnswer, Split
from meerkat_workbench.tuning.data import dataset_folders
from meerkat_workbench.tuning.data.dataset_folders import PreparedSplit
from meerkat_workbench.tuning.generation import generator, prediction_store
from meerkat_workbench.tuning.generation.decoding import Decoder, Decoding, PromptRow
from meerkat_workbench.tuning.generation.likelihood import Continuation, Scorer
from meerkat_workbench.tuning.generation.questions import Question, questions_of
from meerkat_workbench.tuning.scoring import bertscore, text_metrics
from meerkat_workbench.tuning.training.eval_loss import SampleScores

MAX_NEW_TOKENS, BATCH_SIZE = 96, 16


def questions(split: PreparedSplit, tokenizer: Any, count: int, *, encoder_decoder: bool = False) -> list[Question]:
    """The first `count` questions of the eval split in the order of their ids, which does not depend on the file."""
    ids = split.ids()
    chosen = [split[row] for row in sorted(range(len(split)), key=lambda row: ids[row])[:count]]
    return questions_of(Split.EVAL, chosen, tokenizer, None, encoder_decoder=encoder_decoder)


def greedy_answers(asked: Sequence[Question], model: Any, tokenizer: Any) -> list[tuple[int, ...]]:
    """Token ids of greedy answers, in the order of the questions."""
    decoder = Decoder(model, Decoding(MAX_NEW_TOKENS, 0.0, 0, tuple(llm.stop_ids(tokenizer)), tokenizer.pad_token_id))
    answer_ids: dict[int, tuple[int, ...]] = {}
    with generator.GenerationProgress(len(asked), "sample answers", MAX_NEW_TOKENS) as progress:
        for batch in generator.plan_batches(asked, BATCH_SIZE):
            rows = [PromptRow(asked[i].id, asked[i].prompt_ids) for i in batch]
            answers = decoder.decode(rows, on_tokens=progress.add_tokens, on_answer=progress.finish_answer)
            answer_ids |= {i: tuple(answer.ids) for i, answer in zip(batch, answers, strict=True)}
    return [answer_ids[i] for i in range(len(asked))]


def as_texts(asked: Sequence[Question], answers: Sequence[tuple[int, ...]], tokenizer: Any) -> list[str]:
    """The texts of answers as they are scored, from their token ids."""
    texts = []
    for question, ids in zip(asked, answers, strict=True):
        text = chat.decode_answer(tokenizer, ids)
        prediction = Prediction(key="", id=question.id, system="", text=text, finish=Finish.STOP, tokens=len(ids))
        texts.append(prediction_store.strip_thinking(prediction, question.prompt).text)
    return texts


def next_choices(asked: Sequence[Question], given: Sequence[tuple[int, ...]], model: Any, tokenizer: Any) -> list[int]:
    """The token that a model predicts at each token of the given answers, from all tokens before it; one list for all answers."""
    chosen: list[int] = []
    scorer = Scorer(model, tokenizer.pad_token_id)
    for question, ids in zip(asked, given, strict=True):
        if ids:
            [logits] = scorer.logits([Continuation(question.prompt_ids, ids)])
            chosen += logits.argmax(-1).tolist()
    return chosen


def sampler(data: Path, count: int, *, encoder_decoder: bool) -> Callable[[Any], Callable[[Any], SampleScores]] | None:
    """A function from a tokenizer to a `sample_evaluator` on the eval split of a prepared folder; None if `count` is 0."""
    if not count:
        return None

    def make(tokenizer: Any) -> Callable[[Any], SampleScores]:
        split = dataset_folders.read_split(data, Split.EVAL)
        return sample_evaluator(split, tokenizer, count, encoder_decoder=encoder_decoder)

    return make


def sample_evaluator(split: PreparedSplit, tokenizer: Any, count: int, *, encoder_decoder: bool) -> Callable[[Any], SampleScores]:
    """A function from a model to its sample answers and their mean ROUGE-L and BERTScore."""
    asked = questions(split, tokenizer, count, encoder_decoder=encoder_decoder)
    scorer = bertscore.BertScorer(hub.PACKAGED)
    references = [question.reference for question in asked]

    def evaluate(model: Any) -> SampleScores:
        texts = as_texts(asked, greedy_answers(asked, model, tokenizer), tokenizer)
        rouge = [text_metrics.rouge_l(r, t) for r, t in zip(references, texts, strict=True)]
        bert = scorer.score(references, texts)
        answers = tuple(SampleAnswer(q.question, q.reference, text) for q, text in zip(asked, texts, strict=True))
        return SampleScores(round(sum(rouge) / len(rouge), 6), round(sum(bert) / len(bert), 6), answers)

    return evaluate
