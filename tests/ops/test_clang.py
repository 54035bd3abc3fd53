"""clang compiles the CPU library without a warning, and the library serves.

Not part of an ordinary run: it compiles some minutes. By hand, with clang++ at hand:

    MCLNF_CLANG_TESTS=1 pytest tests/ops/test_clang.py
"""

from __future__ import annotations

import os
import pathlib
import shutil

import pytest
from rebuilt import ROOT, compiled, rebuilt, run_python

pytestmark = [
    pytest.mark.timeout(3600),
    pytest.mark.skipif(os.environ.get("MCLNF_CLANG_TESTS", "0") != "1", reason="MCLNF_CLANG_TESTS is not 1"),
    pytest.mark.skipif(shutil.which("clang++") is None, reason="clang++ was not found"),
]


def test_no_file_has_a_warning(tmp_path: pathlib.Path) -> None:
    """Compiled and not only read: a vector instruction outside its target is an error of the code generator."""
    sources = [ROOT / "csrc" / "schema.cpp", *sorted((ROOT / "csrc" / "cpu").glob("*.cpp"))]
    assert len(compiled("clang++", sources, tmp_path)) == len(sources)


def test_a_library_by_clang_passes_the_tests_of_every_instruction_set(tmp_path: pathlib.Path) -> None:
    environment = rebuilt(tmp_path, CXX="clang++")
    run_python(
        tmp_path,
        environment,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "tests/ops/test_instruction_sets.py",
    )
