"""In which script a text is written."""

import pytest

from stages.lib.scripts import knows, main_script, share_of


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("On its way.", "Latin"),
        ("您的包裹 OK", "Han"),
        ("ありがとうございます", "Hiragana"),
        ("내일 도착합니다", "Hangul"),
        ("Посылка в пути", "Cyrillic"),
        ("12:30, 5 €", "none"),
        ("2026-03-03", "none"),
        ("ა ბ გ", "other"),
        ("", "none"),
    ],
)
def test_a_text_is_of_the_script_of_most_of_its_letters(text, script):
    assert main_script(text) == script


@pytest.mark.parametrize(
    ("language", "share"),
    [
        ("zh", 0),
        ("zh-CN", 0),
        ("Chinese", 0),
        ("Simplified Chinese", 0),
        ("Chinese (Simplified)", 0),
        ("cn", 0),
        ("中文", 0),
        ("Japanese", 0),
        ("Korean", 0),
        ("Russian", 0),
        ("English", 1),
        ("英文", 1),
        ("Français", 1),
        ("en_US", 1),
        ("en-CN", 1),
        ("ps-AF", None),  # Pashto in Afghanistan, not Afrikaans
        ("English and Chinese", None),
        ("Klingon", None),
        ("Latin", None),
        ("", None),
    ],
)
def test_a_language_goes_by_its_code_or_its_name(language, share):
    assert share_of("Your parcel is on its way.", language) == share
    assert knows(language) == (share is not None)
