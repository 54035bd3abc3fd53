"""Make an initialization of the package of a run: `python -m benchmarks.pretrained RUN NAME DATA`.

Takes the meta-learned initialization of a finished run, without its modules, and writes it with what it was learned
from to `mclnf_fast/pretrained/NAME.safetensors` and the same as plain text beside it. DATA is a name of `mclnf-fast
data`, whose license and address go with it, or `procedural`.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess

from mclnf_fast.data.public_sets import sources
from mclnf_fast.systems.common.pretrained import FOLDER
from mclnf_fast.systems.common.result import Result, bank_of, read_result


def about(run: pathlib.Path, data: str, commit: str) -> dict[str, object]:
    """Return what goes with an initialization: what it was learned from, its license, command and commit."""
    metrics = json.loads((run / "metrics.json").read_text())
    names = metrics["names"]["train"]
    if data == "procedural":
        origin = {"data": "procedural, made by the command", "license": "Apache-2.0, as the package"}
    else:
        source = sources()[data]
        origin = {"data": f"{len(names)} of {source.what}", "license": source.license, "address": source.address}
    # Without the machine's folders: `--data` and what follows it, and the folder of the run.
    words = metrics["command"].split()
    kept = [w for k, w in enumerate(words) if w != "--out" and words[k - 1] not in ("--out", "--data")]
    command = " ".join("--data DIR" if word == "--data" else word for word in kept)
    return {**origin, "signals": names, "command": command, "commit": commit, "versions": metrics["versions"]}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("name")
    parser.add_argument("data", choices=("procedural", *sources()))
    arguments = parser.parse_args()
    head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], capture_output=True, text=True, check=True)
    result = read_result(arguments.run)
    shipped = Result(
        result.system,
        bank_of(result.bank.spec, result.bank.shared),
        [],
        result.frame,
        tuning=result.tuning,
        frequencies=result.frequencies,
        # Of signals the initialization is named after what it is of: a module, or one network for all tasks.
        initialization=result.initialization,
        about=about(arguments.run, arguments.data, head.stdout.strip()),
    )
    FOLDER.mkdir(exist_ok=True)
    shipped.write(FOLDER, f"{arguments.name}.safetensors")
    print(f"{arguments.name}: {(FOLDER / f'{arguments.name}.safetensors').stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
