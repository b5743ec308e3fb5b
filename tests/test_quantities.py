"""Numbers with units are read in every notation, and a tenfold dose is always found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meerkat_workbench.text import quantities
from meerkat_workbench.tuning.scoring import answer_checks, medical_metrics

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
def test_quantities_can_be_looked_for_in_any_text(text):
    for quantity in quantities.find(text):
        assert quantity.same(quantity)


def test_a_number_in_another_unit_counts_for_the_factual_metric():
    assert medical_metrics.factual_exact_match("每日10毫克", "每日100毫克") == 0
    assert medical_metrics.factual_exact_match("HbA1c <7%", "HbA1c >7%") == 0.5  # the name alone
    assert medical_metrics.factual_exact_match("Ein Arzt gibt der Patientin 5 mg und die Behandlung ist gut", "5 mg") == 1


DIFFER = [("HbA1c<7%","HbA1c>7%"),("LDL<70 mg/dL","LDL>=70 mg/dL"),("age<5 years","age>5 years"),("HbA1c应小于7%","HbA1c应大于7%"),("剂量不超过4g","剂量超过4g"),("ควรน้อยกว่า 7%","ควรมากกว่า 7%"),("3x500mg","3x5000mg"),("500 mg/125 mg","5000 mg/1250 mg"),("de 5 mg a 10 mg","de 50 mg a 100 mg"),("500 mg every 8 hours","5000 mg orally every 8 hours"),("10 mg/h","100 mg hourly"),("20 mg/24h","200 mg/day"),("week 1 100 mg, week 2 200 mg","week 1 1000 mg, week 2 200 mg"),("0·5 mg","5 mg"),("1،5 ملغ","15 ملغ"),("5  mg","50  mg"),("_5 mg_","_50 mg_"),("10mgIV","100mgIV"),("5mgPO","50mgPO"),("500mgtid","5000mgtid"),("500mgx3","5000mgx3"),("1e5mg","1e6mg"),("mg 5","mg 50"),("5&nbsp;mg","50&nbsp;mg"),("5 กรัม","50 กรัม"),("5 микрограммов","50 микрограммов"),("5 миллилитров","50 миллилитров"),("5 единиц","50 единиц"),("5 ملغرام","50 ملغرام"),("5 मिलीलीटर","50 मिलीलीटर"),("5 gocce","50 gocce"),("5 microgramas","50 microgramas"),("5个单位","50个单位"),("5 カプセル","50 カプセル"),("5 milliequivalents","50 milliequivalents"),("2 patches","20 patches"),("120 mm Hg","12 mm Hg"),("por debajo del 7%","por encima del 7%"),("menor de 7%","mayor de 7%"),("abaixo de 7%","acima de 7%"),("kleiner als 7%","größer als 7%"),("ниже 7%","выше 7%"),("7% से कम","7% से अधिक"),("140 mmHg未満","140 mmHg以上"),("older than 5 years","younger than 5 years"),("maximum 7%","minimum 7%"),("&lt;7%","&gt;7%"),("<  7%",">  7%"),("1,00,000 units","10,00,000 units"),("4.5 x 10*9/L","45 x 10*9/L"),("2 × 109/L","20 × 109/L"),("Give 1,500 mg","Give 1.5 mg"),("Tab. 5 Internationale Einheiten","50 Internationale Einheiten"),("2 Tabletten je 500 mg","2 Tabletten je 5000 mg"),("5mg/kg","50mg/kg"),("0.05 mg","0.5 mg"),("5 таб.","50 таб."),("5 cuillère à café","50 cuillère à café")]  # fmt: skip
SAME = [("max 4 g/day",x) for x in ("not to exceed 4 g/day","never exceed 4 g/day","don't exceed 4 g","do not take more than 4 g","not above 4 g","nicht über 4 g","nie mehr als 4 g","ne pas prendre plus de 4 g","jamais plus de 4 g","no superior a 4 g","nunca más de 4 g","mai più di 4 g","não superior a 4 g","не больше 4 г","не свыше 4 г","ليس أكثر من 4 غ","at most 4 g","≤4 g","不超过4克","bis zu 4 g")]+[("at least 4 g",x) for x in ("not below 4 g","never less than 4 g","nicht unter 4 g","no menos de 4 g","не меньше 4 г","≥4 g","不少于4克")]+[("500 mg/125 mg","500/125 mg"),("Metformin 1.000 mg morgens","Metformin 1000 mg morgens"),("Enoxaparin 4.000 IE","4000 IE"),("Thrombozyten 150.000/µl","150000/µl"),("COVID-19 500 mg","500 mg"),("azithromycin day 1 500 mg","500 mg"),("take 2 200 mg ibuprofen tablets","200 mg"),("type 2 500 mg metformin","500 mg"),("0·5 mg","0.5 mg"),("4.5 x 10*9/L","4.5 x 10^9/L"),("2 × 109/L","2 × 10^9/L"),("1,00,000 units","100000 units"),("5 -10 mg","5-10 mg"),("1 g/1,000 ml","1 g/l"),("GFR 30 mL/min/1.73 m^2","GFR 30 mL/min/1.73 m²"),("5 mg 2 times daily","5 mg twice daily"),("Do not exceed 4 g","Never more than 4 g"),("1.500 mg","1500 mg"),("20 mg/24h","20 mg/day"),("37 °C","98.6 °F"),("15 mg/kg/day","15 mg per kg per day"),("prendre 1 000 mg","1000 mg"),("5,5 ml","5.5 ml"),("10 mg b.i.d.","10 mg twice a day"),("<br>5 mg","5 mg"),("IBU 400 mg","ibuprofen 0,4 g")]  # fmt: skip


@pytest.mark.parametrize(("reference", "answer"), DIFFER)
def test_another_amount_or_bound_is_flagged(reference, answer):
    assert answer_checks.number_differs(reference, answer)


@pytest.mark.parametrize(("reference", "answer"), SAME)
def test_the_same_amount_and_bound_in_other_words_is_not_flagged(reference, answer):
    assert not answer_checks.number_differs(reference, answer) and not answer_checks.number_differs(answer, reference)


@pytest.mark.parametrize(
    "text", ["0^-1 mg", "1e999 mg", f"{'9' * 400} mg", "1/0 mg", "2^31", "1e-400 mg", "mg", ":", "1:", "5 mg/0 ml"]
)
def test_no_number_is_too_odd(text):
    assert all(quantity.same(quantity) for quantity in quantities.find(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("500 mg every 6 hours", ["500mg", "6hour"]),
        ("15 mg weekly", ["15mg/week"]),
        ("40 mEq/1,000 mL", ["0.04meq/ml"]),
        ("<30 mL/min/1.73 m2", ["<30ml/minute/m2"]),
        ("on day 1 and 10 mg on day 2", ["1", "10mg", "2"]),
        ("type 2 and 500 mg metformin", ["2", "500mg"]),
        ("in 2019 and 5 mg", ["2019", "5mg"]),
        ("in the 1960s", ["1960"]),
        ("a 20G needle, 40 moles, i.e. 5", ["20", "40", "5"]),
        ("50 or 100 mg", ["50mg", "100mg"]),
        ("Take 1,500 mg per day on days 1 to 5.", ["1500mg/day", "1", "5"]),
        ("1,25-dihydroxyvitamin D rises with 2,000 IU daily", ["1.25", "2000iu/day"]),
    ],
)
def test_words_around_a_number_are_not_its_unit(text, found):
    assert [str(quantity) for quantity in quantities.find(text)] == found


def test_a_rate_differs_from_another_rate_and_agrees_with_an_amount_without_one():
    assert answer_checks.number_differs("15 mg weekly", "15 mg daily")
    assert not answer_checks.number_differs("15 mg weekly", "15 mg")
    assert medical_metrics.factual_exact_match("15 mg weekly", "15 mg daily") == 0


def test_names_with_numbers_are_found_however_they_are_joined():
    for one, other in (
        ("Use an SGLT2 blocker.", "an SGLT-2 blocker"),
        ("It was COVID-19.", "covid 19"),
        ("It was COVID-19.", "Covid-19"),
    ):
        assert medical_metrics.factual_exact_match(one, other) == 1


MORE_SAME = [("Do not drive for at least 24 hours","Wait at least 24 hours before you drive"),("Do not stop for at least 6 months","Continue for at least 6 months"),("Not recommended in children under 5 years","It is contraindicated in children under 5 years"),("Metformin should not be used when eGFR is below 30 mL/min","contraindicated when eGFR is below 30 mL/min"),("不推荐用于5岁以下","仅用于5岁以上"),("no known reason and lasted more than 10 minutes","lasted more than 10 minutes"),("screen time not related to school to less than 2 hours per day","less than 2 hours per day"),("No fever > 38 °C","No fever above 38 °C"),("not > 4 g/day","not more than 4 g/day"),("10mg/dose","10 mg"),("Caduet 5/10 mg","amlodipine 5 mg and 10 mg"),("10+ mg","at least 10 mg"),("Infuse over 30 minutes","Infuse in at most 30 minutes"),("aged 15 to 34 years","15-34 years of age"),("doses at 2, 4, and 6 months","doses at 2 months, 4 months and 6 months"),("101 degrees F","101 °F"),("800 IUs","800 IU"),("older than age 60","over 60"),("maximum dose of 4 g","at most 4 g"),("1 in 2 or 50%","50%"),("2 cm or smaller","at most 2 cm"),("must not be given above 4 g","at most 4 g"),("15 mg once a week","15 mg weekly"),("20 mg einmal täglich","20 mg pro Tag")]  # fmt: skip
MORE_DIFFER = [("Methotrexate 15 mg once a week","Methotrexate 15 mg once a day"),("15 mg once weekly","15 mg daily"),("15 mg weekly","15 mg every day"),("15 mg einmal wöchentlich","15 mg einmal täglich"),("15 mg в неделю","15 mg в день"),("10 mg per dose","100 mg"),("90 mcg/puff","900 mcg"),("800 IUs","8000 IUs"),("600 International Units","6000 International Units"),("101 degrees F","110 degrees F"),("10+ mg","100 mg"),("2 cm or smaller","larger than 2 cm"),("maximum dose of 4 g","minimum dose of 4 g"),("1:1000","1:10000"),("10 mM","100 mM"),("longer than 2 cm","shorter than 2 cm")]  # fmt: skip


@pytest.mark.parametrize(("reference", "answer"), MORE_SAME)
def test_conditions_ages_and_forms_in_other_words_are_not_flagged(reference, answer):
    assert not answer_checks.number_differs(reference, answer) and not answer_checks.number_differs(answer, reference)


@pytest.mark.parametrize(("reference", "answer"), MORE_DIFFER)
def test_another_rate_form_or_bound_is_flagged(reference, answer):
    assert answer_checks.number_differs(reference, answer)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("type 2L, 2J, the 3-M syndrome", ["2", "2", "3"]),
        ("18 million U.S. adults", ["18000000"]),
        ("5 fl oz of 10 mM solution", ["5floz", "10mmol/l"]),
        ("a pressure of 120 over 80", ["120", "80"]),
        ("Lose 5-10% over 6 months", ["5%", "10%", "6month"]),
        ("5, 10, 20 mg", ["5mg", "10mg", "20mg"]),
        ("Muscle strength 5/5, pain 4/10, in 2/3 of people", ["5", "5", "4", "10", "0.666666666667"]),
        ("for an illness.2 Addressing", []),
        ("can go without food for up to 12 hours", ["<12hour"]),
    ],
)
def test_names_scores_and_footnotes_are_no_amounts(text, found):
    assert [str(quantity) for quantity in quantities.find(text)] == found
