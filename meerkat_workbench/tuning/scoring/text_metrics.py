"""Text metrics as the reference packages define them: BLEU (nltk), ROUGE (rouge-score), METEOR (nltk), SQuAD's two.

Values agree with those packages where a reference is in ASCII letters; ROUGE is counted here because rouge-score takes a hundredfold the
time for the longest common subsequence. The packages know English alone: they cut words at accents, and find no word in Arabic or Chinese.
So tokens are those that fit the reference's script. Texts are compared in Unicode's form NFC.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence

import nltk
import numpy as np
import regex
import sacrebleu
from nltk.stem.porter import PorterStemmer
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from nltk.translate.meteor_score import single_meteor_score
from rapidfuzz.distance import LCSseq
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

from meerkat_workbench.text import texts
from meerkat_workbench.tuning.scoring import wordnet

MAX_NGRAM = 4  # in a row, that BLEU looks at
ARTICLES = re.compile(r"\b(a|an|the)\b")
ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
NOT_ASCII_LETTER = regex.compile(r"[\p{L}--[A-Za-z]]", regex.V1)
PUNCTUATION = regex.compile(r"[\p{P}\p{S}]")
METEOR_WORD = regex.compile(rf"{texts.CHARACTER}|{texts.LETTER}+(?:[.,'-]{texts.LETTER}+)*%?", regex.V1)
_tokenizers = {"13a": Tokenizer13a(), "zh": TokenizerZh(), "char": TokenizerChar()}
_smoothing = SmoothingFunction().method1

SIGNATURES = {
    **{f"BLEU-{n}": f"nltk {nltk.__version__} sentence_bleu, smooth:method1, eff:yes, tok:13a (zh for Chinese, char for other scripts without "
                    "spaces), case:lower" for n in range(1, 5)},
    **{f"ROUGE-{n}": "rouge-score 0.1.2, F1, stemmer:no, tok:letters and digits of any script (characters where words are not separated by spaces)"
       for n in ("1", "2", "L")},
    "METEOR": f"nltk {nltk.__version__}, WordNet 3.0 and Porter stems for English, exact words for other languages, tok:words (characters where "
              "they are not separated by spaces), case:lower",
    "exact_match": "SQuAD 1.1 normalisation; for other languages and letters beyond ASCII: Unicode's punctuation and symbols off, articles kept",
    "token_f1": "SQuAD 1.1 normalisation; for other languages and letters beyond ASCII: Unicode's punctuation and symbols off, articles kept, "
                "characters where words are not separated by spaces",
    "length_ratio": "words of the answer over words of the reference, split at white space (characters where words are not separated by spaces)",
}  # fmt: skip


def bleu_tokenizer(reference: str) -> str:
    """Which of sacrebleu's tokenizers fits a reference: 13a, zh for Chinese, char for Japanese, Thai and their kin."""
    return {"": "13a", "Han": "zh", "other": "char"}[texts.script_without_spaces(reference)]


@functools.lru_cache(maxsize=8192)
def bleu_tokens(text: str, tokenizer: str) -> tuple[str, ...]:
    """Lower-case tokens as one of sacrebleu's tokenizers cuts them; 13a is WMT's mteval-v13a."""
    return tuple(_tokenizers[tokenizer](texts.nfc(text).lower()).split())


def bleu(reference: str, hypothesis: str) -> list[float]:
    """BLEU-1 to BLEU-4 of one answer (Papineni et al. 2002), smoothed as `SmoothingFunction.method1`.

    An answer of fewer than n words has no n words in a row, so that BLEU-n then is the BLEU of as many as it has (sacrebleu's effective
    order): else an identical answer of one word would score .178.
    """
    tokenizer = bleu_tokenizer(reference)
    tokens = bleu_tokens(hypothesis, tokenizer)
    if not tokens:
        return [0.0] * MAX_NGRAM
    orders = [min(n, len(tokens)) for n in range(1, MAX_NGRAM + 1)]
    weights = [(1 / order,) * order for order in orders]
    scores = sentence_bleu([bleu_tokens(reference, tokenizer)], tokens, weights=weights, smoothing_function=_smoothing)
    return [float(score) for score in scores]


def corpus_bleu(chunks: Iterable[tuple[Sequence[str], Sequence[str]]]) -> tuple[float, str]:
    """Corpus BLEU from 0 to 100 and sacrebleu's signature, from references and hypotheses; not the mean of sentence BLEUs.

    A corpus is counted chunk by chunk, and each reference by the tokenizer that fits it: BLEU rests on sums.
    """
    counts, totals, lengths = np.zeros(MAX_NGRAM, int), np.zeros(MAX_NGRAM, int), np.zeros(2, int)
    metrics: dict[str, sacrebleu.BLEU] = {}
    for references, hypotheses in chunks:
        by_tokenizer: dict[str, list[tuple[str, str]]] = {}
        for reference, hypothesis in zip(references, hypotheses, strict=True):
            by_tokenizer.setdefault(bleu_tokenizer(reference), []).append((texts.nfc(reference), texts.nfc(hypothesis)))
        for tokenizer, pairs in by_tokenizer.items():
            metric = metrics.setdefault(tokenizer, sacrebleu.BLEU(lowercase=True, tokenize=tokenizer))
            part = metric.corpus_score([hypothesis for _, hypothesis in pairs], [[reference for reference, _ in pairs]])
            counts, totals, lengths = counts + part.counts, totals + part.totals, lengths + (part.sys_len, part.ref_len)
    score = sacrebleu.BLEU.compute_bleu(
        counts.tolist(), totals.tolist(), int(lengths[0]), int(lengths[1]), smooth_method="exp"
    ).score
    used = sorted(metrics) or ["13a"]
    signature = str((metrics or {"13a": sacrebleu.BLEU(lowercase=True)})[used[0]].get_signature())
    if len(used) > 1:
        signature = signature.replace(f"tok:{used[0]}", f"tok:{'+'.join(used)} by reference")
    return float(score), signature


def _f1(overlap: int, hypothesis: int, reference: int) -> float:
    if not overlap:
        return 0.0
    precision, recall = overlap / hypothesis, overlap / reference
    return 2 * precision * recall / (precision + recall)


def rouge_n(reference: str, hypothesis: str, n: int) -> float:
    """ROUGE-N F1 (Lin 2004)."""
    grams = [
        Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
        for tokens in (texts.tokens(hypothesis), texts.tokens(reference))
    ]
    return _f1((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())


def rouge_l(reference: str, hypothesis: str) -> float:
    """ROUGE-L F1: the longest common subsequence over the whole answer."""
    left, right = texts.tokens(hypothesis), texts.tokens(reference)
    return _f1(LCSseq.similarity(left, right), len(left), len(right)) if left and right else 0.0


def meteor(reference: str, hypothesis: str) -> float:
    """METEOR (Banerjee and Lavie 2005); an identical one-word answer scores 0.5 by its definition.

    Stems and synonyms are English ones, so that other languages' words count where they are the same.
    """
    words = [METEOR_WORD.findall(texts.nfc(text).lower()) for text in (reference, hypothesis)]
    if not words[0] or not words[1]:
        return 0.0
    if texts.is_english(reference) is False:
        return float(single_meteor_score(words[0], words[1], stemmer=_as_they_are, wordnet=_no_synonyms))
    return float(single_meteor_score(words[0], words[1], stemmer=_stemmer, wordnet=wordnet.cached_synonyms()))


class CachedStemmer(PorterStemmer):
    """nltk's Porter stemmer, each word stemmed once: answers repeat theirs, and a stem takes 20 µs."""

    @functools.lru_cache(maxsize=65536)  # noqa: B019  there is one stemmer a process
    def stem(self, word: str, to_lowercase: bool = True) -> str:
        return str(super().stem(word, to_lowercase))


class IdentityStemmer(nltk.stem.api.StemmerI):
    def stem(self, token: str) -> str:
        return token


class NoSynonyms:
    """In place of WordNet."""

    def synsets(self, word: str) -> tuple[()]:
        return ()


_stemmer, _as_they_are, _no_synonyms = CachedStemmer(), IdentityStemmer(), NoSynonyms()


@functools.lru_cache(maxsize=8192)
def squad_tokens(text: str, *, ascii_letters: bool = True) -> tuple[str, ...]:
    """SQuAD's normalisation: lower case, punctuation and articles off. "2.5 mg" becomes "25 mg", as its script does.

    Args:
        ascii_letters: False takes all punctuation and symbols of Unicode off, keeps articles, and cuts scripts without spaces into characters
            (after Lewis et al. 2020, MLQA, which also takes off the articles of its seven languages).
    """
    text = texts.nfc(text).lower()
    if ascii_letters:
        return tuple(ARTICLES.sub(" ", text.translate(ASCII_PUNCTUATION)).split())
    return tuple(texts.CHARACTERS.sub(lambda match: f" {match.group()} ", PUNCTUATION.sub("", text)).split())


def _squad_tokens_of_both(reference: str, hypothesis: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ascii_letters = (reference.isascii() or not NOT_ASCII_LETTER.search(reference)) and texts.is_english(reference) is not False
    return squad_tokens(hypothesis, ascii_letters=ascii_letters), squad_tokens(reference, ascii_letters=ascii_letters)


def exact_match(reference: str, hypothesis: str) -> float:
    left, right = _squad_tokens_of_both(reference, hypothesis)
    if not left and not right:  # signs alone, of which the normalisation leaves nothing
        return float(texts.nfc(reference).split() == texts.nfc(hypothesis).split())
    return float(left == right)


def token_f1(reference: str, hypothesis: str) -> float:
    left, right = map(Counter, _squad_tokens_of_both(reference, hypothesis))
    if not left or not right:
        return float(left == right)
    return _f1((left & right).total(), left.total(), right.total())


def length_ratio(reference: str, hypothesis: str) -> float | None:
    """Words of the answer over words of the reference; None for an empty reference. 1 is as long."""
    cut = texts.tokens if texts.script_without_spaces(reference) else str.split
    words = len(cut(reference))
    return len(cut(hypothesis)) / words if words else None
