"""Quantities in a text: numbers with their units, in the notations of many languages, in a form that can be compared.

"0,5 mg", ".5 mg", "0.5 mg" and "500 µg" are one dose; "< 7%" and "> 7%" are two different values. pint converts the units; the word
tables are our own (`quantity_words`).

How numbers are read:

- A comma or point is decimal if it is followed by a number of digits other than three, or preceded by a single 0.
- "1,500" is 1500. It is 1.5 in a language that uses the decimal comma, or if another number of the text shows a decimal comma.
- "1.500" is 1.5. It is 1500 if "1,500" would be 1.5.
- A text too short to tell is read like the text it is compared with. If neither tells, "1.500" agrees with both 1.5 and 1500.
- Spaces and apostrophes group thousands ("1 000", "1'000"), but do not join a count to a strength: "2 500 mg tablets" are two tablets.
- "1:1000" is a dilution or a titre.
"""

from __future__ import annotations

import functools
import html
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import regex

from meerkat_workbench.text import quantity_words as words
from meerkat_workbench.text import texts

STANDARD_BODY_SURFACE = 1.73  # m²; kidney function is given per 1.73 m², which is part of the unit and no divisor
RELATIVE_TOLERANCE = 1e-6  # between equal values; unit conversions round
MAX_EXPONENT = 30  # a number with a larger exponent is no measurement
LOOK_BEHIND_CHARS = 60  # characters before a number that are searched for a bound or a label


@dataclass(frozen=True)
class Quantity:
    """A number in a text.

    Attributes:
        value: the number in its written unit, with sign, exponent and words such as "million" applied.
        unit: "mg", "mg/kg/day"; empty for a bare number.
        bound: "<" for an upper bound, ">" for a lower bound, else empty.
        instead: the value under the other reading of the comma or point, if the text does not tell which one is meant.
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
        """The unit without its time: "mg/kg" for "mg/kg/day"."""
        numerator, *denominators = self.unit.split("/")
        kept = (part for part in denominators if part not in words.TIME_UNITS and part not in words.SINGLE_DOSES)
        return "/".join([numerator, *kept])

    def same(self, other: Quantity) -> bool:
        """Whether both are the same quantity, in any units; an upper bound never equals a lower bound.

        If both units have a time, rates are compared: 15 mg a week is not 15 mg a day. Otherwise amounts are compared.
        """
        if {self.bound, other.bound} == {words.AT_MOST, words.AT_LEAST}:
            return False
        both_have_time = all(set(q.unit.split("/")[1:]) & set(words.TIME_UNITS) for q in (self, other))
        left, right = (q.rate if both_have_time else q.amount for q in (self, other))
        return _scale(left)[0] == _scale(right)[0] and any(
            _close(_base_value(left, one), _base_value(right, two)) for one in self.readings for two in other.readings
        )

    @property
    def rate(self) -> str:
        """The unit with its time: "mg/kg/day" for "mg/kg/day", "mg/day" for "mg/dose/day"."""
        numerator, *denominators = self.unit.split("/")
        return "/".join([numerator, *(part for part in denominators if part not in words.SINGLE_DOSES)])

    @property
    def kind(self) -> str:
        """Quantities of one kind can contradict each other: doses of one dimension do; a weight in kg is no dose, and days are not hours."""
        if self.unit in ("kg", "lb") or self.amount in (*words.TIME_UNITS, "times", ""):
            return self.amount
        return _scale(self.amount)[0]

    def powers_of_ten_from(self, other: Quantity) -> float:
        """log10 of the ratio of two amounts of one kind; NaN if the ratio is not positive."""
        left, right = _base_value(self.amount, self.value), _base_value(other.amount, other.value)
        return math.log10(left / right) if left * right > 0 else math.nan

    @property
    def is_dose(self) -> bool:
        """Whether this may be an amount or a strength of a drug."""
        return self.unit.partition("/")[0] in words.DOSE_UNITS


def _base_value(unit: str, value: float) -> float:
    _, factor, offset = _scale(unit)
    return value * factor + offset


def _close(left: float, right: float) -> bool:
    return abs(left - right) <= RELATIVE_TOLERANCE * max(abs(left), abs(right), 1e-300)


@functools.cache
def _registry() -> Any:
    """pint's units and our own. Reading pint's definitions takes most of a second, once per process."""
    import pint

    registry: Any = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    for name in words.OWN_UNITS:
        registry.define(f"{name} = [{name}]")  # pint adds milli- and the other prefixes
    return registry


@functools.cache
def _scale(unit: str) -> tuple[str, float, float]:
    """Dimension, factor and offset of a unit: value * factor + offset is the value in the dimension's base units."""
    if not unit:
        return "", 1.0, 0.0
    registry = _registry()
    numerator, *denominators = unit.split("/")
    expression = PINT_NAMES.get(numerator, "dimensionless") + "".join(
        f" / ({PINT_NAMES.get(part, part)})" for part in denominators
    )
    try:
        zero, one = (registry.Quantity(value, registry.parse_units(expression)).to_base_units() for value in (0.0, 1.0))
    except Exception:  # degrees in a fraction have no single base unit: such a unit is comparable with itself only
        return unit, 1.0, 0.0
    # mg/kg is dimensionless to pint, but must not compare with bare numbers
    dimension = str(one.dimensionality).replace("dimensionless", "ratio")
    return dimension, float(one.magnitude - zero.magnitude), float(zero.magnitude)


def _aliases_of(text: str) -> list[str]:
    multiword = [alias for alias in words.MULTIWORD_ALIASES if f" {alias}" in f" {text}"]
    for alias in multiword:
        text = text.replace(alias, "")
    return [*multiword, *text.split()]


def _key(alias: str) -> str:
    return unicodedata.normalize("NFKC", alias).lower()


PINT_NAMES = {unit: name for name, unit, _ in words.UNITS}  # our abbreviation to pint's name
ALIASES: dict[str, str] = {}  # alias in lower case to our abbreviation
CASE_SENSITIVE_ALIASES: dict[str, str] = {}  # the same for aliases whose capitals count
for _, _unit, _listed in words.UNITS:
    for _alias in [*([] if words.CASE_SENSITIVE + _unit in _listed.split() else [_unit]), *_aliases_of(_listed)]:
        if _alias.startswith(words.CASE_SENSITIVE):
            CASE_SENSITIVE_ALIASES[_alias.removeprefix(words.CASE_SENSITIVE)] = _unit
        else:
            ALIASES.setdefault(_key(_alias), _unit)
DENOMINATOR_ALIASES = ALIASES | words.DENOMINATOR_ONLY


def _pattern(aliases: Iterable[str], case_sensitive: Iterable[str] = ()) -> str:
    """Alternatives, the longest first. In a script with spaces a unit must end at the end of a word."""
    ordered = sorted(aliases, key=len, reverse=True)
    unspaced = [regex.escape(alias) for alias in ordered if texts.CHARACTERS.search(alias)]
    spaced = [regex.escape(alias) for alias in ordered if not texts.CHARACTERS.search(alias)]
    exact = [f"(?-i:{regex.escape(alias)})(?!\\.\\p{{L}})" for alias in sorted(case_sensitive, key=len, reverse=True)]
    return rf"(?:(?:{'|'.join(unspaced) or '(?!)'})|(?:{'|'.join([*exact, *spaced])})(?:(?![{texts.LETTER}])|(?={words.ROUTE_OR_COUNT})))"


_TIME = _pattern([alias for alias, unit in DENOMINATOR_ALIASES.items() if unit in words.TIME_UNITS])
_UNIT = _pattern(ALIASES, CASE_SENSITIVE_ALIASES)
_DENOMINATOR = _pattern((alias for alias, unit in DENOMINATOR_ALIASES.items() if unit != "%"), CASE_SENSITIVE_ALIASES)
# only some units may have a count: "5 mg/100 ml" is one strength, but "500 mg/125 mg" are two
_COUNTED_DENOMINATOR = _pattern(alias for alias, unit in DENOMINATOR_ALIASES.items() if unit in words.COUNTABLE_DENOMINATORS)
# words that begin a denominator. "every" is none, since "every 6 hours" is a schedule and no rate; "a" is one only before a time, since
# "10 mg a 20 mg" is a range
_PER_WORD, _PER_TIME_WORD = r"per|pro|je|par|por", r"a|an|al|à la|la"
_COUNT = r"\d+(?:[ ']\d{3})*(?:[.,]\d+)*\s?"
_DIVISOR = rf"(?:{_DENOMINATOR}|{_COUNT}{_COUNTED_DENOMINATOR})"
_PER = rf"(?:\s?[/／∕]\s?{_DIVISOR}|\s(?:{_PER_WORD})\s{_DIVISOR}|\s(?:{_PER_TIME_WORD})\s{_TIME})"
_PER_ONE = rf"(?:\s?[/／∕]\s?{_DENOMINATOR}|\s(?:{_PER_WORD})\s{_DENOMINATOR}|\s(?:{_PER_TIME_WORD})\s{_TIME})"
# "daily", "once weekly", "every day", "am Tag", "в день"
_TIME_PHRASE = (
    rf"(?:\s(?:once|einmal|une fois|una vez|один раз))?\s(?:(?:{'|'.join(words.TIME_ADVERBS)})(?!\p{{L}})"
    rf"|(?:every|each|per|a|an|pro|par|por|al|à la|a la|в|am|jeden|jede|cada|chaque)\s{_TIME})"
)
_spaced_multipliers, _unspaced_multipliers = (
    "|".join(
        regex.escape(word)
        for word in sorted(words.MULTIPLIERS, key=len, reverse=True)
        if bool(texts.CHARACTERS.search(word)) == unspaced
    )
    for unspaced in (False, True)
)
_MULTIPLIER = rf"\s?(?P<multiplier>(?:{_unspaced_multipliers})|(?:{_spaced_multipliers})(?!\p{{L}}))"
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
    rf"(?:{_MULTIPLIER})?"
    rf"(?P<plus>\+(?=\s?\p{{L}}))?(?:(?P<gap>[\s-])?(?P<unit>{_UNIT})(?P<per>{_PER}{{0,3}}(?:{_TIME_PHRASE})?)|(?P<rate>{_PER_ONE}{{0,3}}))",
    regex.V1 | regex.IGNORECASE,
)
PER_PART = regex.compile(
    rf"(?:\s?[/／∕]\s?|\s(?:{_PER_WORD}|{_PER_TIME_WORD})\s)(?P<count>\d(?:[\d., ']*\d)?)?\s?(?P<unit>{_DENOMINATOR})",
    regex.V1 | regex.IGNORECASE,
)
UNIT_BEFORE = regex.compile(r"(?<![\p{L}\p{N}]|\d\s)(?P<unit>mg|mcg|µg|ml|g|UI)\s$")
TIME_PHRASE_AT_END = regex.compile(
    rf"\s(?:(?P<adverb>{'|'.join(words.TIME_ADVERBS)})|(?P<time>{_TIME}))$", regex.V1 | regex.IGNORECASE
)
BOUND_SIGN = {bound: regex.compile(rf"(?:{signs})\s*$") for bound, signs in words.BOUND_SIGNS.items()}
_AGE_OR_ABOUT = r"(?:about |approximately |the |de |von |age |ages |the age of |age of )?"
BOUND_COMPARATIVE, BOUND_PHRASE = (
    {
        bound: regex.compile(rf"(?<![{_ALPHABETIC}])(?:{alternatives})\s?{_AGE_OR_ABOUT}$", regex.IGNORECASE)
        for bound, alternatives in table.items()
    }
    for table in (words.COMPARATIVES, words.BOUND_PHRASES)
)
BOUND_AFTER = {
    bound: regex.compile(rf"\s?(?:{alternatives})", regex.IGNORECASE) for bound, alternatives in words.BOUNDS_AFTER.items()
}
# numbers that show whether a comma or a point is decimal; "1,25-dihydroxy" is a name
DECIMAL_COMMA_EVIDENCE = regex.compile(r"(?<![\d.,])(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))(?![\d.,]|-\p{L})|\d\.\d{3},\d")
DECIMAL_POINT_EVIDENCE = regex.compile(r"(?<![\d.,])(?:0\.\d+|\d+\.(?:\d{1,2}|\d{4,}))(?![\d.,])|\d,\d{3}\.\d")
MARKDOWN = regex.compile(r"\*\*|__|(?<![\p{L}\p{N}])_|_(?![\p{L}\p{N}])|`")
DECIMAL_DOT = regex.compile(r"(?<=\p{Nd})[·∙‧˙،](?=\p{Nd})(?!10[\^⁺⁻⁰¹²³⁴-⁹])")  # "0·5 mg" in older British print
BEFORE_FOOTNOTE = regex.compile(r"\p{L}\.$")  # "illness.2 Addressing"
AMBIGUOUS_MARK = regex.compile(r"\d[.,]\d{3}(?!\d)")  # "1,500", "1.500"
NUMBER_MAY_BEGIN = re.compile(r"[-+]?\.?\d")
TWO_GROUPS = re.compile(r"\d{1,3} \d{3}")
DECIMAL_COMMA_SCRIPT = regex.compile(r"[\p{Latin}\p{Cyrillic}\p{Greek}]")


def is_unit(word: str) -> bool:
    """Whether a word is a unit or may follow "per" as one: "mg", "weeks", "kg"."""
    key = _key(word)
    return key in ALIASES or key in DENOMINATOR_ALIASES or word in CASE_SENSITIVE_ALIASES


def find(text: str) -> tuple[Quantity, ...]:
    """Every number of a text with its unit, in order; the first number of a range takes the unit of the last."""
    text = _plain(text)
    return _find(text, _decimal_comma(text) if AMBIGUOUS_MARK.search(text) else False)


def find_in_both(reference: str, answer: str) -> tuple[tuple[Quantity, ...], tuple[Quantity, ...]]:
    """Numbers of two texts on the same subject: a text that does not tell how to read its commas is read like the other."""
    left, right = _plain(reference), _plain(answer)
    if not AMBIGUOUS_MARK.search(left) and not AMBIGUOUS_MARK.search(right):  # most texts; spares the detection of the language
        return _find(left, False), _find(right, False)
    left_comma, right_comma = _decimal_comma(left), _decimal_comma(right)
    return (
        _find(left, right_comma if left_comma is None else left_comma),
        _find(right, left_comma if right_comma is None else right_comma),
    )


def _plain(text: str) -> str:
    """The text with ASCII digits, one form of signs, spaces and units, and no HTML entities or Markdown marks."""
    if "&" in text:
        text = html.unescape(text)
    text = MARKDOWN.sub("", text)
    if not text.isascii():
        text = texts.compatible(DECIMAL_DOT.sub(".", text))
        text = "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text).replace("ſ", "s")
    return " ".join(text.split())


@functools.lru_cache(maxsize=8192)
def _decimal_comma(text: str) -> bool | None:
    """Whether a comma before three digits is decimal in this text; None if nothing tells."""
    english = texts.is_english(text)
    if english:
        return False
    shows_comma, shows_point = bool(DECIMAL_COMMA_EVIDENCE.search(text)), bool(DECIMAL_POINT_EVIDENCE.search(text))
    if shows_comma != shows_point:
        return shows_comma
    if english is None:
        return None
    return not texts.script_without_spaces(text) and bool(DECIMAL_COMMA_SCRIPT.search(text))


@functools.lru_cache(maxsize=16384)
def _find(text: str, decimal_comma: bool | None) -> tuple[Quantity, ...]:
    quantities: list[Quantity] = []
    # numbers of the current range or list that have no unit yet: place in `quantities`, whether the number is an age
    without_unit: list[tuple[int, bool]] = []
    last_end = -1
    for match in _matches(text):
        unit, divisor = _unit_of(match, decimal_comma=bool(decimal_comma))
        if last_end < 0 or not words.JOINER.fullmatch(text[last_end : match.start()]):
            without_unit = []
        last_end = match.end()
        if unit:
            _give_unit(quantities, without_unit, unit, divisor)
            without_unit = []
        before = _before(match)
        if not unit and BEFORE_FOOTNOTE.search(before):
            continue
        bound = _bound(match, unit)
        is_label, is_age = bool(words.LABEL_BEFORE.search(before)), bool(words.AGE_BEFORE.search(before))
        for value, other in _readings(match, decimal_comma):
            if not unit and value not in words.CALENDAR_YEARS and not is_label:
                without_unit.append((len(quantities), is_age))
            quantities.append(Quantity(value / divisor, unit, bound, other / divisor if other != value else None))
    return tuple(quantities)


def _give_unit(quantities: list[Quantity], without_unit: Sequence[tuple[int, bool]], unit: str, divisor: float) -> None:
    """Give the unit of the last number of a range or list to the numbers before it; an age takes a time only."""
    for place, is_age in without_unit:
        if is_age and unit not in words.TIME_UNITS:
            continue
        bare = quantities[place]
        instead = None if bare.instead is None else bare.instead / divisor
        quantities[place] = replace(bare, value=bare.value / divisor, instead=instead, unit=unit)


def _readings(match: Any, decimal_comma: bool | None) -> list[tuple[float, float]]:
    """The values of a match, each with its other reading (the same value if there is no other)."""
    values = _numbers(match, decimal_comma=bool(decimal_comma))
    # "1.500" may be a German 1500; a dose is hardly ever written as "1,500" with three decimals
    undecided = decimal_comma is None and "," not in match.group("number")
    others = _numbers(match, decimal_comma=True) if undecided else values
    return list(zip(values, others, strict=True))


def _matches(text: str) -> list[Any]:
    """Matches of NUMBER. Two groups of digits may be one number or two: "2 500 mg tablets" and "day 1 500 mg" have two numbers."""
    matches = []
    position = 0
    # the long pattern is slow, so it is tried only where a number may begin
    while start := NUMBER_MAY_BEGIN.search(text, position):
        match = NUMBER.match(text, start.start()) or NUMBER.match(text, start.end() - 1)
        if match is None:
            position = start.end()
            continue
        position = match.end()
        written = match.group("number")
        if TWO_GROUPS.fullmatch(written) and (
            (match.group("unit") and words.DOSE_FORM_AFTER.match(text, match.end()))
            or (texts.is_english(text) and not written.endswith(" 000"))
            or words.LABEL_BEFORE.search(_before(match))
        ):
            space = match.start("number") + written.index(" ")
            halves = (NUMBER.match(text, match.start(), space), NUMBER.match(text, space + 1))
            matches += [half for half in halves if half]
            continue
        matches.append(match)
    return matches


def _numbers(match: Any, *, decimal_comma: bool) -> list[float]:
    """The values of a match with exponent, multiplier and sign: several for a list, none if it is no measurable number."""
    numbers = []
    for value in _values(match.group("number"), decimal_comma=decimal_comma):
        power = int(next((match.group(name) for name in ("power", "flat", "exponent", "e") if match.group(name)), 0))
        if abs(power) > MAX_EXPONENT or (match.group("exponent") and not value):
            continue
        if match.group("exponent"):
            value = value**power
        elif power:
            value = float(f"{value:.15g}e{power}")
        if match.group("multiplier"):
            value *= words.MULTIPLIERS[match.group("multiplier").lower()]
        if math.isfinite(value):  # a model that repeats itself may write a thousand digits
            numbers.append(-value if match.group("sign") == "-" else value)
    return numbers


def _values(written: str, *, decimal_comma: bool) -> list[float]:
    """The value of a written number; several for a list without spaces ("1,2,3"), none if it is no number ("1.2.3")."""
    if ":" in written:  # "1:1,000"
        return [1 / int(re.sub(r"\D", "", written.partition(":")[2]))]
    if "/" in written:
        whole, _, fraction = written.rpartition(" ")
        numerator, _, denominator = fraction.partition("/")
        return [float(whole or 0) + int(numerator) / int(denominator)]
    digits = written.replace(" ", "").replace("'", "")
    commas, points = digits.count(","), digits.count(".")
    if commas and points:
        decimal, grouping = (",", ".") if digits.rfind(",") > digits.rfind(".") else (".", ",")
        if digits.count(decimal) > 1:
            return []
        return [float(digits.replace(grouping, "").replace(decimal, "."))]
    mark = "," if commas else "."
    parts = digits.split(mark)
    if len(parts) == 1:
        return [float(digits)]
    may_group_thousands = len(parts[0]) <= 3 and parts[0].strip("0") and all(len(part) == 3 for part in parts[1:])
    if len(parts) > 2:
        if mark == "," and len(parts[-1]) == 3 and all(len(part) == 2 for part in parts[1:-1]) and len(parts[0]) <= 2:
            return [float("".join(parts))]  # "1,00,000"
        if may_group_thousands:
            return [float("".join(parts))]
        return [float(part) for part in parts] if mark == "," else []
    if may_group_thousands and (mark == ",") != decimal_comma:
        return [float("".join(parts))]
    return [float(".".join(part or "0" for part in parts))]


def _unit_of(match: Any, *, decimal_comma: bool) -> tuple[str, float]:
    """Our abbreviation of the unit, and the count in its denominator, by which the number is divided: "mg/ml", 100 for "5 mg/100 ml"."""
    unit = (
        _abbreviation(match.group("unit"), ALIASES) if match.group("unit") else "dilution" if ":" in match.group("number") else ""
    )
    if unit and _is_part_of_name(match):
        unit = ""
    if not unit and (before := UNIT_BEFORE.search(match.string, max(0, match.start() - LOOK_BEHIND_CHARS), match.start())):
        unit = _abbreviation(before.group("unit"), ALIASES)  # "mg 5", as in Italian
    divisor = 1.0
    per = match.group("per") or match.group("rate") or ""
    denominators = []
    for part in PER_PART.finditer(per):
        denominators.append(_abbreviation(part.group("unit"), DENOMINATOR_ALIASES))
        counts = _values(part.group("count"), decimal_comma=decimal_comma) if part.group("count") else []
        if len(counts) == 1 and counts[0] and not (denominators[-1] == "m2" and counts[0] == STANDARD_BODY_SURFACE):
            divisor *= counts[0]
    if (time_phrase := TIME_PHRASE_AT_END.search(per)) and not set(denominators) & set(words.TIME_UNITS):
        by_adverb = words.TIME_ADVERBS.get((time_phrase.group("adverb") or "").lower())
        denominators.append(by_adverb or _abbreviation(time_phrase.group("time"), DENOMINATOR_ALIASES))
    return "/".join([unit, *denominators]), divisor


def _is_part_of_name(match: Any) -> bool:
    """Whether a single letter directly after a number belongs to a name and is no unit: "type 2L", "44U-QUIT"."""
    if len(match.group("unit") or "") != 1 or match.group("gap") or not match.group("unit").isalpha():
        return False
    return bool(words.LABEL_BEFORE.search(_before(match))) or match.string[match.end() : match.end() + 1] == "-"


def _abbreviation(alias: str, aliases: Mapping[str, str]) -> str:
    return CASE_SENSITIVE_ALIASES.get(alias) or aliases[_key(alias)]


def _before(match: Any) -> str:
    """The text before a number that is searched for a bound or a label."""
    return str(match.string[max(0, match.start() - LOOK_BEHIND_CHARS) : match.start()])


class _BoundWords(NamedTuple):
    """Words before a number that make it a bound: where they begin, the bound, and the words."""

    start: int
    bound: str
    text: str


def _bound(match: Any, unit: str) -> str:
    """The bound that the signs or words around a number express: AT_MOST, AT_LEAST or empty."""
    before = _before(match)
    if bound := _bound_of_sign(before):
        return bound
    comparative, phrase = _first_bound(BOUND_COMPARATIVE, before), _first_bound(BOUND_PHRASE, before)
    if comparative and (phrase is None or comparative.start <= phrase.start):
        return _bound_of_comparative(comparative, before, unit)
    if phrase:
        return phrase.bound
    if match.group("plus"):
        return words.AT_LEAST
    after = next((bound for bound, pattern in BOUND_AFTER.items() if pattern.match(match.string, match.end())), "")
    return "" if words.NEGATION_NEAR.search(before) else after


def _bound_of_sign(before: str) -> str:
    for bound, pattern in BOUND_SIGN.items():
        if sign := pattern.search(before):
            return _opposite(bound) if words.NEGATION_BESIDE.search(before[: sign.start()]) else bound
    return ""


def _bound_of_comparative(comparative: _BoundWords, before: str, unit: str) -> str:
    preceding = before[: comparative.start]
    if comparative.text.startswith("over") and (unit in words.TIME_UNITS or preceding.rstrip()[-1:].isdigit()):
        return ""  # "over 30 minutes" is a duration, "120 over 80" a blood pressure
    if words.NEGATION_BESIDE.search(preceding):
        return _opposite(comparative.bound)
    # "not recommended under 5 years" can be put as "for children above 5 years" or as "contraindicated under 5 years"
    return "" if words.NEGATION_NEAR.search(preceding) else comparative.bound


def _first_bound(patterns: Mapping[str, regex.Pattern[str]], before: str) -> _BoundWords | None:
    """The earliest match of the patterns, which are given by their bound."""
    matches = [
        _BoundWords(match.start(), bound, match.group())
        for bound, pattern in patterns.items()
        if (match := pattern.search(before))
    ]
    return min(matches, default=None)


def _opposite(bound: str) -> str:
    return words.AT_LEAST if bound == words.AT_MOST else words.AT_MOST
