"""Names of specialties can be read in charts, whatever their script."""

import pytest

from meerkat_workbench.output import fonts


def test_latin_names_need_no_other_font():
    labels = fonts.labels(["cardiology", "Ménière", "кардиология"])
    assert labels.texts == ["cardiology", "Ménière", "кардиология"] and len(labels.families) == 1 and not labels.note()


def test_a_name_whose_letters_no_font_has_is_written_in_latin_letters_and_noted(monkeypatch):
    from matplotlib import font_manager

    usual = font_manager.findfont("DejaVu Sans")
    real = fonts._letters
    monkeypatch.setattr(fonts, "_letters", lambda path: real(path) if path == usual else frozenset())
    labels = fonts.labels(["urology", "心脏科"])
    assert labels.texts == ["urology", "XinZangKe"] and labels.respelt == ["心脏科"]
    assert "心脏科" in labels.note() and "fonts-noto-cjk" in labels.note()


def test_an_installed_font_that_has_the_letters_is_taken():
    labels = fonts.labels(["心脏科"])
    if labels.respelt:
        pytest.skip("no installed font has Chinese letters")
    assert labels.texts == ["心脏科"] and len(labels.families) == 2 and not labels.families[1].startswith("Last Resort")


def test_scripts_that_need_layout_are_written_in_latin_letters_where_matplotlib_has_no_libraqm(monkeypatch):
    from matplotlib import ft2font

    monkeypatch.setattr(ft2font, "__libraqm_version__", None, raising=False)
    assert fonts.labels(["القلب"]).respelt == ["القلب"]
