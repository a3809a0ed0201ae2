"""Write each stage's code dependencies into dvc.yaml, as its imports have them: nobody keeps such a list by hand.

Reads   stages/**/*.py, dvc.yaml
Writes  dvc.yaml (only entries of `deps` below stages/; everything else, comments too, stays as it is)
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

DVC = Path("dvc.yaml")
CODE = "stages/"


def imported(code: str) -> Iterator[str]:
    """Every dotted name that a module imports, in functions too; `from a import b` may mean the module a.b.

    What stands under `if TYPE_CHECKING:` is left out: no run ever imports it.
    """
    waiting: list[ast.AST] = [ast.parse(code)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"line {node.lineno}: relative imports are not used here")
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        waiting.extend(ast.iter_child_nodes(node))


def local_files(module: Path, root: Path) -> set[Path]:
    """Our own files that one module needs: those it imports, and the template that bears its name.

    A package's `__init__.py` holds a docstring and nothing else, so it decides nothing.
    """
    names = imported((root / module).read_text(encoding="utf-8"))
    files = {Path(name.replace(".", "/")).with_suffix(".py") for name in names if f"{name}/".startswith("stages.")}
    template = module.with_suffix(".html.jinja")
    return {file for file in {*files, template} if (root / file).is_file()}


def closure(module: Path, root: Path = Path()) -> set[Path]:
    """The module and all of our own files that it needs, directly or through another."""
    found: set[Path] = set()
    waiting = {module}
    while waiting:
        file = waiting.pop()
        found.add(file)
        if file.suffix == ".py":
            waiting |= local_files(file, root) - found
    return found


def code_deps(stage: str, root: Path = Path()) -> list[str]:
    """The code that a stage depends on, sorted."""
    return sorted(file.as_posix() for file in closure(Path("stages", f"{stage}.py"), root))


def refresh(path: Path = DVC, root: Path = Path()) -> list[str]:
    """Bring dvc.yaml up to date; return the names of the stages whose dependencies changed."""
    yaml = YAML()
    yaml.width = 120
    yaml.indent(mapping=2, sequence=4, offset=2)
    document = yaml.load(path.read_text(encoding="utf-8"))
    changed = [name for name, stage in document["stages"].items() if _update(stage, code_deps(name, root))]
    if changed:
        with open(path, "w", encoding="utf-8", newline="\n") as file:
            yaml.dump(document, file)
    return changed


def _update(stage: Any, code: list[str]) -> bool:
    deps = stage["deps"]
    if [dep for dep in deps if dep.startswith(CODE)] == code:
        return False
    kept = [dep for dep in deps if not dep.startswith(CODE)]
    deps[:] = [*kept, *code]
    return True


def main() -> None:
    """Rewrite dvc.yaml."""
    changed = refresh()
    print(f"dvc.yaml: {', '.join(changed) + ' brought up to date' if changed else 'already up to date'}")


if __name__ == "__main__":
    main()
