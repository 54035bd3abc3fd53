"""The inner loops of the CPU's products keep their sums in registers.

A compiler that leaves such a sum in memory reads and writes it at every multiply-add: on a processor that does not
rename memory the forward of a bank then takes four times as long, with the same results.
"""

from __future__ import annotations

import pathlib
import platform
import re
import shutil
import subprocess
from collections import Counter

import pytest

import mclnf_fast

LIBRARY = pathlib.Path(mclnf_fast.__file__).with_name("_C_cpu.so")
PRODUCTS = re.compile(
    r"mclnf::(avx2|avx512)::"
    r"(product_rows<float, \d, (true|false)>|each_gradient_block<float, mclnf::\w+::WeightGradient<float> >)\("
)


def test_sums_of_products_stay_in_registers() -> None:
    objdump = shutil.which("objdump")
    if objdump is None or not LIBRARY.exists() or platform.machine() != "x86_64":
        pytest.skip("needs objdump and the library for x86-64")
    command = [objdump, "-d", "--no-show-raw-insn", "-C", str(LIBRARY)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    multiply_adds, from_stack, kernel = Counter[str](), Counter[str](), ""
    for line in text.splitlines():
        if line.endswith(">:"):
            match = PRODUCTS.search(line)
            kernel = match[0] if match else ""
        elif kernel and "vfmadd" in line:
            multiply_adds[kernel] += 1
            from_stack[kernel] += "(%rsp" in line
    if not multiply_adds:
        pytest.skip("the library has no names of its kernels")
    assert len(multiply_adds) >= 6, multiply_adds
    assert {kernel: count for kernel, count in from_stack.items() if count > 0.05 * multiply_adds[kernel]} == {}
