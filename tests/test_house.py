"""The rules of the house: which room may import which, how large things are, and what every public name brings."""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import pathlib
import types
from collections.abc import Iterator

import pytest

import mclnf_fast

PACKAGE = pathlib.Path(mclnf_fast.__file__).parent

GROUND = ("cpus", "errors", "checks", "cache", "packing", "spec", "encodings", "grids", "shading", "metrics")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(GROUND, GROUND),
    "ops": GROUND,
    "info": (*GROUND, "ops"),
    "fields": (*GROUND, "ops"),
    "render": (*GROUND, "ops", "fields"),
    "learn": (*GROUND, "ops", "fields"),
    "optim": ("learn",),
    "tasks": (*GROUND, "ops", "fields", "render", "learn"),
    "data": (*GROUND, "render"),
    "report": (*GROUND, "ops", "fields", "info", "learn"),
    "systems": (*GROUND, "ops", "fields", "info", "render", "learn", "tasks", "data", "report"),
    "artifacts": (*GROUND, "ops", "fields", "render", "learn", "tasks", "data", "systems"),
}
DOORS = ("compat", "viewer", "cluster")
MAY_IMPORT |= dict.fromkeys(DOORS, (*MAY_IMPORT["systems"], "systems", "artifacts"))
MAY_IMPORT["cli"] = tuple(dict.fromkeys((*MAY_IMPORT["systems"], "systems", "artifacts", *DOORS)))

ROOMS = ("ops", "fields", "render", "learn", "optim", "tasks", "data", "report", "artifacts", "shading", "metrics")
PUBLIC = ("", *ROOMS, "compat.nerfacc")
MODULES_IN_A_FOLDER = 12
LARGER_FOLDERS = {"data/readers": 25, "learn/methods": 25}
MOST_ARGUMENTS = 8


@functools.cache
def sources() -> dict[str, ast.Module]:
    """Module name -> syntax tree, of the whole package."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("mclnf_fast", *path.relative_to(PACKAGE).with_suffix("").parts)
        names[".".join(parts).removesuffix(".__init__")] = ast.parse(path.read_text(), str(path))
    return names


def is_package(module: str) -> bool:
    return PACKAGE.joinpath(*module.split(".")[1:]).is_dir()


def imports(module: str) -> Iterator[tuple[str, str, str | None, int]]:
    """(module imported from, name or "", alias, line) of the package's own modules, inside functions too."""
    for node in ast.walk(sources()[module]):
        if isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:  # relative to the package that the module lies in
                base = module.split(".") if is_package(module) else module.split(".")[:-1]
                origin = ".".join([*base[: len(base) - node.level + 1], *([node.module] if node.module else [])])
            if origin.split(".")[0] == "mclnf_fast":
                yield from ((origin, alias.name, alias.asname, node.lineno) for alias in node.names)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "mclnf_fast":
                    yield alias.name, "", alias.asname, node.lineno


def target(origin: str, name: str) -> str:
    """The module that an import reaches: `from a import b` may name a module b."""
    return f"{origin}.{name}" if f"{origin}.{name}" in sources() else origin


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_rooms_import_downwards_only() -> None:
    wrong = []
    for module in sources():
        here = room(module)
        if not here:
            continue  # the package's own __init__ hands names on
        assert here in MAY_IMPORT, f"{module}: say in MAY_IMPORT what the room {here} may import"
        for origin, name, _, line in imports(module):
            there = room(target(origin, name))
            # `__version__` alone comes from the package itself.
            allowed = there in (here, *MAY_IMPORT[here]) if there else name in ("", "__version__")
            if not allowed:
                wrong.append(f"{module}:{line} imports {target(origin, name) if there else f'mclnf_fast.{name}'}")
    assert not wrong, "\n".join(wrong)


def test_no_system_imports_another() -> None:
    shared = ("common", "starts")
    wrong = []
    for module in sources():
        parts = module.split(".")
        if parts[1:2] != ["systems"] or len(parts) < 3:
            continue
        for origin, name, _, line in imports(module):
            other = target(origin, name).split(".")
            if other[1:2] == ["systems"] and len(other) > 2 and other[2] not in (parts[2], *shared):
                wrong.append(f"{module}:{line} imports {'.'.join(other)}")
            if parts[2] in shared and other[1:2] == ["systems"] and len(other) > 2 and other[2] not in shared:
                wrong.append(f"{module}:{line} is shared by systems and imports {'.'.join(other)}")
    assert not wrong, "\n".join(sorted(set(wrong)))


def test_doors_are_opened_by_the_command_line_alone() -> None:
    wrong = [
        f"{module}:{line} imports {target(origin, name)}"
        for module in sources()
        for origin, name, _, line in imports(module)
        if room(target(origin, name)) in DOORS and room(module) not in ("cli", room(target(origin, name)))
    ]
    assert not wrong, "\n".join(wrong)


def test_private_modules_stay_in_their_package() -> None:
    wrong = []
    for module in sources():
        for origin, name, _, line in imports(module):
            parts = target(origin, name).split(".")
            for k, part in enumerate(parts):
                inside = module == ".".join(parts[:k]) or module.startswith(".".join(parts[:k]) + ".")
                if part.startswith("_") and not part.startswith("__") and not inside:
                    wrong.append(f"{module}:{line} imports {'.'.join(parts)}")
    assert not wrong, "\n".join(wrong)


def test_folders_are_read_in_one_look() -> None:
    wrong = []
    for folder in [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir() and p.name != "__pycache__")]:
        modules = [p for p in folder.glob("*.py") if p.name != "__init__.py"]
        most = LARGER_FOLDERS.get(folder.relative_to(PACKAGE).as_posix(), MODULES_IN_A_FOLDER)
        if len(modules) > most:
            wrong.append(f"{folder.relative_to(PACKAGE.parent)} has {len(modules)} modules, at most {most}")
    assert not wrong, "\n".join(wrong)


def test_our_own_names_need_no_other() -> None:
    wrong = [
        f"{module}:{line} imports {origin}{'.' if name else ''}{name} as {alias}"
        for module in sources()
        for origin, name, alias, line in imports(module)
        if alias is not None and alias != name
    ]
    assert not wrong, "\n".join(wrong)


def count_any(folder: str) -> int:
    return sum(
        isinstance(node, ast.Name) and node.id == "Any"
        for module, tree in sources().items()
        if module.split(".")[1:2] == [folder]
        for node in ast.walk(tree)
    )


@pytest.mark.parametrize(("folder", "most"), [("report", 0), ("systems", 35)])  # may only fall
def test_any_only_falls(folder: str, most: int) -> None:
    assert count_any(folder) <= most


def test_every_method_is_in_the_table() -> None:
    from mclnf_fast.learn.methods import METHODS, Method

    folder = PACKAGE / "learn" / "methods"
    for path in folder.glob("*.py"):
        importlib.import_module(f"mclnf_fast.learn.methods.{path.stem}".removesuffix(".__init__"))
    classes, open_ = set(), [Method]
    while open_:
        subclasses = [c for c in open_.pop().__subclasses__() if c.__module__.startswith("mclnf_fast.")]
        classes |= set(subclasses)
        open_ += subclasses
    listed = {entry if inspect.isclass(entry) else entry.method for entry in METHODS.values()}
    assert classes == listed, {c.__name__ for c in classes ^ listed}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for module, tree in sources().items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield module, node


def test_functions_take_few_arguments() -> None:
    wrong = []
    for module, node in functions():
        if room(module) in ("ops", "compat"):  # of an op its schema decides, of a door the other software
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        count = len([a for a in arguments if a.arg not in ("self", "cls")])
        if count > MOST_ARGUMENTS:
            wrong.append(f"{module}:{node.lineno} {node.name} takes {count}, at most {MOST_ARGUMENTS}")
    assert not wrong, "\n".join(wrong)


def public() -> dict[str, types.FunctionType]:
    """Every function that a room hands on, by its full name."""
    found = {}
    for name in PUBLIC:
        module = importlib.import_module(f"mclnf_fast.{name}" if name else "mclnf_fast")
        for member in getattr(module, "__all__", ()):
            value = getattr(module, member)
            if inspect.isfunction(value) and value.__module__.startswith("mclnf_fast"):
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


@pytest.mark.parametrize("name", sorted(public()))
def test_the_example_of_every_public_function_runs(name: str) -> None:
    function = public()[name]
    tests = doctest.DocTestFinder(recurse=False).find(function, name, globs=dict(vars(inspect.getmodule(function))))
    examples = [example for test in tests for example in test.examples]
    assert examples, f"{name} has no example in its docstring"
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
    for test in tests:
        runner.run(test)
    assert runner.failures == 0
