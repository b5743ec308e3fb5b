"""Word tables of `quantities`: how medical texts in ten languages write units, ranges, rates and bounds."""

from __future__ import annotations

import regex

# pint's name of the unit, our abbreviation, and its aliases in texts (compared in lower case)
UNITS: tuple[tuple[str, str, str], ...] = (
    ("gram", "g", "=g gm gram grams gramm gramme grammes gramo gramos grammo grammi г гр грамм грамма граммов 克 グラム غرام جرام غم جم ग्राम กรัม gramas грамм"),
    ("milligram", "mg", "mg mgs mgm mgr milligram milligrams milligramm milligramme milligrammes miligramo miligramos milligrammo milligrammi "
     "мг миллиграмм миллиграмма миллиграммов 毫克 公丝 ミリグラム ملغ ملغم ملجم مجم مغ ملليغرام ملليجرام ميليغرام मिग्रा मि.ग्रा. मिलीग्राम มก. มก มิลลิกรัม ملغرام ميليجرام مليغرام ملليجرام میلی‌گرم मि.ग्रा एमजी miligramas миллиграммах"),
    ("microgram", "µg", "µg mcg ug microgram micrograms mikrogramm microgramme microgrammes microgramo microgramos microgrammo microgrammi "
     "мкг микрограмм 微克 マイクログラム ميكروغرام ميكروجرام مكغ มคก. ไมโครกรัม микрограммов микрограмма mcgs microg ميكروغرامات माइक्रोग्राम एमसीजी microgramas microgrammes"),
    ("nanogram", "ng", "ng nanogram nanograms нг 纳克 奈克"),
    ("kilogram", "kg", "kg kgs kilo kilos kilogram kilograms kilogramm kilogramme kilogrammes kilogramo kilogramos кг килограмм 千克 公斤 キログラム كغ كجم كغم كيلوغرام كيلوجرام किग्रा กก. กก กิโลกรัม"),
    ("pound", "lb", "lb lbs pound pounds"),
    ("fluid_ounce", "floz", "fl oz"),
    ("ounce", "oz", "oz ounce ounces"),
    ("liter", "l", "l litre litres liter liters litro litros litri л литр литра литров 升 リットル لتر ลิตร"),
    ("milliliter", "ml", "ml mls cc cm3 millilitre millilitres milliliter milliliters mililitro mililitros мл миллилитр 毫升 ミリリットル مل ملل มล. มล มิลลิลิตร ซีซี миллилитров миллилитра ملليلتر ميليلتر मिलीलीटर मिली मि.ली. मि.ली एमएल millilitri mililitros"),
    ("centiliter", "cl", "cl"),
    ("deciliter", "dl", "dl decilitre decilitres deciliter deciliters дл 分升"),
    ("microliter", "µl", "µl ul mm3 microlitre microlitres microliter microliters мкл 微升"),
    ("femtoliter", "fl", "fl"),
    ("mole", "mol", "mol моль 摩尔"),
    ("millimole", "mmol", "mmol mmols millimole millimoles ммоль 毫摩尔 毫摩"),
    ("micromole", "µmol", "µmol umol micromol micromole micromoles мкмоль 微摩尔"),
    ("nanomole", "nmol", "nmol нмоль"),
    ("picomole", "pmol", "pmol пмоль"),
    ("picogram", "pg", "pg"),
    ("milliinternational_unit", "miu", "miu mu milliunit milliunits"),
    ("microinternational_unit", "µiu", "µiu uiu µu microunit microunits"),
    ("kilointernational_unit", "kiu", "kiu =kU"),
    ("megainternational_unit", "megaiu", "=MIU =MU"),
    ("millicurie", "mci", "mci"),
    ("microcurie", "µci", "µci uci"),
    ("kilobecquerel", "kbq", "kbq"),
    ("megabecquerel", "mbq", "mbq"),
    ("gigabecquerel", "gbq", "gbq"),
    ("dilution", "dilution", "1:"),
    ("milliequivalent", "meq", "meq meqs mval мэкв 毫当量 milliequivalents milliequivalent"),
    ("international_unit", "iu", "iu ius i.u. international unit international units =IE =I.E. internationale einheiten =UI =U.I. =U unit units einheit einheiten unité unités unidad unidades unità ед ме 单位 國際單位 国际单位 單位 単位 国際単位 وحدة وحدات وحدة दولية यूनिट ยูนิต единиц единицы 個單位 个单位 unidades unità =I.U."),
    ("mmHg", "mmhg", "mmhg mm hg torr 毫米汞柱"),
    ("kilopascal", "kpa", "kpa"),
    ("centimeter_H2O", "cmh2o", "cmh2o"),
    ("meter", "m", "=m metre metres meter meters"),
    ("centimeter", "cm", "cm centimetre centimetres centimeter centimeters см 厘米 公分 センチ سم ซม."),
    ("millimeter", "mm", "mm millimetre millimetres millimeter millimeters мм 毫米 مم มม."),
    ("micrometer", "µm", "µm um micron microns 微米"),
    ("kilometer", "km", "km"),
    ("inch", "inch", "inch inches"),
    ("foot", "ft", "ft feet"),
    ("meter**2", "m2", "m2 м2 平方米 m^2 м^2"),
    ("centimeter**2", "cm2", "cm2 cm^2"),
    ("second", "second", "second seconds sec secs sekunde sekunden seconde secondes segundo segundos secondo secondi сек секунд 秒 ثانية ثوان วินาที"),
    ("minute", "minute", "minute minutes min mins minuten minuto minutos minuti мин минут минута минуты 分钟 分鐘 分間 دقيقة دقائق मिनट นาที"),
    ("hour", "hour", "hour hours hr hrs =h std stunde stunden heure heures hora horas ora ore uur ч час часа часов 小时 小時 時間 ساعة ساعات घंटे घंटा ชั่วโมง"),
    ("day", "day", "day days tag tage tagen jour jours día días dia dias giorno giorni dag dagen день дня дней сутки суток 天 日 日間 يوم أيام يوما दिन วัน"),
    ("week", "week", "week weeks wk wks woche wochen semaine semaines semana semanas settimana settimane неделя недели неделю недель 周 週 週間 星期 أسبوع أسابيع सप्ताह สัปดาห์"),
    ("month", "month", "month months monat monate monaten mois mes meses mese mesi месяц месяца месяцев 个月 個月 か月 ヶ月 カ月 شهر أشهر شهور महीने महीना เดือน mo mos mths мес"),
    ("year", "year", "year years yr yrs jahr jahre jahren ans année années año años anno anni ano anos год года лет 年 岁 歲 歳 سنة سنوات عام साल वर्ष ปี"),
    ("degree_Celsius", "°c", "°c degrees celsius ° c celsius 度 ℃ degrees c"),
    ("degree_Fahrenheit", "°f", "°f ° f fahrenheit degrees f degrees fahrenheit"),
    ("gray", "gy", "gy gray грей"),
    ("centigray", "cgy", "cgy"),
    ("millisievert", "msv", "msv"),
    ("hertz", "hz", "hz hertz"),
    ("kilohertz", "khz", "khz"),
    ("megahertz", "mhz", "mhz"),
    ("decibel_level", "db", "db decibel decibels"),
    ("kilocalorie", "kcal", "kcal 千卡"),
    ("joule", "joule", "joule joules"),
    ("kilojoule", "kj", "kj"),
    ("watt", "watt", "watt watts"),
    ("millivolt", "mv", "mv"),
    ("milliampere", "ma", "=mA"),
    ("mmol", "mmol/l", "=mM"),
    ("µmol", "µmol/l", "=μM =µM"),
    ("beat_a_minute", "bpm", "bpm beats/min /min"),
    ("percent_of_whole", "%", "% percent per cent pct prozent pour cent por ciento процент процентов 个百分点 بالمئة بالمائة"),
    ("time_of_many", "times", "times mal fois veces vezes volte раз раза 次 回 مرة مرات बार ครั้ง"),
    ("tablet", "tablet", "tablet tablets tab tabs tablette tabletten comprimé comprimés comprimido comprimidos compressa compresse pill pills таблетка таблетки таблеток 片 錠 أقراص قرص เม็ด таб. табл. таб табл tbl. tbl cpr cp compresse गोली गोलियां"),
    ("capsule", "capsule", "capsule capsules cap caps kapsel kapseln gélule gélules cápsula cápsulas 粒 胶囊 كبسولة แคปซูล カプセル capsula капсула капсулы капсул कैप्सूल"),
    ("drop", "drop", "drop drops gtt tropfen goutte gouttes gota gotas капель капли 滴 قطرة قطرات หยด gocce капля кап. кап बूंदें बूंद trpf. trpf"),
    ("puff", "puff", "puff puffs hub hübe bouffée bouffées inhalation inhalations 喷"),
    ("spoon", "teaspoon", "teaspoon cuillère à café teaspoons teaspoonful teaspoonfuls tsp teelöffel cucharadita ช้อนชา चम्मच"),
    ("large_spoon", "tablespoon", "tablespoon tablespoons tablespoonful tablespoonfuls tbsp esslöffel"),
    ("sachet", "sachet", "sachet sachets beutel bolsita bolsitas 袋 包 bustina bustine sobre sobres"),
    ("spray", "spray", "spray sprays sprühstoß sprühstöße"),
    ("patch", "patch", "patch patches pflaster parche parches"),
    ("suppository", "suppository", "suppository suppositories zäpfchen supositorio supositorios"),
    ("injection", "injection", "injection injections spritze spritzen inyección inyecciones"),
    ("ampoule", "ampoule", "ampoule ampoules vial vials 支 瓶 ampule ampules ampola ampolas ampolla ampollas fiala fiale アンプル"),
    ("dose", "dose", "dose doses dosis dosen dosi 剂"),
)  # fmt: skip
# units that pint does not know, or treats as plain numbers
OWN_UNITS = ("dilution", "milliequivalent", "international_unit", "decibel_level", "beat_a_minute", "percent_of_whole", "time_of_many", "tablet",
             "capsule", "drop", "puff", "ampoule", "dose", "spoon", "large_spoon", "sachet", "spray", "patch", "suppository", "injection")  # fmt: skip
# units of an amount of a drug, or of its dose form
DOSE_UNITS = frozenset(
    ["g", "mg", "µg", "ng", "pg", "l", "ml", "cl", "dl", "µl", "mol", "mmol", "µmol", "nmol", "pmol", "iu", "miu", "µiu", "kiu", "megaiu", "meq",
     "mci", "µci", "kbq", "mbq", "gbq", "dilution", "tablet", "capsule", "drop", "puff", "ampoule", "dose", "teaspoon", "tablespoon", "sachet", "spray",
     "patch", "suppository", "injection", "gy", "cgy"]
)  # fmt: skip
# units that a denominator may count: "5 mg/100 ml"
COUNTABLE_DENOMINATORS = frozenset(
    ["second", "minute", "hour", "day", "week", "month", "year", "l", "ml", "cl", "dl", "µl", "kg", "g", "m2", "cm2"]
)
SINGLE_DOSES = ("dose", "puff", "spray", "tablet", "capsule", "injection")  # "10 mg per dose" is 10 mg
TIME_UNITS = ("second", "minute", "hour", "day", "week", "month", "year")
DENOMINATOR_ONLY = {"d": "day", "j": "day", "wk": "week", "mo": "month"}  # "mg/kg/d": abbreviations in a denominator only
MULTIWORD_ALIASES = (
    "per cent", "pour cent", "por ciento", "° c", "° f", "وحدة دولية", "mm hg", "degrees celsius", "internationale einheiten", "international units", "international unit", "degrees c", "degrees f", "degrees fahrenheit", "fl oz",
    "cuillère à café",
)  # fmt: skip
CASE_SENSITIVE = "="  # marks an alias whose capitals count: "IE" is a German unit, "ie" is a word
TIME_ADVERBS = {"daily": "day", "weekly": "week", "monthly": "month", "hourly": "hour", "yearly": "year", "annually": "year", "täglich": "day",
                "wöchentlich": "week", "monatlich": "month", "stündlich": "hour"}  # fmt: skip
MULTIPLIERS = {  # words after a number, and the factor
    "thousand": 1e3, "tausend": 1e3, "mille": 1e3, "mil": 1e3, "тыс": 1e3, "тыс.": 1e3, "ألف": 1e3, "हजार": 1e3, "million": 1e6, "millions": 1e6,
    "mio": 1e6, "mio.": 1e6, "millionen": 1e6, "millón": 1e6, "millones": 1e6, "milioni": 1e6, "milhões": 1e6, "млн": 1e6, "مليون": 1e6,
    "billion": 1e9, "lakh": 1e5, "लाख": 1e5, "万": 1e4, "萬": 1e4, "百万": 1e6, "亿": 1e8, "億": 1e8, "หมื่น": 1e4, "แสน": 1e5, "ล้าน": 1e6,
}  # fmt: skip
# between the ends of a range, or between two values of one unit
JOINER = regex.compile(
    r"\s?(?:-|–|—|~|〜|至|到|から|/)\s?-?|,\s(?:(?:and|or|und|oder|et|ou)\s)?"
    r"|\s(?:to|and|or|over|bis|und|oder|à|et|ou|a|hasta|y|o|al|e|до|и|или|إلى|أو|و|से|ถึง)\s-?",
    regex.IGNORECASE,
)
# before a number that is a label, as in "type 2": it does not take the unit of the number after it
LABEL_BEFORE = regex.compile(
    r"(?:\p{L}-|\b(?:days?|omega|types?|grades?|stages?|phases?|groups?|class|weeks?|months?|years?|steps?|levels?|tage?|typ|grad|stadium|jours?|días?|"
    r"in|chromosomes?|exons?|figures?|factors?|hpv|out of)|第)\s?$",
    regex.IGNORECASE,
)
# an age takes the unit of the number after it in "aged 15 to 34 years", but not in "aged 65 or 5 mg"
AGE_BEFORE = regex.compile(r"\bag(?:e|es|ed)\s$", regex.IGNORECASE)
ROUTE_OR_COUNT = r"(?-i:(?:IV|PO|IM|SC|SL|PR|TID|BID|QID|QD|OD|iv|po|im|sc|tid|bid|qid|od)\b)|[x×]\d"  # "10mgIV", "500mgx3"
CALENDAR_YEARS = range(1900, 2101)  # such a number takes no unit from the number after it
DOSE_FORM_AFTER = regex.compile(
    r"(?:\s\p{L}+){0,2}\s(?:tabl|tab\b|tabs\b|caps|pill|vial|amp|dose|comprim|gélul|kaps|sachet)", regex.IGNORECASE
)
AT_MOST, AT_LEAST = "<", ">"
BOUND_SIGNS = {AT_MOST: "<=|=<|[<≤⩽≦‹]", AT_LEAST: ">=|=>|[>≥⩾≧›]"}
# comparatives, which a negation reverses
COMPARATIVES = {
    AT_MOST: "less than or equal to|(?:less|fewer|lower|younger|smaller|shorter|thinner|lighter|weaker|slower|colder) than|below or equal to|below|under|"
    "weniger als|kleiner als|unter|moins de|en dessous de|inférieure? à|menos de|menor de|menor que|por debajo de|por debajo del|inferior a|meno di|"
    "meno del|inferiore a|inferiore al|abaixo de|менее|меньше|ниже|小于|少于|低于|不足|أقل من|น้อยกว่า|ต่ำกว่า|minder dan",
    AT_LEAST: "(?:greater|\\p{L}+er|more) than or equal to|(?:\\p{L}+er|more) than|above or equal to|above|over|beyond|in excess of|exceed(?:s|ed|ing)?|"
    "mehr als|größer als|über|plus de|au-dessus de|supérieure? à|dépasser|más de|mayor de|mayor que|por encima de|por encima del|superior a|"
    "più di|più del|superiore a|superiore al|mais de|mais que|acima de|более|больше|выше|свыше|превышать|大于|多于|高于|超过|"
    "أكثر من|يزيد عن|يتجاوز|มากกว่า|สูงกว่า|เกิน|meer dan",
}
# phrases that state an upper or lower bound by themselves
BOUND_PHRASES = {
    AT_MOST: "up to|at most|as much as|no later than|within|(?:a )?max(?:\\.|imum|imal)?(?: \\p{L}+){0,3}(?: of)?|höchstens|maximal|bis zu|au plus|au maximum|jusqu'à|"
    "como máximo|hasta|al massimo|no máximo|até|до|максимум",
    AT_LEAST: "at least|(?:a )?min(?:\\.|imum|imal)(?: \\p{L}+){0,3}(?: of)?|mindestens|au moins|al menos|como mínimo|almeno|pelo menos|минимум|至少|على الأقل|อย่างน้อย",
}
_SMALL, _LARGE = (
    "less|lower|fewer|below|younger|under|smaller|shorter|thinner",
    "more|higher|above|greater|older|over|larger|longer|bigger|thicker|up",
)
# phrases after a number
BOUNDS_AFTER = {
    AT_MOST: f"(?:or|and) (?:{_SMALL})\\b|max(?:imum)?\\b|oder weniger|ou moins|o menos|o meno|ou menos|или менее|и менее|以下|以内|或更少|未満|أو أقل|से कम|หรือน้อยกว่า",
    AT_LEAST: f"(?:or|and) (?:{_LARGE})\\b|min(?:imum)\\b|oder mehr|ou plus|o más|o più|ou mais|или более|и более|以上|或更多|を超える|超|أو أكثر|से अधिक|से ज्यादा|ขึ้นไป|"
    "หรือมากกว่า",
}
NEGATION = (
    r"(?:\b(?:not|never|no|don't|cannot|without|avoid|avoiding|nicht|nie|niemals|keine?n?|ne|pas|jamais|sans|nunca|jamás|non|mai|senza|não|sem|niet|nooit|"
    r"не|никогда|без)\b|n't\b|ليس|\bلا\b|بدون|不|勿|ไม่|मत|नहीं)"
)
# words between a negation and the comparative that it reverses: "must not be given above", "ne pas prendre plus de"
_BETWEEN = r"(?:\s?(?:to|be|go|do|take|taken|give|given|use|used|doses?|the|should|prendre|tomar|nehmen|einnehmen|geben|prendere|должно|быть|принимать|تتناول|超|应|要|可|能)){0,3}"
NEGATION_BESIDE = regex.compile(rf"{NEGATION}{_BETWEEN}\s?$", regex.IGNORECASE)
NEGATION_NEAR = regex.compile(rf"{NEGATION}[^.;!?\d<>]{{0,60}}$", regex.IGNORECASE)
