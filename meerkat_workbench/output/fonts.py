"""Legible names in charts, whatever their script: finds fonts that have the letters, or spells the names in Latin letters."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import regex

# scripts whose letters join, stack or run from right to left: matplotlib lays them out from version 3.11 on, with libraqm
NEEDS_LAYOUT = regex.compile(
    r"[\p{Arabic}\p{Hebrew}\p{Syriac}\p{Devanagari}\p{Bengali}\p{Tamil}\p{Telugu}\p{Thai}\p{Khmer}\p{Myanmar}\p{Sinhala}\p{M}]"
)
MAX_NAMES = 3  # names that the note mentions
REMEDY = "install a font that has them, such as Debian's fonts-noto-core and fonts-noto-cjk"


@dataclass(frozen=True)
class Labels:
    """How a chart writes names.

    Attributes:
        texts: the text for each name.
        families: fonts for matplotlib's `font.family`, the default one first.
        respelt: names that are spelled in Latin letters, because no installed font has their own.
    """

    texts: list[str]
    families: list[str]
    respelt: list[str]

    def note(self) -> str:
        """One sentence on the names that are spelled in Latin letters; empty if there is none."""
        if not self.respelt:
            return ""
        names = ", ".join(self.respelt[:MAX_NAMES]) + (" …" if len(self.respelt) > MAX_NAMES else "")
        return f"charts write {names} in Latin letters, because no installed font has their letters; {REMEDY}"


def labels(names: Sequence[str]) -> Labels:
    """Choose as few installed fonts as possible that have the letters of all names, and spell the other names in Latin letters."""
    import matplotlib as mpl
    from matplotlib import font_manager, ft2font

    default = str(mpl.rcParams["font.sans-serif"][0])
    families = [default]
    missing = {ord(letter) for name in names for letter in name if not letter.isascii() and not letter.isspace()}
    missing -= _letters(font_manager.findfont(default))
    if missing:
        fonts = _installed_fonts()
        while missing and fonts:
            family, path = max(fonts, key=lambda font: len(missing & _letters(font[1])))
            if not missing & _letters(path):
                break
            families.append(family)
            missing -= _letters(path)
    has_layout = getattr(ft2font, "__libraqm_version__", None) is not None
    texts, respelt = [], []
    for name in names:
        if missing & set(map(ord, name)) or (not has_layout and NEEDS_LAYOUT.search(name)):
            from anyascii import anyascii

            respelt.append(name)
            name = anyascii(name)
        texts.append(name)
    return Labels(texts, families, respelt)


def _installed_fonts() -> list[tuple[str, str]]:
    """Name and path of each installed font, the preferred ones first."""
    from matplotlib import font_manager

    _register_new_fonts()
    fonts = sorted({(font.name, font.fname) for font in font_manager.fontManager.ttflist if font.style == "normal"})
    fonts = [font for font in fonts if not font[0].startswith("Last Resort")]  # it draws a box for every letter
    # Noto is preferred: it is designed to match other scripts
    return sorted(fonts, key=lambda font: not font[0].startswith("Noto Sans"))


@functools.cache
def _register_new_fonts() -> None:
    """Register fonts that were installed since matplotlib built its list of fonts, which it does only once."""
    from matplotlib import font_manager

    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        with contextlib.suppress(RuntimeError, OSError):
            font_manager.fontManager.addfont(path)


@functools.cache
def _letters(path: str) -> frozenset[int]:
    """The code points for which a font file has glyphs; empty if FreeType cannot read it."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):
        return frozenset()
