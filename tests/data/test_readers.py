"""The registry of readers: the layout that each detects, the order between them, and readers from outside."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from mclnf_fast.data import (
    ImageReadOptions,
    Reader,
    VideoReadOptions,
    load_images,
    load_objects,
    load_photos,
    load_scene,
    readers,
    register_reader,
)
from mclnf_fast.data.readers import registry
from mclnf_fast.data.readers.layouts import DataFile, Layout
from mclnf_fast.data.readers.options import SplitReadOptions
from mclnf_fast.data.readers.split import split_files
from mclnf_fast.errors import InputError

PLUGINS = pathlib.Path(__file__).resolve().parents[1] / "plugins"


def pictures(folder: pathlib.Path, count: int = 2) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        Image.new("RGB", (8, 8), (k, k, k)).save(folder / f"{k}.png")


def touch(root: pathlib.Path, files: list[str]) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()


def chosen(kind: registry.DataKind, path: pathlib.Path) -> str | None:
    reader = registry.choose(kind, path)
    return None if reader is None else reader.name


@pytest.fixture
def added(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(registry, "_ADDED", {})


@pytest.fixture
def plugins(monkeypatch):
    monkeypatch.syspath_prepend(str(PLUGINS))


def broken(folder: pathlib.Path, entry: str) -> pathlib.Path:
    """A package whose one entry point is `entry`."""
    info = folder / "bad_reader-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-reader\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mclnf_fast.readers]\n{entry}\n")
    return folder


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("celeba", ["img_align_celeba/000001.jpg"]),
        ("celeba", ["inner/Img/img_align_celeba/000001.jpg"]),
        ("ffhq", ["00000/00000.png"]),
        ("ffhq", ["thumbnails128x128/00000.png"]),
        ("imagenette", ["train/n01440764/a.png", "val/n01440764/b.png"]),
        ("splits", ["train/a.png", "test/b.png"]),
        ("tree", ["train/a.png", "other/b.png"]),
        ("celeba", ["img_align_celeba/000001.jpg", "train/a.png", "test/b.png"]),
        (None, ["a.txt"]),
    ],
)
def test_the_layout_of_pictures_is_detected_by_names(tmp_path, name, files):
    touch(tmp_path, files)
    assert chosen("image", tmp_path) == name


@pytest.mark.parametrize(
    ("kind", "name", "files"),
    [
        ("video", "voxceleb2", ["dev/mp4/id00012/x/00001.mp4"]),
        ("audio", "voxceleb2", ["test/aac/id00012/x/00001.m4a"]),
        ("audio", "librispeech", ["train-clean-100/19/198/19-198-0000.flac"]),
        ("video", "tree", ["dev/aac/id00012/x/00001.mp4"]),
        ("scene", "matrixcity", ["small_city/aerial/pose/block_1/transforms_train.json"]),
        ("scene", "matrixcity", ["aerial/train/block_1/transforms.json", "transforms.json"]),
        ("scene", "nerfstudio", ["transforms.json", "transforms_train.json"]),
        ("scene", "blender", ["transforms_train.json"]),
        ("scene", None, ["inner/transforms_train.json"]),
        ("photos", "nerfstudio", ["transforms.json", "transforms_train.json"]),
        ("photos", "nerf-synthetic", ["transforms_train.json"]),
        ("objects", "nerf-synthetic", ["transforms_train.json", "car_splits.json", "a/transforms.json"]),
        ("objects", "transforms", ["inner/a/transforms.json"]),
        ("objects", "transforms", ["a/transforms_train.json"]),
        ("objects", "transforms", ["a/transforms.json", "b/rgb/0.png"]),
        ("objects", "srn", ["cars_train/b/rgb/0.png", "c.obj"]),
        ("objects", "meshes", ["deep/er/c.GLB"]),
    ],
)
def test_the_layout_of_other_data_is_detected_by_names(tmp_path, kind, name, files):
    touch(tmp_path, files)
    assert chosen(kind, tmp_path) == name


def test_every_kind_has_readers_with_one_name_each():
    for kind in registry.RESULTS:
        names = [reader.name for reader in readers(kind)]
        assert names
        assert len(set(names)) == len(names)


@pytest.mark.parametrize(("count", "tested"), [(2, 1), (9, 2), (10, 3), (14, 4)])
def test_a_share_of_files_is_rounded_half_up(count, tested):
    files = [DataFile(pathlib.Path(str(k)), str(k)) for k in range(count)]
    split = split_files(Layout("some", {"all": files}), SplitReadOptions(test=0.25), 0)
    assert (len(split.test), len(split.train)) == (tested, count - tested)


def test_a_reader_can_be_named(tmp_path):
    pictures(tmp_path / "train")
    pictures(tmp_path / "test")
    assert load_images(tmp_path, size=8).test.names == ("test/0.png", "test/1.png")
    everything = load_images(tmp_path, ImageReadOptions(size=8, test=1), reader="tree")
    assert len(everything.train) + len(everything.validation) == 3
    with pytest.raises(InputError, match=r"reader: must be one of file, celeba, .*, was 'mnist'"):
        load_images(tmp_path, reader="mnist")


def test_options_are_a_record_or_its_fields(tmp_path):
    pictures(tmp_path, 4)
    record = load_images(tmp_path, ImageReadOptions(size=8, test=1, seed=3))
    assert record.test.names == load_images(tmp_path, size=8, test=1, seed=3).test.names
    assert load_images(tmp_path, ImageReadOptions(size=4, test=1), size=8).test.values.shape[1:] == (8, 8, 3)
    with pytest.raises(TypeError, match="sise: must be one of channels, limit"):
        load_images(tmp_path, sise=8)
    with pytest.raises(TypeError, match="options: must be ImageReadOptions, was VideoReadOptions"):
        load_images(tmp_path, VideoReadOptions())


def test_an_unknown_folder_lists_the_layouts_that_were_tried(tmp_path):
    for load, words in (
        (load_scene, ("transforms.json (nerfstudio)", "(Blender)", "(MatrixCity)", "(MatrixCity raw)")),
        (load_photos, ("transforms.json (nerfstudio)", "transforms_train.json (NeRF-synthetic)")),
        (load_objects, ("<object>/transforms.json", "(NeRF-synthetic)", "(SRN)", ".glb, .gltf, .obj")),
        (load_images, ("images (.png", "CelebA", "FFHQ", "ImageNette", "train/, val/, test/")),
    ):
        with pytest.raises(InputError) as caught:
            load(tmp_path)
        for word in words:
            assert word in str(caught.value)


def test_a_registered_reader_is_asked_before_any_tree(tmp_path, added):
    pictures(tmp_path)
    usual = load_images(tmp_path, size=8)
    mine = Reader("mine", "image", "0.png", lambda p: "mine" if (p / "0.png").exists() else None, lambda p, o: usual)
    assert register_reader(mine) is mine
    assert load_images(tmp_path, size=8) is usual
    with pytest.raises(InputError, match="name of reader: must be new among those of kind 'image', 'mine' exists"):
        register_reader(mine)
    with pytest.raises(InputError, match="reader: must be a Reader, was str"):
        register_reader("mine")
    with pytest.raises(InputError, match=r"kind of reader 'mine': must be one of .*, was 'film'"):
        dataclasses.replace(mine, kind="film")
    pictures(tmp_path / "img_align_celeba")
    with pytest.raises(InputError, match=r"must have one layout, has several \('celeba': .*; 'mine': mine\)"):
        load_images(tmp_path)
    assert load_images(tmp_path, reader="mine") is usual


def test_a_reader_that_returns_something_else_is_named(tmp_path, added):
    (tmp_path / "scene.txt").touch()
    register_reader(Reader("odd", "scene", "scene.txt", lambda path: "there", lambda path, options: "a scene"))
    with pytest.raises(InputError, match="reader 'odd': must return Scene for kind 'scene', returned str"):
        load_scene(tmp_path)


def test_a_plugin_reads(plugins, tmp_path):
    np.save(tmp_path / "pixels.npy", np.full((3, 4, 4, 1), 255, np.uint8))
    sets = load_images(tmp_path, test=1)
    assert (sets.title, len(sets.train), sets.test.names) == ("pixels", 2, ("picture 2",))
    assert float(sets.test.values.min()) == 1.0
    with pytest.raises(InputError, match=r"looked for .*pixels\.npy"):
        load_images(tmp_path.parent / PLUGINS)


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("odd = no_such_module:READER", "is broken: ModuleNotFoundError"),
        ("odd = json:loads", "must be a mclnf_fast.data.Reader or a list of them, was function"),
        ("odd = mclnf_fast.data.readers.registry:TAKEN", "must take another name, 'celeba' of kind 'image' is taken"),
    ],
)
def test_a_broken_plugin_is_named_and_keeps_nothing_from_being_read(tmp_path, monkeypatch, entry, reason):
    monkeypatch.setattr(registry, "TAKEN", [registry._BUILT_IN["image", "celeba"]], raising=False)
    monkeypatch.syspath_prepend(str(broken(tmp_path / "site", entry)))
    pictures(tmp_path / "pictures")
    assert len(load_images(tmp_path / "pictures", size=8, test=1).test) == 1
    (tmp_path / "empty").mkdir()
    for load in (lambda: load_images(tmp_path / "empty"), lambda: load_images(tmp_path / "pictures", reader="odd")):
        with pytest.raises(InputError) as caught:
            load()
        assert f"reader plugin {entry} of the package bad-reader {reason}" in str(caught.value)


def test_a_splits_file_is_read_and_not_only_looked_for(tmp_path):
    (tmp_path / "car_splits.json").write_text(json.dumps({"train": [], "test": []}))
    with pytest.raises(InputError, match="must name objects under 'train' and 'test'"):
        load_objects(tmp_path)
