"""Results as text: one table, every peer's ratio, where we lose, who was missing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]

BAR_NAMES = {
    "limit_share": "of the",
    "speedup": "faster than",
    "time_ratio": "time of",
    "seconds": "seconds by",
    "spread": "slowest:",
    "memory_ratio": "memory of",
}
BUSY = 0.95  # a share of the processors' time below which somebody else was using them
UNITS = {"fma": "GF/s", "copy": "GB/s", "matmul": "TF/s"}


def number(value: float | None, digits: int = 3) -> str:
    """Return a figure with about `digits` significant digits and no exponent; `-` if there is none."""
    if value is None:
        return "-"
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    places = max(digits - whole, 0)
    if 0 < abs(value) < 0.1:
        places = digits
    return f"{value:.{places}f}"


def figure(what: str, value: float | None) -> str:
    """Return a bar's figure in its own unit: a percentage of a limit, or a factor."""
    if value is None:
        return "-"
    if what == "seconds":
        return f"{number(value)} s"
    return f"{100 * value:.0f} %" if what == "limit_share" else f"{number(value)}x"


def goal(bar: Row, which: str) -> str:
    """`must` or `aim` of a bar with the direction."""
    if bar[which] is None:
        return "-"
    sign = ">=" if bar["what"] in ("limit_share", "speedup") else "<="
    return f"{sign} {figure(bar['what'], bar[which])}"


def verdict(bar: Row) -> str:
    """`ok`, `ok, aim` where the aim is reached too, `MISS`, or `void` with its reason; without a must `aim` or `below
    aim`."""
    if bar["void"]:
        return f"void: {bar['void']}"
    if bar["passed"] is False:
        return "MISS"
    if bar["passed"] is None:
        return "aim" if bar["reached"] else "below aim"
    return "ok, aim" if bar["reached"] else "ok"


def bar_name(bar: Row) -> str:
    """What a bar is about: `faster than loop`, `of the fma limit`, `time of forward + backward`."""
    against = (bar["against"] or "-").removeprefix("ours, ")
    return f"{BAR_NAMES[bar['what']]} {against}" + (" limit" if bar["what"] == "limit_share" else "")


def ours_of(result: Row) -> list[Row]:
    """Return our rows of a case."""
    return [row for row in result["contenders"] if not row["peer"]]


def peers_of(result: Row, own: Row) -> list[Row]:
    """Return the timed peers that did the same as one of ours (the variant, or the problem that the bars are about),
    fastest first."""
    if not own["variant"] and own["name"] != ours_of(result)[0]["name"]:
        return []
    found = [r for r in result["contenders"] if r["peer"] and "seconds" in r and r["variant"] == own["variant"]]
    return sorted(found, key=lambda r: float(r["seconds"]["median"]))


def spread(row: Row) -> str:
    """Return half the distance between the quartiles, in percent of the median."""
    s = row["seconds"]
    return f"{50 * (s['q3'] - s['q1']) / s['median']:.0f}"


def _figures(result: Row, own: Row) -> list[str]:
    name = result["id"] + (f" {own['name']}" if own["name"] != "ours" else "")
    if "seconds" not in own:
        return [name, *["-"] * 6]
    found = peers_of(result, own)
    best = [[f"{r['peer']} {number(r['seconds']['median'] * 1e3)}", f"{number(r['times_ours'])}x"] for r in found[:1]]
    share = own["limit_share"]
    return [
        name,
        number(own["seconds"]["median"] * 1e3),
        spread(own),
        f"{number(own['rate'])} {UNITS[result['limit']]}" if own["rate"] is not None else "-",
        "-" if share is None else f"{100 * share:.0f}",
        *(best[0] if best else ["-", "-"]),
    ]


HEAD = ["case", "ours ms", "+-%", "rate", "% limit", "best peer ms", "ratio", "bar", "must", "aim", "got", "verdict"]
FIGURES = 7  # columns before those of the bars
RIGHT = {1, 2, 3, 4, 6, 8, 9, 10}


def rows_of(results: Sequence[Row]) -> list[list[str]]:
    """Return the table's rows as text: figures of ours and, beside and below them, the case's bars."""
    rows: list[list[str]] = []
    for result in results:
        if result["status"] != "ok":
            rows.append([result["id"], f"{result['status']}: {result['reason']}"])
            continue
        bars = [
            [
                bar_name(bar),
                goal(bar, "must"),
                goal(bar, "aim"),
                figure(bar["what"], bar["value"]),
                verdict(bar),
            ]
            for bar in result["bars"]
        ]
        left = [_figures(result, own) for own in ours_of(result)]
        left += [[""] * 7] * (len(bars) - len(left))
        bars += [[]] * (len(left) - len(bars))
        rows += [a + b for a, b in zip(left, bars)]
    return rows


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]], right: set[int]) -> list[str]:
    """Return columns of even width; a row of two cells is a remark and is left as it is."""
    full = [row for row in rows if len(row) != 2]
    widths = [max(len(row[k]) for row in [head, *full] if k < len(row)) for k in range(len(head))]
    lines = []
    for row in (head, *rows):
        if len(row) == 2:
            lines.append(f"{row[0]:<{widths[0]}}  {row[1]}")
            continue
        cells = [f"{c:>{widths[k]}}" if k in right else f"{c:<{widths[k]}}" for k, c in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return lines


def ratios(results: Sequence[Row]) -> list[str]:
    """Return a line per case: the time of every peer over ours."""
    lines = []
    for result in results:
        for own in ours_of(result):
            found = peers_of(result, own)
            if "seconds" in own and found:
                name = result["id"] + (f" {own['name']}" if own["name"] != "ours" else "")
                lines.append(f"  {name:<30}" + "  ".join(f"{r['peer']} {number(r['times_ours'])}" for r in found))
    return lines


def hosts(results: Sequence[Row]) -> list[str]:
    """Return a line per case on a GPU: microseconds in which the host queues a call, and the call's milliseconds on the
    device if the host is ahead of it; `waits` if it can't be."""
    lines = []
    for result in results:
        each = [
            f"{r['name']} {number(r['host_us'])} us ("
            + (f"{number(r['device_seconds']['median'] * 1e3)} ms)" if r["device_seconds"] else "waits)")
            for r in result["contenders"]
            if "host_us" in r
        ]
        if each:
            lines.append(f"  {result['id']:<30}" + ", ".join(each))
    return lines


def losses(results: Sequence[Row]) -> list[str]:
    """Return every case in which somebody is faster than we are."""
    lines = []
    for result in results:
        for own in ours_of(result):
            for row in peers_of(result, own):
                if row["times_ours"] is not None and row["times_ours"] < 1:
                    name = result["id"] + (f" {own['name']}" if own["name"] != "ours" else "")
                    extra = f" ({row['note']})" if row["note"] else ""
                    lines.append(f"  {name}: {row['peer']} takes {number(row['times_ours'])} of our time{extra}")
    return lines


def memories(results: Sequence[Row]) -> list[str]:
    """Return peak memory where it was measured."""
    lines = []
    for result in results:
        found = [r for r in result["contenders"] if r.get("memory")]
        if found:
            each = [
                f"{r['name']} {r['memory']['bytes'] / 2**20:.0f}" if "bytes" in r["memory"] else
                f"{r['name']} failed ({r['memory']['reason']})"
                for r in found
            ]  # fmt: skip
            lines.append(f"  {result['id']:<30}" + ", ".join(each))
    return lines


def remarks(results: Sequence[Row]) -> list[str]:
    """Return the absent and the wrong contenders, and the ones that did less."""
    lines: dict[str, None] = {}
    for result in results:
        for peer, reason in result["absent"].items():
            lines[f"  {peer}: {reason}" if "not installed" in reason else f"  {result['id']}, {peer}: {reason}"] = None
        for row in result["contenders"]:
            if row["reason"]:
                lines[f"  {result['id']}, {row['name']}: no figure, {row['reason']}"] = None
            elif row["note"]:
                lines[f"  {result['id']}, {row['name']}: {row['note']}"] = None
    return list(lines)


def page(data: Row, check: bool = False) -> str:
    """Return the whole result as text; with `check` also the bars that this project sets itself."""
    versions, commit = data["versions"], data["commit"]
    rows = [row for row in rows_of(data["cases"]) if check or row[0]]  # a case's further bars have no name
    changed = {True: ", tree changed", False: "", None: ""}[commit["dirty"]]
    lines = [
        f"suite {data['suite']}: {where(data)}, torch {versions['torch']}, "
        f"mclnf-fast {versions['mclnf-fast']} at {(commit['hash'] or 'no commit')[:10]}{changed}",
        limits(data),
        "",
        *(aligned(HEAD, rows, RIGHT) if check else aligned(HEAD[:FIGURES], [row[:FIGURES] for row in rows], RIGHT)),
    ]
    for title, part in (
        ("time of every peer over ours:", ratios(data["cases"])),
        ("host us a call (ms on the device alone):", hosts(data["cases"])),
        ("peak memory of one run, MiB:", memories(data["cases"])),
        ("where we lose:", losses(data["cases"]) or ["  nowhere"]),
        ("remarks:", remarks(data["cases"])),
    ):
        if part:
            lines += ["", title, *part]
    if check:
        passed, judged, aims, aimed = count(data["cases"])
        lines += ["", f"{passed} of {judged} bars reached, {aims} of {aimed} aims"]
    return "\n".join(lines)


def where(data: Row) -> str:
    """Return the processor, threads and instruction set; of a GPU its name, capability, driver, CUDA and Triton."""
    gpu, cpu = data["machine"].get("gpu"), data["machine"]["cpu"]
    if gpu:
        driver = f", driver {gpu['driver_version']}" if gpu.get("driver_version") else ""
        triton = data["versions"].get("triton") or "none"
        return f"{gpu['name']} (sm_{gpu['capability'].replace('.', '')}{driver}), CUDA {gpu['cuda']}, triton {triton}"
    dry = "dry run at tiny sizes, no figure counts; " if data["settings"].get("dry_run") else ""
    instructions = cpu["instruction_set"] or "no compiled library"
    return f"{dry}{cpu['model']} ({cpu['short']}), {threads(data)}, {instructions}"


def threads(data: Row) -> str:
    """`1 thread`, `2 threads`."""
    count = data["machine"]["threads"]
    return f"{count} thread{'' if count == 1 else 's'}"


def limits(data: Row) -> str:
    """Return one line: what the machine can do."""
    found = data["limits"]
    words = []
    for kind, value in found.items():
        what, _, dtype = kind.partition(" ")
        if what in ("fma", "copy", "matmul"):
            unit = {"fma": "GFLOP/s", "copy": "GB/s", "matmul": "TFLOP/s"}[what]
            name = {"fma": "multiply-add limit", "copy": "copy", "matmul": f"matrix product {dtype}"}[what]
            words.append(f"{name} {number(value['median'])} {unit} ({number(value['q1'])} to {number(value['q3'])})")
    if found.get("unknown"):
        words.append(f"multiply-add limit unknown: {found['unknown']}")
    if found.get("cpu_share", 1.0) < BUSY:
        words.append(f"busy: the run had {100 * found['cpu_share']:.0f} % of its threads' time, rates are too low")
    return "; ".join(words) or "no limit measured"


def count(results: Sequence[Row]) -> tuple[int, int, int, int]:
    """Bars reached, bars judged, aims reached, aims judged."""
    bars = [bar for result in results for bar in result["bars"] if not bar["void"]]
    musts = [bar["passed"] for bar in bars if bar["passed"] is not None]
    aims = [bar["reached"] for bar in bars if bar["reached"] is not None]
    return sum(musts), len(musts), sum(aims), len(aims)
