"""Every example in the docstrings of `mclnf_fast.data` runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import mclnf_fast.data

MODULES = [
    module.name for module in pkgutil.walk_packages(mclnf_fast.data.__path__, "mclnf_fast.data.") if not module.ispkg
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    module = importlib.import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
