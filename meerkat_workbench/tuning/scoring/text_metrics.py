"""Text metrics as the reference packages define them: BLEU (nltk), ROUGE (rouge-score), METEOR (nltk), exact match and F1 (SQuAD).

Values equal those of the packages if the reference is in ASCII letters. ROUGE is computed here because rouge-score takes a
hundred times as long for the longest common subsequence. The packages support only English: they split words at accents and
find no words in Arabic or Chinese. So the tokens here depend on the reference's script. Texts are compared in Unicode's form
NFC.
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

MAX_NGRAM = 4  # longest n-gram of BLEU
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
    """The name of sacrebleu's tokenizer for a reference: zh for Chinese, char for Japanese, Thai and similar scripts, else 13a."""
    return {"": "13a", "Han": "zh", "other": "char"}[texts.script_without_spaces(reference)]


@functools.lru_cache(maxsize=8192)
def bleu_tokens(text: str, tokenizer: str) -> tuple[str, ...]:
    """Lower-case tokens from one of sacrebleu's tokenizers; 13a is WMT's mteval-v13a."""
    return tuple(_tokenizers[tokenizer](texts.nfc(text).lower()).split())


def bleu(reference: str, hypothesis: str) -> list[float]:
    """BLEU-1 to BLEU-4 of one answer (Papineni et al. 2002), smoothed as `SmoothingFunction.method1`.

    An answer of k < n tokens has no n-grams, so its BLEU-n is its BLEU-k (sacrebleu's effective order). Otherwise an
    identical answer of one word would score .178.
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
    """Corpus BLEU from 0 to 100, and sacrebleu's signature; it is not the mean of sentence BLEUs.

    BLEU is computed from sums of counts, so the corpus can be counted chunk by chunk, and each reference with its own
    tokenizer.

    Args:
        chunks: references and hypotheses.
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
    ngrams = [
        Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
        for tokens in (texts.tokens(hypothesis), texts.tokens(reference))
    ]
    return _f1((ngrams[0] & ngrams[1]).total(), ngrams[0].total(), ngrams[1].total())


def rouge_l(reference: str, hypothesis: str) -> float:
    """ROUGE-L F1, from the longest common subsequence of the whole texts."""
    left, right = texts.tokens(hypothesis), texts.tokens(reference)
    return _f1(LCSseq.similarity(left, right), len(left), len(right)) if left and right else 0.0


def meteor(reference: str, hypothesis: str) -> float:
    """METEOR (Banerjee and Lavie 2005); by its definition an identical one-word answer scores 0.5.

    Stems and synonyms exist only for English, so in other languages only equal words match.
    """
    words = [METEOR_WORD.findall(texts.nfc(text).lower()) for text in (reference, hypothesis)]
    if not words[0] or not words[1]:
        return 0.0
    if texts.is_english(reference) is False:
        return float(single_meteor_score(words[0], words[1], stemmer=_identity_stemmer, wordnet=_no_synonyms))
    return float(single_meteor_score(words[0], words[1], stemmer=_stemmer, wordnet=wordnet.cached_synonyms()))


class CachedStemmer(PorterStemmer):
    """nltk's Porter stemmer with a cache, because answers repeat words and a stem takes 20 µs."""

    @functools.lru_cache(maxsize=65536)  # noqa: B019  there is only one stemmer per process
    def stem(self, word: str, to_lowercase: bool = True) -> str:
        return str(super().stem(word, to_lowercase))


class IdentityStemmer(nltk.stem.api.StemmerI):
    """Leaves words unchanged, for languages without a stemmer."""

    def stem(self, token: str) -> str:
        return token


class NoSynonyms:
    """Takes the place of WordNet for languages without it."""

    def synsets(self, word: str) -> tuple[()]:
        return ()


_stemmer, _identity_stemmer, _no_synonyms = CachedStemmer(), IdentityStemmer(), NoSynonyms()


@functools.lru_cache(maxsize=8192)
def squad_tokens(text: str, *, ascii_letters: bool = True) -> tuple[str, ...]:
    """Tokens after SQuAD's normalisation: lower case, without punctuation and articles. "2.5 mg" becomes "25 mg", as in SQuAD.

    Args:
        ascii_letters: False removes all Unicode punctuation and symbols, keeps articles, and splits scripts without spaces
            into characters (after Lewis et al. 2020, MLQA, which also removes the articles of its seven languages).
    """
    text = texts.nfc(text).lower()
    if ascii_letters:
        return tuple(ARTICLES.sub(" ", text.translate(ASCII_PUNCTUATION)).split())
    return tuple(texts.CHARACTERS.sub(lambda match: f" {match.group()} ", PUNCTUATION.sub("", text)).split())


def _squad_tokens_of_both(reference: str, hypothesis: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    ascii_letters = (reference.isascii() or not NOT_ASCII_LETTER.search(reference)) and texts.is_english(reference) is not False
    return squad_tokens(hypothesis, ascii_letters=ascii_letters), squad_tokens(reference, ascii_letters=ascii_letters)


def exact_match(reference: str, hypothesis: str) -> float:
    """1 if both texts are equal after SQuAD's normalisation, else 0."""
    left, right = _squad_tokens_of_both(reference, hypothesis)
    if not left and not right:  # the normalisation leaves nothing of texts that consist of signs only
        return float(texts.nfc(reference).split() == texts.nfc(hypothesis).split())
    return float(left == right)


def token_f1(reference: str, hypothesis: str) -> float:
    """F1 over the tokens after SQuAD's normalisation."""
    left, right = map(Counter, _squad_tokens_of_both(reference, hypothesis))
    if not left or not right:
        return float(left == right)
    return _f1((left & right).total(), left.total(), right.total())


def length_ratio(reference: str, hypothesis: str) -> float | None:
    """Words of the answer divided by words of the reference; None for an empty reference."""
    split = texts.tokens if texts.script_without_spaces(reference) else str.split
    words = len(split(reference))
    return len(split(hypothesis)) / words if words else None
