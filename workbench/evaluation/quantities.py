"""Numbers with their units in a text, in the notations of many languages, so that two of them can be compared.

"0,5 mg", ".5 mg", "0.5 mg" and "500 µg" are one dose; "< 7%" and "> 7%" are not. Units are converted by pint. The tables of words below
are ours: what medical texts write for units, ranges and bounds, in ten languages.

How numbers are read. A group of three digits behind a comma, as in "1,500", may be thousands or decimals. It is thousands where the text
is in English or of a script that uses the decimal point, and decimals where the text holds another decimal comma or is in a language that
uses it; "1.500" the other way round. A comma or point with any other number of digits behind it is decimal, as is one behind a single 0.
Spaces and apostrophes part thousands ("1 000", "1'000"), but for a count before a form of drug: "2 500 mg tablets" are two.
"""

from __future__ import annotations

import functools
import unicodedata
from dataclasses import dataclass
from typing import Any

import regex

from workbench import texts

# the unit as pint knows it, as we write it, and as texts write it (compared in lower case)
UNITS: tuple[tuple[str, str, str], ...] = (
    ("gram", "g", "g gm gram grams gramm gramme grammes gramo gramos grammo grammi г гр грамм грамма граммов 克 グラム g\u0631\u0627\u0645 غرام جرام غم جم ग्राम"),
    ("milligram", "mg", "mg mgs mgm milligram milligrams milligramm milligramme milligrammes miligramo miligramos milligrammo milligrammi "
     "мг миллиграмм миллиграмма миллиграммов 毫克 公丝 ミリグラム ملغ ملغم ملجم مجم مغ ملليغرام ملليجرام ميليغرام मिग्रा मि.ग्रा. मिलीग्राम มก. มก มิลลิกรัม"),
    ("microgram", "µg", "µg mcg ug microgram micrograms mikrogramm microgramme microgrammes microgramo microgramos microgrammo microgrammi "
     "мкг микрограмм 微克 マイクログラム ميكروغرام ميكروجرام مكغ มคก. ไมโครกรัม"),
    ("nanogram", "ng", "ng nanogram nanograms нг 纳克 奈克"),
    ("kilogram", "kg", "kg kgs kilo kilos kilogram kilograms kilogramm kilogramme kilogrammes kilogramo kilogramos кг килограмм 千克 公斤 キログラム كغ كجم كغم كيلوغرام كيلوجرام किग्रा กก. กก กิโลกรัม"),
    ("pound", "lb", "lb lbs pound pounds"),
    ("ounce", "oz", "oz ounce ounces"),
    ("liter", "l", "l litre litres liter liters litro litros litri л литр литра литров 升 リットル لتر ลิตร"),
    ("milliliter", "ml", "ml mls cc cm3 millilitre millilitres milliliter milliliters mililitro mililitros мл миллилитр 毫升 ミリリットル مل ملل มล. มล มิลลิลิตร"),
    ("centiliter", "cl", "cl"),
    ("deciliter", "dl", "dl decilitre decilitres deciliter deciliters дл 分升"),
    ("microliter", "µl", "µl ul mm3 microlitre microlitres microliter microliters мкл 微升"),
    ("femtoliter", "fl", "fl"),
    ("mole", "mol", "mol mole moles моль 摩尔"),
    ("millimole", "mmol", "mmol mmols millimole millimoles ммоль 毫摩尔 毫摩"),
    ("micromole", "µmol", "µmol umol micromol micromole micromoles мкмоль 微摩尔"),
    ("nanomole", "nmol", "nmol нмоль"),
    ("picomole", "pmol", "pmol пмоль"),
    ("picogram", "pg", "pg"),
    ("milliequivalent", "meq", "meq meqs mval мэкв 毫当量"),
    ("international_unit", "iu", "iu i.u. ie i.e. ui u.i. u unit units einheit einheiten unité unités unidad unidades unità ед ме 单位 國際單位 国际单位 單位 単位 国際単位 وحدة وحدات وحدة दولية यूनिट ยูนิต"),
    ("mmHg", "mmhg", "mmhg torr 毫米汞柱"),
    ("kilopascal", "kpa", "kpa"),
    ("centimeter_H2O", "cmh2o", "cmh2o"),
    ("meter", "m", "m metre metres meter meters"),
    ("centimeter", "cm", "cm centimetre centimetres centimeter centimeters см 厘米 公分 センチ سم ซม."),
    ("millimeter", "mm", "mm millimetre millimetres millimeter millimeters мм 毫米 مم มม."),
    ("micrometer", "µm", "µm um micron microns 微米"),
    ("kilometer", "km", "km"),
    ("inch", "inch", "inch inches"),
    ("foot", "ft", "ft feet"),
    ("meter**2", "m2", "m2 м2 平方米"),
    ("centimeter**2", "cm2", "cm2"),
    ("second", "second", "second seconds sec secs s sekunde sekunden seconde secondes segundo segundos secondo secondi сек секунд 秒 ثانية ثوان วินาที"),
    ("minute", "minute", "minute minutes min mins minuten minuto minutos minuti мин минут минута минуты 分钟 分鐘 分間 دقيقة دقائق मिनट นาที"),
    ("hour", "hour", "hour hours hr hrs h std stunde stunden heure heures hora horas ora ore uur ч час часа часов 小时 小時 時間 ساعة ساعات घंटे घंटा ชั่วโมง"),
    ("day", "day", "day days tag tage tagen jour jours día días dia dias giorno giorni dag dagen день дня дней сутки суток 天 日 日間 يوم أيام يوما दिन วัน"),
    ("week", "week", "week weeks wk wks woche wochen semaine semaines semana semanas settimana settimane неделя недели недель 周 週 週間 星期 أسبوع أسابيع सप्ताह สัปดาห์"),
    ("month", "month", "month months monat monate monaten mois mes meses mese mesi месяц месяца месяцев 个月 個月 か月 ヶ月 カ月 شهر أشهر شهور महीने महीना เดือน"),
    ("year", "year", "year years yr yrs jahr jahre jahren an ans année années año años anno anni ano anos год года лет 年 岁 歲 歳 سنة سنوات عام साल वर्ष ปี"),
    ("degree_Celsius", "°c", "°c ° c celsius 度 ℃"),
    ("degree_Fahrenheit", "°f", "°f ° f fahrenheit"),
    ("gray", "gy", "gy gray грей"),
    ("centigray", "cgy", "cgy"),
    ("millisievert", "msv", "msv"),
    ("hertz", "hz", "hz hertz"),
    ("kilohertz", "khz", "khz"),
    ("megahertz", "mhz", "mhz"),
    ("decibel_level", "db", "db decibel decibels"),
    ("kilocalorie", "kcal", "kcal 千卡"),
    ("joule", "j", "j joule joules"),
    ("kilojoule", "kj", "kj"),
    ("watt", "w", "watt watts"),
    ("millivolt", "mv", "mv"),
    ("milliampere", "ma", "ma"),
    ("beat_a_minute", "bpm", "bpm beats/min /min"),
    ("percent_of_whole", "%", "% percent per cent pct prozent pour cent por ciento процент процентов 个百分点 بالمئة بالمائة"),
    ("time_of_many", "times", "times mal fois veces vezes volte раз раза 次 回 مرة مرات बार ครั้ง"),
    ("tablet", "tablet", "tablet tablets tab tabs tablette tabletten comprimé comprimés comprimido comprimidos compressa compresse pill pills таблетка таблетки таблеток 片 錠 أقراص قرص เม็ด"),
    ("capsule", "capsule", "capsule capsules cap caps kapsel kapseln gélule gélules cápsula cápsulas 粒 胶囊 كبسولة"),
    ("drop", "drop", "drop drops gtt tropfen goutte gouttes gota gotas капель капли 滴 قطرة قطرات หยด"),
    ("puff", "puff", "puff puffs hub hübe bouffée bouffées inhalation inhalations 喷"),
    ("ampoule", "ampoule", "ampoule ampoules vial vials 支 瓶"),
    ("dose", "dose", "dose doses dosis dosen dosi 剂"),
)  # fmt: skip
OWN_UNITS = ("milliequivalent", "international_unit", "decibel_level", "beat_a_minute", "percent_of_whole", "time_of_many", "tablet",
             "capsule", "drop", "puff", "ampoule", "dose")  # fmt: skip  # which pint does not know, or takes for plain numbers
FORMS = ("tablet", "capsule", "ampoule")  # what one counts whole: "2 500 mg tablets" are two
SPACED_FORM = r"\s(?:tabl|tab\b|tabs\b|caps|pill|vial|amp|dose|comprim|gélul|kaps|sachet)"
DENOMINATOR_ONLY = {
    "d": "day",
    "j": "day",
    "т": "day",
    "wk": "week",
    "mo": "month",
    "t": "day",
}  # "mg/kg/d": short beside a stroke only
PER = r"(?:\s?[/／∕]\s?|\s(?:per|pro|je|par|por|al|a|an|each|every|chaque|cada)\s|\s?(?:每|毎|ต่อ)\s?)"
DAILY = r"\s(?:daily|täglich)(?![\p{L}])"  # "3 times daily" is 3 times a day
# between the first and the last of a range, or two values of one unit
JOIN = regex.compile(
    r"\s?(?:-|–|—|~|〜|至|到|から|/)\s?-?|,?\s(?:to|and|or|bis|und|oder|à|et|ou|a|hasta|y|o|al|e|до|и|или|إلى|أو|و|से|ถึง)\s-?",
    regex.IGNORECASE,
)
AT_MOST, AT_LEAST = "<", ">"
BEFORE = (
    (AT_MOST, r"<|<=|=<|≤|⩽|≦|(?:no|not) (?:more|greater|higher|longer) than|less than|fewer than|lower than|below|under|up to|at most|maximum of|max\.?|"
     r"not exceed(?:ing)?|do not exceed|höchstens|nicht mehr als|weniger als|unter|maximal|bis zu|moins de|pas plus de|ne pas dépasser|au plus|au maximum|jusqu'à|inférieure? à|"
     r"menos de|no más de|como máximo|hasta|inferior a|meno di|non più di|al massimo|менее|не более|до|меньше|小于|低于|少于|不超过|不高于|أقل من|لا يزيد عن|น้อยกว่า|ไม่เกิน"),
    (AT_LEAST, r">|>=|=>|≥|⩾|≧|(?:no|not) (?:less|fewer|lower|shorter) than|more than|greater than|higher than|above|over|at least|minimum of|"
     r"exceed(?:s|ing)?|mindestens|nicht weniger als|mehr als|über|plus de|au moins|supérieure? à|más de|al menos|como mínimo|superior a|più di|almeno|"
     r"более|не менее|больше|свыше|大于|高于|超过|至少|不少于|不低于|أكثر من|لا يقل عن|من على الأقل|มากกว่า|อย่างน้อย"),
)  # fmt: skip
AFTER = (
    (
        AT_MOST,
        r"or (?:less|lower|fewer|below|younger|under)|and (?:below|under|younger)|oder weniger|ou moins|o menos|и менее|以下|以内|或更少|أو أقل",
    ),
    (
        AT_LEAST,
        r"or (?:more|higher|above|greater|older|over)|and (?:above|over|older|up)|oder mehr|ou plus|o más|и более|以上|或更多|أو أكثر",
    ),
)
SAME_WITHIN = 1e-6  # of a value: conversions round
DRUGS = (
    "dimensionless",
    "[mass]",
    "[substance]",
    "[international_unit]",
    "[milliequivalent]",
    "[length] ** 3",
    "[percent_of_whole]",
)  # mg/kg has none


@dataclass(frozen=True)
class Quantity:
    """A number of a text.

    Attributes:
        value: as written, signs and exponents worked out.
        unit: "mg", "mg/kg/day"; empty for a bare number.
        bound: "<" where the text calls it a most, ">" where it calls it a least, else empty.
    """

    value: float
    unit: str
    bound: str = ""

    def __str__(self) -> str:
        return f"{self.bound}{self.value:.12g}{self.unit}"

    @property
    def dimension(self) -> str:
        return _scale(self.unit)[0]

    @property
    def base_value(self) -> float:
        """In the base unit of its dimension."""
        _, factor, offset = _scale(self.unit)
        return self.value * factor + offset

    def same(self, other: Quantity) -> bool:
        """Whether both are one amount, whatever the units; a most and a least of it are two."""
        return (
            self.dimension == other.dimension
            and {self.bound, other.bound} != {AT_MOST, AT_LEAST}
            and _near(self.base_value, other.base_value)
        )

    @property
    def compared_with(self) -> str:
        """Values that share this are alternatives to each other: drugs by dimension; a weight in kg is no dose, and days are not hours."""
        body = _is_weight(self.unit) or self.unit in ("day", "week", "month", "year", "hour", "minute", "second", "times", "")
        return self.unit if body else self.dimension

    @property
    def is_dose(self) -> bool:
        """Whether it may be an amount of a drug, or its strength."""
        return self.dimension.startswith(DRUGS) and not _is_weight(self.unit)


def _is_weight(unit: str) -> bool:
    """Of a body."""
    return unit in ("kg", "lb")


def _near(left: float, right: float) -> bool:
    return abs(left - right) <= SAME_WITHIN * max(abs(left), abs(right), 1e-300)


@functools.cache
def _registry() -> Any:
    """pint's units, and ours. Reading its definitions takes most of a second, once a process."""
    import pint

    registry: Any = pint.UnitRegistry(autoconvert_offset_to_baseunit=True)
    for name in OWN_UNITS:
        registry.define(f"{name} = [{name}]")
    return registry


@functools.cache
def _scale(unit: str) -> tuple[str, float, float]:
    """Dimension, and how a value of this unit becomes one of the dimension's base units: times the factor, plus the offset."""
    if not unit:
        return "", 1.0, 0.0
    registry = _registry()
    first, *below = unit.split("/")
    if first not in ("", "times"):  # a dose is a daily one in most texts, said or not; how often something is done is not
        below = [part for part in below if part != "day"]
    written = PINT.get(first, "dimensionless") + "".join(f" / ({PINT.get(part, part)})" for part in below)
    try:
        zero, one = (registry.Quantity(value, registry.parse_units(written)).to_base_units() for value in (0.0, 1.0))
    except Exception:  # a unit of degrees in a fraction has no one base: it compares with itself alone
        return unit, 1.0, 0.0
    dimension = str(one.dimensionality)
    return dimension, float(one.magnitude - zero.magnitude), float(zero.magnitude)


def _alias_table() -> dict[str, str]:
    found: dict[str, str] = {}
    for _, written, aliases in UNITS:
        for alias in [written, *_aliases_of(aliases)]:
            found.setdefault(_key(alias), written)
    return found


TWO_WORDS = ("per cent", "pour cent", "por ciento", "° c", "° f", "وحدة दولية")


def _aliases_of(text: str) -> list[str]:
    found = [alias for alias in TWO_WORDS if f" {alias}" in f" {text}"]
    for alias in found:
        text = text.replace(alias, "")
    return [*found, *text.split()]


def _key(alias: str) -> str:
    return unicodedata.normalize("NFKC", alias).lower()


PINT = {written: name for name, written, _ in UNITS}
ALIASES = _alias_table()
BELOW = ALIASES | DENOMINATOR_ONLY


def _pattern(aliases: dict[str, str]) -> str:
    """Alternatives, the longest first. A unit of a script with spaces ends where its word ends."""
    ordered = sorted(aliases, key=len, reverse=True)
    spaced = [regex.escape(a) for a in ordered if not texts.CHARACTERS.search(a)]
    unspaced = [regex.escape(a) for a in ordered if texts.CHARACTERS.search(a)]
    return rf"(?:(?:{'|'.join(unspaced)})|(?:{'|'.join(spaced)})(?![{texts.LETTER}]))"


_UNIT, _BELOW = _pattern(ALIASES), _pattern(BELOW)
_ALPHABETIC = r"\p{Latin}\p{Greek}\p{Cyrillic}\p{N}_"
NUMBER = regex.compile(
    rf"(?:(?<![{_ALPHABETIC}])|(?<=\bq))(?<!\p{{Nd}}[.,])"
    r"(?P<sign>(?<![\p{L}\p{N}\p{M}.,)%°])[-+](?=[\d.]))?"
    rf"(?P<number>(?:\d+\s)?[1-5]/(?:2|3|4|5|6|8|10)(?![\d/])"  # "1/2", "2 3/4"
    rf"|\d{{1,3}}(?:[ '\u2019]\d{{3}})+(?!\d)(?:[.,]\d+)?"
    rf"|\d+(?:[.,]\d+)*"
    rf"|(?<![\p{{L}}\p{{N}}.])\.\d+)"
    r"(?:\s?[x×·*]\s?10\^(?P<power>[-+]?\d+)|\^(?P<exponent>[-+]?\d+)|e(?P<e>[-+]?\d{1,3})(?![\p{L}\p{N}]))?"
    rf"(?:[\s-]?(?P<unit>{_UNIT})(?P<per>(?:{PER}(?:\d+(?:[.,]\d+)?\s?)?{_BELOW}){{0,3}}(?:{DAILY})?)|(?P<rate>(?:{PER}{_BELOW}){{0,3}}))",
    regex.V1 | regex.IGNORECASE,
)
PER_PART = regex.compile(rf"{PER}(?P<count>\d+(?:[.,]\d+)?)?\s?(?P<unit>{_BELOW})", regex.V1 | regex.IGNORECASE)
DAILY_AT_END = regex.compile(rf"{DAILY}$", regex.IGNORECASE)
BOUND_BEFORE = tuple(
    (bound, regex.compile(rf"(?:(?<![\p{{L}}])(?:{words}))\s?(?:about |approximately )?$", regex.IGNORECASE))
    for bound, words in BEFORE
)
BOUND_AFTER = tuple((bound, regex.compile(rf"\s?(?:{words})", regex.IGNORECASE)) for bound, words in AFTER)
LOOK_BEHIND = 40  # characters before a number in which a bound may stand
SURE_COMMA = regex.compile(r"(?<![\d.,])(?:0,\d+|\d+,(?:\d{1,2}|\d{4,}))(?![\d.,])|\d\.\d{3},\d")
SURE_POINT = regex.compile(r"(?<![\d.,])(?:0\.\d+|\d+\.(?:\d{1,2}|\d{4,}))(?![\d.,])|\d,\d{3}\.\d")
ARABIC_MARKS = str.maketrans(
    {"٫": ".", "٬": ",", "\u066a": "%", "−": "-", "‐": "-", "⁄": "/", "’": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " "}
)


def _plain(text: str) -> str:
    """ASCII digits and one form of signs, spaces and units."""
    if text.isascii():
        return text
    text = texts.SUPERSCRIPT.sub(lambda match: f"^{match.group()}", text)
    text = texts.FRACTION_AFTER_NUMBER.sub(" ", text)
    text = unicodedata.normalize("NFKC", texts.IGNORED.sub("", text)).translate(ARABIC_MARKS)
    return "".join(str(unicodedata.digit(c)) if c.isdecimal() and not c.isascii() else c for c in text).replace("ſ", "s")


def _decimal_comma(text: str) -> bool:
    """Whether a comma before three digits is decimal in this text."""
    comma, point = bool(SURE_COMMA.search(text)), bool(SURE_POINT.search(text))
    if comma != point:
        return comma
    return (
        texts.english(text) is False
        and not texts.script_without_spaces(text)
        and bool(regex.search(r"[\p{Latin}\p{Cyrillic}\p{Greek}]", text))
    )


def _values(written: str, *, decimal_comma: bool) -> list[float]:
    """What a written number is worth; several where it is a list without spaces ("1,2,3"), none where it is no number ("1.2.3")."""
    if "/" in written:
        whole, _, fraction = written.rpartition(" ")
        above, _, below = fraction.partition("/")
        return [float(whole or 0) + int(above) / int(below)]
    digits = regex.sub(r"[\s']", "", written)
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
        if thousands:
            return [float("".join(parts))]
        return [float(part) for part in parts] if mark == "," else []
    if thousands and (mark == ",") != decimal_comma:
        return [float("".join(parts))]
    return [float(".".join(part or "0" for part in parts))]


@functools.lru_cache(maxsize=8192)
def find(text: str) -> tuple[Quantity, ...]:
    """Every number of a text with its unit, in order; the first of a range takes the unit of the last."""
    text = _plain(text)
    if not regex.search(r"\d", text):
        return ()
    decimal_comma = _decimal_comma(text)
    found: list[Quantity] = []
    open_ones: list[int] = []  # numbers without a unit, which a joined one behind may bring
    end_before = -1
    for match in _matches(text):
        values = _values(match.group("number"), decimal_comma=decimal_comma)
        power = match.group("power") or match.group("exponent") or match.group("e")
        unit, divisor = _unit_of(match)
        joined = end_before >= 0 and JOIN.fullmatch(text[end_before : match.start()])
        if not joined:
            open_ones = []
        if unit:
            for place in open_ones:
                found[place] = Quantity(found[place].value / divisor, unit, found[place].bound)
            open_ones = []
        for value in values:
            if power:
                value = float(f"{value:.15g}e{int(power)}") if match.group("exponent") is None else _raised(value, int(power))
            value = -value if match.group("sign") == "-" else value
            if not unit:
                open_ones.append(len(found))
            found.append(Quantity(value / divisor, unit, _bound(text, match)))
        end_before = match.end()
    return tuple(found)


def _matches(text: str) -> list[Any]:
    """Matches of NUMBER; digits parted by a space are two numbers where the second is a drug's strength: "2 500 mg tablets"."""
    found = []
    for match in NUMBER.finditer(text):
        written = match.group("number")
        if (
            regex.fullmatch(r"\d{1,2} \d{3}", written)
            and match.group("unit")
            and regex.match(SPACED_FORM, text[match.end() :], regex.IGNORECASE)
        ):
            first, second = (
                NUMBER.match(text, match.start(), match.start() + written.index(" ")),
                NUMBER.match(text, match.start() + written.index(" ") + 1),
            )
            found += [one for one in (first, second) if one]
            continue
        found.append(match)
    return found


def _raised(value: float, power: int) -> float:
    return value**power if abs(power) <= 30 else value


def _unit_of(match: Any) -> tuple[str, float]:
    """The unit as we write it, and by what the number is divided where it is for several: "5 mg/100 ml"."""
    unit = ALIASES[_key(match.group("unit"))] if match.group("unit") else ""
    divisor = 1.0
    per = match.group("per") or match.group("rate") or ""
    below = []
    for part in PER_PART.finditer(per):
        below.append(BELOW[_key(part.group("unit"))])
        if count := part.group("count"):
            divisor *= float(count.replace(",", ".")) or 1.0
    if DAILY_AT_END.search(per) and "day" not in below:
        below.append("day")
    return "/".join([unit, *below]), divisor


def _bound(text: str, match: Any) -> str:
    before = text[max(0, match.start() - LOOK_BEHIND) : match.start()]
    # the longest decides: "no less than" holds "less than"
    said = [(match_before.start(), bound) for bound, pattern in BOUND_BEFORE if (match_before := pattern.search(before))]
    if said:
        return min(said)[1]
    for bound, pattern in BOUND_AFTER:
        if pattern.match(text, match.end()):
            return bound
    return ""
