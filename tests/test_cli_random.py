"""The command line under random input: whatever it gets, it ends with exit code 0 or 2, and 2 comes with one line.

`MCLNF_FUZZ_CASES` sets the number of random cases (a longer form), `MCLNF_FUZZ_SEED` their seed, which is printed.
"""

from __future__ import annotations

import json
import os
import pathlib
import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from PIL import Image

from mclnf_fast.cli import main
from mclnf_fast.cli.fit import fit_parser
from mclnf_fast.learn.fit import FitSummary
from mclnf_fast.systems import registry
from mclnf_fast.systems.common.config_file import from_plain, options_of
from mclnf_fast.systems.common.folder import RunFolder, plain
from mclnf_fast.systems.fit import job

CASES = int(os.environ.get("MCLNF_FUZZ_CASES", "800"))
SEED = int(os.environ.get("MCLNF_FUZZ_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)

WORDS = [
    *("", "0", "-1", "1", "2", "3.5", "nan", "inf", "-inf", "1e30", "1e400", "100000", "2147483648"),
    *("9" * 40, "9" * 5000, "None", "True", "no", "yes", "magic", "mod", "all", "cpu", "cuda", "cuda:99"),
    *("--", "-", "--help", "--seed", "=", "~nobody/x", "../..", "/", "/dev/null", "/dev/full", "/proc/self/mem"),
    *("/nowhere/at/all", "a" * 300, "b/" * 3000, ".", "é", "\u202e", "line\nbreak", "tab\there", "[red]x[/red]"),
    *("{x}", "%s", "$HOME", "`ls`", "\x1b[31m", "\0", "\udcff", "x\0y", "*", "'", '"'),
]
JUNK: list[Any] = [
    *(None, True, False, 0, -1, 3, 1 << 70, 0.5, -1e300, float("nan"), float("inf")),
    *("", "x", "1", "²", "a\0b", "é" * 50, [], {}, [None], {"a": {}}, [[[]]], {"": ""}),
    *({"0": [1, "x"]}, ["mod", 3], {"mod": {"matrix": "x"}}),
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


@pytest.fixture
def checked_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every system checks its options, opens its folder as a run does, and stops before it learns."""

    def stop(config: Any, command: str) -> pathlib.Path:
        config.check()
        if config.run.resume is not None:
            folder, described = RunFolder.reopen(config.run.resumed, config.kind, command)
            from_plain(type(config), described)
            folder.load_state("run")
            folder.release()
        return pathlib.Path()

    functions = registry.System.functions
    monkeypatch.setattr(registry.System, "functions", lambda system: (stop, functions(system)[1]))


def outcome(capsys: pytest.CaptureFixture[str], words: list[str]) -> str | None:
    """The reason why a command broke its promise; None if it kept it."""
    capsys.readouterr()
    try:
        code = main(words)
    except SystemExit as end:  # bench's --help
        code = end.code if isinstance(end.code, int) else 1
    except BaseException as error:
        return f"{type(error).__name__} escaped: {error}"
    lines = capsys.readouterr().err.split("\n")
    if code == 0:
        return None
    if code != 2:
        return f"exit code {code}: {lines[0]}"
    if len(lines) != 2 or lines[1] or not lines[0].startswith("mclnf-fast: "):
        return f"not one line: {lines[:3]}"
    return None


def try_all(capsys: pytest.CaptureFixture[str], cases: Iterator[list[str]]) -> None:
    broken = [(words, reason) for words in cases if (reason := outcome(capsys, words)) is not None]
    assert not broken, f"seed {SEED}, {len(broken)} broken: " + "\n".join(f"{w!r:.300}: {r}" for w, r in broken[:8])


def test_random_command_lines(capsys, checked_only):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    flags = {}
    for name in registry.SYSTEMS:
        _, defaults = registry.find_system(name).functions()
        flags[name] = [option.flag for option in options_of(type(defaults(name, [])))]

    def line() -> list[str]:
        command = rng.choice(["run"] * 8 + ["table", "bench", "tune", "info", "tabel", rng.choice(WORDS)])
        if command != "run":
            options = ["--out", "--only", "--list", "--suite", "--threads", "--check", "--quick"]
            tail = rng.choice([[], ["--list"]])
            words = [command, *rng.choices(WORDS + options, k=rng.randint(0, 4)), *tail]
            # A suite that is legal would be measured.
            return [*words, "--list"] if command == "bench" else words
        name = rng.choice([*registry.SYSTEMS] * 5 + WORDS[:3])
        words = ["run", name, *rng.choice([[], ["--quick"]])]
        for _ in range(rng.randint(1, 3)):
            flag = f"--{rng.choice(flags.get(name, ['steps']))}"
            words += [f"{flag}={rng.choice(WORDS)}"] if rng.random() < 0.2 else [flag, rng.choice(WORDS)]
        return words

    try_all(capsys, (line() for _ in range(CASES)))


def test_random_command_lines_of_fit(tmp_path, capsys, monkeypatch):
    """On a folder of one small picture: a folder of the machine could be a large one."""
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    monkeypatch.setattr(job, "fit_source", lambda *rest: FitSummary.joined([]))
    actions = [action for action in fit_parser()._actions if action.option_strings and action.dest != "help"]
    flags = [action.option_strings[-1] for action in actions]

    def line() -> list[str]:
        words = ["fit", "a.png", "--out", f"bank{rng.random()}"]
        for _ in range(rng.randint(1, 3)):
            flag = rng.choice([flag for flag in flags if flag != "--decode"])
            words += [f"{flag}={rng.choice(WORDS)}"] if rng.random() < 0.2 else [flag, rng.choice(WORDS)]
        return words

    try_all(capsys, (line() for _ in range(CASES // 2)))


def test_random_run_folders(tmp_path, capsys, checked_only):
    """A config.yaml with a value, a key or bytes changed is refused by `--resume` and `--config`, or read."""
    print(f"seed {SEED}")
    rng = random.Random(SEED + 1)
    run = tmp_path / "run"
    run.mkdir()
    goods = {name: plain(registry.find_system(name).functions()[1](name, ["--quick"])) for name in registry.SYSTEMS}

    def line() -> list[str]:
        name = rng.choice([*goods])
        data = json.loads(json.dumps(goods[name]))
        group = rng.choice([data, *(v for v in data.values() if isinstance(v, dict))])
        group[rng.choice([*group, "new", "", "steps"])] = rng.choice(JUNK)
        text = json.dumps(data, indent=0)  # which is YAML, and much faster to write
        kind = rng.random()
        if kind < 0.15:  # bytes
            content = bytearray(text.encode())
            for _ in range(rng.randint(1, 4)):
                content[rng.randrange(len(content))] = rng.randrange(256)
            (run / "config.yaml").write_bytes(content)
        elif kind < 0.2:
            (run / "config.yaml").write_text(
                rng.choice(["", "[" * 5000, "a: " * 50, "{" * 3000, "&a [*a]", "- 1", "2020-99-99", "? [a]\n: b"])
            )
        else:
            (run / "config.yaml").write_text(text)
        return ["run", name, rng.choice(["--resume", "--config"]), str(run)]

    try_all(capsys, (line() for _ in range(CASES // 8)))


def paths_of(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from paths_of(value, (*path, key))


def test_random_metrics(tmp_path, capsys, monkeypatch):
    """A metrics.json with one value changed is drawn, or refused by name."""
    from mclnf_fast.report import table
    from mclnf_fast.report.record import SignalRecord

    # Figures take half a second each; the tables read all of the record.
    monkeypatch.setattr(table, "draw_figures", lambda *_: [])
    rng = random.Random(SEED + 2)
    row = {
        "curve": {"psnr": {"1": [10.0, 11.0], "2": [12.0, 13.0]}},
        "matrix": [[[12.0, 13.0], [1.0, 2.0]], [[12.0, 13.0], [12.0, 13.0]]],
        "before": [[1.0, 1.0], [1.0, 1.0]], "seconds": 1.0, "steps": 4, "parameters": 100, "category": "MCL",
    }  # fmt: skip
    good = {
        **SignalRecord(system="image", title="faces", steps=(1, 2), measures=("psnr",), tasks=("a", "b")).to_json(),
        "seeds": {"0": {"methods": {"mod": row, "er": {**row, "category": "CL"}}}},
        "names": {"train": ["x"], "validation": [], "test": ["y", "z"]},
        "config": {"methods": ["mod", "er"]},
        "phases": {"data": 1.0},
    }
    places = [path for path in paths_of(good) if path]
    run = tmp_path / "run"
    run.mkdir()

    def line() -> list[str]:
        data = json.loads(json.dumps(good))
        *path, last = rng.choice(places)
        group: Any = data
        for key in path:
            group = group[key]
        if rng.random() < 0.2 and isinstance(group, dict):
            del group[last]
        else:
            group[last] = rng.choice(JUNK)
        text = json.dumps(data)
        if rng.random() < 0.05:
            text = rng.choice(["[" * 100_000, text[: len(text) // 2], "NaN", '{"version": 1, "kind": []}', "9" * 5000])
        (run / "metrics.json").write_text(text)
        return ["table", "run", "--out", "out"]

    (run / "metrics.json").write_text(json.dumps(good))
    assert main(["table", "run", "--out", "out"]) == 0
    try_all(capsys, (line() for _ in range(CASES // 8)))


def test_random_suites(tmp_path, capsys):
    """A file of benchmark cases with one value changed is listed, or refused by name."""
    rng = random.Random(SEED + 3)
    case = {"id": "a/16", "op": "forward", "title": "forward", "shapes": {"modules": 2, "width": 16}, "peers": ["loop"]}
    good = {"device": "cpu", "seconds": 0.1, "shapes": {"points": 64}, "cases": [case, {**case, "id": "b"}]}
    places = [path for path in paths_of(good) if path]

    def line() -> list[str]:
        data = json.loads(json.dumps(good))
        *path, last = rng.choice(places)
        group: Any = data
        for key in path:
            group = group[key]
        group[last] = rng.choice(JUNK)
        text = json.dumps(data)
        (tmp_path / "mine.json").write_text(text if rng.random() < 0.9 else text[: rng.randrange(len(text))])
        return ["bench", "--suite", "mine.json", "--list"]

    try_all(capsys, (line() for _ in range(CASES // 4)))
