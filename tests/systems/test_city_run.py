"""A whole small run of the main job: what it leaves, that modules forget nothing, that it can be had again."""

from __future__ import annotations

import json
import pathlib
import shutil

import pytest
import torch
import yaml
from tiny_city import OPTIONS, OTHERS, results

import mclnf_fast as mf
from mclnf_fast.fields import load_bank
from mclnf_fast.learn.methods import METHODS
from mclnf_fast.render import Cameras
from mclnf_fast.render.cameras import look_at
from mclnf_fast.systems.city import data as city_data
from mclnf_fast.systems.city.options import DEFAULT_METHODS, quick_config, read_config
from mclnf_fast.systems.common.config_file import with_options

MODULAR = ("mim", "mod", "mod_random")


def metrics_of(run: pathlib.Path) -> dict:
    return json.loads((run / "metrics.json").read_text())


def test_the_run_folder_holds_everything(finished):
    for name in ("config.yaml", "metrics.json", "metrics.jsonl", "bank.safetensors", "bank.safetensors.json"):
        assert (finished / name).stat().st_size > 0
    page = (finished / "report.html").read_text()
    metrics = metrics_of(finished)
    assert {p["kind"] for p in metrics["pictures"]} == {"strip", "triptych", "fisher", "modules"}
    for picture in metrics["pictures"]:
        assert (finished / picture["file"]).read_bytes().startswith(b"\x89PNG")
        assert pathlib.Path(picture["file"]).name in page or "data:image/png" in page
    assert not list(finished.rglob("*.tmp"))


def test_the_summary_has_all_documented_figures(finished):
    summary = metrics_of(finished)["methods"]
    assert set(summary) == set(DEFAULT_METHODS)
    for method in summary.values():
        for key in ("psnr_mean", "psnr_first_task_after_own", "psnr_first_task_after_all", "seconds"):
            assert isinstance(method[key], float)
        assert set(method["psnr_at_step"]) == {"0", "1", "4", "10"}
        own, last = method["matrix"]
        assert own[1] is None
        assert method["psnr_first_task_after_own"] == own[0]
        assert method["psnr_first_task_after_all"] == last[0]
        assert method["psnr_mean"] == pytest.approx(sum(last) / 2, abs=1e-12)
        for step, value in method["psnr_at_step"].items():
            each = [task[step] for task in method["psnr_at_step_by_task"]]
            assert value == pytest.approx(sum(each) / 2, abs=1e-12)
    wide = summary["finetune"]["parameters"] / summary["mod"]["parameters"]
    assert 0.9 < wide < 1.1


def test_modules_forget_nothing_bit_for_bit_and_one_network_changes(finished):
    summary = metrics_of(finished)["methods"]
    for method in MODULAR:
        assert summary[method]["psnr_first_task_after_all"] == summary[method]["psnr_first_task_after_own"]
        assert summary[method]["forgetting"] == 0.0
    assert summary["finetune"]["psnr_first_task_after_all"] != summary["finetune"]["psnr_first_task_after_own"]


def test_mod_and_mim_start_at_the_same_place_and_mod_random_elsewhere(finished):
    at = {name: s["psnr_at_step_by_task"][0]["0"] for name, s in metrics_of(finished)["methods"].items()}
    assert at["mod"] == at["mim"] != at["mod_random"]


def test_one_network_goes_on_from_where_it_was(finished):
    """Its quality on block 2 before its first step there is not that of a fresh network."""
    tasks = metrics_of(finished)["methods"]["finetune"]["psnr_at_step_by_task"]
    assert tasks[1]["0"] > tasks[0]["0"]


def test_events_are_one_line_each(finished):
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    summary = metrics_of(finished)["methods"]
    for name in DEFAULT_METHODS:
        steps = [r for r in rows if r["method"] == name and "step" in r]
        assert [(r["block"], r["step"]) for r in steps] == [
            (block, step) for block in ("block_1", "block_2") for step in (0, 1, 4, 10)
        ]
        last = [r for r in rows if r["method"] == name and "after" in r][-1]
        assert list(last["psnr"].values()) == summary[name]["matrix"][-1]


def test_the_bank_on_disk_is_the_one_that_was_measured(finished, tiny_data):
    bank = load_bank(finished / "bank.safetensors")
    described = json.loads((finished / "bank.safetensors.json").read_text())
    assert described["method"] == "mim"
    assert list(described["cells"]) == ["block_1", "block_2"]
    assert len(bank) == 2
    config = read_config(yaml.safe_load((finished / "config.yaml").read_text()))
    assert bank.spec == config.field.spec
    data = city_data.load(config, lambda _: None)
    last = metrics_of(finished)["methods"]["mim"]["matrix"][-1]
    for k, task in enumerate(data.tasks):
        assert task.evaluate(tuple(p[k : k + 1].detach() for p in bank.stacked)) == last[k]


def test_the_result_is_seen_from_a_new_camera(finished, run_tiny):
    learned = mf.load(finished)
    assert (learned.system, learned.method, learned.modules) == ("city", "mim", ["block_1", "block_2"])
    assert learned.frame.unit == "100 m"  # of MatrixCity
    config = read_config(yaml.safe_load((finished / "config.yaml").read_text()))
    assert learned.settings.samples_per_ray == config.field.samples_per_ray
    assert learned.shading == config.settings.shading
    low, high = learned.cells.hull()
    eye = torch.stack((low[0], low[1], 2 * high[2]))[None]
    camera = Cameras(look_at(eye, (low + high)[None] / 2), 10.0, 10.0, 8.0, 6.0, 16, 12)
    picture = learned.render(camera)
    assert (picture.shape, picture.dtype) == ((1, 12, 16, 3), torch.uint8)
    assert int(picture.max()) > int(picture.min())
    assert bool(torch.isfinite(learned.evaluate(learned.cells.centers)).all())


def test_one_network_is_a_result_too(others, finished):
    learned = mf.load(others)
    assert (len(learned.bank), learned.modules) == (1, ["city"])
    assert learned.bank.spec.width > mf.load(finished).bank.spec.width
    assert torch.allclose(learned.cells.grown[0], mf.load(finished).cells.hull(), atol=1e-5)


def test_resuming_a_finished_run_is_harmless(finished, run_tiny, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    assert run_tiny("--resume", copy) == 0
    assert results(copy) == results(finished)
    assert (copy / "bank.safetensors").read_bytes() == (finished / "bank.safetensors").read_bytes()
    assert (copy / "metrics.jsonl").read_bytes() == (finished / "metrics.jsonl").read_bytes()
    assert (copy / "config.yaml").read_bytes() == (finished / "config.yaml").read_bytes()


def test_the_configuration_on_disk_reproduces_the_run(finished, run_tiny, tmp_path):
    """A folder that holds that config.yaml and nothing else is a run that has yet to begin."""
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(finished / "config.yaml", again)
    assert run_tiny("--resume", again) == 0
    assert results(again) == results(finished)
    assert (again / "bank.safetensors").read_bytes() == (finished / "bank.safetensors").read_bytes()


def test_out_must_be_new_or_empty(finished, run_tiny, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert run_tiny("--out", tmp_path, *OPTIONS) == 2
    assert f"out: {tmp_path} must be new or empty" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["run", "start", "mod_random", "finetune", "mod", "mim"])
def test_a_flipped_byte_in_a_state_file(finished, run_tiny, tmp_path, capsys, name):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    file = copy / "state" / f"{name}.safetensors"
    content = bytearray(file.read_bytes())
    content[-3 if name != "run" else content.index(b"phases") + 1] ^= 0x10
    file.write_bytes(bytes(content))
    capsys.readouterr()
    assert run_tiny("--resume", copy) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"mclnf-fast: checkpoint {file}: must ")


def test_a_corrupt_state_file(finished, run_tiny, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    file = copy / "state" / "mod.safetensors"
    file.write_bytes(file.read_bytes()[:-40])
    capsys.readouterr()
    assert run_tiny("--resume", copy) == 2
    assert f"checkpoint {file}: must be a whole safetensors file" in capsys.readouterr().err


@pytest.mark.parametrize(("key", "value"), [("width", 9), ("hidden_layers", 2)])
def test_a_state_of_another_architecture(finished, run_tiny, tmp_path, capsys, key, value):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["field"][key] = value
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    assert run_tiny("--resume", copy) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "must be the state of this configuration" in lines[0]


def test_the_paper_form_with_strength_zero_is_the_plain_method(run_tiny, tmp_path):
    """In the whole job, not in a toy alone: `mim` with loss weights of strength 0 has the bits of `mod`."""
    words = ["--fim.use", "weight", "--fim.lam", "0", "--methods", "mod", "mim"]
    assert run_tiny("--out", tmp_path / "run", *OPTIONS, *words) == 0
    summary = metrics_of(tmp_path / "run")["methods"]
    assert summary["mim"]["matrix"] == summary["mod"]["matrix"]


def test_all_methods_run_side_by_side(others, finished):
    metrics = metrics_of(others)
    summary = metrics["methods"]
    assert set(summary) == {*OTHERS, "finetune"}
    run = set(summary) | set(metrics_of(finished)["methods"])
    # Weights are a choice of `mim` here; `mod_even` has a test of its own.
    assert run == set(METHODS) - {"mim_weight", "mod_even"}
    assert {m: s["category"] for m, s in summary.items()} == {m: METHODS[m].category for m in summary}
    assert set(metrics["initializations"]) == {"joint", "oml"}
    assert [len(start["curve"]) for start in metrics["initializations"].values()] == [3, 3]
    assert len({s["parameters"] for s in summary.values()}) == 1
    for method, row in summary.items():
        joint = METHODS[method].joint
        assert (row.get("forgetting") is None) == (row.get("psnr_first_task_after_own") is None) == joint
        assert row["steps_total"] == 2 * row["steps_per_block"] == 20
        assert row["psnr_mean"] == pytest.approx(sum(row["matrix"][-1]) / 2, abs=1e-12)
        assert set(row["psnr_at_step"]) == {"0", "1", "4", "10"}
    at = {method: row["psnr_at_step_by_task"] for method, row in summary.items()}
    # Before block 2, replay and consolidation are plain fine-tuning.
    assert at["er"][0] == at["ewc"][0] == at["finetune"][0]
    assert summary["er"]["matrix"][1] != summary["finetune"]["matrix"][1] != summary["ewc"]["matrix"][1]
    assert at["offline"][0]["0"] == at["finetune"][0]["0"]
    assert at["maml_cl"][0]["0"] == at["maml_offline"][0]["0"] != at["oml"][0]["0"] != at["finetune"][0]["0"]
    assert mf.load(others).modules == ["city"]  # no modules: the network of the first method
    assert all((others / p["file"]).is_file() for p in metrics["pictures"])
    page = (others / "report.html").read_text()
    assert "The initialization by MAML" in page
    assert "One network that is trained on all blocks at once reaches" in page


def test_even_draws_without_scores_run_on_rays(run_tiny, finished, tmp_path):
    """Tiles are drawn evenly, a pixel of each, weighted by the tile's size; from the initialization of `mod`."""
    out = tmp_path / "even"
    assert run_tiny("--out", out, *OPTIONS, "--methods", "mod_even") == 0
    rows = {name: metrics_of(run)["methods"][name] for name, run in (("mod", finished), ("mod_even", out))}
    assert rows["mod_even"]["forgetting"] == 0.0
    assert rows["mod_even"]["psnr_at_step"]["0"] == rows["mod"]["psnr_at_step"]["0"]
    assert rows["mod_even"]["psnr_mean"] != rows["mod"]["psnr_mean"]


def test_fine_tuning_is_the_same_whatever_runs_beside_it(others, finished):
    one, other = (metrics_of(run)["methods"]["finetune"] for run in (others, finished))
    for row in (one, other):
        del row["seconds"], row["evaluation_seconds"]
    assert one == other


def test_a_run_of_all_methods_goes_on_from_its_state(others, run_tiny, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(others, copy)
    for name in ("start_oml", "oml", "er"):
        (copy / "state" / f"{name}.safetensors").unlink()
    assert run_tiny("--resume", copy) == 0
    assert results(copy) == results(others)


BEFORE = """
{data: null, blocks: null, out: somewhere, quick: true, resume: null, methods: [mod_random, finetune, mod, mim],
max_side: 160, start: none, steps: 64, batch: 256, lr: 0.01, lr_end: 0.001, fim: sample, fim_kind: diag,
fim_source: ema, fim_form: one_plus, lam: 1.0, mix: 0.5, refresh: 8, tile: 8, memory: 4096, ewc_lam: 2.0,
ewc_online: false, ewc_decay: 0.9, fast_layers: 2, width: 64, hidden_layers: 4, frequencies: 5, bins: 16, margin: 1.15,
meta: {steps: 16, inner_steps: 16, inner_lr: 0.005, outer_lr: 0.01, rays: 64}, wide: {steps: 16, inner_steps: 4,
inner_lr: 0.3, outer_lr: 0.003, rays: 64, first_order: oml, grad_clip: 1.0}, seed: 0, threads: null, device: cpu,
backend: auto}
"""


def test_the_configuration_of_a_run_from_before_options_had_groups():
    described = yaml.safe_load(BEFORE)
    config = read_config(described)
    values = {"out": pathlib.Path("somewhere"), "init": "random", "adapt.ewc-lam": 2.0}
    assert config == with_options(quick_config(), values)
    for name in ("wide", "memory", "ewc_lam", "fim_kind", "device"):  # before there was a choice
        del described[name]
    later = {"adapt.ewc-lam": 1.0, "meta-joint.steps": 150, "meta-joint.batch": 256}
    assert read_config(described) == with_options(quick_config(), values | later)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--methods", "oml", "--adapt.fast-layers", "2"],
            "fast-layers must lie in 1 ... 1 with 1 hidden layers, got 2",
        ),
        (["--adapt.memory", "0"], "memory must be at least 1, got 0"),
        (["--adapt.ewc-lam", "-1"], "ewc_lam must be at least 0 and finite, got -1.0"),
        (["--adapt.ewc-decay", "2"], "ewc_decay must lie in [0, 1], got 2.0"),
        (["--meta-joint.inner-lr", "0"], "meta-joint.inner_lr must be above 0 and finite, got 0.0"),
        (["--meta-joint.batch", "0"], "meta-joint.batch must be at least 1, got 0"),
    ],
)
def test_an_option_out_of_range(run_tiny, tmp_path, capsys, words, said):
    assert run_tiny("--out", tmp_path / "run", *OPTIONS, *words) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_torch_is_left_with_the_threads_that_were_asked_for(finished):
    assert torch.get_num_threads() == 1
    assert metrics_of(finished)["config"]["run"]["threads"] == 1
