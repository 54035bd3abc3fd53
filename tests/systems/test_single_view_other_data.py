"""Single-view fields that are tested on another folder than they are learned from."""

from __future__ import annotations

import json
import pathlib

import pytest
import tiny_objects
from test_single_view_run import run
from tiny_runs import metrics_of

import mclnf_fast as mf
from mclnf_fast.data import write_objects
from mclnf_fast.errors import InputError
from mclnf_fast.systems.common.config_file import with_options
from mclnf_fast.systems.single_view import objects as object_reading
from mclnf_fast.systems.single_view.options import SingleViewConfig, single_view_preset


@pytest.fixture(autouse=True)
def quick_objects(monkeypatch):
    monkeypatch.setattr(object_reading.data, "procedural_cars", tiny_objects.procedural_cars)


def folder(path: pathlib.Path, objects: int = 3, size: int = 12, seed: int = 5) -> pathlib.Path:
    return write_objects(tiny_objects.procedural_cars(objects, 1, views=6, size=size, seed=seed), path)


def rescaled(path: pathlib.Path) -> pathlib.Path:
    """The same objects, whose rays run between other distances."""
    (file,) = folder(path).glob("*_splits.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"near": 0.5, "far": 3.0}))
    return path


def load(**options: object):
    values = {"objects": 4, "views": 6, **{name.replace("_", "-"): value for name, value in options.items()}}
    return object_reading.load(with_options(SingleViewConfig(), values))


def test_learned_from_one_folder_and_tested_on_another(tmp_path):
    learned, tested = folder(tmp_path / "learned", 4, seed=1), folder(tmp_path / "tested", 3, seed=2)
    words = ("--data", learned, "--test-data", tested, "--initializations", "standard", "meta", "--test", "1")
    run(tmp_path / "run", *words)
    record = metrics_of(tmp_path / "run")
    # The split of the folder that is learned from is kept: nobody sees its own test object.
    assert record["names"]["train"] == ["thing_0", "thing_1", "thing_2"]
    assert len(record["names"]["test"]) == 1
    assert "tested on" in record["title"]
    assert mf.load(tmp_path / "run").initialization == "meta"


def test_all_objects_of_the_folder_are_tested_on_unless_a_number_is_asked_for(tmp_path):
    tested = folder(tmp_path / "tested", 3)
    sets = load(test_data=tested, size=12)
    assert len(sets.train) == 4  # procedural, none of them kept back
    assert {views.name for views in sets.test} == {f"thing_{k}" for k in range(3)}
    assert len(load(test_data=tested, size=12, test=1).test) == 1
    (tested / "car_splits.json").unlink()  # without a split of its own any number will do
    assert len(load(test_data=tested, size=12, test=2).test) == 2
    other = load(data=folder(tmp_path / "other", 4), test_data=tested)
    assert len(other.train) == 3
    # Both folders number their objects alike: those to test on are named by their folder, too.
    assert {views.name for views in other.test} == {f"tested/thing_{k}" for k in range(3)}


def test_pictures_of_another_size_are_refused_unless_one_is_set(tmp_path):
    large, small = folder(tmp_path / "large", size=12), folder(tmp_path / "small", size=8)
    with pytest.raises(InputError, match=r"test-data must have pictures of 12 x 12 .* got 8 x 8: set --size"):
        load(data=large, test_data=small)
    assert load(data=large, test_data=small, size=8).train[0].cameras.width == 8


def test_objects_of_another_scale_are_refused_unless_the_ends_of_rays_are_set(tmp_path):
    plain, scaled = folder(tmp_path / "plain"), rescaled(tmp_path / "scaled")
    with pytest.raises(
        InputError, match=r"scale of data, whose rays run from 2 to 6, got 0\.5 to 3: .*--near and --far"
    ):
        load(data=plain, test_data=scaled)
    assert load(data=plain, test_data=scaled, near=1.0, far=5.0).near == 2.0


def test_one_folder_for_both_is_refused(tmp_path):
    plain = folder(tmp_path / "plain")
    with pytest.raises(InputError, match="test-data must be another folder than data"):
        load(data=plain, test_data=plain / "." / ".." / "plain")
    with pytest.raises(InputError, match="nowhere: must be a folder of objects, was not there"):
        load(data=plain, test_data=tmp_path / "nowhere")


CUBE = """v -1 -1 -1\nv 1 -1 -1\nv 1 1 -1\nv -1 1 -1\nv -1 -1 1\nv 1 -1 1\nv 1 1 1\nv -1 1 1
f 1 4 3 2\nf 5 6 7 8\nf 1 2 6 5\nf 2 3 7 6\nf 3 4 8 7\nf 4 1 5 8
"""


def test_a_single_mesh_is_tested_on_and_alone_refused_with_what_to_do(tmp_path, refused):
    pytest.importorskip("trimesh")
    mesh = tmp_path / "cube.obj"
    mesh.write_text(CUBE)
    refused(["single-view", "--quick", "--data", str(mesh)], ["initializations must be standard alone", "--test-data"])
    sets = load(test_data=mesh, size=12)
    run(tmp_path / "run", "--test-data", mesh, "--test", "1")
    names = metrics_of(tmp_path / "run")["names"]
    assert len(names["train"]) == 5
    assert names["test"] == [sets.test[0].name]
    quick = with_options(single_view_preset(quick=True), {"test-data": mesh, "views": 2, "size": 12, "objects": 4})
    assert [views.name for views in object_reading.load(quick).test] == names["test"]
