"""Typed, strict params: the one way any stage reads params.yaml.

ruamel.yaml reads YAML 1.2, so `5e-05` (what `dvc exp run -S` writes) is a number; PyYAML would make it text. Every key
must be present and known: a typo stops the run, and no default hides outside the file.
"""

import difflib
import importlib
import math
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML, YAMLError

import stages.params
from stages.lib.errors import UserError, warn

PARAMS = Path("params.yaml")


@dataclass(frozen=True)
class Usual:
    """The range that experience calls usual; a value outside it earns a warning, not a refusal."""

    low: float
    high: float


def _number(value: Any) -> Any:
    """Numbers quoted by hand (`lr: "1e-4"`) count as numbers; `true` never does."""
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")
    if isinstance(value, str):
        return float(value)
    return value


def _whole(value: Any) -> Any:
    value = _number(value)
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value


Real = Annotated[float, BeforeValidator(_number), Field(allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(_whole)]
Share = Annotated[Real, Field(ge=0, le=1)]


class Group(BaseModel):
    """A block of knobs: unknown keys are refused, values keep their type."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, protected_namespaces=())


class Section(Group):
    """One stage's block of params.yaml; a subclass names it with `class TrainParams(Section, section="train")`."""

    section_name: ClassVar[str]

    def __init_subclass__(cls, section: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.section_name = section


S = TypeVar("S", bound=Section)


def load(section: type[S], path: Path = PARAMS) -> S:
    """Check the whole file, then return one section of it.

    A mistake anywhere in the file stops the first stage that runs, before any work. Values outside the usual range
    are warned about by the stage that uses them.

    Raises:
        UserError: naming each faulty key, its value and what is allowed.
    """
    document = _read(path)
    problems = list(_problems(document, path))
    if problems:
        raise UserError("\n       ".join(problems))
    params = section.model_validate(document[section.section_name])
    for key, value, usual in _unusual(params, section.section_name):
        warn(f"{path}: {key} is {value:g}; {usual.low:g} … {usual.high:g} is usual.")
    return params


def load_seed(path: Path = PARAMS) -> int:
    """The seed of every random choice in the pipeline."""
    return int(_read(path)["seed"])


def sections() -> dict[str, type[Section]]:
    """Every section by name.

    They are imported by discovery, not by an import line: another stage's section can stop this stage, but never
    change what it writes, so it must not be among its dependencies in dvc.yaml.
    """
    for module in pkgutil.iter_modules(stages.params.__path__):
        importlib.import_module(f"stages.params.{module.name}")
    return {cls.section_name: cls for cls in sorted(Section.__subclasses__(), key=lambda cls: cls.section_name)}


def _read(path: Path) -> dict[str, Any]:
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing. Run at the top of the clone, or `git checkout {path}`.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}. Save it as UTF-8.") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no keys. `git checkout {path}` brings the original back.")
    return document


def _problems(document: Mapping[str, Any], path: Path) -> Iterator[str]:
    known = sections()
    for key in document:
        if key != "seed" and key not in known:
            yield f"{path}: {key} is not a known key{_meant(key, ['seed', *known])}"
    seed = document.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        yield f"{path}: seed is {seed!r}; a whole number from 0 to 4294967295 is allowed."
    for name, section in known.items():
        if name not in document:
            yield f"{path}: the section {name} is missing."
            continue
        try:
            section.model_validate(document[name])
        except ValidationError as error:
            seen = set()
            for fault in error.errors():
                sentence = _sentence(section, name, fault, path)
                if sentence not in seen:
                    seen.add(sentence)
                    yield sentence


def _sentence(section: type[Section], name: str, fault: Any, path: Path) -> str:
    """Word one pydantic fault as key, value and what is allowed."""
    where = [part for part in fault["loc"] if isinstance(part, int) or "[" not in part]
    field: FieldInfo | None = None
    owner: type[Group] = section
    steps: list[str] = []
    for part in where:
        if isinstance(part, int):
            steps.append(str(part))
            continue
        found = owner.model_fields.get(part)
        if found is None and fault["type"] != "extra_forbidden" and field is not None:
            break  # a step inside a union: the names of its members are ours, not the user's
        steps.append(part)
        field = found
        group = _group(field)
        if group is not None:
            owner = group
    key = ".".join([name, *steps])
    if fault["type"] == "extra_forbidden":
        return f"{path}: {key} is not a known key{_meant(where[-1], owner.model_fields)}"
    if fault["type"] == "missing":
        return f"{path}: {key} is missing; {_allowed(field, fault)}."
    return f"{path}: {key} is {fault['input']!r}; {_allowed(field, fault)}."


def _meant(key: Any, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(key), known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here are {', '.join(known)}."


def _group(field: FieldInfo | None) -> type[Group] | None:
    """The block of keys that a field holds, itself or in a list."""
    kinds = [] if field is None else _kinds(field.annotation)
    kinds += [inner for kind in kinds for inner in get_args(kind)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Group)), None)


def _allowed(field: FieldInfo | None, fault: Any) -> str:
    if fault["type"] == "value_error" and fault["ctx"]["error"].args[0].startswith("a rule: "):
        return fault["ctx"]["error"].args[0].removeprefix("a rule: ")
    if fault["type"] in ("model_type", "dict_type"):
        return "a block of keys is allowed here"
    return f"{allowed(field)} is allowed" if field else fault["msg"]


def allowed(field: FieldInfo) -> str:
    """What a field accepts, in words; also a column of the params table in docs/."""
    return " or ".join(_in_words(kind, field) for kind in _kinds(field.annotation))


def _in_words(kind: Any, field: FieldInfo) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is list:
        return "a list of blocks" if _group(field) else "a list of texts"
    if kind is int or kind is float:
        return ("a whole number" if kind is int else "a number") + _bounds(field)
    return {bool: "true or false", str: "text", type(None): "null"}.get(kind, "a block of keys")


def _kinds(annotation: Any) -> list[Any]:
    """The members of a union, each without its `Annotated` wrapping."""
    if get_origin(annotation) is Annotated:
        return _kinds(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [kind for member in get_args(annotation) for kind in _kinds(member)]
    return [annotation]


def _bounds(field: FieldInfo) -> str:
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    found = {name: getattr(rule, name) for rule in _rules(field) for name in words if hasattr(rule, name)}
    return "".join(f" {words[name]} {found[name]:g}" for name in words if found.get(name) is not None)


def _rules(field: FieldInfo) -> Iterator[Any]:
    """Bounds stand beside the type, or one level down in `Annotated[…] | None`."""
    inner = [rule for member in get_args(field.annotation) for rule in getattr(member, "__metadata__", ())]
    for rule in [*field.metadata, *inner]:
        yield from rule.metadata if isinstance(rule, FieldInfo) else [rule]


def _unusual(group: Group, prefix: str) -> Iterator[tuple[str, float, Usual]]:
    for key, field in type(group).model_fields.items():
        value = getattr(group, key)
        if isinstance(value, Group):
            yield from _unusual(value, f"{prefix}.{key}")
        for rule in field.metadata:
            if isinstance(rule, Usual) and value is not None and not rule.low <= value <= rule.high:
                yield f"{prefix}.{key}", value, rule
