"""Names in charts, legible in any script: fonts that have their letters, or the names in Latin letters where no font has."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import regex

# scripts whose letters join, stack or run from right to left: matplotlib lays them out from 3.11 on, by libraqm
NEEDS_LAYOUT = regex.compile(
    r"[\p{Arabic}\p{Hebrew}\p{Syriac}\p{Devanagari}\p{Bengali}\p{Tamil}\p{Telugu}\p{Thai}\p{Khmer}\p{Myanmar}\p{Sinhala}\p{M}]"
)
REMEDY = "install a font that has them, such as Debian's fonts-noto-core and fonts-noto-cjk"


@dataclass(frozen=True)
class Labels:
    """How names stand in a chart.

    Attributes:
        texts: a text a name.
        families: fonts for matplotlib's `font.family`, the usual one first.
        respelt: names that stand in Latin letters, because no installed font has theirs.
    """

    texts: list[str]
    families: list[str]
    respelt: list[str]

    def note(self) -> str:
        """What to know of them, in one sentence; empty where there is nothing."""
        if not self.respelt:
            return ""
        return f"charts write {', '.join(self.respelt[:3])}{' …' if len(self.respelt) > 3 else ''} in Latin letters: no installed font has theirs; {REMEDY}"


def labels(names: Sequence[str]) -> Labels:
    """Fonts among those installed that have every letter of the names, as few as possible."""
    import matplotlib as mpl
    from matplotlib import font_manager, ft2font

    usual = str(mpl.rcParams["font.sans-serif"][0])
    families = [usual]
    missing = {ord(letter) for name in names for letter in name if not letter.isascii() and not letter.isspace()}
    missing -= _letters(font_manager.findfont(usual))
    if missing:
        _know_new_fonts()
        fonts = sorted({(font.name, font.fname) for font in font_manager.fontManager.ttflist if font.style == "normal"})
        fonts = [font for font in fonts if not font[0].startswith("Last Resort")]  # which draws a box for every letter there is
        # Noto first: it is made to stand beside other scripts
        fonts.sort(key=lambda font: not font[0].startswith("Noto Sans"))
        while missing and fonts:
            name, path = max(fonts, key=lambda font: len(missing & _letters(font[1])))
            if not missing & _letters(path):
                break
            families.append(name)
            missing -= _letters(path)
    laid_out = getattr(ft2font, "__libraqm_version__", None) is not None
    texts, respelt = [], []
    for name in names:
        if missing & set(map(ord, name)) or (not laid_out and NEEDS_LAYOUT.search(name)):
            from anyascii import anyascii

            respelt.append(name)
            name = anyascii(name)
        texts.append(name)
    return Labels(texts, families, respelt)


@functools.cache
def _know_new_fonts() -> None:
    """matplotlib remembers the fonts of its first start; those installed since are made known."""
    from matplotlib import font_manager

    known = {font.fname for font in font_manager.fontManager.ttflist}
    for path in set(font_manager.findSystemFonts()) - known:
        with contextlib.suppress(RuntimeError, OSError):
            font_manager.fontManager.addfont(path)


@functools.cache
def _letters(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (RuntimeError, OSError):  # a font that FreeType cannot read
        return frozenset()
