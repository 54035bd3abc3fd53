"""The documentation holds what it promises: its code runs, its links lead somewhere, its names and options exist."""

from __future__ import annotations

import ast
import contextlib
import importlib
import io
import pathlib
import re
import sys
import types

import pytest

from mclnf_fast import cli
from mclnf_fast.systems import SYSTEMS
from mclnf_fast.systems.common.renamed import RENAMED

ROOT = pathlib.Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
HISTORY = ROOT / "CHANGELOG.md"  # names what is gone
PAGES = [README, ROOT / "CONTRIBUTING.md", HISTORY, *sorted((ROOT / "docs").rglob("*.md"))]
CURRENT = [page for page in PAGES if page != HISTORY]
ENTRY_POINTS = ("mclnf_fast.methods", "mclnf_fast.systems", "mclnf_fast.readers")
NEEDS_A_RUN = "outputs/"  # a block that names a run's folder

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
OTHER_COMMANDS = ("CONTRIBUTING.md", "gpu.md", "measuring.md", "testing.md")  # pages with options of bench and tune


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path, language: str) -> list[str]:
    return [body for kind, body in FENCE.findall(page.read_text()) if kind == language]


def python_blocks() -> list[pytest.param]:
    return [
        pytest.param(body, id=f"{name_of(page)}-{k}")
        for page in CURRENT
        for k, body in enumerate(blocks(page, "python"))
    ]


def spans(page: pathlib.Path) -> list[str]:
    """Return the inline code of a page."""
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text()))


def resolve(dotted: str) -> object:
    """Return the object of a dotted name. Raises AttributeError or ImportError."""
    parts = dotted.split(".")
    for k in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        for part in parts[k:]:
            found = getattr(found, part)
        return found
    raise ImportError(dotted)


def test_the_readme_is_short() -> None:
    assert len(README.read_text().split()) <= 1200


@pytest.mark.parametrize("code", python_blocks())
def test_a_python_block_runs(code: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compile(code, "block", "exec")
    if NEEDS_A_RUN in code:
        # Without a run there is nothing to load, but what the block imports must exist.
        code = "\n".join(re.findall(r"^(?:from|import) .*$", code, re.M))
        compiled = compile(code, "imports", "exec")
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("block")
    monkeypatch.setitem(sys.modules, "block", module)  # where a dataclass looks its annotations up
    exec(compiled, module.__dict__)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_within_the_repository_lead_somewhere(page: pathlib.Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)} links to {target}"


def anchors(page: pathlib.Path) -> set[str]:
    """Return the anchors of a page's headings, as the repository's host and MyST form them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", CURRENT, ids=name_of)
def test_files_and_names_that_a_page_mentions_exist(page: pathlib.Path) -> None:
    for span in spans(page):
        # A recipe writes NAME for what its reader makes.
        if re.fullmatch(r"(mclnf_fast|tests|benchmarks|csrc|docs|examples)/[\w/.*-]+", span) and "NAME" not in span:
            assert list(ROOT.glob(span.rstrip("/"))), f"{name_of(page)} mentions {span}"
        if re.fullmatch(r"~?mclnf_fast(\.\w+)+(\(\))?", span) and span not in ENTRY_POINTS:
            resolve(span.strip("~()"))


@pytest.fixture(scope="module")
def options() -> dict[str, set[str]]:
    """Return the options of every system, as its --help lists them."""
    found = {}
    for name in SYSTEMS:
        with contextlib.redirect_stdout(io.StringIO()) as written:
            assert cli.main(["run", name, "--help"]) == 0
        found[name] = set(re.findall(r"--[a-z][\w.-]*", written.getvalue()))
        assert "--out" in found[name]
    return found


def of_fit() -> set[str]:
    with contextlib.redirect_stdout(io.StringIO()) as written:
        assert cli.main(["fit", "--help"]) == 0
    return set(re.findall(r"--[a-z][\w.-]*", written.getvalue()))


def test_options_in_the_documentation_exist(options: dict[str, set[str]]) -> None:
    fit = of_fit()
    every = set().union(fit, *options.values())
    for page in CURRENT:
        text = page.read_text().replace("\\\n", " ")
        # Commands, in a block or in a sentence, with the options that follow on the same line.
        for rest in re.findall(r"mclnf-fast fit([^\n`|]*)", text):
            for option in re.findall(r"(?<!\S)(--[a-z][\w.-]*)", rest):
                assert option in fit, f"{name_of(page)}: mclnf-fast fit {option}"
        for name, rest in re.findall(r"mclnf-fast run ([a-z-]+)([^\n`|]*)", text):
            if page.name == "plugins.md" and name == "line":
                continue  # the system that the page adds
            assert name in options, f"{name_of(page)}: mclnf-fast run {name}"
            for option in re.findall(r"(?<!\S)(--[a-z][\w.-]*)", rest):
                assert option in options[name], f"{name_of(page)}: mclnf-fast run {name} {option}"
        # An option alone in code: of the systems of the page, of any system on the other pages.
        systems = set(re.findall(r"mclnf-fast run ([a-z-]+)", text)) & set(options)
        known = (
            set().union(*(options[name] for name in systems)) if page.parent.name == "systems" and systems else every
        )
        for span in spans(page):
            if re.match(r"--[a-z]", span) and page.name not in OTHER_COMMANDS:
                assert re.match(r"--[a-z][\w.-]*", span)[0] in known | {"--help"}, f"{name_of(page)}: {span}"


def test_the_changelog_names_what_things_are_called_now(options: dict[str, set[str]]) -> None:
    unreleased = HISTORY.read_text().partition("\n## 0.1.0")[0]
    for row in re.findall(r"^\| `[\w.]+` \| (.*) \|$", unreleased, re.M):
        for name in re.findall(r"`([\w.]+)`", row):
            resolve(name if name.startswith("mclnf_fast") else f"mclnf_fast.{name}")
    for row in RENAMED:
        line = rf"^\| .*\| `--{re.escape(row.old)}` \| `--{re.escape(row.new)}`"
        assert re.search(line, unreleased, re.M), f"--{row.old} -> --{row.new}"
        for system in row.systems:
            assert f"--{row.new}" in options[system], f"{system}: --{row.new}"


def described(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """Return the text of each entry of a docstring's `Args:`, its names included."""
    section = re.split(r"\n(?=\S)", (ast.get_docstring(node) or "").partition("\nArgs:\n")[2])[0]
    return [
        " ".join(entry.split()) for entry in re.split(r"^ {4}(?=\*{0,2}\w+(?:, \*{0,2}\w+)*: )", section, flags=re.M)
    ]


@pytest.mark.parametrize("room", sorted({p.relative_to(ROOT).parts[1] for p in (ROOT / "mclnf_fast").rglob("*.py")}))
def test_each_argument_has_a_line_of_its_own(room: str) -> None:
    # An argument in the middle of another one's line is no entry of its own in the pages that are made of docstrings.
    for path in [ROOT / "mclnf_fast" / room] if room.endswith(".py") else (ROOT / "mclnf_fast" / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                names = {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
                names |= {
                    a.target.id for a in ast.walk(node) if isinstance(a, ast.AnnAssign) and hasattr(a.target, "id")
                }
                inside = [n for entry in described(node) for n in re.findall(r"[.;] (\w+): ", entry) if n in names]
                assert not inside, f"{path}:{node.lineno}: {inside}"
