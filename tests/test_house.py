"""The rules of the house, held by walking the imports: who may use whom, and what DVC must be told."""

import ast
import itertools
import re
import subprocess
import sys
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.lib.params import sections
from tools import dvc_deps
from tools.dvc_deps import closure, code_deps, imported

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "stages").rglob("*.py"))
DVC_YAML = YAML(typ="safe", pure=True).load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
PARAMS = YAML(typ="safe", pure=True).load((ROOT / "params.yaml").read_text(encoding="utf-8"))
PIPELINE = DVC_YAML["stages"]
BY_HAND = ("compare", "harness", "sheet")  # run by a person, not by DVC
STAGES = sorted(path.stem for path in (ROOT / "stages").glob("*.py") if path.stem not in ("__init__", *BY_HAND))
LIGHT = ("validate", "split", "format", "tokenize", "report", "compare", "ratings", "sheet")
HEAVY = ("torch", "transformers", "trl", "datasets", "peft", "accelerate", "bitsandbytes", "evaluate")


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=[path.relative_to(ROOT).as_posix() for path in paths])


def imports_of(path):
    return set(imported(path.read_text(encoding="utf-8")))


def flat(entries):
    """The paths of a list in dvc.yaml, where an entry may carry settings: `{path: {cache: false}}`."""
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in entries}


def called(path, function):
    """The names that stand as first argument of each call of `function` in a module."""
    calls = (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call))
    return [ast.unparse(call.args[0]) if call.args else "" for call in calls if ast.unparse(call.func) == function]


def documented(stage, heading):
    """The paths below `Reads` or `Writes` of a stage's docstring, braces spelled out."""
    text = ast.get_docstring(ast.parse((ROOT / "stages" / f"{stage}.py").read_text(encoding="utf-8")))
    block = re.search(rf"^{heading}\s+(.*(?:\n\s{{6,}}.*)*)", text, re.MULTILINE)[1]
    for pattern in re.findall(r"(?:data|models|reports|templates)/[\w./*{},-]*", block):
        parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
        # The odd parts stood in braces, in the even ones a comma ends the path.
        parts[::2] = [part[:1] for part in parts[::2]]
        yield from ("".join(choice).rstrip("./*") for choice in itertools.product(*parts))


def filled(dep):
    """A path of dvc.yaml with params put in for `${section.key}`."""
    return re.sub(r"\$\{([\w.]+)\}", lambda found: reduce(getitem, found[1].split("."), PARAMS), dep)


def covered(path, tracked):
    return any(path == other or path.startswith(f"{other}/") for other in tracked)


def test_dvc_runs_exactly_the_stages_that_are_written():
    assert sorted(PIPELINE) == STAGES
    assert {name: stage["cmd"] for name, stage in PIPELINE.items()} == {
        name: f"exec python -m stages.{name}" for name in STAGES
    }


@named([path for path in MODULES if path.parent.name == "stages" and path.stem != "__init__"])
def test_a_stage_never_imports_another_stage(path):
    others = {f"stages.{name}" for name in STAGES} - {f"stages.{path.stem}"}
    assert not imports_of(path) & others


@named([path for path in MODULES if path.parent.name in ("lib", "params")])
def test_what_stages_share_never_imports_a_stage(path):
    assert not imports_of(path) & {f"stages.{name}" for name in STAGES}


@pytest.mark.parametrize("stage", LIGHT)
def test_a_light_stage_never_imports_a_heavy_library(stage):
    found = {
        f"{file}: {name}"
        for file in closure(Path("stages", f"{stage}.py"), ROOT)
        if file.suffix == ".py"
        for name in imports_of(ROOT / file)
        if name.split(".")[0] in HEAVY
    }
    assert not found


def test_no_library_of_a_light_stage_brings_in_a_heavy_one():
    code = "import sys; " + "; ".join(f"import stages.{name}" for name in LIGHT)
    code += f"; print([name for name in {('torch', 'transformers', 'trl', 'datasets')} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_check_of_raw_files_does_not_wait_for_what_only_tables_need():
    code = "import sys, stages.validate; print('pyarrow.compute' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("stage", STAGES)
def test_the_code_that_dvc_watches_is_the_code_that_runs(stage):
    """Too much, and a log line retrains; too little, and a fix is missed. `python -m tools.dvc_deps` sets it right."""
    watched = [dep for dep in PIPELINE[stage]["deps"] if dep.startswith("stages/")]
    assert watched == code_deps(stage, ROOT)


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_params_that_a_stage_loads(stage):
    path = ROOT / "stages" / f"{stage}.py"
    names = {cls.__name__: name for name, cls in sections().items()}
    loaded = {names[argument] for argument in called(path, "load")}
    if called(path, "load_seed"):
        loaded.add("seed")
    assert {param.split(".")[0] for param in PIPELINE[stage]["params"]} == loaded


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_watches_the_files_that_a_stage_says_it_reads(stage):
    reads = set(documented(stage, "Reads"))
    deps = {filled(dep) for dep in PIPELINE[stage]["deps"] if not dep.startswith("stages/")}
    assert {path for path in reads if not covered(path, deps)} == set()
    assert {dep for dep in deps if not any(covered(path, [dep]) for path in reads)} == set()


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_keeps_the_files_that_a_stage_says_it_writes(stage):
    writes = set(documented(stage, "Writes"))
    outs = set().union(*(flat(PIPELINE[stage].get(kind, [])) for kind in ("outs", "metrics", "plots")))
    assert {path for path in writes if not covered(path, outs)} == set()
    assert {out for out in outs if not any(covered(path, [out]) for path in writes)} == set()


def test_every_plot_says_what_to_draw():
    """Left to itself DVC draws the last column over the row number. And files that only `outs` lists without the cache
    would not be restored with the rest: going back to old params would train again."""
    plots = [plot for name in STAGES for plot in PIPELINE[name].get("plots", [])]
    assert len(plots) == 5
    assert all({"title", "x", "y"} <= set(settings) for plot in plots for settings in plot.values())
    assert "plots" not in DVC_YAML  # there it would be drawn a second time
    uncached = [out for name in STAGES for out in PIPELINE[name].get("outs", []) if isinstance(out, dict)]
    assert [list(out) for out in uncached] == [["models/merged"]]


@pytest.mark.parametrize("name", ["", "lib", "params"])
def test_a_package_file_holds_a_docstring_and_nothing_else(name):
    """That is why no stage depends on one. The first also sees to what happens before any is loaded."""
    body = ast.parse((ROOT / "stages" / name / "__init__.py").read_text(encoding="utf-8")).body
    assert [type(node) for node in body] == [ast.Expr] + ([] if name else [ast.Import, ast.Import, ast.Import, ast.If])


@named(MODULES)
def test_nothing_runs_or_unpacks_what_strangers_wrote(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    unsafe = {"yaml.safe_load", "yaml.load", "torch.load", "evaluate.load", "eval", "exec", "os.system"}
    assert not {ast.unparse(call.func) for call in calls} & unsafe
    trusted = [keyword for call in calls for keyword in call.keywords if keyword.arg == "trust_remote_code"]
    assert all(isinstance(keyword.value, ast.Constant) and keyword.value.value is False for keyword in trusted)
    forbidden = {"pickle", "dill", "joblib", "yaml"} | ({"dvc"} if path.stem not in BY_HAND else set())
    assert not {name.split(".")[0] for name in imports_of(path)} & forbidden


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import a.b as c, d", {"a.b", "d"}),
        ("from a import b", {"a", "a.b"}),
        ("def f():\n    import a", {"a"}),  # a function's import runs too
        ("try:\n    import a\nexcept ImportError:\n    import b", {"a", "b"}),
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", {"b"}),  # no run ever imports a
        ("text = 'import a'", set()),
    ],
)
def test_imports_are_found_wherever_they_stand(code, names):
    assert set(imported(code)) == names


def test_a_relative_import_is_refused_rather_than_missed():
    with pytest.raises(ValueError, match="relative"):
        list(imported("from . import a"))


@pytest.fixture
def small(tmp_path):
    """A repository of one stage, which uses `a`, which uses `b`; `c` is used by nobody."""
    files = {
        "stages/one.py": "from stages.lib import a\nimport json\n",
        "stages/lib/__init__.py": "",
        "stages/lib/a.py": "def f():\n    from stages.lib.b import g\n",
        "stages/lib/a.html.jinja": "",
        "stages/lib/b.py": "from stages.lib.a import f\n",
        "stages/lib/c.py": "",
        "dvc.yaml": (
            "# kept\n"
            "stages:\n"
            "  one:\n"
            "    cmd: python -m stages.one  # kept too\n"
            "    deps:\n"
            "      - data/raw\n"
            "      - stages/lib/c.py\n"
            "    outs: [data/one]\n"
        ),
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_the_tool_writes_what_the_imports_say_and_keeps_the_rest(small):
    assert dvc_deps.refresh(small / "dvc.yaml", small) == ["one"]
    assert (small / "dvc.yaml").read_text(encoding="utf-8") == (
        "# kept\n"
        "stages:\n"
        "  one:\n"
        "    cmd: python -m stages.one  # kept too\n"
        "    deps:\n"
        "      - data/raw\n"
        "      - stages/lib/a.html.jinja\n"
        "      - stages/lib/a.py\n"
        "      - stages/lib/b.py\n"
        "      - stages/one.py\n"
        "    outs: [data/one]\n"
    )


def test_the_tool_leaves_a_right_file_untouched(small):
    dvc_deps.refresh(small / "dvc.yaml", small)
    before = (small / "dvc.yaml").stat().st_mtime_ns
    assert dvc_deps.refresh(small / "dvc.yaml", small) == []
    assert (small / "dvc.yaml").stat().st_mtime_ns == before
