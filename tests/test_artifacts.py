"""One door to every result: of now and of version 0.1, rendered, evaluated, added to, fine-tuned; and what is none."""

from __future__ import annotations

import json
import pathlib

import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.artifacts import Frame, Learned
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldBank, initial_parameters, save_bank
from mclnf_fast.fields.io import save_tensors
from mclnf_fast.render import Cameras, Cells, RenderSettings, render_views
from mclnf_fast.render.cameras import look_at
from mclnf_fast.spec import FieldSpec, LogFrequency, to_dict
from mclnf_fast.systems.common.result import SCENE, Result

BOXES = {"left": [[-1.0, -1.0, 0.0], [0.0, 1.0, 1.0]], "right": [[0.0, -1.0, 0.0], [1.0, 1.0, 1.0]]}


def camera(count: int = 1) -> Cameras:
    eyes = torch.tensor([[0.0, -2.0, 3.0]]) + torch.arange(count)[:, None] * 0.1
    return Cameras(look_at(eyes, torch.zeros(count, 3)), 8.0, 8.0, 4.0, 3.0, 8, 6)


def bank_of_two(in_dim: int = 3, out_dim: int = 4) -> FieldBank:
    spec = FieldSpec(in_dim, out_dim, 8, 1)
    bank = FieldBank(spec, 0, init=initial_parameters(spec, 1, generator=torch.Generator().manual_seed(0)))
    for seed in (1, 2):
        bank.append(initial_parameters(spec, 1, generator=torch.Generator().manual_seed(seed)))
    return bank


def city() -> Result:
    cells = Cells(torch.tensor(list(BOXES.values())), 1.15)
    return Result("city", bank_of_two(), list(BOXES), SCENE, RenderSettings(samples_per_ray=8), cells, method="mim")


def initialization(folder: pathlib.Path, system: str | None, settings: dict | None, scale: float = 1.0) -> FieldSpec:
    """A start.safetensors as version 0.1 wrote it."""
    out = {"ct": 1, "image-start": 3}.get(system or "", 4)
    spec = FieldSpec({"ct": 8, "image-start": 2}.get(system or "", 3), out, 8, 1)
    tensors = {str(i): p for i, p in enumerate(initial_parameters(spec))}
    if settings is None:
        if system == "ct":
            tensors["frequencies"] = torch.rand(4, 2)
        meta = {"system": system, "spec": to_dict(spec), "options": {"steps": 2, "lr": 0.1}}
    else:
        meta = {"spec": to_dict(spec), "settings": settings, "steps": 2, "lr": 0.1, "rays": 8, "scale": scale}
    save_tensors(folder / "start.safetensors", tensors, meta)
    return spec


def bins(background: str) -> dict[str, object]:
    return {"bins": 8, "near": 1.0, "far": 6.0, "convention": "blog", "chunk": 8192, "backend": "auto",
            "background": background}  # fmt: skip


def test_a_result_survives_its_file(tmp_path):
    city().write(tmp_path)
    learned = mf.load(tmp_path)
    assert (learned.system, learned.modules, learned.method) == ("city", ["left", "right"], "mim")
    assert learned.shading == RenderSettings().shading
    assert learned.frame == SCENE
    assert torch.equal(learned.cells.boxes, city().cells.boxes)
    assert all(torch.equal(a, b) for a, b in zip(learned.bank.stacked, city().bank.stacked))
    assert all(torch.equal(a, b) for a, b in zip(learned.bank.shared, city().bank.shared))
    assert len(mf.load_bank(tmp_path / "bank.safetensors")) == 2


def test_a_city_is_rendered_through_all_its_modules(tmp_path):
    city().write(tmp_path)
    learned = mf.load(tmp_path)
    pictures = learned.render(camera(2))
    assert (pictures.shape, pictures.dtype) == ((2, 6, 8, 3), torch.uint8)
    exact = render_views(learned.bank, camera(2), learned.settings, learned.cells).color
    assert torch.equal(pictures, (exact.clamp(0, 1) * 255).round().to(torch.uint8))
    assert not torch.equal(learned.render(camera(2), background="white"), pictures)
    with pytest.raises(InputError, match="render_each serves results of single-view and photos, got one of city"):
        learned.render_each(camera(2))
    with pytest.raises(InputError, match=r"cameras must be mclnf_fast\.render\.Cameras, got int"):
        learned.render(3)


def test_a_city_is_evaluated_where_its_points_are(tmp_path):
    city().write(tmp_path)
    learned = mf.load(tmp_path)
    x = torch.tensor([[-0.5, 0.0, 0.5], [0.5, 0.2, 0.5], [9.0, 0.0, 0.0]])
    y = learned.evaluate(x)
    assert torch.isnan(y[2]).all()
    local = (x[:2] - learned.cells.centers) / learned.cells.halves
    assert torch.equal(y[:2], learned.bank(local, module_ids=torch.tensor([0, 1])))
    assert torch.equal(learned.evaluate(x[:1], [0]), y[:1])
    with pytest.raises(InputError, match=r"x must be \[N, 3\] \(x, y, z\), got \[3\]"):
        learned.evaluate(x[0])
    with pytest.raises(InputError, match=r"module_ids must be \[N\] = \[3\], got \[1\]"):
        learned.evaluate(x, [0])


def test_a_city_takes_a_new_block(tmp_path):
    city().write(tmp_path)
    learned = mf.load(tmp_path)
    before = learned.bank.stacked[0].clone()
    with pytest.raises(InputError, match=r"box must be the \[2, 3\] cell of the new module, got None"):
        learned.append()
    assert learned.append(name="north", box=torch.tensor([[-1.0, 1.0, 0.0], [1.0, 2.0, 1.0]])) == 2
    assert learned.modules == ["left", "right", "north"]
    assert torch.equal(learned.bank.stacked[0][:2], before)
    assert learned.render(camera()).shape == (1, 6, 8, 3)
    learned.write(tmp_path / "larger")
    assert mf.load(tmp_path / "larger").modules == learned.modules
    with pytest.raises(InputError, match=r"adapt serves results of single-view, .* ct, got one of city"):
        learned.adapt(torch.rand(3))


def test_objects_are_rendered_each(tmp_path):
    settings = RenderSettings.between(1.0, 6.0, samples_per_ray=8)
    Result("single-view", bank_of_two(), ["a", "b"], SCENE, settings, scale=0.5, tuning={"steps": 1}).write(tmp_path)
    learned = mf.load(tmp_path)
    pictures = learned.render(camera(3))
    assert pictures.shape == (2, 3, 6, 8, 3)
    assert torch.equal(learned.render_each(camera(2)), torch.stack((pictures[0, 0], pictures[1, 1])))
    x = torch.rand(4, 3)
    assert torch.equal(learned.evaluate(x, [1] * 4), learned.bank(0.5 * x, module_ids=torch.ones(4, dtype=torch.int64)))
    with pytest.raises(InputError, match="module_ids must name one of the 2 modules for each point, got None"):
        learned.evaluate(x)
    with pytest.raises(InputError, match="box must be None, since modules have no cells"):
        learned.append(box=torch.rand(2, 3))
    assert learned.append() == 2
    assert learned.modules[-1] == "2"


def test_signals_have_no_shading(tmp_path):
    Result("audio", bank_of_two(1, 1), ["one", "two"], Frame(("time",), (-1.0,), (1.0,))).write(tmp_path)
    learned = mf.load(tmp_path)
    assert (learned.shading, learned.cells, learned.frame.high) == (None, None, (1.0,))
    with pytest.raises(InputError, match="render serves results that are rendered along rays, got one of audio"):
        learned.render(camera())
    with pytest.raises(InputError, match="picture serves results of image-start and ct, got one of audio"):
        learned.picture(4)


def test_a_city_of_version_0_1(tmp_path):
    bank = bank_of_two()
    save_bank(tmp_path / "bank.safetensors", bank, method="mod", cells=BOXES, margin=1.15)
    with pytest.raises(InputError, match=r"run must be a folder with metrics\.json in it"):
        mf.load(tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"config": {"bins": 8}}))
    learned = mf.load(tmp_path)
    assert (learned.system, learned.modules, learned.settings.samples_per_ray) == ("city", ["left", "right"], 8)
    city().write(tmp_path / "now")
    assert torch.equal(learned.render(camera()), mf.load(tmp_path / "now").render(camera()))


@pytest.mark.parametrize(("background", "system"), [("white", "single-view"), ("field", "photos")])
def test_an_initialization_along_rays_of_version_0_1(tmp_path, background, system):
    initialization(tmp_path, None, bins(background), scale=0.5)
    learned = mf.load(tmp_path)
    assert (learned.system, learned.scale, len(learned.bank)) == (system, 0.5, 0)
    assert learned.tuning["batch"] == 8
    with pytest.raises(InputError, match="render needs a result with at least 1 module, got none: fine-tune"):
        learned.render(camera())
    picture = torch.randint(256, (6, 8, 3), dtype=torch.uint8)
    field = learned.adapt(picture, camera(), name="mine")
    assert (field.modules, len(learned.bank)) == (["mine"], 0)
    assert field.render(camera(2)).shape == (2, 6, 8, 3)
    untouched = learned.adapt(picture, camera(), steps=0)
    assert all(torch.equal(a, b) for a, b in zip(untouched.bank.stacked, learned.bank.shared))
    with pytest.raises(InputError, match="data and view must be pictures and cameras of a result of"):
        learned.adapt(picture)
    with pytest.raises(InputError, match="camera must be 1, one per picture, got int"):
        learned.adapt(picture, 3)


def test_an_initialization_of_pictures_of_version_0_1(tmp_path):
    initialization(tmp_path, "image-start", None)
    learned = mf.load(tmp_path).adapt(torch.rand(6, 8, 3))
    assert learned.picture(5, 7).shape == (1, 5, 7, 3)
    assert learned.evaluate(torch.rand(9, 2)).shape == (9, 3)
    initialization(tmp_path, "ct", None)
    learned = mf.load(tmp_path).adapt(torch.rand(4, 16), torch.rand(4))
    assert learned.picture(16).shape == (1, 16, 16, 1)
    with pytest.raises(InputError, match="height and width of a slice must be the same, got 4 and 5"):
        learned.picture(4, 5)


def test_what_is_no_result(tmp_path):
    for name, part in (
        ("nowhere", "there is nothing"),
        ("file", "there is a file"),
        ("", r"with bank\.safetensors in"),
    ):
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match=part):
            mf.load(tmp_path / name if name else tmp_path)
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(InputError, match="that run has none"):
        mf.load(tmp_path)
    city().write(tmp_path)
    file = tmp_path / "bank.safetensors"
    whole = file.read_bytes()
    for corrupt in (whole[:-9], whole[:200], whole[:-3] + b"\x01" + whole[-2:], b"no safetensors"):
        file.write_bytes(corrupt)
        with pytest.raises(InputError, match=r"checkpoint .*bank\.safetensors: must"):
            mf.load(tmp_path)
    save_bank(file, bank_of_two(), system="city", names=["one"])
    with pytest.raises(InputError, match="modules must be 2, one per module of the bank, got 1"):
        mf.load(tmp_path)


def test_a_bank_with_frequencies_keeps_their_bits(tmp_path):
    frequencies = torch.randn(4, 2)
    spec = FieldSpec(8, 1, 8, 1, output_activation="sigmoid")
    Result("ct", FieldBank(spec), ["a"], Frame(("row", "column")), frequencies=frequencies).write(tmp_path)
    assert torch.equal(mf.load(tmp_path).frequencies, frequencies)


def test_an_encoding_is_part_of_the_result(tmp_path):
    spec = FieldSpec(3, 4, 8, 1, encoding=LogFrequency(4, 3.0))
    Result("photos", FieldBank(spec), ["a"], SCENE, RenderSettings.between()).write(tmp_path)
    learned = mf.load(tmp_path)
    assert isinstance(learned, Learned)
    assert learned.bank.spec == spec
