"""The sample specialties: how many there are, their form, and that the files are what the generator makes."""

import json
import subprocess
import sys

from conftest import ROOT

from meerkat_workbench.text.near_duplicates import candidate_pairs, fingerprint, near_duplicate
from meerkat_workbench.tuning.data.specialty_files import read_folder

SAMPLES = ROOT / "examples" / "specialties"
FACTS = ("definition", "symptoms", "causes", "diagnosis", "treatment", "prevention", "outlook")


def test_there_are_42_specialties_of_60_pairs_or_more():
    records = read_folder(SAMPLES, skip_invalid=False).records
    assert len(records) == 42 and min(map(len, records.values())) >= 60


def test_the_files_are_what_the_generator_makes(tmp_path):
    subprocess.run([sys.executable, "examples/make_specialties.py", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert made == {path.name: path.read_bytes() for path in SAMPLES.iterdir()}


def test_no_two_pairs_are_near_duplicates():
    records = [record for group in read_folder(SAMPLES, skip_invalid=False).records.values() for record in group]
    prints = fingerprint(records, near=True)
    assert len(set(prints.question_keys.tolist())) == len(set(prints.answer_keys.tolist())) == len(records)
    candidates = candidate_pairs(prints.bands, prints.bands)
    assert not [(a, b) for a, b in candidates if a < b and near_duplicate(records[a], records[b], 0.8)]


def test_every_fact_is_a_phrase_of_its_own():
    facts = [row[fact] for row in json.loads(json.dumps(_rows())) for fact in FACTS]
    assert len(facts) == 252 * 7 == len(set(facts))
    assert all(8 <= len(fact.split()) <= 32 and not fact.endswith(".") for fact in facts)


def _rows():
    import csv

    with open(ROOT / "examples" / "facts.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
