"""In which script a text is written."""

import pytest

from stages.lib.scripts import main_script


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
