"""What looks like a key, a token or a person's data, found by its shape and proved by its check digits.

Precise rather than eager: a shop's rows are full of order numbers, dates and prices, and every false find costs a row
or damages one. So a number that follows a word like "order" is never a phone or a card, a card has an issuer and
passes Luhn's check, and an e-mail address at a domain that is reserved for examples is nobody's.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stages.lib.rejects import Code

Match = re.Match[str]


@dataclass(frozen=True)
class Detector:
    """One kind of text that must not be learned."""

    kind: str  # what a tag says after `secret:` or `personal-data:`
    code: Code
    mask: str  # what redaction puts in its place
    hints: tuple[bytes, ...]  # one stands in every text that matches, in lower case and with 0 for any digit
    pattern: re.Pattern[str]
    proves: Callable[[Match], bool]


@dataclass(frozen=True)
class Finding:
    """One place in a text."""

    detector: Detector
    start: int
    end: int


def find(text: str) -> Iterator[Finding]:
    """Everything that looks like a secret or personal data, from left to right, none inside another.

    Secrets come first: the token of `https://ghp_…@github.com` is no part of an e-mail address.
    """
    plain = text if text.isascii() else text.translate(_HALF_WIDTH)  # one character for one, so that positions stay
    if not (suspected := _suspected(plain)):
        return
    secrets = list(_leftmost(plain, [rank for rank in suspected if DETECTORS[rank].code is Code.SECRET]))
    personal = _leftmost(
        _without(plain, secrets), [rank for rank in suspected if DETECTORS[rank].code is not Code.SECRET]
    )
    yield from sorted([*secrets, *personal], key=lambda finding: finding.start)


def _leftmost(plain: str, ranks: list[int]) -> Iterator[Finding]:
    """What these detectors find: of finds that overlap the one that begins first, of such the longest."""
    found = [
        (match.start(), -match.end(), rank)
        for rank in ranks
        for match in DETECTORS[rank].pattern.finditer(plain)
        if DETECTORS[rank].proves(match)
    ]
    done = 0
    for start, end, rank in sorted(found):
        if start >= done:
            yield Finding(DETECTORS[rank], start, done := -end)


def _without(plain: str, findings: list[Finding]) -> str:
    """The text with blanks in place of what was found, as long as before."""
    if not findings:
        return plain
    characters = list(plain)
    for finding in findings:
        characters[finding.start : finding.end] = " " * (finding.end - finding.start)
    return "".join(characters)


def may_hold(text: str) -> bool:
    """Whether `find` is worth its time: most texts hold no hint, and looking for one is fast."""
    return bool(_suspected(text if text.isascii() else text.translate(_HALF_WIDTH)))


def _suspected(plain: str) -> list[int]:
    """The detectors that can find something."""
    shape = plain.lower().encode("ascii", "replace").translate(_ZEROS)
    found = {rank for hint, ranks in _HINTS.items() if hint in shape for rank in ranks}
    if b"x" * _TOKEN in shape.translate(_TOKENS):
        found.update(rank for hint, ranks in _HINTS_IN_TOKENS.items() if hint in shape for rank in ranks)
    return sorted(found)


_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_TOKEN = 14  # characters that a key or token has at least, without a blank
_TOKENS = bytes(ord("x") if chr(code).isalnum() or chr(code) in "_-+/." else ord(" ") for code in range(128)) + bytes(
    128
)
_HALF_WIDTH = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}
_STARTS = r"(?<![0-9A-Za-z_])"
_ENDS = r"(?![0-9A-Za-z_])"
_NUMBER_STARTS = r"(?<![0-9A-Za-z_#¥$€£.,+-])"  # not the tail of a code such as ORD-20417, nor of an amount
_NUMBER_ENDS = r"(?![0-9A-Za-z_-]|[.,]\d)"
_LETTERS = r"\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u052f\u1e00-\u1fff"  # Latin, Greek, Cyrillic: é, ß, я (RFC 6531)
_HAN = r"\u4e00-\u9fff"

# In Latin letters any word; others from IANA's root zone: where a full stop lacks its blank, any word could be one.
# After Chinese ones the text goes on, for want of blanks.
_DOMAINS_END = (
    r"(?:[A-Za-z]{2,24}|xn--[0-9A-Za-z-]{2,59})(?![0-9A-Za-z_-])"
    r"|(?:рф|рус|бел|укр|срб|мкд|бг|ею|қаз|мон|москва|онлайн|сайт|орг|ком|дети|ελ|ευ)(?![\w\u0370-\u052f-])"
    r"|(?:中国|中國|公司|网络|網絡|网址|网站|中文网|在线|集团|商城|企业|香港|澳门|澳門|台湾|台灣|新加坡)"
)


def _always(_: Match) -> bool:
    return True


def _is_key(match: Match) -> bool:
    """One unbroken run of 16 letters and digits, with both; `sk-learn-2-for-complete-beginners` has none."""
    runs = re.findall(r"[0-9A-Za-z]{16,}", match[0])
    return any(re.search(r"\d", run) and re.search(r"[A-Za-z]", run) for run in runs)


# RFC 2606 and RFC 6761: these belong to nobody, so an address there is the right way to write an example.
_NOBODYS = re.compile(
    r"(?:^|\.)(?:example(?:\.com|\.net|\.org)?|test|invalid|localhost)$"
    # and as people write examples all the same: your-company.com, example-domain.org, mydomain.com
    r"|^(?:(?:example|your|my)-?)?(?:domain|company|website|organi[sz]ation|business|school|provider)\.(?:com|net|org)$"
)
_FILE_ENDINGS = {"png", "jpg", "jpeg", "gif", "svg", "webp", "pdf", "json", "html", "js", "css", "py", "md", "txt"}


def _is_somebodys_address(match: Match) -> bool:
    domain = match["domain"].lower()
    if domain.rpartition(".")[2] in _FILE_ENDINGS:  # icon@2x.png
        return False
    return not _NOBODYS.search(domain) and not match[0].lower().startswith("git@")


_SHOPS_OWN = re.compile(
    r"(?:\b(?:order|invoice|tracking|parcel|ticket|case|reference|ref|sku|isbn|ean|imei|serial)"
    r"\W{0,3}(?:number|no|nr|id|code)?|(?:订单|单号|编号|运单|快递|发票|流水)(?:号码|号|码)?)"
    r"(?:\s(?:is|was))?[\s.:：#是为]{0,4}$",
    re.IGNORECASE,
)
_CURRENCY = re.compile(
    r"\s?(?:[万亿]?(?:元|人民币|[美欧日港]元|円|원)|(?:RMB|CNY|USD|EUR|GBP|JPY|dollars?|euros?|yuan)\b)", re.IGNORECASE
)


def _is_not_the_shops(match: Match) -> bool:
    """No word beside the number says what else it is: an order, an invoice, a parcel before it, a currency after it."""
    return not (
        _SHOPS_OWN.search(match.string, max(0, match.start() - 40), match.start())
        or _CURRENCY.match(match.string, match.end())
    )


def _is_phone(match: Match) -> bool:
    """ITU E.164 allows at most 15 digits; fewer than 8 are hardly a full number."""
    return 8 <= sum(character.isdigit() for character in match[0]) <= 15 and _is_not_the_shops(match)


def _is_dotted_phone(match: Match) -> bool:
    """It is long enough for one, and no sum with dots between thousands, no four bytes of an address, no version."""
    groups = re.split(r"[ .]", match[0][1:])
    is_sum = all(len(group) == 3 for group in groups[1:])
    is_address = len(groups) == 4 and all(int(group) < 256 for group in groups)
    is_version = _VERSION.search(match.string, max(0, match.start() - 20), match.start())
    return sum(map(len, groups)) >= 10 and not (is_sum or is_address or is_version) and _is_phone(match)


# Issuers' first digits and lengths: by Luhn's check alone one random number in ten would be a card.
_ISSUED = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|6(?:011|4[4-9]\d|5\d\d)\d{12,15}|62\d{14,17}|35\d{14}|3(?:0[0-5]|[68]\d)\d{11}"
)


def _is_card(match: Match) -> bool:
    digits = re.sub(r"\D", "", match[0])
    return bool(_ISSUED.fullmatch(digits)) and _passes_luhn(digits) and _is_not_the_shops(match)


def _passes_luhn(digits: str) -> bool:
    """ISO/IEC 7812-1: every second digit from the right doubled, digits summed, a multiple of ten."""
    values = [int(digit) * (1 + position % 2) for position, digit in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in values) % 10 == 0


def _is_public_address(match: Match) -> bool:
    """On the internet, and not a version's number: 10.0.0.1 is every house's router, 192.0.2.1 nobody's (RFC 5737)."""
    try:
        address = ipaddress.ip_address(match[0])
    except ValueError:
        return False
    return address.is_global and not _VERSION.search(match.string, max(0, match.start() - 20), match.start())


_VERSION = re.compile(r"(?:\b(?:version|release|build|firmware|v)|版本|固件)\W{0,3}$", re.IGNORECASE)


def _is_chinese_id(match: Match) -> bool:
    """GB 11643-1999: the last of 18 characters checks the first 17 (ISO 7064, MOD 11-2)."""
    total = sum(int(digit) * pow(2, 17 - position, 11) for position, digit in enumerate(match[0][:17]))
    return "10X98765432"[total % 11] == match[0][17].upper()


def _secret(kind: str, hints: str, pattern: str, proves: Callable[[Match], bool] = _always) -> Detector:
    return Detector(kind, Code.SECRET, "[SECRET]", _hints(hints), re.compile(pattern, re.ASCII), proves)


def _personal(kind: str, mask: str, hints: str, pattern: str, proves: Callable[[Match], bool]) -> Detector:
    return Detector(kind, Code.PERSONAL_DATA, mask, _hints(hints), re.compile(pattern, re.ASCII), proves)


def _hints(hints: str) -> tuple[bytes, ...]:
    return tuple(hint.encode() for hint in hints.split("|"))


# Of two that find the same place, the first here names it.
DETECTORS: tuple[Detector, ...] = (
    _secret(
        "private-key",
        "private key",
        r"-----BEGIN (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        # up to its end but never past the next beginning, so that many beginnings take no longer than one long text
        r"(?:(?:[^-]++|-(?!----BEGIN ))*?-----END (?:[A-Z0-9]{1,20} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
        r"|[0-9A-Za-z+/=\s]*)",
    ),
    _secret("aws-key", "akia|asia|abia|acca", _STARTS + r"A(?:KIA|SIA|BIA|CCA)[0-9A-Z]{16}" + _ENDS),
    _secret(
        "aws-secret",
        "aws",
        r"(?i:aws.{0,20}secret.{0,20}?)[\"'=:\s]{1,5}[0-9A-Za-z/+]{40}(?![0-9A-Za-z/+=])",
    ),
    _secret(
        "github-token",
        "_",
        _STARTS + r"(?:gh[opsur]_[0-9A-Za-z]{36,255}|github_pat_\w{22,255})" + _ENDS,
    ),
    _secret("slack-token", "xox|xapp-", _STARTS + r"(?:xox[abeoprs]|xapp)-[0-9A-Za-z-]{10,255}"),
    _secret("openai-key", "sk-", _STARTS + r"sk-[0-9A-Za-z_-]{20,255}", _is_key),
    _secret("hugging-face-token", "_", _STARTS + r"hf_[0-9A-Za-z]{30,255}" + _ENDS),
    _secret("jwt", "eyj", _STARTS + r"eyJ[\w-]{8,4000}\.eyJ[\w-]{8,4000}\.[\w-]{8,4000}"),
    _personal(
        "email",
        "[EMAIL]",
        "@",
        rf"(?<![0-9A-Za-z_.+{_LETTERS}-])[0-9A-Za-z_{_LETTERS}][0-9A-Za-z_.%+{_LETTERS}-]{{0,63}}"
        rf"@(?P<domain>(?:(?:[0-9A-Za-z{_LETTERS}][0-9A-Za-z{_LETTERS}-]{{0,62}}|[{_HAN}]{{1,20}})\.){{1,8}}(?:{_DOMAINS_END}))",
        _is_somebodys_address,
    ),
    _personal(
        "id-number",
        "[ID]",
        "0000",
        _NUMBER_STARTS + r"[1-9]\d{5}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dXx]" + _ENDS,
        _is_chinese_id,
    ),
    _personal(
        "card",
        "[CARD]",
        "0000",
        _NUMBER_STARTS
        + r"(?:\d{13,19}|\d{4}(?P<by>[ -])\d{4}(?P=by)\d{4}(?P=by)\d{1,7}|\d{4}(?P<of>[ -])\d{6}(?P=of)\d{4,5})"
        + _NUMBER_ENDS,
        _is_card,
    ),
    _personal(
        "phone",  # international, with its plus sign
        "[PHONE]",
        "+",
        r"(?<![0-9A-Za-z_+])\+(?!1[ ()-]{0,2}(?:[01]|555))[1-9](?:[ ()-]{0,2}\d){7,14}" + _NUMBER_ENDS,
        _is_phone,
    ),
    _personal(
        "phone",  # the same with dots: groups of two digits or more, only the first of France's has one
        "[PHONE]",
        "+",
        r"(?<![0-9A-Za-z_+])\+(?!1[ .](?:[01]|555))[1-9]\d{0,2}(?:\.| (?=\d{2,4}\.\d{2,4}\.))"
        r"(?:\d\.(?=(?:\d\d\.){3}))?\d{2,8}(?:\.\d{2,8}){1,5}" + _NUMBER_ENDS,
        _is_dotted_phone,
    ),
    _personal(
        "phone",  # a Chinese mobile
        "[PHONE]",
        "0000",
        _NUMBER_STARTS + r"(?:86[ -]?)?1[3-9]\d(?:\d{8}|(?P<by>[ -])\d{4}(?P=by)\d{4})" + _NUMBER_ENDS,
        _is_not_the_shops,
    ),
    _personal(
        "phone",  # a Chinese landline: area codes of three digits go with numbers of eight; an extension may follow
        "[PHONE]",
        "0000",
        _NUMBER_STARTS
        + r"(?:(?:\(0(?:10|2\d)\) ?|0(?:10|2\d)-)[2-9]\d{7}|(?:\(0[3-9]\d\d\) ?|0[3-9]\d\d-)[2-9]\d{6,7})(?:-\d{1,5})?"
        + _NUMBER_ENDS,
        _is_not_the_shops,
    ),
    _personal(
        "phone",  # North America: area and exchange never begin with 0 or 1, and 555 is the area of invented numbers
        "[PHONE]",
        "0000",
        _NUMBER_STARTS + r"(?:1[ -])?(?:\((?!555)[2-9]\d\d\) ?|(?!555)[2-9]\d\d-)[2-9]\d\d-\d{4}" + _NUMBER_ENDS,
        _is_not_the_shops,
    ),
    _personal(
        "phone",  # the same with dots or blanks: neither code ends in 00 or 11, and no row of numbers goes on around it
        "[PHONE]",
        "0000",
        _NUMBER_STARTS
        + r"(?<!\d )(?:1[ .])?(?!555)[2-9](?!00|11)\d\d(?P<by>[ .])[2-9](?!00|11)\d\d(?P=by)\d{4}(?! \d)"
        + _NUMBER_ENDS,
        _is_not_the_shops,
    ),
    _personal(
        "ip-address",
        "[IP]",
        "0.0|:",
        r"(?<![\w.])(?<!::)(?:(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)"
        r"|(?:[0-9A-Fa-f]{1,4}:){2,7}(?::?[0-9A-Fa-f]{1,4}){1,7}(?![\w:]))",
        _is_public_address,
    ),
)


# How a sentence names them.
NAMES = {
    "private-key": "a private key",
    "aws-key": "an AWS key",
    "aws-secret": "an AWS secret",
    "github-token": "a GitHub token",
    "slack-token": "a Slack token",
    "openai-key": "an OpenAI key",
    "hugging-face-token": "a Hugging Face token",
    "jwt": "a JSON web token",
    "email": "an e-mail address",
    "id-number": "an ID number",
    "card": "a card number",
    "phone": "a phone number",
    "ip-address": "an IP address",
}
MASKS = {detector.kind: detector.mask for detector in DETECTORS}


def _ranks(of_tokens: bool) -> dict[bytes, list[int]]:
    """The detectors by their hints."""
    ranks: dict[bytes, list[int]] = {}
    for rank, detector in enumerate(DETECTORS):
        if of_tokens == (detector.code is Code.SECRET and detector.kind != "private-key"):
            for hint in detector.hints:
                ranks.setdefault(hint, []).append(rank)
    return ranks


_HINTS, _HINTS_IN_TOKENS = _ranks(of_tokens=False), _ranks(of_tokens=True)
