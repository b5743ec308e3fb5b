"""Does the answer keep what matters in medicine: doses, numbers with their units, names, and medical terms.

Decimals and signs are kept ("2.5 mg" is not "25 mg"), unlike in SQuAD's normalisation. Our own definitions. Numbers are read in any
language (`quantities`); the built-in medical terms are English ones.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from pathlib import Path

from meerkat_workbench.core import input_files
from meerkat_workbench.core.errors import UserError
from meerkat_workbench.text import quantities, texts

SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+)$")
CAPITALISED = re.compile(r"\b[A-Z][\w'-]*(?:\s+(?:of\s+|de\s+|von\s+)?[A-Z][\w'-]*|\s+[IVX]+\b|\s+\d+\b)*")
ACRONYM = re.compile(r"\b(?=\w*[A-Z]\w*[A-Z0-9])[A-Z][A-Za-z0-9]*(?:-[A-Z0-9]+)*\b")
SPECIES = re.compile(r"\b[A-Z][a-z]{3,} (?=[a-z]{4,}(?:i|a|um|us|is|ae|ans|ens)\b)[a-z]+")
LETTER_SPACE_DIGIT = re.compile(r"(?<=[^\W\d_]) (?=\d)")
WORD = re.compile(r"[^\W\d_]+(?:[-'][^\W\d_]+)*")

# endings and beginnings that mark a medical word (Greek and Latin word parts, INN drug stems of the WHO)
AFFIXES = re.compile(
    r"(?:itis|osis|oses|emia|aemia|oma|omas|pathy|pathies|ectomy|otomy|ostomy|plasty|scopy|scopic|graphy|gram|uria|algia|"
    r"plegia|paresis|trophy|penia|cytosis|lysis|megaly|sclerosis|stenosis|rrhage|rrhagia|rrhea|rrhoea|phagia|phasia|pnea|"
    r"pnoea|cele|dynia|genic|itic|otic|aemic|emic|mycin|cillin|oxacin|azole|prazole|sartan|statin|olol|dipine|pril|"
    r"gliptin|gliflozin|glutide|parin|xaban|gatran|mab|tinib|ciclib|vir|triptan|setron|caine|azepam|zolam|barbital|"
    r"profen|coxib|lukast|terol|tropium|sone|solone|nisone|onide|thiazide|semide|formin|glitazone|cycline|ceft?\w*ime|"
    r"dronate|trexate|platin|taxel|rubicin|fenacin|osin|steride|phylline|cort|globulin|globulins)$|"
    r"^(?:hyper|hypo|brady|tachy|cardio|neuro|nephro|hepat|gastro|entero|derm|hemo|haemo|myo|osteo|arthr|broncho|pneumo|"
    r"pulmon|thromb|immuno|cyto|angio|vaso|cerebr|encephal|ophthalm|retin|laryng|pharyng|lymph|glyc|gluco|lip|endo|peri|"
    r"intra|sub|anti)\w{3,}",
)
# common words of medicine that no affix marks
TERMS = frozenset(
    ["abdomen", "abdominal", "abscess", "acid", "acne", "acute", "adrenal", "airway", "allergen", "allergy", "anesthesia", "antibody", "antigen", "anus", "anxiety", "aorta", "artery", "arterial", "aspirin", "asthma", "atrial", "atropine", "autoimmune", "axon", "bacteria", "bacterial", "biopsy", "bladder", "bleeding", "blister", "blood", "bone", "bowel", "brain", "breast", "breathless", "breathlessness", "bruise", "burn", "calcium", "cancer", "cardiac", "cartilage", "cataract", "catheter", "cell", "cells", "chemotherapy", "cholesterol", "chromosome", "chronic", "clot", "colic", "colon", "coma", "congenital", "constipation", "contraceptive", "copper", "cornea", "corneal", "coronary", "cough", "cramp", "creatinine", "culture", "cyst", "delirium", "delusion", "dementia", "diabetes", "dialysis", "diarrhea", "dizziness", "dose", "drainage", "drug", "duct", "echocardiogram", "edema", "embolism", "enzyme", "epinephrine", "erythema", "esophagus", "exercise", "eye", "fatigue", "femoral", "fetal", "fever", "fibrosis", "fistula", "fluid", "folate", "fracture", "fungal", "gallbladder", "gene", "genetic", "gland", "gout", "graft", "growth", "gut", "headache", "heart", "hemoglobin", "hereditary", "hernia", "hormone", "hormones", "hydration", "immune", "immunity", "implant", "infarct", "infection", "infant", "inflammation", "inflammatory", "inhaled", "inhaler", "injection", "insulin", "intravenous", "intubation", "iron", "ischemia", "itch", "itching", "jaundice", "joint", "kidney", "knee", "lead", "lens", "lesion", "lesions", "ligament", "lithium", "liver", "lung", "lungs", "magnesium", "malignant", "marrow", "medication", "membrane", "meninges", "menstrual", "metastasis", "metastases", "methotrexate", "morphine", "mucosa", "muscle", "mutation", "nausea", "necrosis", "nerve", "nerves", "nodule", "numbness", "nutrition", "obesity", "opioid", "optic", "oral", "oxygen", "oxytocin", "pain", "palpitations", "pancreas", "paralysis", "paroxysmal", "pelvic", "pelvis", "penicillin", "placenta", "plaque", "plasma", "platelet", "platelets", "pleural", "potassium", "pregnancy", "prostate", "protein", "psychosis", "pulse", "pupil", "pus", "radiation", "radiotherapy", "rash", "receptor", "rectal", "rectum", "reflex", "relapse", "renal", "respiratory", "retina", "rash", "salt", "scan", "scar", "screening", "seizure", "seizures", "sepsis", "serum", "shock", "skin", "sleep", "smear", "smoking", "sodium", "spasm", "spine", "spinal", "spleen", "sputum", "stent", "steroid", "steroids", "stomach", "stool", "stroke", "surgery", "surgical", "sweating", "swelling", "symptom", "syndrome", "systolic", "tendon", "testis", "thiamine", "throat", "thyroid", "thyroxine", "tissue", "tonsil", "toxin", "tracheal", "transfusion", "transplant", "transplantation", "trauma", "tremor", "tumor", "tumour", "ulcer", "ulcers", "ultrasound", "ureter", "urethra", "urgency", "urinary", "urine", "uterus", "vaccination", "vaccine", "vagina", "valve", "variant", "vascular", "vein", "veins", "venous", "ventilation", "ventricular", "vertigo", "viral", "virus", "vision", "vitamin", "vomiting", "weakness", "weight", "wheeze", "wound", "zinc"]
)  # fmt: skip

SIGNATURES = {
    "factual_exact_match": "recall of doses, numbers with units, and names of the reference; units converted, bounds kept; v2",
    "medical_token_f1": "F1 over medical terms: word parts, drug stems and a word list; v1",
}


def numbers(text: str) -> set[str]:
    """Numbers with their units in one notation: "10mg", "-5°c", "<7%" (`quantities`)."""
    return {str(quantity) for quantity in quantities.find(text)}


def names(text: str) -> set[str]:
    """Acronyms, species, and capitalised names that do not merely begin a sentence, in lower case.

    In other languages than English capitals mean other things (German writes every noun so): there acronyms and species alone.
    """
    text = texts.nfc(text).replace("–", "-")
    found = {match.group() for match in ACRONYM.finditer(text)}
    species = {match.group() for match in SPECIES.finditer(text)}
    found |= species
    for match in CAPITALISED.finditer(text) if texts.is_english(text) is not False else ():
        words = match.group().split()
        if SENTENCE_START.search(text[: match.start()]):
            words = words[1:]
        if words and words[0][0].isupper():
            found.add(" ".join(words))
    # the genus alone is part of the species' name, not a name beside it
    found -= {name.split()[0] for name in species}
    return {" ".join(name.lower().replace("-", " ").split()) for name in found if len(name) > 1}


def factual_exact_match(reference: str, hypothesis: str) -> float | None:
    """Share of the reference's doses, numbers and names that the answer repeats; None where it has none.

    A number counts with its own unit, or the same amount in another; "< 7%" is not "> 7%". A name counts in whatever case.
    """
    wanted_names, given_names = _names(reference), _names(hypothesis)
    wanted_numbers, given_numbers = map(set, quantities.find_in_both(reference, hypothesis))
    if not wanted_names and not wanted_numbers:
        return None
    plain = f" {_joined(hypothesis)} "
    repeated = sum(name in given_names or f" {_joined(name)} " in plain for name in wanted_names)
    repeated += sum(any(number.same(other) for other in given_numbers) for number in wanted_numbers)
    return repeated / (len(wanted_names) + len(wanted_numbers))


@functools.lru_cache(maxsize=8192)
def _joined(text: str) -> str:
    """The words of a text in lower case, letters and digits of one name together: "SGLT-2" and "SGLT2" are one."""
    return LETTER_SPACE_DIGIT.sub("", " ".join(texts.tokens(text)))


@functools.lru_cache(maxsize=8192)
def _names(text: str) -> frozenset[str]:
    return frozenset(names(text))


@functools.lru_cache(maxsize=8192)
def medical_terms(text: str, lexicon: str = "") -> tuple[str, ...]:
    """The medical terms of a text, in lower case and order.

    Args:
        lexicon: a file of terms (`read_lexicon`) that decides what is one, in place of word parts and the word list here.
    """
    if not lexicon:
        latin = WORD.findall(texts.nfc(text).lower())
        return tuple(word for word in latin if word in TERMS or (len(word) > 5 and AFFIXES.search(word)))
    known, found, place = read_lexicon(lexicon), [], 0
    words = texts.tokens(text)  # digits count ("B12" is not "B6"), and a hyphen parts words as a space does
    while place < len(words):
        # the longest term that begins here, so that "heart failure" is one term and not two
        for term in known.get(words[place], ()):
            if words[place : place + len(term)] == term:
                found.append(" ".join(term))
                place += len(term)
                break
        else:
            place += 1
    return tuple(found)


@functools.lru_cache(maxsize=4)
def read_lexicon(path: str) -> dict[str, list[tuple[str, ...]]]:
    """Terms of a text file, a term a line, by their first word and longest first; case and punctuation do not count."""
    try:
        lines = input_files.read_text(Path(path)).split("\n")
    except (OSError, UserError) as error:
        raise UserError(f"MEDICAL_LEXICON={path}: cannot be read ({error}). Give a text file with a term a line.") from None
    terms: dict[str, set[tuple[str, ...]]] = {}
    for line in lines:
        if words := texts.tokens(line):
            terms.setdefault(words[0], set()).add(words)
    if not terms:
        raise UserError(f"MEDICAL_LEXICON={path}: holds no term. Give a text file with a term a line.")
    return {first: sorted(found, key=lambda term: (-len(term), term)) for first, found in terms.items()}


def medical_token_f1(reference: str, hypothesis: str, lexicon: str = "") -> float | None:
    """Token F1 over medical terms; None where the reference has none, or is in a language that the built-in terms are not of."""
    if not lexicon and texts.is_english(reference) is False:
        return None
    right, left = Counter(medical_terms(reference, lexicon)), Counter(medical_terms(hypothesis, lexicon))
    if not right:
        return None
    overlap = (left & right).total()
    return 2 * overlap / (left.total() + right.total())
