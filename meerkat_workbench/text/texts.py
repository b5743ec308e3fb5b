"""Texts as they are compared: one Unicode form, the words of any script, and whether a text is in English.

Two texts say the same where letters, digits, combining marks and symbols agree. Case, punctuation and white space do not count.
Scripts that do not separate words by spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) are cut into characters, each with its
marks. Classes of characters are Unicode's, through the `regex` library; Python's own `re` leaves combining marks out of words.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

# letters of scripts that put no space between words, and the two marks of length and repetition that go with kana
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\u30FC\uFF70]"
CHARACTER = rf"(?:[{UNSPACED}&&[\p{{L}}\p{{Nl}}]]\p{{M}}*)"  # with its marks
LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}&&[\p{{L}}\p{{Nl}}]]]"  # or digit, of a script with spaces
SYMBOL = r"[\p{S}--[\p{Sk}|°®™©℠℗]]"  # <, >, ≤, +, ♀ …: "K+ > 5" is not "K+ < 5"

# "2.5", "1,000", "x-ray" and "mg/dl" are one word; a sign counts where a number follows and no word precedes. What stands together in a
# script without spaces is cut later.
WORD = regex.compile(
    rf"{CHARACTER}+|[{LETTER}_]+(?:[.,/'+-][{LETTER}_]+)*%?|[+-]\p{{Nd}}+(?:[.,]\p{{Nd}}+)*%?|{SYMBOL}",
    regex.V1,
)
# a hyphen that is a finding or a charge: behind an abbreviation ("HER2-", "IgG-", "Rh-"), or alone in brackets
NEGATIVE = regex.compile(
    r"(?<=(?<!\w)(?:\w*\p{L}\w*\p{Nd}|\w*\p{Nd}\w*\p{L}|\p{L}{1,2}|\w*\p{Lu}\w*\p{Lu}\w*))[-–](?![\w-]|\s(?:or|and|to|und|oder|bis|et|ou|y|o)\s)|(?<=\()[-–](?=\))"
)
ASCII_WORD = re.compile(r"\w+(?:[.,/'+-]\w+)*%?|[+-]\d+(?:[.,]\d+)*%?|[$+<=>~]", re.ASCII)  # the same of ASCII texts, faster
UNSPACED_RUN = regex.compile(rf"{CHARACTER}+", regex.V1)
CHARACTERS = regex.compile(CHARACTER, regex.V1)
TOKEN = regex.compile(rf"{CHARACTER}|{LETTER}+", regex.V1)
IGNORED = regex.compile(r"[\p{Cf}\u034F]")  # zero-width and direction marks, soft hyphens
VISIBLE = regex.compile(r"[^\s\p{Cc}\p{Cf}\p{Z}\p{Variation_Selector}\u034F\u115F\u1160\u17B4\u17B5\u2800\u3164\uFFA0]", regex.V1)
ENDS = regex.compile(r"^[\s\p{Cf}]+|[\s\p{Cf}]+$")
LINE_ENDS = regex.compile(r"\r\n|[\r\u0085\u2028\u2029]")
SUPERSCRIPT = regex.compile(r"(?<=\p{Nd})[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
FRACTION_AFTER_NUMBER = regex.compile(r"(?<=\p{Nd})(?=[¼-¾⅐-⅞])")
LEADING_POINT = regex.compile(r"(?<![\p{L}\p{N}.])\.(?=\p{Nd})")
# signs of one meaning in one form; Arabic's decimal point, thousands and percent; spaces that keep a number together
ONE_FORM = str.maketrans(
    {"−": "-", "‐": "-", "‑": "-", "⁄": "/", "’": "'", "٫": ".", "٬": ",", "٪": "%", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)

EN_DASH_MINUS = regex.compile(r"(?<![\w)])–(?=\p{Nd})")
SPACE_BEFORE_PERCENT = regex.compile(r"(?<=\p{Nd})\s+(?=%)")
LATIN = regex.compile(r"\p{Latin}")
OTHER_LETTER = regex.compile(r"[\p{L}--\p{Latin}]", regex.V1)
ACCENTED = regex.compile(r"[\p{Latin}--[A-Za-z]]", regex.V1)
ENGLISH = frozenset(
    ["the", "of", "and", "to", "with", "are", "is", "or", "that", "this", "from", "by", "be", "may", "can", "which", "should", "have", "has", "you", "your", "it", "for", "not", "when", "if", "they", "their", "what", "how", "does", "there"]
)  # fmt: skip
# the commonest small words of other languages in Latin letters, but for those that are English too
NOT_ENGLISH = frozenset(
    ["der", "das", "und", "ist", "nicht", "mit", "ein", "eine", "einer", "von", "zu", "bei", "werden", "wird", "oder", "sind", "auf", "für",
     "le", "la", "les", "des", "est", "une", "dans", "pour", "que", "avec", "du", "et", "ou", "sont", "par", "sur",
     "el", "los", "las", "y", "una", "con", "del", "por", "para", "como", "il", "di", "che", "della", "sono", "è",
     "em", "os", "não", "het", "een", "van", "voor", "og", "er", "av", "och", "att", "som", "är", "på", "jest", "nie", "się",
     "ve", "bir", "dan", "yang", "dengan", "untuk", "và", "của", "là", "ja"]
)  # fmt: skip
ENOUGH_WORDS = 8  # fewer say nothing of a language by their small words
SMALL_WORDS = 0.08  # of all words, from which they tell the language


def nfc(text: str) -> str:
    """Canonical composition: "é" is one character however it was written."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean(text: str) -> str:
    """A text of a file as it is kept: line ends of one kind, NFC, and nothing unseen before or behind it."""
    if text.isascii():
        return (LINE_ENDS.sub("\n", text) if "\r" in text else text).strip()
    return ENDS.sub("", unicodedata.normalize("NFC", LINE_ENDS.sub("\n", text.replace("\ufeff", ""))))


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: white space, zero-width characters, fillers."""
    return not VISIBLE.search(text)


def compatible(text: str) -> str:
    """Compatibility form (NFKC), signs of one meaning alike, and exponents and fractions apart from the number before them."""
    if text.isascii():
        return text
    text = FRACTION_AFTER_NUMBER.sub(" ", SUPERSCRIPT.sub(lambda match: f"^{match.group()}", text))
    return unicodedata.normalize("NFKC", IGNORED.sub("", text)).translate(ONE_FORM)


def comparable(text: str) -> str:
    """`compatible`, in lower case, with signs of findings ("HER2-") and of numbers told from hyphens."""
    text = compatible(text)
    if "-" in text or "–" in text:
        text = EN_DASH_MINUS.sub("-", NEGATIVE.sub("⊖", text))
    if "%" in text:
        text = SPACE_BEFORE_PERCENT.sub("", text)
    return LEADING_POINT.sub("0.", text).lower()


def words_of(text: str) -> list[str]:
    """Words by which texts are compared; decimals, ranges, signs, percents, accents and symbols are kept.

    Of a script without spaces, each two neighbouring characters are a word: single ones are too common to tell texts apart.
    """
    return _cut(comparable(text))


def _cut(text: str) -> list[str]:
    if text.isascii():
        return ASCII_WORD.findall(text)
    return [word for piece in WORD.findall(text) for word in (_pairs(piece) if UNSPACED_RUN.match(piece) else (piece,))]


def _pairs(run: str) -> list[str]:
    characters = CHARACTERS.findall(run)
    return [left + right for left, right in itertools.pairwise(characters)] or characters


def words_of_each(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The words of all texts in one list, and where each text's words begin and end in it.

    `words[bounds[i]:bounds[i + 1]]` are `words_of(texts[i])`. Faster over thousands of texts: a word never spans white space, so that
    each distinct piece between white space has to be cut into words once only.
    """
    pieces = pc.utf8_split_whitespace(pa.array([comparable(text) for text in texts], pa.string()))
    coded = pieces.flatten().dictionary_encode()
    words_of_piece = [_cut(piece) for piece in coded.dictionary.to_pylist()]
    sizes = np.array([len(words) for words in words_of_piece], np.int64)
    starts = np.cumsum(sizes) - sizes
    codes = coded.indices.to_numpy()
    counts = sizes[codes]
    ends = np.concatenate([[0], np.cumsum(counts)])
    # a piece's words stand at starts[code] and on; the text's words are those ranges one after the other
    places = np.repeat(starts[codes] - ends[:-1], counts) + np.arange(ends[-1])
    vocabulary = np.array([*itertools.chain.from_iterable(words_of_piece)], dtype=object)
    return vocabulary[places].tolist(), ends[pieces.offsets.to_numpy()].tolist()


def key_of_words(words: list[str]) -> int:
    """64-bit hash of a text's words, signed, as parquet stores it."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


@functools.lru_cache(maxsize=8192)
def tokens(text: str) -> tuple[str, ...]:
    """Tokens by which answers are scored: lower-case runs of letters, digits and marks, and single characters of scripts without spaces.

    Of ASCII texts these are rouge-score's tokens (without a stemmer).
    """
    return tuple(TOKEN.findall(nfc(text).lower()))


@functools.lru_cache(maxsize=8192)
def script_without_spaces(text: str) -> str:
    """What most letters of a text are: "Han", "other" (kana, Thai and their kin), or "" for scripts with spaces."""
    if text.isascii():
        return ""
    letters = regex.findall(r"\p{L}", text)
    unspaced = CHARACTERS.findall(text)
    if 2 * len(unspaced) <= len(letters):
        return ""
    return "Han" if all(regex.match(r"\p{Han}", character) for character in unspaced) else "other"


@functools.lru_cache(maxsize=8192)
def is_english(text: str) -> bool | None:
    """Whether a text is in English, by its letters and its small words; None where it is too short to tell."""
    latin, other = len(LATIN.findall(text)), 0 if text.isascii() else len(OTHER_LETTER.findall(text))
    if other > latin:
        return False
    words = tokens(text)
    small, foreign = sum(word in ENGLISH for word in words), sum(word in NOT_ENGLISH for word in words)
    if foreign > small and foreign > max(1, SMALL_WORDS * len(words)):
        return False
    if len(words) < ENOUGH_WORDS:
        return None
    if small > 1 and small >= SMALL_WORDS * len(words):
        return True
    accented = 0 if text.isascii() else len(ACCENTED.findall(text))
    return False if accented > 0.02 * latin else None
