"""The shape of the package: its arrows, its face, what importing costs, what a wheel holds."""

import ast
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import graticule

ROOT = Path(__file__).parents[1]
ROOMS = {
    "plugin": "graticule",
    "hooks": "graticule.hooks",
    "probes": "graticule.probes",
    "sims": "graticule.sims",
}
ALLOWED = {
    "hooks": {"hooks"},
    "probes": {"hooks", "probes"},
    "sims": {"hooks", "probes", "sims"},
    "plugin": {"hooks", "probes", "sims", "plugin"},
}


def sources(room: str) -> list[Path]:
    return [f for f in sorted((ROOT / room).rglob("*.py")) if "__pycache__" not in f.parts]


def imported(file: Path) -> set[str]:
    """Every module that a file imports, at its top or inside functions, absolute."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(module: str) -> str | None:
    if not (module + ".").startswith("graticule."):
        return None
    part = module.split(".")[1] if "." in module else ""
    return part if part in ("hooks", "probes", "sims") else "plugin"


@pytest.mark.parametrize("room", ROOMS)
def test_arrows_point_down(room):
    assert sources(room)
    for file in sources(room):
        for module in imported(file):
            target = room_of(module)
            assert target is None or target in ALLOWED[room], f"{file.relative_to(ROOT)} imports {module}"


def module_of(file: Path) -> str:
    room, *rest = file.relative_to(ROOT).with_suffix("").parts
    return ".".join([ROOMS[room], *(part for part in rest if part != "__init__")])


def run_imports(file: Path, modules: set[str]) -> set[str]:
    """Modules of the package that a file imports when it runs, inside functions too; not for types alone."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name in modules else str(node.module) for name in full}
    return names & modules - {module_of(file), "graticule"}


def test_no_import_goes_in_a_circle():
    """Imports inside functions included: what is followed down never comes back."""
    files = {module_of(file): file for room in ROOMS for file in sources(room)}
    waiting = {name: run_imports(file, set(files)) for name, file in files.items()}
    while free := [name for name, needs in waiting.items() if not needs & set(waiting)]:
        for name in free:
            del waiting[name]
    assert not waiting, f"in a circle, or leading to one: {sorted(waiting)}"


def test_hooked_transformer_is_named_in_two_places_only():
    """TransformerLens 4 removed it: only the model loader and the worlds may build one."""
    for room in ROOMS:
        for file in sources(room):
            names = {m.rpartition(".")[2] for m in imported(file) if m.startswith("transformer_lens")}
            if names & {"HookedTransformer", "HookedTransformerConfig"}:
                assert room == "sims" or file == ROOT / "plugin" / "models.py", file


@pytest.mark.slow
def test_the_face():
    assert set(graticule.__all__) == {
        *(
            "load_model",
            "load_saved",
            "capture",
            "record",
            "Activations",
            "Store",
            "Table",
            "token_table",
            "pool",
        ),
        *("baselines", "Baselines", "sweep", "probe", "Findings", "RidgeProbe", "study"),
        *("calibrate", "compare", "controls", "holdouts", "prompts", "transfer", "popularity"),
        *("judge_family", "judge_on", "cross_fit", "retest"),
        *("mlp", "pca", "classes", "monitor", "sphere", "latents", "directions"),
        *("neurons", "attribute", "trace", "erase", "steer", "ablate", "causes"),
        *("words", "languages", "ambiguous", "World", "Contexts", "simulate", "reproduce", "theorems"),
        *("certify", "saes", "hub"),
        *(
            "Sample",
            "Turn",
            "Outcome",
            "JudgeSettings",
            "Training",
            "SequenceTokens",
        ),  # which messages say to write
    }
    assert dir(graticule) == sorted(graticule.__all__)
    for name in graticule.__all__:
        assert getattr(graticule, name).__name__.removeprefix("graticule.") == name
    with pytest.raises(AttributeError, match="no attribute 'captures'"):
        _ = graticule.captures


@pytest.mark.parametrize("name", ["graticule", "graticule.saes"])
def test_type_checkers_see_what_is_loaded_on_first_use(name):
    """The names are written twice: where they are checked, and where they are loaded from."""
    package = importlib.import_module(name)
    tree = ast.parse(Path(package.__file__).read_text())
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    pairs = [(n.module, a) for n in branch.body if isinstance(n, ast.ImportFrom) for a in n.names]
    assert sorted(alias.name for _, alias in pairs) == package.__all__ == dir(package)
    for home, alias in pairs:
        assert alias.asname == alias.name
        checked = sys.modules.get(f"{home}.{alias.name}") if home == name else None
        expected = checked or getattr(importlib.import_module(home), alias.name)
        assert getattr(package, alias.name) is expected


def said(tree: ast.AST) -> Iterator[str]:
    """Every string of a module that is no docstring."""
    bare = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value


@pytest.mark.slow
def test_what_messages_and_the_readme_say_to_write_is_on_the_face():
    """A class of ours that a message calls, or that stands in the README's code, can be had as it stands."""
    ours, written = set(), {}
    for room in ROOMS:
        for file in sources(room):
            tree = ast.parse(file.read_text())
            ours |= {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
            for words in said(tree):
                for match in re.finditer(r"(?<![\w.])([A-Z]\w+)(?=\(|\.[a-z_]+\()", words):
                    if not words.rstrip().endswith(f"{match[1]}("):  # the start of what a `repr` writes
                        written.setdefault(match[1], f"{file.name}: {words[:80]}")
            for words in said(tree):
                for name in re.findall(r"(?<![\w.])graticule\.(\w+)\(", words):
                    assert name in graticule.__all__, f"{file.name}: graticule.{name} is not there"
    for code in re.findall(r"`([^`\n]+)`", (ROOT / "README.md").read_text()):
        for name in re.findall(r"(?<![\w.])([A-Z]\w+)(?=\(|\.[a-z_]+\()", code):
            written.setdefault(name, f"README: {code}")
    assert {"Outcome", "Sample", "JudgeSettings", "World", "Table"} <= set(written)
    missing = {name: where for name, where in written.items() if name in ours - set(graticule.__all__)}
    assert not missing


SAY_NOTHING = {"held", "found", "told", "kept", "known", "shown", "said", "arms", "rivals"}
"""Names that tell nobody what a value is; what such a value holds has a noun."""
DIALECT = (
    *(
        r"\*\*(Arguments|Args|Raises|Returns)\b",
        r"\b[Aa]n? (name|unit|line|row|entry|page|column) an? [a-z]+\b",
    ),
    *(r"luck a row", r"dealt out anew", r"session left as", r"in the probe's place reach"),
    r"[Gg]ain that would have been seen",
    r"(?<![%{])\{[^{}]*[^{}:]:\+?\.[234]f\}(?!\})",
)
"""Phrases for which the field has words: one row per layer, the smallest detectable gain, Args and Raises;
decimals without `z`, which would print what rounds to nothing as -0.000."""


@pytest.mark.parametrize("room", ROOMS)
def test_names_and_phrases_are_the_fields(room):
    for file in sources(room):
        text = file.read_text()
        for node in ast.walk(ast.parse(text)):
            name = getattr(node, "id", None) or getattr(node, "arg", None)
            if isinstance(node, ast.Name | ast.arg):
                assert name not in SAY_NOTHING, f"{file.relative_to(ROOT)}:{node.lineno}: {name}"
        for phrase in DIALECT:
            match = re.search(phrase, text)
            assert not match, f"{file.relative_to(ROOT)}: {match[0]!r}"


def test_two_things_never_share_a_name():
    """Of functions and classes outside classes; a program's `main` is its own."""
    homes: dict[str, set[Path]] = {}
    for room in ROOMS:
        for file in sources(room):
            for node in ast.parse(file.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    homes.setdefault(node.name, set()).add(file.relative_to(ROOT))
    assert {name: files for name, files in homes.items() if len(files) > 1 and name != "main"} == {}


def loaded_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(' '.join(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COVERAGE_PROCESS_START": ""},
    )
    return {name.split(".")[0] for name in out.stdout.split()}


@pytest.mark.slow
def test_importing_loads_neither_library():
    heavy = {"transformer_lens", "sae_lens", "transformers", "datasets", "sklearn", "plotly"}
    assert not loaded_after("import graticule") & (heavy | {"torch", "pandas", "importlib.metadata"})
    everyday = (
        "from graticule import capture, record, Activations, Store, Table, sweep, probe, RidgeProbe, Findings"
    )
    assert not loaded_after(everyday) & {"transformer_lens", "sae_lens"}
    assert not loaded_after("from graticule import load_model") & {"transformer_lens", "sae_lens"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"  # a copy: building leaves files behind, and stale ones would enter the next wheel
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / name)
    command = [sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(tree)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_a_wheel_holds_every_module_and_the_packaged_tables(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    for room, package in ROOMS.items():
        for file in sources(room):
            name = f"{package.replace('.', '/')}/{file.relative_to(ROOT / room)}"
            assert name in inside, f"{name} is missing from the wheel"
    data = {"world_cities.parquet", "historical_figures.parquet", "coastline.json", "README.md"}
    assert {f"graticule/probes/data/{name}" for name in data} <= inside
    assert "graticule/py.typed" in inside
    assert {f"graticule/report/{f.name}" for f in (ROOT / "plugin" / "report").glob("*.[hcj]*s*")} <= inside
    stray = {n for n in inside if not n.startswith(("graticule/", "graticule-"))}
    assert not stray


@pytest.mark.slow
def test_a_wheel_in_an_environment_of_its_own_imports_and_runs(wheel, tmp_path):
    """Installed without the source tree; third parties come from the environment that runs this."""
    env = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(env)], check=True)
    here = subprocess.run(
        [sys.executable, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    python = env / "bin" / "python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    )
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--quiet",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (site / "third_parties.pth").write_text(
        here + "\n"
    )  # a .pth inside it is not followed: no editable finder
    code = (
        "import graticule, sys; from graticule import Table, capture, sweep; "
        "print(graticule.__file__, len(Table.packaged('world_cities')))"
    )
    out = subprocess.run(
        [python, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert out.split()[0].startswith(str(site))
    assert int(out.split()[1]) > 7000
    script = "import sys; from graticule.cli import main; sys.exit(main(['--help']))"
    help_text = subprocess.run(
        [python, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert "demo" in help_text.stdout
    entry = (next(site.glob("graticule-*.dist-info")) / "entry_points.txt").read_text()
    assert "graticule = graticule.cli:main" in entry


@pytest.mark.parametrize("document", ["README.md", "docs/architecture.md"])
def test_files_that_a_document_names_are_there(document):
    text = (ROOT / document).read_text()
    written = "".join(re.findall(r"`(median_split\.py)`\n\n```", text))  # it holds this itself
    text = text[text.index("## The house") : text.index("## Sources")] if document == "README.md" else text
    there = {"plugin/", *(f"{room}/" for room in ROOMS)}
    for folder in (*ROOMS, "tests", "docs", "benchmarks", "examples"):
        for path in (ROOT / folder).rglob("*"):
            there.add(f"{path.name}/" if path.is_dir() else path.name)
    named = set(re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+(?:\.py|/))`", text)) - {written}
    assert len(named) > 10
    missing = [n for n in named if not ((ROOT / n).exists() or ("/" not in n.rstrip("/") and n in there))]
    assert sorted(missing) == []


def test_the_version_is_that_of_the_package():
    assert graticule.__version__ == metadata.version("graticule")
