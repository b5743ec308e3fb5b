"""Text normalisation for comparisons: one Unicode form, words of any script, and detection of English.

Two texts are equal if their letters, digits, combining marks and symbols agree. Case, punctuation and white space do not count.
Scripts that do not separate words by spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan) are cut into characters, each with its
combining marks. Character classes are Unicode's, from the `regex` library; Python's own `re` leaves combining marks out of words.
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

# letters of scripts without spaces between words, and the two length marks of kana (full and half width)
UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\u30FC\uFF70]"
CHARACTER = rf"(?:[{UNSPACED}&&[\p{{L}}\p{{Nl}}]]\p{{M}}*)"  # of a script without spaces, with its combining marks
LETTER = rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{UNSPACED}&&[\p{{L}}\p{{Nl}}]]]"  # letter, mark or digit of a script with spaces
SYMBOL = r"[\p{S}--[\p{Sk}|°®™©℠℗]]"  # <, >, ≤, +, ♀ …: "K+ > 5" is not "K+ < 5"

# "2.5", "1,000", "x-ray" and "mg/dl" are one word each; a sign belongs to the number after it unless a word precedes it. A run of
# characters of a script without spaces is one match, which is cut later.
WORD = regex.compile(
    rf"{CHARACTER}+|[{LETTER}_]+(?:[.,/'+-][{LETTER}_]+)*%?|[+-]\p{{Nd}}+(?:[.,]\p{{Nd}}+)*%?|{SYMBOL}",
    regex.V1,
)
# a hyphen that means "negative" or a charge: after an abbreviation ("HER2-", "IgG-", "Rh-"), or alone in brackets
NEGATIVE_SIGN = regex.compile(
    r"(?<=(?<!\w)(?:\w*\p{L}\w*\p{Nd}|\w*\p{Nd}\w*\p{L}|\p{L}{1,2}|\w*\p{Lu}\w*\p{Lu}\w*))[-–](?![\w-]|\s(?:or|and|to|und|oder|bis|et|ou|y|o)\s)|(?<=\()[-–](?=\))"
)
ASCII_WORD = re.compile(r"\w+(?:[.,/'+-]\w+)*%?|[+-]\d+(?:[.,]\d+)*%?|[$+<=>~]", re.ASCII)  # WORD for ASCII texts, faster
UNSPACED_RUN = regex.compile(rf"{CHARACTER}+", regex.V1)
CHARACTERS = regex.compile(CHARACTER, regex.V1)
TOKEN = regex.compile(rf"{CHARACTER}|{LETTER}+", regex.V1)
RUN = regex.compile(rf"{CHARACTER}+|{LETTER}+", regex.V1)
INVISIBLE = regex.compile(r"[\p{Cf}\u034F]")  # zero-width and direction marks, soft hyphens
VISIBLE = regex.compile(r"[^\s\p{Cc}\p{Cf}\p{Z}\p{Variation_Selector}\u034F\u115F\u1160\u17B4\u17B5\u2800\u3164\uFFA0]", regex.V1)
INVISIBLE_ENDS = regex.compile(r"^[\s\p{Cf}]+|[\s\p{Cf}]+$")
LINE_ENDS = regex.compile(r"\r\n|[\r\u0085\u2028\u2029]")
SUPERSCRIPT = regex.compile(r"(?<=\p{Nd})[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+")
FRACTION_AFTER_NUMBER = regex.compile(r"(?<=\p{Nd})(?=[¼-¾⅐-⅞])")
LEADING_POINT = regex.compile(r"(?<![\p{L}\p{N}.])\.(?=\p{Nd})")
# variants of hyphen, fraction slash and apostrophe; Arabic decimal, thousands and percent signs; no-break and thin spaces
SIGN_FORMS = str.maketrans(
    {"−": "-", "‐": "-", "‑": "-", "⁄": "/", "’": "'", "٫": ".", "٬": ",", "٪": "%", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)

EN_DASH_MINUS = regex.compile(r"(?<![\w)])–(?=\p{Nd})")
SPACE_BEFORE_PERCENT = regex.compile(r"(?<=\p{Nd})\s+(?=%)")
LATIN = regex.compile(r"\p{Latin}")
OTHER_LETTER = regex.compile(r"[\p{L}--\p{Latin}]", regex.V1)
ACCENTED = regex.compile(r"[\p{Latin}--[A-Za-z]]", regex.V1)
ENGLISH_FUNCTION_WORDS = frozenset(
    ["the", "of", "and", "to", "with", "are", "is", "or", "that", "this", "from", "by", "be", "may", "can", "which", "should", "have", "has", "you", "your", "it", "for", "not", "when", "if", "they", "their", "what", "how", "does", "there"]
)  # fmt: skip
# the commonest function words of other languages in Latin script, without those that are English words too
FOREIGN_FUNCTION_WORDS = frozenset(
    ["der", "das", "und", "ist", "nicht", "mit", "ein", "eine", "einer", "von", "zu", "bei", "werden", "wird", "oder", "sind", "auf", "für",
     "le", "la", "les", "des", "est", "une", "dans", "pour", "que", "avec", "du", "et", "ou", "sont", "par", "sur",
     "el", "los", "las", "y", "una", "con", "del", "por", "para", "como", "il", "di", "che", "della", "sono", "è",
     "em", "os", "não", "het", "een", "van", "voor", "og", "er", "av", "och", "att", "som", "är", "på", "jest", "nie", "się",
     "ve", "bir", "dan", "yang", "dengan", "untuk", "và", "của", "là", "ja"]
)  # fmt: skip
MIN_WORDS = 8  # the function words of a shorter text do not tell its language
MIN_FUNCTION_WORD_FRACTION = 0.08  # of all words; from here on function words tell the language
MAX_ACCENTED_FRACTION = 0.02  # of Latin letters; a text with more of them is not English


def nfc(text: str) -> str:
    """Canonical composition (NFC): "é" is one character, however it was encoded."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def clean(text: str) -> str:
    """A text from a file in the form in which it is stored: NFC, \\n line ends, no white space or invisible characters at its ends."""
    if text.isascii():
        return (LINE_ENDS.sub("\n", text) if "\r" in text else text).strip()
    return INVISIBLE_ENDS.sub("", unicodedata.normalize("NFC", LINE_ENDS.sub("\n", text.replace("\ufeff", ""))))


def is_blank(text: str) -> bool:
    """Whether a text has no visible character: only white space, zero-width characters and fillers."""
    return not VISIBLE.search(text)


def compatible(text: str) -> str:
    """Compatibility form (NFKC) with one form of each sign, and with exponents and fractions separated from the number before them."""
    if text.isascii():
        return text
    text = FRACTION_AFTER_NUMBER.sub(" ", SUPERSCRIPT.sub(lambda match: f"^{match.group()}", text))
    return unicodedata.normalize("NFKC", INVISIBLE.sub("", text)).translate(SIGN_FORMS)


def comparable(text: str) -> str:
    """`compatible` in lower case, with the minus of findings ("HER2-") and of numbers distinguished from hyphens."""
    text = compatible(text)
    if "-" in text or "–" in text:
        text = EN_DASH_MINUS.sub("-", NEGATIVE_SIGN.sub("⊖", text))
    if "%" in text:
        text = SPACE_BEFORE_PERCENT.sub("", text)
    return LEADING_POINT.sub("0.", text).lower()


def words_of(text: str) -> list[str]:
    """Words for comparing texts; decimals, ranges, signs, percents, accents and symbols are kept.

    In a script without spaces, each pair of neighbouring characters is a word: single characters are too common to tell texts apart.
    """
    return _cut_into_words(comparable(text))


def _cut_into_words(text: str) -> list[str]:
    if text.isascii():
        return ASCII_WORD.findall(text)
    return [word for piece in WORD.findall(text) for word in (_character_pairs(piece) if UNSPACED_RUN.match(piece) else (piece,))]


def _character_pairs(run: str) -> list[str]:
    characters = CHARACTERS.findall(run)
    return [left + right for left, right in itertools.pairwise(characters)] or characters


def words_of_each(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """The words of all texts in one list, and the bounds of each text in it: `words[bounds[i]:bounds[i + 1]] == words_of(texts[i])`.

    Faster than `words_of` for thousands of texts: a word never spans white space, so each distinct piece between white space is cut into
    words only once.
    """
    pieces = pc.utf8_split_whitespace(pa.array([comparable(text) for text in texts], pa.string()))
    coded = pieces.flatten().dictionary_encode()
    words_of_piece = [_cut_into_words(piece) for piece in coded.dictionary.to_pylist()]
    sizes = np.array([len(words) for words in words_of_piece], np.int64)
    starts = np.cumsum(sizes) - sizes
    codes = coded.indices.to_numpy()
    counts = sizes[codes]
    ends = np.concatenate([[0], np.cumsum(counts)])
    # the words of a piece begin at starts[code]; the texts' words are these ranges, one after the other
    places = np.repeat(starts[codes] - ends[:-1], counts) + np.arange(ends[-1])
    vocabulary = np.array([*itertools.chain.from_iterable(words_of_piece)], dtype=object)
    return vocabulary[places].tolist(), ends[pieces.offsets.to_numpy()].tolist()


def key_of_words(words: list[str]) -> int:
    """64-bit hash of a text's words, as a signed integer for Parquet."""
    return int.from_bytes(hashlib.sha256(" ".join(words).encode("utf-8", "surrogatepass")).digest()[:8], "big", signed=True)


@functools.lru_cache(maxsize=8192)
def tokens(text: str) -> tuple[str, ...]:
    """Tokens for scoring answers: lower-case runs of letters, digits and marks, and single characters of scripts without spaces.

    For ASCII texts these are the tokens of rouge-score (without a stemmer).
    """
    return tuple(TOKEN.findall(nfc(text).lower()))


def runs(text: str) -> list[str]:
    """Like `tokens`, but neighbouring characters of a script without spaces are one, so that their order counts."""
    return RUN.findall(nfc(text).lower())


@functools.lru_cache(maxsize=8192)
def script_without_spaces(text: str) -> str:
    """The script of most letters: "Han", "other" (another script without spaces, such as kana or Thai), or "" for scripts with spaces."""
    if text.isascii():
        return ""
    letters = regex.findall(r"\p{L}", text)
    unspaced = CHARACTERS.findall(text)
    if 2 * len(unspaced) <= len(letters):
        return ""
    return "Han" if all(regex.match(r"\p{Han}", character) for character in unspaced) else "other"


@functools.lru_cache(maxsize=8192)
def is_english(text: str) -> bool | None:
    """Whether a text is in English, judged by its letters and function words; None if these do not tell."""
    latin, other = len(LATIN.findall(text)), 0 if text.isascii() else len(OTHER_LETTER.findall(text))
    if other > latin:
        return False
    words = tokens(text)
    english = sum(word in ENGLISH_FUNCTION_WORDS for word in words)
    foreign = sum(word in FOREIGN_FUNCTION_WORDS for word in words)
    if foreign > english and foreign > max(1, MIN_FUNCTION_WORD_FRACTION * len(words)):
        return False
    if len(words) < MIN_WORDS:
        return None
    if english > 1 and english >= MIN_FUNCTION_WORD_FRACTION * len(words):
        return True
    accented = 0 if text.isascii() else len(ACCENTED.findall(text))
    return False if accented > MAX_ACCENTED_FRACTION * latin else None
