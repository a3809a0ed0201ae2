"""What an answer has to keep to and a program can check: at most 20 words, JSON of this shape, no word of a list.

Verifiable instructions as IFEval has them (Zhou et al. 2023, arXiv:2311.07911), strict and loose, with the kinds that
business rows ask for. A row brings its own, each kind once: `{"words": {"at_most": 20}, "forbidden": ["sorry"]}`. Zero
and false are values like others: `{"bullets": 0}` wants none. Blanks around an answer never count.
"""

import difflib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache, partial
from typing import Any

import regex
from jsonschema import Draft202012Validator, SchemaError, ValidationError, validators
from jsonschema.protocols import Validator
from jsonschema_specifications import REGISTRY
from referencing import Resource
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from stages.lib import scripts
from stages.lib.errors import warn
from stages.lib.words import is_blank, is_unspaced, same

Constraints = dict[str, Any]  # by kind
Faults = list[str]

LONGEST = 1000  # characters of a pattern
STEPS = 100_000  # to which a pattern may be compiled; what has a count is compiled so many times
PATIENCE = 0.2  # seconds for one pattern on one answer; what does not backtrack without end takes microseconds
_SHOWN = 60  # characters of a value that a sentence shows
_BOUNDS = ("at_least", "at_most")
_LATEST = "https://json-schema.org/draft/2020-12/schema"  # the dialect of a schema that names none
_BULLET = regex.compile(r"^[ \t]*(?:[-*+][ \t]|[•·●◦▪‣])", regex.MULTILINE)
_NUMBER = regex.compile(r"\p{Nd}+(?:[.,]\p{Nd}+)*")
_PART = regex.compile(r"(?s)\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{(?P<count>\d*)(?:,(?P<count>\d*))?\}|.")
_LETTER = regex.compile(r"[\p{L}\p{M}\p{N}]")


@dataclass(frozen=True)
class Kind:
    """One kind of constraint."""

    meaning: str
    example: Any
    faults: Callable[[Any], Iterator[str]]  # what is wrong with a value
    keeps: Callable[[str, Any], bool]  # whether an answer without outer blanks keeps to a value


def parse(value: Any) -> Constraints | Faults:
    """The constraints that a row brings, without those that are null; or everything that is wrong with them."""
    if not isinstance(value, dict):
        return [f"{_shown(value)} is not an object of constraints"]
    try:
        canonical(value)
    except (TypeError, ValueError, RecursionError):
        return ["it holds what JSON cannot, such as a date or NaN, or is nested too deep"]
    found = {kind: asked for kind, asked in value.items() if asked is not None}
    faults = [fault for kind, asked in found.items() for fault in _faults(kind, asked)]
    return faults or list(_contradictions(found)) or found


def canonical(constraints: Constraints) -> str:
    """The text by which constraints are kept beside a row."""
    return json.dumps(constraints, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def kept(answer: str, constraints: Mapping[str, Any]) -> dict[str, bool]:
    """For each kind, whether the answer keeps to it. A blank answer keeps to nothing."""
    text = answer.strip()
    return {kind: not is_blank(text) and KINDS[kind].keeps(text, asked) for kind, asked in constraints.items()}


def kept_loosely(answer: str, constraints: Mapping[str, Any]) -> dict[str, bool]:
    """The same if any variant will do: with or without the first line, the last line, and Markdown's asterisks.

    IFEval's remedy for "Sure, here it is:" before an answer, a question after it, and bold type.
    """
    lines = answer.strip().split("\n")
    texts = ["\n".join(part) for part in (lines, lines[1:], lines[:-1], lines[1:-1])]
    variants = [kept(text, constraints) for text in (*texts, *(text.replace("*", "") for text in texts))]
    return {kind: any(variant[kind] for variant in variants) for kind in constraints}


def _faults(kind: str, asked: Any) -> Iterator[str]:
    if kind in KINDS:
        yield from (f'"{kind}" {fault}' for fault in KINDS[kind].faults(asked))
    else:
        yield f'"{kind}" is no kind of constraint; {_meant(kind, KINDS)}'


def _meant(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name.strip().lower(), known, 1)
    return f'is "{near[0]}" meant?' if near else f"there are {', '.join(known)}"


def _contradictions(found: Constraints) -> Iterator[str]:
    """What each may be asked for, but not both."""
    forbidden = [_plain(phrase) for phrase in found.get("forbidden", ())]
    for phrase in found.get("keywords", ()):
        if any(_holds(_plain(phrase), one) for one in forbidden):
            yield f'"keywords" asks for "{phrase}", which "forbidden" forbids'


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


# --- how many


def _counted(count: Callable[[str], int], meaning: str, example: Any, least: int = 0) -> Kind:
    """So many of something; every answer has at least `least` of them."""
    return Kind(meaning, example, partial(_bound_faults, least=least), partial(_is_within, count=count))


def _bounds(asked: Any) -> dict[str, Any]:
    """Bounds that are given; a number stands for both."""
    if isinstance(asked, dict):
        return {name: bound for name, bound in asked.items() if bound is not None}
    return dict.fromkeys(_BOUNDS, asked)


def _bound_faults(asked: Any, least: int) -> Iterator[str]:
    if not isinstance(asked, dict) and not _is_count(asked):
        yield f'is {_shown(asked)}, not a whole number or {{"at_least": …, "at_most": …}}'
        return
    bounds = _bounds(asked)
    faults = [f'holds "{name}"; {_meant(name, _BOUNDS)}' for name in bounds if name not in _BOUNDS]
    faults += [
        f'asks for "{name}" of {_shown(bounds[name])}, which is no whole number from 0'
        for name in _BOUNDS
        if name in bounds and not _is_count(bounds[name])
    ]
    yield from faults
    if not bounds:
        yield "says neither at_least nor at_most"
    elif not faults and "at_most" in bounds:
        low, high = max(least, bounds.get("at_least", 0)), bounds["at_most"]
        if high < low:
            yield f"asks for at least {low} and at most {high}, which no answer keeps to"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_within(text: str, asked: Any, count: Callable[[str], int]) -> bool:
    bounds, number = _bounds(asked), count(text)
    return bounds.get("at_least", 0) <= number <= bounds.get("at_most", number)


def _words(text: str) -> int:
    from stages.lib import text_metrics  # takes seconds to load, and most data count no words

    return len(text_metrics.words(text))


def _lines(text: str) -> int:
    return sum(not is_blank(line) for line in text.splitlines())


def _paragraphs(text: str) -> int:
    return len(regex.split(r"\n\s*\n", text))


def _bullets(text: str) -> int:
    return len(_BULLET.findall(text))


def _numbers(text: str) -> int:
    return len(_NUMBER.findall(text))


# --- which texts


def _text_faults(asked: Any) -> Iterator[str]:
    if not isinstance(asked, str):
        yield f"is {_shown(asked)}, not text"
    elif is_blank(asked):
        yield "is blank"


def _list_faults(asked: Any) -> Iterator[str]:
    if not isinstance(asked, list) or not asked:
        yield f"is {_shown(asked)}, not a list of texts"
        return
    yield from (f"holds an entry that {fault}" for text in asked for fault in _text_faults(text))


def _choice_faults(asked: Any, choices: Collection[str]) -> Iterator[str]:
    if not isinstance(asked, str) or asked not in choices:
        yield f"is {_shown(asked)}, not {' or '.join(choices)}"


def _language_faults(asked: Any) -> Iterator[str]:
    if not isinstance(asked, str) or not scripts.knows(asked):
        yield f"is {_shown(asked)}, not a language whose script is known, such as en, zh or ja"


def _holds_all(text: str, phrases: Collection[str]) -> bool:
    plain = _plain(text)
    return all(_holds(plain, _plain(phrase)) for phrase in phrases)


def _holds_none(text: str, phrases: Collection[str]) -> bool:
    plain = _plain(text)
    return not any(_holds(plain, _plain(phrase)) for phrase in phrases)


def _plain(text: str) -> str:
    """As `same` has it; an apostrophe is one, however it is printed."""
    return same(text).replace("\u2019", "'")


def _holds(text: str, phrase: str) -> bool:
    """Whether a phrase stands in a text in whole words; both went through `_plain`."""
    starts = (found.start() for found in regex.finditer(f"(?={regex.escape(phrase)})", text))
    return any(not _goes_on(text, start) and not _goes_on(text, start + len(phrase)) for start in starts)


def _goes_on(text: str, place: int) -> bool:
    """Whether a word goes on over a place between two characters."""
    around = text[place - 1 : place + 1] if place else ""
    return len(around) == 2 and all(_LETTER.match(one) and not is_unspaced(one) for one in around)


def _is_one_of(text: str, choices: Collection[str]) -> bool:
    return text in [choice.strip() for choice in choices]


def _starts(text: str, asked: str) -> bool:
    return text.startswith(asked.strip())


def _ends(text: str, asked: str) -> bool:
    return text.endswith(asked.strip())


def _has_case(text: str, asked: str) -> bool:
    """No letter is of the other case; scripts without any have all."""
    return text == (text.upper() if asked == "upper" else text.lower())


def _is_in(text: str, language: str) -> bool:
    """Half of the letters or more are of the language's script; what has no letter is in any language."""
    share = scripts.share_of(text, language, least=1)
    return share is None or share >= 0.5


# --- patterns


def _pattern_faults(asked: Any) -> Iterator[str]:
    if not isinstance(asked, str):
        yield f"is {_shown(asked)}, not text"
    elif len(asked) > LONGEST:
        yield f"is a pattern of {len(asked):,} characters; {LONGEST:,} are the most"
    elif _steps(asked) > STEPS:
        yield f"is {_shown(asked)}, which repeats too much: {STEPS:,} characters are the most, written out"
    else:
        try:
            regex.compile(asked)
        except (regex.error, RecursionError) as error:
            yield f"is {_shown(asked)}, which is no regular expression: {error}"


def _steps(pattern: str) -> int:
    """About how long a pattern is with its counts written out."""
    groups = [[0]]
    for part in _PART.finditer(pattern):
        if part[0] == "(":
            groups.append([0])
        elif part[0] == ")" and len(groups) > 1:
            groups[-2].append(1 + sum(groups.pop()))
        elif part["count"] is not None:
            groups[-1][-1] *= max(int(count or 1) for count in part.captures("count"))
        else:
            groups[-1].append(1)
    return sum(map(sum, groups))


def _matches(text: str, pattern: str) -> bool:
    return _in_time(regex.fullmatch, pattern, text)


_given_up = set[str]()


def _in_time(match: Callable[..., Any], pattern: str, text: str) -> bool:
    """Whether a pattern matches. One that backtracks for too long does not, and is told of once."""
    try:
        return match(pattern, text, timeout=PATIENCE) is not None
    except TimeoutError:
        if pattern not in _given_up:
            warn(
                f"the pattern {_shown(pattern)} was given up after {PATIENCE} s on an answer, which so does not keep "
                "to it. Write it without a repetition inside a repetition."
            )
        _given_up.add(pattern)
        return False


# --- JSON


def _schema_faults(asked: Any) -> Iterator[str]:
    """What is wrong with a JSON Schema. It has to be whole: nothing is ever fetched."""
    if asked is False or not isinstance(asked, dict | bool):
        yield f"is {_shown(asked)}, not a JSON Schema that an answer can keep to"
        return
    schema = _as_object(asked)
    dialect = schema.get("$schema", _LATEST)
    if not isinstance(dialect, str) or validators.validator_for({"$schema": dialect}, default=None) is None:
        yield f'names {_shown(dialect)} as its "$schema", which is none that is known'
        return
    try:
        _dialect(schema).check_schema(schema)
        root = Resource.from_contents(schema, default_specification=DRAFT202012)
        found = list(_subschemas(root, REGISTRY.resolver_with_root(root)))
        for inner, resolver in found:
            if "pattern" in inner:
                yield from (f'has a "pattern" that {fault}' for fault in _pattern_faults(inner["pattern"]))
            if "patternProperties" in inner:  # jsonschema would match them without a limit of time
                yield 'holds "patternProperties", which is not offered'
            if "$schema" in inner and inner is not schema:  # there its own checks would take the place of ours
                yield 'names a "$schema" inside; only the whole may name one'
            yield from (
                f"refers to {_shown(inner[name])}, which is no schema inside it; nothing is fetched"
                for name in ("$ref", "$dynamicRef")
                if name in inner and not _leads_to(inner[name], resolver, [one for one, _ in found])
            )
    except SchemaError as error:
        yield f"is no JSON Schema: {_cut(error.message)} (at {error.json_path})"
    except RecursionError:
        yield "is nested too deep"


def _as_object(schema: Any) -> dict[str, Any]:
    """A JSON Schema that is true allows all, as one does that says nothing."""
    return {} if schema is True else schema


def _leads_to(reference: str, resolver: Any, schemas: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a reference leads to one of the schemas that are checked here, or to a published dialect.

    What stands elsewhere, such as under "components" as OpenAPI has it, nobody has looked at.
    """
    try:
        target = resolver.lookup(reference).contents
    except Unresolvable:
        return False
    is_published = reference.partition("#")[0] in REGISTRY
    return isinstance(target, bool) or (
        isinstance(target, dict) and (is_published or any(target is one for one in schemas))
    )


def _cut(sentence: str) -> str:
    return sentence if len(sentence) <= 3 * _SHOWN else f"{sentence[: 3 * _SHOWN]}…"


def _subschemas(resource: Resource, resolver: Any) -> Iterator[tuple[Mapping[str, Any], Any]]:
    """A schema and those inside it, each with what finds the references in it; true and false hold none."""
    if isinstance(resource.contents, dict):
        yield resource.contents, resolver
    for inner in resource.subresources():
        yield from _subschemas(inner, resolver.in_subresource(inner))


def _dialect(schema: Mapping[str, Any]) -> type[Validator]:
    return validators.validator_for(schema, default=Draft202012Validator)


def _is_valid(text: str, asked: Any) -> bool:
    """The answer is JSON of that shape, and nothing else."""
    try:
        return _validator(canonical(asked)).is_valid(json.loads(text, parse_constant=_refuse))
    except (ValueError, ArithmeticError, RecursionError):  # no JSON, a number beyond all floats, nested too deep
        return False


@lru_cache(maxsize=256)
def _validator(schema: str) -> Validator:
    """What checks a schema, given as text."""
    asked = _as_object(json.loads(schema))
    dialect = validators.extend(_dialect(asked), {"pattern": _pattern, "multipleOf": _multiple})
    # Where it stays, the checks of a reference to the whole schema would be the dialect's again, without ours.
    return dialect({name: value for name, value in asked.items() if name != "$schema"}, registry=REGISTRY)


def _pattern(validator: Any, pattern: str, value: Any, _: Any) -> Iterator[ValidationError]:
    """JSON Schema's keyword, in time."""
    if validator.is_type(value, "string") and not _in_time(regex.search, pattern, value):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _multiple(validator: Any, factor: float, value: Any, _: Any) -> Iterator[ValidationError]:
    """JSON Schema's keyword, as the numbers are written: in binary, 19.99 is no multiple of 0.01."""
    if validator.is_type(value, "number") and (Fraction(str(value)) / Fraction(str(factor))).denominator != 1:
        yield ValidationError(f"{value!r} is not a multiple of {factor!r}")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


KINDS: dict[str, Kind] = {
    "words": _counted(_words, "so many words; in Chinese and the like, characters", {"at_most": 20}, least=1),
    "characters": _counted(len, "so many characters, blanks between words included", {"at_most": 280}, least=1),
    "lines": _counted(_lines, "so many lines that are not blank", 1, least=1),
    "paragraphs": _counted(_paragraphs, "so many paragraphs, with a blank line between two", {"at_most": 3}, least=1),
    "bullets": _counted(_bullets, "so many lines that begin with `- `, `* `, `+ ` or `•`", {"at_least": 2}),
    "numbers": _counted(_numbers, "so many numbers in figures; `1,204.50` is one, `2026-03-03` three", 0),
    "keywords": Kind("all of these words or phrases", ["refund", "14 days"], _list_faults, _holds_all),
    "forbidden": Kind("none of these words or phrases", ["sorry", "抱歉"], _list_faults, _holds_none),
    "one_of": Kind("one of these texts and nothing else", ["shipping", "billing"], _list_faults, _is_one_of),
    "starts_with": Kind("this text at its beginning", "Thank you", _text_faults, _starts),
    "ends_with": Kind("this text at its end", "?", _text_faults, _ends),
    "regex": Kind(
        "what this regular expression matches, from beginning to end", r"\d{4}-\d{2}-\d{2}", _pattern_faults, _matches
    ),
    "json_schema": Kind(
        "JSON that this JSON Schema allows, and nothing else; `true`: any JSON",
        {"type": "object", "required": ["qty"]},
        _schema_faults,
        _is_valid,
    ),
    "case": Kind(
        "no letter of the other case: `upper` or `lower`",
        "lower",
        partial(_choice_faults, choices=("upper", "lower")),
        _has_case,
    ),
    "language": Kind("in this language's script, by half of its letters or more", "zh", _language_faults, _is_in),
}
