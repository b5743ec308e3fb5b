"""Numbers with their units in a text, in the notations of many languages, so that two of them can be compared.

"0,5 mg", ".5 mg", "0.5 mg" and "500 µg" are one dose; "< 7%" and "> 7%" are not. Units are converted by pint. The tables of
words are ours (`quantity_words`).

How numbers are read:

- A comma or point with other than three digits behind it is decimal, and so is one behind a single 0.
- "1,500" is 1500, but 1.5 in a language that uses the decimal comma, or where another number of the text shows one.
- "1.500" is 1.5, but 1500 where "1,500" would be 1.5.
- A text too short to tell is read as the one it is compared with. Where neither tells, "1.500" agrees with 1.5 and with 1500.
- Spaces and apostrophes group thousands ("1 000", "1'000"), but not a count before a form of drug: "2 500 mg tablets" are two.
- "1:1000" is a dilution or a titre.
"""

from __future__ import annotations

import functools
import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import regex

from meerkat_workbench.text import quantity_words as words
from meerkat_workbench.text import texts

BODY_SURFACE = 1.73  # m², to which kidney function is scaled: a name, not a divisor
SAME_WITHIN = 1e-6  # of a value: conversions round
MOST_POWER = 30  # of ten: beyond it a number is no measurement
LOOK_BEHIND = 60  # characters before a number in which a bound or a label may stand


@dataclass(frozen=True)
class Quantity:
    """A number of a text.

    Attributes:
        value: as written, signs, exponents and "million" worked out.
        unit: "mg", "mg/kg/day"; empty for a bare number.
        bound: "<" where the text calls it a most, ">" where it calls it a least, else empty.
        instead: the value under the other reading of a comma or point, where nothing tells which is meant.
    """

    value: float
    unit: str
    bound: str = ""
    instead: float | None = None

    def __str__(self) -> str:
        return f"{self.bound}{self.value:.12g}{self.unit}"

    @property
    def readings(self) -> list[float]:
        return [self.value] if self.instead is None else [self.value, self.instead]

    @property
    def amount(self) -> str:
        """The unit without the time that it is given in: "mg/kg" of "mg/kg/day"."""
        first, *below = self.unit.split("/")
        return "/".join([first, *(part for part in below if part not in words.TIMES and part not in words.AT_A_TIME)])

    def same(self, other: Quantity) -> bool:
        """Whether both are one amount, whatever the units; a most and a least of it are two.

        Where both say in what time, the rates count: 15 mg a week are not 15 mg a day. Where one does not, the amounts do.
        """
        if {self.bound, other.bound} == {words.AT_MOST, words.AT_LEAST}:
            return False
        rates = all(set(q.unit.split("/")[1:]) & set(words.TIMES) for q in (self, other))
        left, right = (q.rate if rates else q.amount for q in (self, other))
        return _scale(left)[0] == _scale(right)[0] and any(
            _near(_base_value(left, one), _base_value(right, two)) for one in self.readings for two in other.readings
        )

    @property
    def rate(self) -> str:
        """The unit with its time: "mg/kg/day" of "mg/kg/day", "mg/day" of "mg/dose/day"."""
        first, *below = self.unit.split("/")
        return "/".join([first, *(part for part in below if part not in words.AT_A_TIME)])

    @property
    def kind(self) -> str:
        """Values that share this are alternatives to each other: drugs by dimension; a weight in kg is no dose, and days are not hours."""
        if self.unit in ("kg", "lb") or self.amount in (*words.TIMES, "times", ""):
            return self.amount
        return _scale(self.amount)[0]

    def powers_of_ten_from(self, other: Quantity) -> float:
        """How many powers of ten lie between two amounts of one kind; NaN where they cannot be compared so."""
        left, right = _base_value(self.amount, self.value), _base_value(other.amount, other.value)
        return math.log10(left / right) if left * right > 0 else math.nan

    @property
    def is_dose(self) -> bool:
        """Whether it may be an amount of a drug, or its strength."""
        return self.unit.partition("/")[0] in words.DOSES


def _base_value(unit: str, value: float) -> float:
    _, factor, offset = _scale(unit)
    return value * factor + offset


def _near(left: float, right: float) -> bool:
    return abs(left - right) <= SAME_WITHIN * max(abs(left), abs(right), 1e-300)


@functools.cache
def _registry() -> Any:
    """pint's units, and ours. Reading its definitions takes most of a second, once a process."""
    import pint

    registry: Any = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    for name in words.OWN_UNITS:
        registry.define(f"{name} = [{name}]")  # with milli- and its kin, as all units of pint
    return registry


@functools.cache
def _scale(unit: str) -> tuple[str, float, float]:
    """Dimension, and how a value of this unit becomes one of the dimension's base units: times the factor, plus the offset."""
    if not unit:
        return "", 1.0, 0.0
    registry = _registry()
    first, *below = unit.split("/")
    written = PINT.get(first, "dimensionless") + "".join(f" / ({PINT.get(part, part)})" for part in below)
    try:
        zero, one = (registry.Quantity(value, registry.parse_units(written)).to_base_units() for value in (0.0, 1.0))
    except Exception:  # a unit of degrees in a fraction has no one base: it compares with itself alone
        return unit, 1.0, 0.0
    # a dose for a weight has no dimension, and is no bare number
    dimension = str(one.dimensionality).replace("dimensionless", "ratio")
    return dimension, float(one.magnitude - zero.magnitude), float(zero.magnitude)


def _aliases_of(text: str) -> list[str]:
    found = [alias for alias in words.TWO_WORDS if f" {alias}" in f" {text}"]
    for alias in found:
        text = text.replace(alias, "")
    return [*found, *text.split()]


def _key(alias: str) -> str:
    return unicodedata.normalize("NFKC", alias).lower()


PINT = {written: name for name, written, _ in words.UNITS}
ALIASES: dict[str, str] = {}  # what texts write, in lower case, to what we write
CAPITALS: dict[str, str] = {}  # the same of those whose capitals count
for _, _ours, _all in words.UNITS:
    for _alias in [*([] if words.EXACT + _ours in _all.split() else [_ours]), *_aliases_of(_all)]:
        if _alias.startswith(words.EXACT):
            CAPITALS[_alias.removeprefix(words.EXACT)] = _ours
        else:
            ALIASES.setdefault(_key(_alias), _ours)
BELOW = ALIASES | words.DENOMINATOR_ONLY


def _pattern(aliases: Iterable[str], capitals: Iterable[str] = ()) -> str:
    """Alternatives, the longest first. A unit of a script with spaces ends where its word ends."""
    ordered = sorted(aliases, key=len, reverse=True)
    unspaced = [regex.escape(alias) for alias in ordered if texts.CHARACTERS.search(alias)]
    spaced = [regex.escape(alias) for alias in ordered if not texts.CHARACTERS.search(alias)]
    exact = [f"(?-i:{regex.escape(alias)})(?!\\.\\p{{L}})" for alias in sorted(capitals, key=len, reverse=True)]
    return rf"(?:(?:{'|'.join(unspaced) or '(?!)'})|(?:{'|'.join([*exact, *spaced])})(?:(?![{texts.LETTER}])|(?={words.ROUTES})))"


_TIMES = _pattern([alias for alias, written in BELOW.items() if written in words.TIMES])
_UNIT = _pattern(ALIASES, CAPITALS)
# "500 mg/125 mg" are two strengths, "5 mg/100 ml" is one
_BELOW = _pattern((alias for alias, ours in BELOW.items() if ours != "%"), CAPITALS)
_BELOW_COUNTED = _pattern(alias for alias, ours in BELOW.items() if ours in words.COUNTED_BELOW)
# "every 6 hours" says when, not how much: these alone part an amount from what it is for, and "a" before a time alone, since
# "10 mg a 20 mg" is a range
_PER_WORD, _A_TIME = r"per|pro|je|par|por", r"a|an|al|à la|la"
_COUNT = r"\d+(?:[ ']\d{3})*(?:[.,]\d+)*\s?"
_DIVISOR = rf"(?:{_BELOW}|{_COUNT}{_BELOW_COUNTED})"
_PER = rf"(?:\s?[/／∕]\s?{_DIVISOR}|\s(?:{_PER_WORD})\s{_DIVISOR}|\s(?:{_A_TIME})\s{_TIMES})"
_PER_ONE = rf"(?:\s?[/／∕]\s?{_BELOW}|\s(?:{_PER_WORD})\s{_BELOW}|\s(?:{_A_TIME})\s{_TIMES})"
# "daily", "once weekly", "every day", "am Tag", "в день"
_ADVERB = (
    rf"(?:\s(?:once|einmal|une fois|una vez|один раз))?\s(?:(?:{'|'.join(words.ADVERBS)})(?!\p{{L}})"
    rf"|(?:every|each|per|a|an|pro|par|por|al|à la|a la|в|am|jeden|jede|cada|chaque)\s{_TIMES})"
)
_of_spaced, _of_unspaced = (
    "|".join(
        regex.escape(word)
        for word in sorted(words.MULTIPLES, key=len, reverse=True)
        if bool(texts.CHARACTERS.search(word)) == unspaced
    )
    for unspaced in (False, True)
)
_MULTIPLE = rf"\s?(?P<multiple>(?:{_of_unspaced})|(?:{_of_spaced})(?!\p{{L}}))"
_ALPHABETIC = r"\p{Latin}\p{Greek}\p{Cyrillic}\p{N}_"
NUMBER = regex.compile(
    rf"(?:(?<![{_ALPHABETIC}])|(?<=\bq)(?=\d{{1,2}}[hdw]\b)|(?<=\d\s?[x×]))(?<!\p{{Nd}}[.,:])"
    r"(?P<sign>(?<![\p{L}\p{N}\p{M}.,)%°-])(?<!\d\s)[-+](?=[\d.]))?"
    r"(?P<number>1\s?:\s?[1-9]\d{0,2}(?:[ ,.']?\d{3})+(?!\d)|1\s?:\s?[1-9]\d\d(?!\d)"  # a dilution, "1:1000"
    r"|(?:\d+\s)?(?:1/[2348]|2/3|3/[48]|[57]/8)(?![\d/])"  # "1/2", "2 3/4"
    r"|\d{1,3}(?:[ ']\d{3})+(?!\d)(?:[.,]\d+)?"
    r"|\d{1,2}(?:,\d\d)+,\d{3}(?!\d)"  # India's groups
    r"|\d+(?:[.,]\d+)*"
    r"|(?<![\p{L}\p{N}.])\.\d+)"
    r"(?:\s?[x×·*]\s?10(?:[\^*]\s?(?P<power>[-+]?\d+)|(?P<flat>3|6|9|12)(?=\s?/\s?[lL]))|\^(?P<exponent>[-+]?\d+)|e(?P<e>[-+]?\d{1,3})(?![\d.]))?"
    rf"(?:{_MULTIPLE})?"
    rf"(?P<plus>\+(?=\s?\p{{L}}))?(?:(?P<gap>[\s-])?(?P<unit>{_UNIT})(?P<per>{_PER}{{0,3}}(?:{_ADVERB})?)|(?P<rate>{_PER_ONE}{{0,3}}))",
    regex.V1 | regex.IGNORECASE,
)
PER_PART = regex.compile(
    rf"(?:\s?[/／∕]\s?|\s(?:{_PER_WORD}|{_A_TIME})\s)(?P<count>\d(?:[\d., ']*\d)?)?\s?(?P<unit>{_BELOW})",
    regex.V1 | regex.IGNORECASE,
)
UNIT_BEFORE = regex.compile(r"(?<![\p{L}\p{N}]|\d\s)(?P<unit>mg|mcg|µg|ml|g|UI)\s$")
ADVERB_AT_END = regex.compile(rf"\s(?:(?P<adverb>{'|'.join(words.ADVERBS)})|(?P<time>{_TIMES}))$", regex.V1 | regex.IGNORECASE)
BOUND_SIGN = {bound: regex.compile(rf"(?:{signs})\s*$") for bound, signs in words.SIGNS.items()}
_AGE_OR_ABOUT = r"(?:about |approximately |the |de |von |age |ages |the age of |age of )?"
BOUND_COMPARED, BOUND_STATED = (
    {
        bound: regex.compile(rf"(?<![{_ALPHABETIC}])(?:{alternatives})\s?{_AGE_OR_ABOUT}$", regex.IGNORECASE)
        for bound, alternatives in table.items()
    }
    for table in (words.COMPARED, words.STATED)
)
BOUND_AFTER = {
    bound: regex.compile(rf"\s?(?:{alternatives})", regex.IGNORECASE) for bound, alternatives in words.WORDS_AFTER.items()
}
# numbers that show what a comma is; "1,25-dihydroxy" is a name
SURE_COMMA = regex.compile(r"(?<![\d.,])(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))(?![\d.,]|-\p{L})|\d\.\d{3},\d")
SURE_POINT = regex.compile(r"(?<![\d.,])(?:0\.\d+|\d+\.(?:\d{1,2}|\d{4,}))(?![\d.,])|\d,\d{3}\.\d")
MARKDOWN = regex.compile(r"\*\*|__|(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])|`")
DECIMAL_DOT = regex.compile(r"(?<=\p{Nd})[·∙‧˙،](?=\p{Nd})(?!10[\^⁺⁻⁰¹²³⁴-⁹])")  # "0·5 mg" in older British print
FOOTNOTE = regex.compile(r"\p{L}\.$")  # "illness.2 Addressing"
AMBIGUOUS = regex.compile(r"\d[.,]\d{3}(?!\d)")
NUMBER_MAY_BEGIN = re.compile(r"[-+]?\.?\d")
TWO_GROUPS = re.compile(r"\d{1,3} \d{3}")
DECIMAL_COMMA_SCRIPT = regex.compile(r"[\p{Latin}\p{Cyrillic}\p{Greek}]")


def find(text: str) -> tuple[Quantity, ...]:
    """Every number of a text with its unit, in order; the first of a range takes the unit of the last."""
    text = _plain(text)
    return _find(text, _decimal_comma(text) if AMBIGUOUS.search(text) else False)


def find_in_both(reference: str, answer: str) -> tuple[tuple[Quantity, ...], tuple[Quantity, ...]]:
    """Numbers of two texts that speak of the same: where one does not tell how its commas are read, they are read as the other's."""
    left, right = _plain(reference), _plain(answer)
    if not AMBIGUOUS.search(left) and not AMBIGUOUS.search(right):  # as in most texts: then nothing has to be told
        return _find(left, False), _find(right, False)
    of_left, of_right = _decimal_comma(left), _decimal_comma(right)
    return _find(left, of_right if of_left is None else of_left), _find(right, of_left if of_right is None else of_right)


def _plain(text: str) -> str:
    """ASCII digits and one form of signs, spaces and units; no marks of HTML and Markdown."""
    if "&" in text:
        text = html.unescape(text)
    text = MARKDOWN.sub("", text)
    if not text.isascii():
        text = texts.compatible(DECIMAL_DOT.sub(".", text))
        text = "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text).replace("ſ", "s")
    return " ".join(text.split())


@functools.lru_cache(maxsize=8192)
def _decimal_comma(text: str) -> bool | None:
    """Whether a comma before three digits is decimal in this text; None where nothing tells."""
    english = texts.is_english(text)
    if english:
        return False
    comma, point = bool(SURE_COMMA.search(text)), bool(SURE_POINT.search(text))
    if comma != point:
        return comma
    if english is None:
        return None
    return not texts.script_without_spaces(text) and bool(DECIMAL_COMMA_SCRIPT.search(text))


@functools.lru_cache(maxsize=16384)
def _find(text: str, decimal_comma: bool | None) -> tuple[Quantity, ...]:
    found: list[Quantity] = []
    # numbers without a unit, which a joined one behind may bring, and whether each is an age
    open_ones: list[tuple[int, bool]] = []
    end_before = -1
    for match in _matches(text):
        unit, divisor = _unit_of(match, decimal_comma=bool(decimal_comma))
        if end_before < 0 or not words.JOIN.fullmatch(text[end_before : match.start()]):
            open_ones = []
        end_before = match.end()
        if unit:
            for place, aged in open_ones:
                if aged and unit not in words.TIMES:
                    continue
                one = found[place]
                instead = None if one.instead is None else one.instead / divisor
                found[place] = replace(one, value=one.value / divisor, instead=instead, unit=unit)
            open_ones = []
        before = _before(match)
        if not unit and FOOTNOTE.search(before):
            continue
        bound = _bound(match, unit)
        labelled, aged = bool(words.LABEL.search(before)), bool(words.AGE.search(before))
        values = _worked_out(match, decimal_comma=bool(decimal_comma))
        # "1.500" may be a German's 1500; "1,500" with three decimals is hardly ever written of a dose
        undecided = decimal_comma is None and "," not in match.group("number")
        others = _worked_out(match, decimal_comma=True) if undecided else values
        for value, other in zip(values, others, strict=True):
            if not unit and value not in words.YEARS and not labelled:
                open_ones.append((len(found), aged))
            found.append(Quantity(value / divisor, unit, bound, other / divisor if other != value else None))
    return tuple(found)


def _matches(text: str) -> list[Any]:
    """Matches of NUMBER. Digits with a space between them are one number or two: "2 500 mg tablets" are two, and so is "day 1 500 mg"."""
    found = []
    at = 0
    # the long pattern is tried where a number may begin, and nowhere else
    while start := NUMBER_MAY_BEGIN.search(text, at):
        match = NUMBER.match(text, start.start()) or NUMBER.match(text, start.end() - 1)
        if match is None:
            at = start.end()
            continue
        at = match.end()
        written = match.group("number")
        if TWO_GROUPS.fullmatch(written) and (
            (match.group("unit") and words.FORM_BEHIND.match(text, match.end()))
            or (texts.is_english(text) and not written.endswith(" 000"))
            or words.LABEL.search(_before(match))
        ):
            space = match.start("number") + written.index(" ")
            found += [one for one in (NUMBER.match(text, match.start(), space), NUMBER.match(text, space + 1)) if one]
            continue
        found.append(match)
    return found


def _worked_out(match: Any, *, decimal_comma: bool) -> list[float]:
    """What a match is worth: several where it is a list, none where it is no number that can be measured."""
    found = []
    for value in _values(match.group("number"), decimal_comma=decimal_comma):
        power = int(next((match.group(name) for name in ("power", "flat", "exponent", "e") if match.group(name)), 0))
        if abs(power) > MOST_POWER or (match.group("exponent") and not value):
            continue
        if match.group("exponent"):
            value = value**power
        elif power:
            value = float(f"{value:.15g}e{power}")
        if match.group("multiple"):
            value *= words.MULTIPLES[match.group("multiple").lower()]
        if math.isfinite(value):  # a model that repeats itself may write a thousand digits
            found.append(-value if match.group("sign") == "-" else value)
    return found


def _values(written: str, *, decimal_comma: bool) -> list[float]:
    """What a written number is worth; several where it is a list without spaces ("1,2,3"), none where it is no number ("1.2.3")."""
    if ":" in written:  # 1 in 1,000
        return [1 / int(re.sub(r"\D", "", written.partition(":")[2]))]
    if "/" in written:
        whole, _, fraction = written.rpartition(" ")
        above, _, below = fraction.partition("/")
        return [float(whole or 0) + int(above) / int(below)]
    digits = written.replace(" ", "").replace("'", "")
    commas, points = digits.count(","), digits.count(".")
    if commas and points:
        mark, other = (",", ".") if digits.rfind(",") > digits.rfind(".") else (".", ",")
        if digits.count(mark) > 1:
            return []
        return [float(digits.replace(other, "").replace(mark, "."))]
    mark = "," if commas else "."
    parts = digits.split(mark)
    if len(parts) == 1:
        return [float(digits)]
    thousands = len(parts[0]) <= 3 and parts[0].strip("0") and all(len(part) == 3 for part in parts[1:])
    if len(parts) > 2:
        if mark == "," and len(parts[-1]) == 3 and all(len(part) == 2 for part in parts[1:-1]) and len(parts[0]) <= 2:
            return [float("".join(parts))]  # "1,00,000"
        if thousands:
            return [float("".join(parts))]
        return [float(part) for part in parts] if mark == "," else []
    if thousands and (mark == ",") != decimal_comma:
        return [float("".join(parts))]
    return [float(".".join(part or "0" for part in parts))]


def _unit_of(match: Any, *, decimal_comma: bool) -> tuple[str, float]:
    """The unit as we write it, and by what the number is divided where it is for several: "5 mg/100 ml"."""
    unit = _written(match.group("unit"), ALIASES) if match.group("unit") else "dilution" if ":" in match.group("number") else ""
    if unit and _part_of_a_name(match):
        unit = ""
    if not unit and (before := UNIT_BEFORE.search(match.string, max(0, match.start() - LOOK_BEHIND), match.start())):
        unit = _written(before.group("unit"), ALIASES)  # "mg 5", as in Italian
    divisor = 1.0
    per = match.group("per") or match.group("rate") or ""
    below = []
    for part in PER_PART.finditer(per):
        below.append(_written(part.group("unit"), BELOW))
        counts = _values(part.group("count"), decimal_comma=decimal_comma) if part.group("count") else []
        if len(counts) == 1 and counts[0] and not (below[-1] == "m2" and counts[0] == BODY_SURFACE):
            divisor *= counts[0]
    if (adverb := ADVERB_AT_END.search(per)) and not set(below) & set(words.TIMES):
        by_adverb = words.ADVERBS.get((adverb.group("adverb") or "").lower())
        below.append(by_adverb or _written(adverb.group("time"), BELOW))
    return "/".join([unit, *below]), divisor


def _part_of_a_name(match: Any) -> bool:
    """Whether a single letter directly behind a number is no unit: "type 2L", "44U-QUIT"."""
    if len(match.group("unit") or "") != 1 or match.group("gap") or not match.group("unit").isalpha():
        return False
    return bool(words.LABEL.search(_before(match))) or match.string[match.end() : match.end() + 1] == "-"


def _written(alias: str, aliases: Mapping[str, str]) -> str:
    return CAPITALS.get(alias) or aliases[_key(alias)]


def _before(match: Any) -> str:
    """The text before a number, as far as it may say something of it."""
    return str(match.string[max(0, match.start() - LOOK_BEHIND) : match.start()])


def _bound(match: Any, unit: str) -> str:
    """Whether the words around a number make it a most or a least."""
    before = _before(match)
    for bound, pattern in BOUND_SIGN.items():
        if sign := pattern.search(before):
            return _other(bound) if words.NEGATION_BESIDE.search(before[: sign.start()]) else bound
    compared = [(found.start(), bound, found) for bound, pattern in BOUND_COMPARED.items() if (found := pattern.search(before))]
    stated = [(found.start(), bound) for bound, pattern in BOUND_STATED.items() if (found := pattern.search(before))]
    if compared and (not stated or min(compared, key=_first)[0] <= min(stated, key=_first)[0]):
        start, bound, found = min(compared, key=_first)
        if found.group().startswith("over") and (unit in words.TIMES or before[:start].rstrip()[-1:].isdigit()):
            return ""  # "over 30 minutes" is how long, "120 over 80" a pressure
        if words.NEGATION_BESIDE.search(before[:start]):
            return _other(bound)
        # "not recommended under 5 years" may be said as "for children above 5 years", or as "contraindicated under 5 years"
        return "" if words.NEGATION_NEAR.search(before[:start]) else bound
    if stated:
        return min(stated, key=_first)[1]
    if match.group("plus"):
        return words.AT_LEAST
    after = next((bound for bound, pattern in BOUND_AFTER.items() if pattern.match(match.string, match.end())), "")
    return "" if words.NEGATION_NEAR.search(before) else after


def _first(said: tuple[Any, ...]) -> tuple[int, str]:
    return said[0], said[1]


def _other(bound: str) -> str:
    return words.AT_LEAST if bound == words.AT_MOST else words.AT_MOST
