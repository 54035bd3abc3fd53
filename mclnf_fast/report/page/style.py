"""Figures as text, the same in every table, plot and page; and the check for the packages that reports need."""

from __future__ import annotations

import math

from mclnf_fast.errors import InputError, pip_install

# The highest level takes 17 times as long for 6 % fewer bytes: 9 of the 60 seconds of a small run of the city.
PNG_LEVEL = 4
"""Of the compression of PNG files."""


def finite(value: object) -> float | None:
    """Return `value` as a finite float; None for None, NaN, infinities, truth values and anything but a number.

    >>> finite(3), finite(float("nan")), finite(True)
    (3.0, None, None)
    """
    # A truth value is an int in Python: a flag in the place of a figure would be shown as 1.00.
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def db(value: object, *, sign: bool = False, unit: bool = False) -> str:
    """Return a figure in dB with two decimals, `-` if it is missing; a rounded zero has no sign.

    >>> db(21.456), db(0.5, sign=True, unit=True), db(-0.001, sign=True), db(None)
    ('21.46', '+0.50 dB', '0.00', '-')
    """
    number = finite(value)
    if number is None:
        return "-"
    text = f"{number:+.2f}" if sign else f"{number:.2f}"
    # `-0.00` and `+0.00` would read as a loss or a gain.
    if float(text) == 0.0:
        text = "0.00"
    return f"{text} dB" if unit else text


def fixed(value: object, form: str) -> str:
    """Return a figure in a format of Python, `-` if it is missing.

    >>> fixed(0.71234, ".3f"), fixed(4096, ",.0f"), fixed(None, ".3f")
    ('0.712', '4,096', '-')
    """
    number = finite(value)
    return "-" if number is None else format(number, form)


def number(value: object, digits: int = 4) -> str:
    """Return a figure with so many digits, never as a power of ten between 1e-4 and 1e15; `-` if it is missing.

    >>> number(1000.0), number(123456.7), number(0.00025), number(1e-5), number(None)
    ('1,000', '123,457', '0.00025', '1e-5', '-')
    """
    known = finite(value)
    if known is None:
        return "-"
    # `1e+03` beside `100000` would be two ways to write figures on one page.
    text = f"{known:.{digits}g}" if abs(known) < 10**digits else f"{known:,.0f}"
    mantissa, _, power = text.partition("e")
    if not power:
        whole = float(text.replace(",", ""))
        return f"{whole:,.0f}" if whole == int(whole) and abs(whole) >= 1000 else text
    return f"{known:,.0f}" if int(power) > 0 else f"{mantissa}e{int(power)}"


def duration(seconds: object) -> str:
    """Return seconds as `0.4 s`, `12.3 s`, `4 min 05 s` or `2 h 07 min`; `-` if they are missing.

    >>> duration(12.34), duration(245), duration(7620)
    ('12.3 s', '4 min 05 s', '2 h 07 min')
    """
    number = finite(seconds)
    if number is None:
        return "-"
    # From 99.95 on one decimal gives `100.0 s`, a digit more than all below.
    if number < 99.95:
        return f"{number:.1f} s"
    # Before it is divided: 119.7 s would otherwise be 1 min 60 s.
    whole = round(number)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def listed(words: list[str]) -> str:
    """Return words as a list in a sentence.

    >>> listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])
    ('a', 'a and b', 'a, b and c')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def check_extra() -> None:
    """Check before a run that its report can be written. Raises: InputError that names the extra to install.

    >>> check_extra()
    """
    for module in ("matplotlib", "jinja2"):
        try:
            __import__(module)
        except ImportError:
            raise InputError(missing_extra(module)) from None


def missing_extra(module: str) -> str:
    """Return the error message for a package that cannot be imported.

    >>> missing_extra("jinja2")
    'the report needs jinja2, which is not installed: pip install matplotlib jinja2'
    """
    return f"the report needs {module}, which is not installed: {pip_install('report')}"
