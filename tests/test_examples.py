"""Every example runs in its short form and comes to what it promises."""

from __future__ import annotations

import importlib.util
import pathlib
import re
from types import ModuleType

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "examples"
SCRIPTS = sorted(FOLDER.glob("*.py"))


def load(path: pathlib.Path) -> ModuleType:
    """Return a script as a module; its command line is not read."""
    spec = importlib.util.spec_from_file_location(f"example_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_images_are_fitted() -> None:
    result = load(FOLDER / "fit_images.py").main(quick=True)
    assert result["before"] < 12
    assert result["after"] > 27


def test_a_radiance_field_learns_an_unseen_view() -> None:
    result = load(FOLDER / "nerf_loop.py").main(quick=True)
    assert result["before"] < 14
    assert result["after"] > 22


def test_an_instant_ngp_learns_by_the_calls_of_other_packages() -> None:
    result = load(FOLDER / "instant_ngp.py").main(quick=True)
    assert result["before"] < 12
    assert result["after"] > 20


def test_guided_draws_beat_uniform_ones_where_the_detail_is_in_one_place() -> None:
    result = load(FOLDER / "fisher_sampling.py").main(quick=True)
    assert result["guided"] > result["uniform"] + 1


def test_a_learned_initialization_fits_unseen_images_in_a_few_steps() -> None:
    result = load(FOLDER / "meta_learn.py").main(quick=True)
    assert result["learned"] > result["random"] + 5


@pytest.mark.slow
def test_a_result_is_loaded_rendered_and_added_to(tmp_path: pathlib.Path) -> None:
    result = load(FOLDER / "load_and_render.py").main(quick=True, out=str(tmp_path / "city.png"))
    assert (tmp_path / "city.png").is_file()
    assert result["contrast"] > 10  # gray levels: a picture of something
    assert (result["same"], result["modules"]) == (1.0, 5)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda p: p.stem)
def test_an_example_is_short_and_imports_public_names_only(path: pathlib.Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) < (156 if path.stem == "instant_ngp" else 80)
    modules = re.findall(r"^(?:from|import) (mclnf_fast[\w.]*)", text, re.M)
    # The package and its rooms; a name that only a file inside of a room has is not public.
    assert all(re.fullmatch(r"mclnf_fast(\.[a-z]+)?", module) for module in modules), modules
    assert "--quick" in text


def test_every_example_has_a_test_and_a_line_in_the_documentation() -> None:
    tests = pathlib.Path(__file__).read_text()
    page = (FOLDER.parent / "docs" / "examples.md").read_text()
    for path in SCRIPTS:
        assert f'"{path.name}"' in tests
        assert f"`{path.name}`" in page
