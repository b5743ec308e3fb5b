"""Names of specialties can be read in charts, whatever their script."""

import pytest

from meerkat_workbench.output import fonts


def test_latin_names_need_no_other_font():
    found = fonts.labels(["cardiology", "Ménière", "кардиология"])
    assert found.texts == ["cardiology", "Ménière", "кардиология"] and len(found.families) == 1 and not found.note()


def test_letters_that_no_font_has_are_written_in_latin_ones_and_said(monkeypatch):
    from matplotlib import font_manager

    usual = font_manager.findfont("DejaVu Sans")
    real = fonts._letters
    monkeypatch.setattr(fonts, "_letters", lambda path: real(path) if path == usual else frozenset())
    found = fonts.labels(["urology", "心脏科"])
    assert found.texts == ["urology", "XinZangKe"] and found.respelt == ["心脏科"]
    assert "心脏科" in found.note() and "fonts-noto-cjk" in found.note()


def test_an_installed_font_that_has_the_letters_is_taken():
    found = fonts.labels(["心脏科"])
    if found.respelt:
        pytest.skip("no installed font has Chinese letters")
    assert found.texts == ["心脏科"] and len(found.families) == 2 and not found.families[1].startswith("Last Resort")


def test_scripts_that_must_be_laid_out_are_written_in_latin_letters_where_they_cannot_be(monkeypatch):
    from matplotlib import ft2font

    monkeypatch.setattr(ft2font, "__libraqm_version__", None, raising=False)
    assert fonts.labels(["القلب"]).respelt == ["القلب"]
