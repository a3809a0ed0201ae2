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
# What people write in place of a code; case does not count.
_NAMES = {
    name: code
    for code, names in {
        "zh": "cn chinese mandarin chi zho 中文 汉语 漢語 华语 華語 普通话 普通話 简体中文 簡體中文 繁体中文 繁體中文",
        "en": "english eng 英文 英语 英語",
        "ja": "jp japanese jpn 日文 日语 日語 日本語",
        "ko": "kr korean kor 韩文 韓文 韩语 韓語 한국어",
        "ru": "russian rus 俄文 俄语 俄語 русский",
        "de": "german deu ger deutsch 德文 德语 德語",
        "fr": "french fra fre français francais 法文 法语 法語",
        "es": "spanish spa español espanol castellano 西班牙文 西班牙语 西班牙語",
        "pt": "portuguese por português portugues 葡萄牙文 葡萄牙语 葡萄牙語",
        "it": "italian ita italiano 意大利文 意大利语 意大利語",
        "nl": "dutch nld dut nederlands 荷兰语 荷蘭語",
        "pl": "polish pol polski 波兰语 波蘭語",
        "sv": "swedish swe svenska 瑞典语 瑞典語",
        "tr": "turkish tur türkçe 土耳其语 土耳其語",
        "vi": "vietnamese vie 越南语 越南語",
        "id": "indonesian ind 印尼语 印尼語",
        "ms": "malay msa may 马来语 馬來語",
        "uk": "ukrainian ukr українська 乌克兰语 烏克蘭語",
        "ar": "arabic ara العربية 阿拉伯语 阿拉伯語",
        "fa": "persian farsi fas per فارسی 波斯语 波斯語",
        "el": "greek ell gre ελληνικά 希腊语 希臘語",
        "he": "hebrew heb עברית 希伯来语 希伯來語",
        "hi": "hindi hin हिन्दी 印地语 印地語",
        "th": "thai tha ไทย 泰语 泰語 泰文",
    }.items()
    for name in names.split()
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


def knows(language: str) -> bool:
    """Whether a script is known for the language."""
    return _code(language) is not None


def share_of(text: str, language: str, least: int = _LETTERS) -> float | None:
    """The share of a text's letters that are of the language's script.

    None where there are fewer letters than `least`, or where no script is known for the language. It is given as a code
    or by its name: `zh`, `zh-CN`, `zh_TW`, `Chinese`, `Simplified Chinese`, `中文`.
    """
    code = _code(language)
    letters = len(regex.findall(r"\p{L}", text))
    if code is None or letters < least:
        return None
    its = "".join(rf"\p{{{script}}}" for script in _OF[code].split())
    return len(regex.findall(rf"[{its}]", text)) / letters


def _code(language: str) -> str | None:
    """The code of the one language that is named; a region after a hyphen (`ps-AF`) is no language."""
    written = [regex.split("[-_]", word)[0] for word in regex.findall(r"[^\s(),（），]+", language.casefold())]
    codes = {code for name in written if (code := _NAMES.get(name, name)) in _OF}
    return codes.pop() if len(codes) == 1 else None


def main_script(text: str) -> str:
    """The script of most of a text's letters; `none` where it has none, `other` where it is none of the common ones."""
    if text.isascii():
        return "Latin" if text.lower() != text.upper() else "none"
    if not regex.search(r"\p{L}", text):
        return "none"
    counts = {script: len(regex.findall(rf"\p{{{script}}}", text)) for script in _COMMON}
    most = max(counts, key=lambda script: counts[script])
    return most if counts[most] else "other"
