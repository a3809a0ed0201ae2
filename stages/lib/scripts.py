"""In which script a language is written, where that tells anything (Unicode's names, as `regex` knows them)."""

import regex

_LATIN = """
    af ca cs cy da de en es et eu fi fr ga hr hu id is it lt lv ms mt nl no pl pt ro sk sl sq sv sw tl tr vi
"""
_CYRILLIC = "be bg kk ky mk mn ru uk"
_OF = {
    **dict.fromkeys(_LATIN.split(), "Latin"),
    **dict.fromkeys(_CYRILLIC.split(), "Cyrillic"),
    **dict.fromkeys(("ar", "fa", "ur"), "Arabic"),
    "zh": "Han",
    "el": "Greek",
    "he": "Hebrew",
    "hi": "Devanagari",
    "hy": "Armenian",
    "ja": "Han Hiragana Katakana",
    "ka": "Georgian",
    "ko": "Hangul Han",
    "ta": "Tamil",
    "th": "Thai",
}
_COMMON = (
    "Latin",
    "Han",
    "Hiragana",
    "Katakana",
    "Hangul",
    "Cyrillic",
    "Arabic",
    "Devanagari",
    "Greek",
    "Hebrew",
    "Thai",
)
_LETTERS = 10  # in fewer there is too little to tell by: a name, a code


def share_of(text: str, language: str) -> float | None:
    """The share of a text's letters that are of the language's script.

    None where there are too few letters, or where no script is known for the language (`zh`, `zh-CN`, `zh_TW`).
    """
    scripts = _OF.get(regex.split("[-_]", language.strip().casefold())[0])
    letters = len(regex.findall(r"\p{L}", text))
    if scripts is None or letters < _LETTERS:
        return None
    its = "".join(rf"\p{{{script}}}" for script in scripts.split())
    return len(regex.findall(rf"[{its}]", text)) / letters


def main_script(text: str) -> str:
    """The script of most of a text's letters; `none` where it has none, `other` where it is none of the common ones."""
    if text.isascii():
        return "Latin" if text.lower() != text.upper() else "none"
    if not regex.search(r"\p{L}", text):
        return "none"
    counts = {script: len(regex.findall(rf"\p{{{script}}}", text)) for script in _COMMON}
    most = max(counts, key=lambda script: counts[script])
    return most if counts[most] else "other"
