"""Reading vocabularies in the forms in which they are published.

| form | files |
|---|---|
| umls | a folder with MRCONSO.RRF and MRSTY.RRF: English names, the preferred atom first |
| medic | `id|other ids|name|synonym|...` lines, or CTD's table with DiseaseName, DiseaseID, AltDiseaseIDs and Synonyms |
| mesh | NLM's descriptor and supplementary records as XML (desc*.xml, supp*.xml) or ASCII (d*.bin, c*.bin) |
| jsonl | rows of id, name, synonyms and types; or of cui, names and semantic_types |
| csv | columns id and name, and synonyms, types and aliases separated by vertical bars |
"""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from meerkat_workbench.concepts import vocabulary
from meerkat_workbench.concepts.vocabulary import Concept, SemanticType, Vocabulary
from meerkat_workbench.core import artifacts, input_files
from meerkat_workbench.core.errors import UserError

Form = Literal["umls", "medic", "mesh", "jsonl", "csv"]
FORMS: tuple[Form, ...] = get_args(Form)
UMLS_TABLES = ("MRCONSO.RRF", "MRSTY.RRF")
# columns of MRCONSO.RRF and MRSTY.RRF (UMLS Reference Manual, chapter 3)
CUI, LANGUAGE, STATUS, FORM, PREFERRED, SOURCE, NAME, SUPPRESSED = 0, 1, 2, 4, 6, 11, 14, 16
CTD_COMMENT, CTD_HEADER = "#", "DiseaseName"


def detect(path: Path) -> Form:
    """The form of a vocabulary, from its name and its first lines.

    Raises:
        UserError: there is nothing, or nothing that is known.
    """
    if path.is_dir():
        if (path / "MRCONSO.RRF").is_file():
            return "umls"
        raise UserError("holds no MRCONSO.RRF", where=path, remedy="Name a vocabulary's file, or a folder of UMLS tables.")
    if not path.is_file():
        raise UserError("there is no such file", where=path)
    if path.suffix in (".xml", ".bin"):
        return "mesh"
    if path.suffix == ".jsonl":
        return "jsonl"
    with path.open(encoding="utf-8", errors="replace") as file:
        start = file.read(20_000)
    if "||" in start.partition("\n")[0] or f"{CTD_HEADER}," in start or f"{CTD_HEADER}\t" in start:
        return "medic"
    if path.suffix in (".csv", ".tsv"):
        return "csv"
    raise UserError("is in no form that is known", where=path, remedy=f"Set VOCABULARY_FORMAT to one of {', '.join(FORMS)}.")


def read(path: Path, form: Form | None = None, types: Path | None = None) -> Vocabulary:
    """A vocabulary from a file or folder.

    Args:
        form: None tells it by `detect`.
        types: a table of the types' hierarchy with the columns type_id, name and parent_id.

    Raises:
        UserError: what `vocabulary.build` raises, or a line of another form.
    """
    readers: dict[Form, Callable[[Path], Iterable[Concept]]] = {
        "umls": _umls, "medic": _medic, "mesh": _mesh, "jsonl": _jsonl, "csv": _csv
    }  # fmt: skip
    found = form or detect(path)
    return vocabulary.build(readers[found](path), read_types(types) if types else [], path)


def tables_of(path: Path) -> list[Path]:
    """The files that are read of a path: of UMLS' folder two tables, because others have many gigabytes."""
    return [table for name in UMLS_TABLES if (table := path / name).is_file()] if path.is_dir() else [path]


def read_types(path: Path) -> list[SemanticType]:
    """The hierarchy of types from a table with the columns type_id, name and parent_id."""
    rows = _table(path, ("type_id", "name", "parent_id"))
    return [SemanticType(id=row["type_id"], name=row["name"], parent=row["parent_id"]) for row in rows]


def _table(path: Path, needed: tuple[str, ...]) -> list[dict[str, str]]:
    text = input_files.read_named(path)
    delimiter = "\t" if "\t" in text.partition("\n")[0] else ","
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    missing = [name for name in needed if name not in (reader.fieldnames or [])]
    if missing:
        raise UserError(f"has no column {missing[0]}", where=path, remedy=f"Give it the columns {', '.join(needed)}.")
    return [{name: (value or "").strip() for name, value in row.items() if name} for row in reader]


def _split(cell: str, by: str = "|") -> list[str]:
    return [part for text in cell.split(by) if (part := text.strip())]


# --- UMLS


def _umls(folder: Path) -> Iterator[Concept]:
    types: dict[str, list[str]] = {}
    semantic = folder / "MRSTY.RRF"
    if semantic.is_file():
        for _, cells in _rows(semantic, 2):
            types.setdefault(cells[0], []).append(cells[1])
    names: dict[str, list[tuple[bool, str]]] = {}
    for _, cells in _rows(folder / "MRCONSO.RRF", SUPPRESSED + 1):
        if cells[LANGUAGE] == "ENG" and cells[SUPPRESSED] != "O":  # obsolete
            preferred = cells[STATUS] == "P" and cells[FORM] == "PF" and cells[PREFERRED] == "Y"
            names.setdefault(cells[CUI], []).append((not preferred, cells[NAME]))
    for cui, found in names.items():
        ordered = [name for _, name in sorted(found, key=lambda pair: pair[0])]
        yield Concept(id=cui, name=ordered[0], synonyms=ordered[1:], types=types.get(cui, []))


def _rows(path: Path, columns: int) -> Iterator[tuple[int, list[str]]]:
    """Lines of a table with vertical bars, a line at a time: UMLS' tables have gigabytes."""
    if not path.is_file():
        raise UserError("there is no such file", where=path)
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            cells = line.rstrip("\n").split("|")
            if len(cells) < columns:
                raise UserError(f"has {len(cells)} columns, not {columns}", where=f"{path}, line {number}", remedy="Restore it.")
            yield number, cells


# --- MEDIC and MeSH


def _medic(path: Path) -> Iterator[Concept]:
    text = input_files.read_named(path)
    if CTD_HEADER in text[:20_000]:
        yield from _ctd(text)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        cells = [html.unescape(cell) for cell in line.split("||" if "||" in line else "|")]
        head, names = cells[0].split("|"), _split("|".join(cells[1:]))
        if not names:
            raise UserError("this concept has no name", where=f"{path}, line {number}", item=cells[0], remedy="Remove it.")
        yield Concept(id=_bare(head[0]), name=names[0], synonyms=names[1:], aliases=[_bare(one) for one in head[1:] if one])


def _ctd(text: str) -> Iterator[Concept]:
    """CTD's table of diseases, whose header stands in a comment."""
    lines = text.split("\n")
    start = next(number for number, line in enumerate(lines) if CTD_HEADER in line)
    header = lines[start].lstrip("# ")
    delimiter = "\t" if "\t" in header else ","
    kept = [header, *(line for line in lines[start + 1 :] if line.strip() and not line.startswith(CTD_COMMENT))]
    for row in csv.DictReader(io.StringIO("\n".join(kept)), delimiter=delimiter):
        yield Concept(id=_bare(row["DiseaseID"] or ""), name=row[CTD_HEADER] or "", synonyms=_split(row.get("Synonyms") or ""),
                      aliases=[_bare(one) for one in _split(row.get("AltDiseaseIDs") or "")])  # fmt: skip


def _bare(concept_id: str) -> str:
    """An id as corpora write it: "MESH:D003920" is "D003920", and ids of OMIM are numbers with the prefix."""
    one = vocabulary.bare_id(concept_id)
    return f"OMIM:{one}" if one.isdigit() and len(one) == 6 else one


def _mesh(path: Path) -> Iterator[Concept]:
    return _mesh_xml(path) if path.suffix == ".xml" else _mesh_ascii(path)


MESH_RECORDS = {
    "DescriptorRecord": "Descriptor",
    "SupplementalRecord": "SupplementalRecord",
}  # elements of a record, and what its fields begin with


def _mesh_xml(path: Path) -> Iterator[Concept]:
    from xml.etree import ElementTree

    try:
        for _, element in ElementTree.iterparse(path):
            if element.tag not in MESH_RECORDS:
                continue
            prefix = MESH_RECORDS[element.tag]
            name = element.findtext(f"{prefix}Name/String", "")
            synonyms = [term.text or "" for term in element.iterfind(".//TermList/Term/String")]
            numbers = [number.text or "" for number in element.iterfind(".//TreeNumber")]
            yield Concept(id=element.findtext(f"{prefix}UI", ""), name=name, synonyms=synonyms, types=_branches(numbers))
            element.clear()
    except ElementTree.ParseError as error:
        raise UserError(f"is not valid XML ({error})", where=path, remedy="Download it again.") from None


def _mesh_ascii(path: Path) -> Iterator[Concept]:
    """Records of `FIELD = value` lines, of which the first is *NEWRECORD."""
    for record in input_files.read_named(path).split("*NEWRECORD")[1:]:
        fields: dict[str, list[str]] = {}
        for line in record.split("\n"):
            name, _, value = line.partition(" = ")
            fields.setdefault(name.strip(), []).append(value.strip())
        names = [*fields.get("MH", []), *fields.get("NM", [])]
        synonyms = [value.partition("|")[0] for field in ("ENTRY", "PRINT ENTRY", "SY") for value in fields.get(field, [])]
        yield Concept(id=fields.get("UI", [""])[0], name=names[0] if names else "", synonyms=synonyms,
                      types=_branches(fields.get("MN", [])))  # fmt: skip


def _branches(tree_numbers: list[str]) -> list[str]:
    """The branches of MeSH's tree, such as C14 for cardiovascular diseases, as types."""
    return list(dict.fromkeys(number.partition(".")[0] for number in tree_numbers if number))


# --- plain files


def _jsonl(path: Path) -> Iterator[Concept]:
    values = input_files.named_json_lines(path)
    for number, value in values:
        yield _concept_of(value, f"{path}, line {number}")


def _concept_of(value: Any, where: str) -> Concept:
    if isinstance(value, dict) and "cui" in value:
        names = value.get("names")
        if not isinstance(names, list) or not names:
            raise UserError(
                "has no list of names",
                where=where,
                item=str(value["cui"]),
                remedy="Write names as a list, the preferred one first.",
            )
        value = {"id": value["cui"], "name": names[0], "synonyms": names[1:], "types": value.get("semantic_types", [])}
    return artifacts.from_json(Concept, value, where)


def _csv(path: Path) -> Iterator[Concept]:
    for row in _table(path, ("id", "name")):
        yield Concept(id=row["id"], name=row["name"], synonyms=_split(row.get("synonyms", "")),
                      types=_split(row.get("types", "")), aliases=_split(row.get("aliases", "")))  # fmt: skip
