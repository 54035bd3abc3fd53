"""Options: groups with and without a prefix, files of now and of before, and names that were changed."""

from __future__ import annotations

import dataclasses
import logging
import pathlib

import pytest
import tyro
import yaml

from mclnf_fast.errors import InputError
from mclnf_fast.systems import SYSTEMS
from mclnf_fast.systems.common.config_file import from_plain, options_of, with_options
from mclnf_fast.systems.common.folder import plain
from mclnf_fast.systems.common.renamed import RENAMED, refuse_renamed, with_new_names
from mclnf_fast.systems.ct.options import CtConfig
from mclnf_fast.systems.photos.options import PhotosConfig
from mclnf_fast.systems.single_view.options import SingleViewConfig, single_view_preset

BEFORE = pathlib.Path(__file__).parent / "before"  # config.yaml of run folders before options had groups


def defaults(name):
    _, defaults_of = SYSTEMS[name].functions()
    return defaults_of(name, [])


@pytest.mark.filterwarnings("ignore:get_parser")  # what else would list the flags
@pytest.mark.parametrize("name", SYSTEMS)
def test_the_flags_are_those_of_the_command_line(name):
    default = defaults(name)
    parser = tyro.extras.get_parser(type(default), default=default)
    known = {text.lstrip("-") for action in parser._actions for text in action.option_strings if text.startswith("--")}
    ours = {option.flag for option in options_of(type(default))}
    assert ours == {name for name in known - {"help"} if not name.split(".")[-1].startswith("no-")}


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_configuration_survives_its_file(name):
    config = defaults(name)
    assert from_plain(type(config), yaml.safe_load(yaml.safe_dump(plain(config)))) == config


@pytest.mark.parametrize("cls", [CtConfig, PhotosConfig, SingleViewConfig])
def test_a_file_of_before_there_were_groups(cls):
    config = from_plain(cls, yaml.safe_load((BEFORE / f"{cls.kind}.yaml").read_text()))
    assert (config.run.out, config.run.quick, config.run.threads) == (pathlib.Path("runs/one"), True, 3)
    assert config.field.width == 33
    assert config.initializations == ("standard", "meta")
    if cls is SingleViewConfig:
        assert (config.convention, config.field.samples_per_ray, config.adapt.batch) == ("learnit", 24, 64)


def test_a_file_of_something_else_is_refused():
    written = plain(CtConfig())
    for data, part in (
        ({"steps": 3}, "out"),
        ([1], "mapping"),
        ({**written, "colour": 1}, "unknown options colour"),
        (plain(PhotosConfig()), "unknown options"),
        ({**written, "steps": 0}, "steps must be at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=part):
            from_plain(CtConfig, data)


def test_options_change_by_their_flags():
    config = with_options(SingleViewConfig(), {"data": pathlib.Path("cars"), "adapt.lr-end": 1e-4, "meta.steps": 7})
    assert (config.data.path, config.adapt.lr_end, config.meta.steps) == (pathlib.Path("cars"), 1e-4, 7)
    with pytest.raises(KeyError):
        with_options(config, {"no-such-flag": 1})


def test_every_new_name_is_an_option_and_every_old_one_is_refused():
    for row in RENAMED:
        for name in row.systems:
            flags = [option.flag for option in options_of(type(defaults(name)))]
            assert row.new in flags
            assert row.old not in flags
            with pytest.raises(InputError, match=f"--{row.old} has been renamed: use --{row.new}"):
                refuse_renamed(name, flags, [f"--{row.old}=1"])


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["city", "--start", "none"], "--init; city is now meta; none is now random"),
        (["city", "--wide.first-order", "none"], "--meta-joint.first-order"),
    ],
)
def test_an_old_name_whose_values_changed_is_refused_with_the_new_one(refused, words, new):
    refused(words, ["has been renamed: use " + new])


@pytest.mark.parametrize(
    ("words", "want"),
    [
        (["ct", "--starts", "meta"], ["--initializations", "meta"]),
        (["single-view", "--compat=learnit"], ["--convention=learnit"]),
        (["single-view", "--lr_end", "1e-4"], ["--adapt.lr-end", "1e-4"]),
        (["photos", "--bins", "8", "--size", "16"], ["--samples-per-ray", "8", "--size", "16"]),
        (["image", "--meta.signals", "2"], ["--meta.tasks", "2"]),
    ],
)
def test_an_old_name_alone_is_taken_with_a_warning(caplog, words, want):
    flags = [option.flag for option in options_of(type(defaults(words[0])))]
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        assert with_new_names(words[0], flags, words[1:]) == want
    assert f"has been renamed: use {want[0].partition('=')[0]}" in caplog.text


def test_the_command_line_takes_an_old_name(refused):
    # Past the name, the value is what is wrong.
    refused(["image", "--meta.signals", "0"], ["meta.tasks must be at least 1"])


def test_groups_check_themselves():
    config = single_view_preset("fast")
    broken = dataclasses.replace(config, run=dataclasses.replace(config.run, threads=0))
    with pytest.raises(InputError, match="threads must be at least 1, got 0"):
        broken.check()
