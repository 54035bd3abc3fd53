"""Sphinx configuration: Markdown pages (MyST), the API by autodoc, the theme furo."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mclnf_fast  # noqa: E402  (the path comes first, so that the pages describe these sources)

project = "mclnf_fast"
author = "The mclnf_fast maintainers"
copyright = f"2026, {author}"
release = version = mclnf_fast.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3  # so that a page can link to a heading of another, as on the host of the repository

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # attributes stand in a list; the fields themselves are documented as members
napoleon_use_rtype = False
viewcode_follow_imported_members = True

html_theme = "furo"
html_title = "mclnf_fast"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]
highlight_language = "none"  # blocks without a language are trees and formulas
pygments_style = "friendly"
pygments_dark_style = "monokai"

# The pages of docs/api/, in order: a name that several rooms hand on stands on the page of the first.
API = ("mclnf_fast", "ops", "fields", "render", "learn", "tasks", "data", "artifacts", "systems", "metrics")

SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises|Example|Examples):( +\S.*)?$")
NAMES = re.compile(r"\w+(, \w+)+: ")


def as_rst(lines: list[str]) -> list[str]:
    """Return the lines of a docstring as reStructuredText.

    Ours are plain text with code in single backticks. Backticks become literals, `*` and `|` are escaped, a section
    whose text begins on the line of its name ("Returns: [M]") gets a body of its own, and an indented formula becomes a
    literal block. Doctests stay as they are.
    """
    result: list[str] = []
    depth = 0  # indentation of the block that the next line continues; a deeper line after a blank one is a formula
    section = formula = doctest = False
    for number, line in enumerate(lines):
        text, indent = line.strip(), len(line) - len(line.lstrip())
        blank_before = number == 0 or not lines[number - 1].strip()
        if not text:
            section = doctest = False
            result.append("")
            continue
        if text.startswith(">>>") or doctest:
            if not doctest and not blank_before:
                result.append("")
            doctest, formula = True, False
            result.append(line)
            continue
        match = SECTION.match(text)
        if match and indent == 0:
            if result and result[-1].strip():
                result.append("")
            section, formula, depth = bool(match[2]), False, 4
            if match[1] == "Raises" and match[2]:  # prose: napoleon would take all of it for the name of an exception
                result.append(":raises: " + _inline(match[2].strip()))
                continue
            result.append(f"{match[1]}:")
            if match[2]:
                result.append("    " + _inline(match[2].strip()))
            continue
        if section:  # the rest of a section that began on the line of its name, indented or not
            result.append("    " + _inline(text))
            continue
        if blank_before and indent > depth and not formula and not text.startswith(("* ", "- ")):
            formula = True
            result += [" " * depth + "::", ""]
        elif formula and indent <= depth:
            formula = False
            if result and result[-1].strip():
                result.append("")
        if indent < depth:
            depth = indent
        if not formula and NAMES.match(text) and indent == depth == 4:
            text = text.replace(", ", ",", text.partition(":")[0].count(", "))  # or the first name would be a type
        result.append(line if formula else " " * indent + _inline(text))
    return result


def _inline(text: str) -> str:
    """Return one line with literals for code and nothing else that reStructuredText would read."""
    pieces = re.split(r"(`[^`]+`)", text)
    bullet = pieces[0].startswith("* ")
    for k, piece in enumerate(pieces):
        if k % 2:
            # An escaped blank, which vanishes, parts a literal from a letter or a sign that stands against it.
            before, after = pieces[k - 1][-1:].strip(), pieces[k + 1][:1].strip()
            pieces[k] = ("\\ " if before else "") + f"`{piece}`" + ("\\ " if after else "")
        else:
            pieces[k] = re.sub(r"(\w)_(?!\w)", r"\1\\_", re.sub(r"([\\*|`])", r"\\\1", piece))
    joined = "".join(pieces)
    return "* " + joined[3:] if bullet else joined


def _process(app: object, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    # napoleon takes the text before a colon in an attribute's first line for its type: let it find a comment there.
    first = ["..", ""] if what in ("attribute", "property", "data") else []
    lines[:] = first + as_rst(lines)


def _owner(obj: object) -> str | None:
    """Return the page of the first room that hands an object on, or None if no room does."""
    for page in API:
        module = importlib.import_module("mclnf_fast" if page == "mclnf_fast" else f"mclnf_fast.{page}")
        if any(getattr(module, name) is obj for name in getattr(module, "__all__", ())):
            return page
    return None


def _skip(app, what: str, name: str, obj: object, skip: bool, options: object) -> bool | None:  # type: ignore[no-untyped-def]
    """Leave out what an earlier page has, and the fields of a named tuple, which its docstring lists."""
    if str(getattr(obj, "__doc__", "")).startswith("Alias for field number"):
        return True
    page = app.env.docname.removeprefix("api/")
    return True if what == "module" and _owner(obj) not in (page, None) else None


def setup(app) -> None:  # type: ignore[no-untyped-def]
    """Connect the rewriting of docstrings, before napoleon reads their sections."""
    app.connect("autodoc-process-docstring", _process, priority=400)
    app.connect("autodoc-skip-member", _skip)
