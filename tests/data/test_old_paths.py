"""Modules of `mclnf_fast.data` under the paths that they had before they moved into folders."""

import importlib
import subprocess
import sys
import warnings

import pytest

import mclnf_fast.data
from mclnf_fast.data._old_paths import MOVED


@pytest.mark.parametrize(("old", "new"), sorted(MOVED.items()))
def test_an_old_path_hands_on_the_names_of_the_new_one(old, new):
    there = importlib.import_module(f"mclnf_fast.data.{new}")
    name = next(n for n, v in vars(there).items() if getattr(v, "__module__", None) == there.__name__)
    with pytest.warns(DeprecationWarning, match=rf"mclnf_fast\.data\.{old} has moved to mclnf_fast\.data\.{new}$"):
        exec(f"from mclnf_fast.data.{old} import {name} as value", scope := {})
    assert scope["value"] is getattr(there, name)
    with pytest.raises(ImportError):
        exec(f"from mclnf_fast.data.{old} import no_such_name", {})


def test_an_old_path_does_not_hide_a_function_of_its_name():
    for name in ("load_audio", "load_images", "load_objects", "load_photos", "load_videos", "procedural_cars"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exec(f"from mclnf_fast.data.{name} import {name} as value", scope := {})
        assert getattr(mclnf_fast.data, name) is scope["value"]
        assert callable(scope["value"])


def test_nothing_is_loaded_before_a_name_is_taken():
    code = (
        "import sys, warnings, mclnf_fast.data\n"
        "assert 'mclnf_fast.data.procedural.phantoms' not in sys.modules\n"
        "with warnings.catch_warnings(record=True):\n    warnings.simplefilter('always')\n"
        "import mclnf_fast.data.phantoms\n"
        "assert 'mclnf_fast.data.procedural.phantoms' not in sys.modules\n"
        "mclnf_fast.data.phantoms.procedural_phantoms\n"
        "assert 'mclnf_fast.data.procedural.phantoms' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore::DeprecationWarning", "-c", code], check=True)
