"""Numbers with units are read in every notation, and a tenfold dose is always found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.evaluation import answer_checks, medical_metrics, quantities

# a dose of {} mg in ten languages; {} is a number with a decimal point, or with a comma where that is the custom
NOTATIONS = (
    "Give {} mg daily.", "Give {}mg.", "give {} milligrams", "{} mg/day", "每日{}毫克", "口服{}mg", "١ × {} ملغ", "по {} мг в сутки",
    "prendre {} mg par jour", "{} Milligramm täglich", "प्रतिदिन {} मिग्रा", "วันละ {} มก.", "1日{}ミリグラム", "≤ {} mg", "up to {} mg", "({} mg)",
    "dose:{} mg", "{} mg p.o.", "{}\u00a0mg", "{}\u202fmg", "**{} mg**",
)  # fmt: skip


def written(value: float) -> list[str]:
    """A number in the notations that a text may use for it."""
    plain = f"{value:.10f}".rstrip("0").rstrip(".")
    found = [plain]
    if "." in plain:
        found.append(plain.replace(".", ","))
        if plain.startswith("0."):
            found.append(plain[1:])
    elif value >= 1000:
        grouped = f"{int(value):,}"
        # "1,000" is 1 where the comma is decimal
        found += [grouped.replace(",", " "), grouped.replace(",", "'"), grouped.replace(",", "\u202f")]
    arabic = str.maketrans("0123456789.", "٠١٢٣٤٥٦٧٨٩٫")
    full_width = str.maketrans("0123456789.", "０１２３４５６７８９．")
    return [*found, plain.translate(arabic), plain.translate(full_width)]


# with other than three digits behind the point, of which some read thousands
doses = st.one_of(
    st.integers(1, 99_999).map(float),
    st.integers(1, 99).map(lambda n: n / 10),
    st.integers(1, 999).map(lambda n: n / 100),
)


@given(doses, st.sampled_from(NOTATIONS), st.sampled_from(NOTATIONS), st.data())
def test_a_dose_is_the_same_in_every_notation(value, one, other, data):
    texts = [form.format(data.draw(st.sampled_from(written(value)))) for form in (one, other)]
    left, right = ({q for q in quantities.find(text) if q.unit.startswith("mg")} for text in texts)
    assert len(left) == len(right) == 1, (texts, left, right)
    assert left.pop().same(right.pop()), texts


@given(
    doses, st.sampled_from([0.001, 0.01, 0.1, 10, 100, 1000]), st.sampled_from(NOTATIONS), st.sampled_from(NOTATIONS), st.data()
)
def test_a_tenfold_dose_is_always_flagged(value, factor, one, other, data):
    wrong = round(value * factor, 6)
    if len(f"{wrong:.6f}".rstrip("0").partition(".")[2]) == 3:
        return  # three digits behind a comma may be thousands
    reference = one.format(data.draw(st.sampled_from(written(value))))
    answer = other.format(data.draw(st.sampled_from(written(wrong))))
    assert answer_checks.number_differs(reference, answer), (reference, answer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("0,5 mg", "0.5 mg"), (".5 mg", "0.5 mg"), ("1 000 mg", "1000 mg"), ("75 mg/m²", "75 mg/m2"), ("5 mcg/hour", "5 µg/h"),
        ("10 mg/kg/day", "10 mg per kg per day"), ("10 mg/kg per day", "10 mg/kg/d"), ("5 hrs", "5 hours"), ("10 mins", "10 minutes"),
        ("500 mg", "0.5 g"), ("48 hours", "2 days"), ("98.6 °F", "37 °C"), ("5 mg/100 ml", "0.05 mg/ml"), ("1.5×10⁹/L", "1.5 x 10^9/L"),
        ("2½ tablets", "2.5 tablets"), ("1,500 mg", "1500 mg"), ("6.5 per cent", "6,5 %"), ("120/80 mmHg", "80 mmHg, 120 mmHg"),
        ("5 IE", "5 IU"), ("200 microlitres", "0.2 ml"), ("3 times a day", "3 times daily"), ("4 g a day", "4 g"), ("5 ㎎", "5 mg"),
    ],
)  # fmt: skip
def test_one_amount_in_two_notations_is_one(one, other):
    wanted, given_ones = quantities.find(one), quantities.find(other)
    assert wanted and all(any(q.same(r) for r in given_ones) for q in wanted), (wanted, given_ones)
    assert not answer_checks.number_differs(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("<7%", ">7%"), ("≥ 5 mg", "≤ 5 mg"), ("at least 5 mg", "at most 5 mg"), ("no more than 4 g", "more than 4 g"), ("5 mg", "5 g"),
        ("10 mg/kg", "10 mg"), ("-5 °C", "5 °C"), ("5 mg and 10 mg", "5 mg and 100 mg"), ("3 times a day", "3 times a week"),
    ],
)  # fmt: skip
def test_two_amounts_are_two(one, other):
    assert not all(any(q.same(r) for r in quantities.find(other)) for q in quantities.find(one))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,500 mg", ["1500mg"]),
        ("1.500 mg", ["1.5mg"]),
        ("Zuerst 2,5 mg, dann 1,500 mg", ["2.5mg", "1.5mg"]),  # another comma of the text is decimal
        ("Die Dosis ist nicht mehr als 1.500 mg und wird mit Wasser genommen", ["<1500mg"]),
        ("1.234,5 mg", ["1234.5mg"]),
        ("1,234.5 mg", ["1234.5mg"]),
        ("1,234,567 IU", ["1234567iu"]),
        ("take 2 500 mg tablets", ["2", "500mg"]),
        ("2 500 mg", ["2500mg"]),
        ("grades 1,2,3", ["1", "2", "3"]),
        ("version 1.2.3", []),
        ("vitamin B12, T4, HbA1c, CYP2D6", []),
        ("10 to 20 mg", ["10mg", "20mg"]),
        ("10至20毫克", ["10mg", "20mg"]),
        ("q12h", ["12hour"]),
    ],
)
def test_numbers_are_read_as_the_module_says(text, found):
    assert [str(quantity) for quantity in quantities.find(text)] == found


@given(st.text(max_size=120))
def test_any_text_can_be_looked_through(text):
    for quantity in quantities.find(text):
        assert quantity.same(quantity)


def test_a_number_in_another_unit_counts_for_the_factual_metric():
    assert medical_metrics.factual_exact_match("每日10毫克", "每日100毫克") == 0
    assert medical_metrics.factual_exact_match("HbA1c <7%", "HbA1c >7%") == 0.5  # the name alone
    assert medical_metrics.factual_exact_match("Ein Arzt gibt der Patientin 5 mg und die Behandlung ist gut", "5 mg") == 1
