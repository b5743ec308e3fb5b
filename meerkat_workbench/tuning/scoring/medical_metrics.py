"""Metrics of medical content: doses, numbers with their units, names, and medical terms.

The definitions are this project's own. Unlike SQuAD's normalisation they keep decimals and signs ("2.5 mg" is not "25 mg").
Numbers are read in any language (`quantities`); the built-in medical terms are English.
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

# suffixes and prefixes of medical words (Greek and Latin word parts, INN drug stems of the WHO)
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
# common medical words without such an affix
TERMS = frozenset(
    ["abdomen", "abdominal", "abscess", "acid", "acne", "acute", "adrenal", "airway", "allergen", "allergy", "anesthesia", "antibody", "antigen", "anus", "anxiety", "aorta", "artery", "arterial", "aspirin", "asthma", "atrial", "atropine", "autoimmune", "axon", "bacteria", "bacterial", "biopsy", "bladder", "bleeding", "blister", "blood", "bone", "bowel", "brain", "breast", "breathless", "breathlessness", "bruise", "burn", "calcium", "cancer", "cardiac", "cartilage", "cataract", "catheter", "cell", "cells", "chemotherapy", "cholesterol", "chromosome", "chronic", "clot", "colic", "colon", "coma", "congenital", "constipation", "contraceptive", "copper", "cornea", "corneal", "coronary", "cough", "cramp", "creatinine", "culture", "cyst", "delirium", "delusion", "dementia", "diabetes", "dialysis", "diarrhea", "dizziness", "dose", "drainage", "drug", "duct", "echocardiogram", "edema", "embolism", "enzyme", "epinephrine", "erythema", "esophagus", "exercise", "eye", "fatigue", "femoral", "fetal", "fever", "fibrosis", "fistula", "fluid", "folate", "fracture", "fungal", "gallbladder", "gene", "genetic", "gland", "gout", "graft", "growth", "gut", "headache", "heart", "hemoglobin", "hereditary", "hernia", "hormone", "hormones", "hydration", "immune", "immunity", "implant", "infarct", "infection", "infant", "inflammation", "inflammatory", "inhaled", "inhaler", "injection", "insulin", "intravenous", "intubation", "iron", "ischemia", "itch", "itching", "jaundice", "joint", "kidney", "knee", "lead", "lens", "lesion", "lesions", "ligament", "lithium", "liver", "lung", "lungs", "magnesium", "malignant", "marrow", "medication", "membrane", "meninges", "menstrual", "metastasis", "metastases", "methotrexate", "morphine", "mucosa", "muscle", "mutation", "nausea", "necrosis", "nerve", "nerves", "nodule", "numbness", "nutrition", "obesity", "opioid", "optic", "oral", "oxygen", "oxytocin", "pain", "palpitations", "pancreas", "paralysis", "paroxysmal", "pelvic", "pelvis", "penicillin", "placenta", "plaque", "plasma", "platelet", "platelets", "pleural", "potassium", "pregnancy", "prostate", "protein", "psychosis", "pulse", "pupil", "pus", "radiation", "radiotherapy", "rash", "receptor", "rectal", "rectum", "reflex", "relapse", "renal", "respiratory", "retina", "rash", "salt", "scan", "scar", "screening", "seizure", "seizures", "sepsis", "serum", "shock", "skin", "sleep", "smear", "smoking", "sodium", "spasm", "spine", "spinal", "spleen", "sputum", "stent", "steroid", "steroids", "stomach", "stool", "stroke", "surgery", "surgical", "sweating", "swelling", "symptom", "syndrome", "systolic", "tendon", "testis", "thiamine", "throat", "thyroid", "thyroxine", "tissue", "tonsil", "toxin", "tracheal", "transfusion", "transplant", "transplantation", "trauma", "tremor", "tumor", "tumour", "ulcer", "ulcers", "ultrasound", "ureter", "urethra", "urgency", "urinary", "urine", "uterus", "vaccination", "vaccine", "vagina", "valve", "variant", "vascular", "vein", "veins", "venous", "ventilation", "ventricular", "vertigo", "viral", "virus", "vision", "vitamin", "vomiting", "weakness", "weight", "wheeze", "wound", "zinc"]
)  # fmt: skip

SIGNATURES = {
    "factual_exact_match": "recall of doses, numbers with units, and names of the reference; units converted, bounds kept; v2",
    "medical_token_f1": "F1 over medical terms: word parts, drug stems and a word list; v1",
}


def numbers(text: str) -> set[str]:
    """Numbers with their units, in one notation: "10mg", "-5°c", "<7%" (`quantities`)."""
    return {str(quantity) for quantity in quantities.find(text)}


def names(text: str) -> set[str]:
    """Acronyms, species, and names with a capital that is not only the start of a sentence; in lower case.

    In languages other than English only acronyms and species are taken, because capitals have other uses there (German
    capitalises every noun).
    """
    text = texts.nfc(text).replace("–", "-")
    candidates = {match.group() for match in ACRONYM.finditer(text)}
    species = {match.group() for match in SPECIES.finditer(text)}
    candidates |= species
    for match in CAPITALISED.finditer(text) if texts.is_english(text) is not False else ():
        words = match.group().split()
        if SENTENCE_START.search(text[: match.start()]):
            words = words[1:]
        if words and words[0][0].isupper():
            candidates.add(" ".join(words))
    # a genus is part of the species' name, not another name
    candidates -= {name.split()[0] for name in species}
    return {" ".join(name.lower().replace("-", " ").split()) for name in candidates if len(name) > 1}


def factual_exact_match(reference: str, hypothesis: str) -> float | None:
    """Fraction of the reference's doses, numbers and names that the answer repeats; None if the reference has none.

    A number matches the same amount, in the same unit or another one; "< 7%" is not "> 7%". A name matches in any case.
    """
    reference_names, answer_names = _names(reference), _names(hypothesis)
    reference_numbers, answer_numbers = map(set, quantities.find_in_both(reference, hypothesis))
    if not reference_names and not reference_numbers:
        return None
    answer_words = f" {_joined_words(hypothesis)} "
    repeated = sum(name in answer_names or f" {_joined_words(name)} " in answer_words for name in reference_names)
    repeated += sum(any(number.same(other) for other in answer_numbers) for number in reference_numbers)
    return repeated / (len(reference_names) + len(reference_numbers))


@functools.lru_cache(maxsize=8192)
def _joined_words(text: str) -> str:
    """The words of a text in lower case, without a space between letters and digits: "SGLT-2" becomes "SGLT2"."""
    return LETTER_SPACE_DIGIT.sub("", " ".join(texts.tokens(text)))


@functools.lru_cache(maxsize=8192)
def _names(text: str) -> frozenset[str]:
    return frozenset(names(text))


@functools.lru_cache(maxsize=8192)
def medical_terms(text: str, lexicon: str = "") -> tuple[str, ...]:
    """The medical terms of a text, in lower case, in the order of the text.

    Args:
        lexicon: a file of terms (`read_lexicon`) that replaces the built-in affixes and word list.
    """
    if not lexicon:
        candidates = WORD.findall(texts.nfc(text).lower())
        return tuple(word for word in candidates if word in TERMS or (len(word) > 5 and AFFIXES.search(word)))
    known_terms, terms, start = read_lexicon(lexicon), [], 0
    words = texts.tokens(text)  # digits count ("B12" is not "B6"), and a hyphen separates words like a space
    while start < len(words):
        # take the longest term that begins here, so that "heart failure" is one term and not two
        for term in known_terms.get(words[start], ()):
            if words[start : start + len(term)] == term:
                terms.append(" ".join(term))
                start += len(term)
                break
        else:
            start += 1
    return tuple(terms)


@functools.lru_cache(maxsize=4)
def read_lexicon(path: str) -> dict[str, list[tuple[str, ...]]]:
    """Read a text file with one term per line; case and punctuation are ignored.

    Returns:
        First word to the terms that begin with it, longest first; a term is a tuple of words.

    Raises:
        UserError: the file cannot be read or holds no term.
    """
    where, remedy = f"MEDICAL_LEXICON={path}", "Give a text file with a term a line."
    try:
        lines = input_files.read_text(Path(path)).split("\n")
    except (OSError, UserError) as error:
        raise UserError(f"cannot be read ({error})", where=where, remedy=remedy) from None
    terms: dict[str, set[tuple[str, ...]]] = {}
    for line in lines:
        if words := texts.tokens(line):
            terms.setdefault(words[0], set()).add(words)
    if not terms:
        raise UserError("holds no term", where=where, remedy=remedy)
    return {first: sorted(group, key=lambda term: (-len(term), term)) for first, group in terms.items()}


def medical_token_f1(reference: str, hypothesis: str, lexicon: str = "") -> float | None:
    """F1 over medical terms; None if the reference has none, or if it is not English and the built-in terms are used."""
    if not lexicon and texts.is_english(reference) is False:
        return None
    reference_terms = Counter(medical_terms(reference, lexicon))
    answer_terms = Counter(medical_terms(hypothesis, lexicon))
    if not reference_terms:
        return None
    overlap = (answer_terms & reference_terms).total()
    return 2 * overlap / (answer_terms.total() + reference_terms.total())
