"""Typed, strict params: the one way any stage reads params.yaml.

ruamel.yaml reads YAML 1.2, so `5e-05` (what `dvc exp run -S` writes) is a number; PyYAML would make it text. Every key
must be present and known: a typo stops the run, and no default hides outside the file.
"""

import difflib
import importlib
import json
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
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:  # e.g. a date that does not exist
        raise UserError(f"{path}: not valid YAML: {error}.") from None
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise UserError(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if not isinstance(document, dict):
        raise UserError(f"{path} holds no keys. `git checkout {path}` brings the original back.")
    return document


def _problems(document: Mapping[str, Any], path: Path) -> Iterator[str]:
    known = sections()
    names = ["seed", *known]
    meant = {_close(key, names) for key in document if key not in names}
    for key in document:
        if key not in names:
            yield f"{path}: {key} is not a known key{_meant(key, names)}"
    seed = document.get("seed")
    if "seed" not in meant and (isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32):
        yield f"{path}: seed is {_shown(seed)}; a whole number from 0 to 4294967295 is allowed."
    for name, section in known.items():
        if name in document:
            yield from (f"{path}: {sentence}" for sentence in _faults(section, document[name]))
        elif name not in meant:
            yield f"{path}: the section {name} is missing."


@dataclass(frozen=True)
class _Fault:
    """One fault that pydantic found, in the words of params.yaml."""

    kind: str  # pydantic's name for it
    block: str  # dotted key of the block that holds the key
    key: str
    value: Any
    owner: type[Group]  # what the block may hold
    field: FieldInfo | None  # what the key may be; None if it is not known
    rule: str  # our own, or pydantic's, words for what is allowed

    @property
    def place(self) -> str:
        return f"{self.block}.{self.key}" if self.key else self.block


def _faults(section: type[Section], block: Any) -> Iterator[str]:
    """A sentence for each mistake: a misspelt key is not missing too, and a faulty list says it all for its items."""
    try:
        section.model_validate(block)
    except ValidationError as error:
        faults = [_located(section, fault) for fault in error.errors()]
        misspelt = {
            (fault.block, _close(fault.key, fault.owner.model_fields))
            for fault in faults
            if fault.kind == "extra_forbidden"
        }
        told: list[str] = []
        for fault in faults:
            if fault.kind == "missing" and (fault.block, fault.key) in misspelt:
                continue
            if any(fault.place == place or fault.place.startswith(f"{place}.") for place in told):
                continue
            told.append(fault.place)
            yield _sentence(fault)


def _located(section: type[Section], fault: Any) -> _Fault:
    """Follow a fault's steps from block to block; names of a union's members are ours, not the user's."""
    owner: type[Group] = section
    field: FieldInfo | None = None
    block, steps = section.section_name, list[str]()
    for part in fault["loc"]:
        if isinstance(part, int):
            steps.append(str(part))
            continue
        inner = _mapped(field)
        if inner is None and (group := _group(field)):
            owner, field = group, None
            block, steps = ".".join([block, *steps]), []
        found = inner or (owner.model_fields.get(part) if field is None else None)
        if found is None and fault["type"] != "extra_forbidden":
            break
        steps.append(str(part))
        field = found
    rule = fault["msg"]
    if fault["type"] == "value_error":
        rule = fault["ctx"]["error"].args[0]
    return _Fault(fault["type"], block, ".".join(steps), fault["input"], owner, field, rule)


def _sentence(fault: _Fault) -> str:
    if fault.kind == "extra_forbidden":
        return f"{fault.place} is not a known key{_meant(fault.key, fault.owner.model_fields)}"
    if fault.kind == "missing":
        return f"{fault.place} is missing; {_allowed(fault)}."
    return f"{fault.place} is {_shown(fault.value)}; {_allowed(fault)}."


def _shown(value: Any) -> str:
    """A value as params.yaml has it; JSON is YAML."""
    return json.dumps(value, ensure_ascii=False, default=str)


def _meant(key: Any, known: Iterable[str]) -> str:
    close = _close(key, known)
    return f"; did you mean {close}?" if close else f"; known here are {', '.join(known)}."


def _close(key: Any, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(str(key), known, n=1)), None)


def _mapped(field: FieldInfo | None) -> FieldInfo | None:
    """What a field that maps free keys to values allows as a value."""
    kinds = [] if field is None else _kinds(field.annotation)
    return next((FieldInfo(annotation=get_args(kind)[1]) for kind in kinds if get_origin(kind) is dict), None)


def _group(field: FieldInfo | None) -> type[Group] | None:
    """The block of keys that a field holds, itself or in a list."""
    kinds = [] if field is None else _kinds(field.annotation)
    kinds += [inner for kind in kinds for inner in get_args(kind)]
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Group)), None)


def _allowed(fault: _Fault) -> str:
    if fault.rule.startswith("a rule: "):
        return fault.rule.removeprefix("a rule: ")
    if fault.kind in ("model_type", "dict_type"):
        return "a block of keys is allowed here"
    return f"{allowed(fault.field)} is allowed" if fault.field else fault.rule


def allowed(field: FieldInfo) -> str:
    """What a field accepts, in words; also a column of the params table in docs/."""
    return " or ".join(_in_words(kind, field) for kind in _kinds(field.annotation))


def _in_words(kind: Any, field: FieldInfo) -> str:
    if get_origin(kind) is Literal:
        names = get_args(kind)
        return names[0] if len(names) == 1 else "one of " + ", ".join(names)
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
