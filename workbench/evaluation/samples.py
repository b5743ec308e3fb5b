"""A few questions of the eval split, the same each time: what a model answers to them while it is trained or exported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench import models
from workbench.evaluation import answers, asking, bertscore, text_metrics
from workbench.evaluation.answers import Question
from workbench.evaluation.decoding import Decoder, Decoding, Row

NEW_TOKENS, BATCH = 96, 16


def questions(split: Any, tokenizer: Any, count: int, *, encoder_decoder: bool = False) -> list[Question]:
    """The first `count` questions of the eval split (a Dataset) by id, whatever their order in the file."""
    ids = split["id"]
    chosen = split.select(sorted(range(len(split)), key=lambda row: ids[row])[:count])
    return answers.questions_of("eval", chosen, tokenizer, None, encoder_decoder=encoder_decoder)


def greedy(asked: list[Question], model: Any, tokenizer: Any) -> list[str]:
    """Greedy answers, in the order of the questions."""
    decoder = Decoder(model, Decoding(NEW_TOKENS, 0.0, 0, tuple(models.stop_ids(tokenizer)), tokenizer.pad_token_id))
    found = {}
    for batch in asking.plan_batches(asked, BATCH):
        made = decoder.decode([Row(asked[i].id, asked[i].prompt_ids) for i in batch])
        for i, (ids, _) in zip(batch, made, strict=True):
            found[i] = tokenizer.decode(ids, skip_special_tokens=True).strip()
    return [found[i] for i in range(len(asked))]


def examiner(split: Any, tokenizer: Any, count: int, *, encoder_decoder: bool) -> Callable[[Any], dict[str, Any]]:
    """A function from a model to its mean ROUGE-L and BERTScore on the sample, and its answers."""
    asked = questions(split, tokenizer, count, encoder_decoder=encoder_decoder)
    scorer = bertscore.BertScorer(bertscore.EMBEDDED)
    references = [question.reference for question in asked]

    def examine(model: Any) -> dict[str, Any]:
        texts = greedy(asked, model, tokenizer)
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
