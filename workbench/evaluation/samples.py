"""A few questions of the eval split, the same each time: what a model answers to them while it is trained or exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench import chat, models
from workbench.evaluation import answers, asking, bertscore, likelihood, text_metrics
from workbench.evaluation.answers import Question
from workbench.evaluation.decoding import Decoder, Decoding, Row

NEW_TOKENS, BATCH = 96, 16


def questions(split: Any, tokenizer: Any, count: int, *, encoder_decoder: bool = False) -> list[Question]:
    """The first `count` questions of the eval split (a Dataset) by id, whatever their order in the file."""
    ids = split["id"]
    chosen = split.select(sorted(range(len(split)), key=lambda row: ids[row])[:count])
    return answers.questions_of("eval", chosen, tokenizer, None, encoder_decoder=encoder_decoder)


def greedy(asked: list[Question], model: Any, tokenizer: Any) -> list[tuple[int, ...]]:
    """Token ids of greedy answers, in the order of the questions."""
    decoder = Decoder(model, Decoding(NEW_TOKENS, 0.0, 0, tuple(models.stop_ids(tokenizer)), tokenizer.pad_token_id))
    found: dict[int, tuple[int, ...]] = {}
    with asking.AnswerProgress(len(asked), "sample answers", NEW_TOKENS) as progress:
        for batch in asking.plan_batches(asked, BATCH):
            made = decoder.decode(
                [Row(asked[i].id, asked[i].prompt_ids) for i in batch], made=progress.made, ended=progress.ended
            )
            found |= {i: tuple(ids) for i, (ids, _) in zip(batch, made, strict=True)}
    return [found[i] for i in range(len(asked))]


def as_texts(asked: list[Question], found: list[tuple[int, ...]], tokenizer: Any) -> list[str]:
    """Answers as they are scored."""
    made = [
        answers.Answer("", question.id, "", chat.decode_answer(tokenizer, ids), "stop", len(ids))
        for question, ids in zip(asked, found, strict=True)
    ]
    return [answers.without_thinking(answer, question.prompt).text for answer, question in zip(made, asked, strict=True)]


def next_choices(asked: list[Question], given: list[tuple[int, ...]], model: Any, tokenizer: Any) -> list[int]:
    """What a model would choose at each token of given answers, had it written all that stands before; one list for all answers."""
    chosen: list[int] = []
    for question, ids in zip(asked, given, strict=True):
        if ids:
            [logits] = likelihood.logits_of(model, [(question.prompt_ids, ids)], tokenizer.pad_token_id)
            chosen += logits.argmax(-1).tolist()
    return chosen


def examiner(split: Any, tokenizer: Any, count: int, *, encoder_decoder: bool) -> Callable[[Any], dict[str, Any]]:
    """A function from a model to its mean ROUGE-L and BERTScore on the sample, and its answers."""
    asked = questions(split, tokenizer, count, encoder_decoder=encoder_decoder)
    scorer = bertscore.BertScorer(bertscore.EMBEDDED)
    references = [question.reference for question in asked]

    def examine(model: Any) -> dict[str, Any]:
        texts = as_texts(asked, greedy(asked, model, tokenizer), tokenizer)
        rouge = [text_metrics.rouge_l(r, t) for r, t in zip(references, texts, strict=True)]
        bert = scorer.score(references, texts)
        return {
            "ROUGE-L": round(sum(rouge) / len(rouge), 6),
            "bertscore_f1": round(sum(bert) / len(bert), 6),
            "answers": [
                {"question": q.question, "reference": q.reference, "answer": text} for q, text in zip(asked, texts, strict=True)
            ],
        }

    return examine
