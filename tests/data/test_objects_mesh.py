"""Mesh files as objects: axes, colors, textures, places in a scene; what is corrupt, empty or reaches outside."""

import io
import json
import logging
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mclnf_fast.data import load_objects, sphere_cameras
from mclnf_fast.data.graphics.mesh import to_linear
from mclnf_fast.data.graphics.mesh_render import render_mesh
from mclnf_fast.data.readers.objects_mesh import read_mesh
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

SQUARE = "v -1 0 -1\nv 1 0 -1\nv 1 0 1\nv -1 0 1\n"  # on the ground: y is up in the file
QUAD = "f 1 4 3\nf 1 3 2\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def gltf(path: Path, matrices: list[list[float]], color=(0.25, 0.5, 0.75, 1.0), picture=None, **material) -> Path:
    """A triangle of one color in a .glb, once for each matrix (column-major); under a picture: its PNG's bytes, which
    lie inside, or the name of a file."""
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0]], np.float32).tobytes()
    points += np.array([[0, 1], [1, 1], [0, 0]], np.float32).tobytes()  # glTF's v grows downwards
    skin = {"baseColorFactor": list(color)}
    content = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": list(range(len(matrices)))}],
        "nodes": [{"mesh": 0, "matrix": matrix} for matrix in matrices],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": skin, **material}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3", "min": [0, 0, 0], "max": [2, 1, 0]},
            {"bufferView": 1, "componentType": 5126, "count": 3, "type": "VEC2"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 36},
            {"buffer": 0, "byteOffset": 36, "byteLength": 24},
        ],
    }
    if picture is not None:
        skin["baseColorTexture"] = {"index": 0}
        content["textures"] = [{"source": 0}]
        content["images"] = [{"uri": picture}]
    if isinstance(picture, bytes):
        content["images"] = [{"bufferView": 2, "mimeType": "image/png"}]
        content["bufferViews"].append({"buffer": 0, "byteOffset": 60, "byteLength": len(picture)})
        points += picture + bytes(-len(picture) % 4)
    content["buffers"] = [{"byteLength": len(points)}]
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(points), 0x004E4942) + points
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks)
    return path


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def moved(x: float, y: float, z: float, sx: float = 1.0) -> list[float]:
    return [sx, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, x, y, z, 1]


def test_y_up_and_z_forward_become_z_up_and_x_forward(tmp_path):
    mesh = read_mesh(tmp_path, gltf(tmp_path / "a.glb", [moved(0, 0, 0), moved(5, 6, 7)]))
    assert len(mesh.faces) == 2
    corners = sorted(tuple(p) for p in mesh.vertices[mesh.faces].reshape(-1, 3).round().tolist())
    # (x, y, z) of the file stands at (z, x, y).
    want = [(0, 0, 0), (0, 2, 0), (0, 0, 1), (7, 5, 6), (7, 7, 6), (7, 5, 7)]
    assert corners == sorted(tuple(map(float, p)) for p in want)
    # glTF's factors are linear light.
    torch.testing.assert_close(mesh.colors[0, 0], torch.tensor([0.25, 0.5, 0.75]), atol=3e-3, rtol=0)
    front = mesh.normals[:, 0]
    torch.testing.assert_close(front, torch.tensor([[1.0, 0.0, 0.0]]).expand(2, 3))


def test_a_mirrored_part_still_looks_outward(tmp_path):
    mesh = read_mesh(tmp_path, gltf(tmp_path / "a.glb", [moved(0, 0, 0, sx=-1.0)]))
    torch.testing.assert_close(mesh.normals[0], torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3))


def textured(root: Path, texture: str = "map.png") -> Path:
    write(root / "m.mtl", f"newmtl skin\nKd 1 1 1\nmap_Kd {texture}\n")
    uv = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    faces = "f 1/1 4/4 3/3\nf 1/1 3/3 2/2\n"
    return write(root / "a.obj", "mtllib m.mtl\n" + SQUARE + uv + "usemtl skin\n" + faces)


def test_a_texture_lies_as_in_the_file(tmp_path):
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0, 0], pixels[0, 1], pixels[1, 0], pixels[1, 1] = (200, 0, 0), (0, 200, 0), (0, 0, 200), (200, 200, 0)
    Image.fromarray(pixels).save(tmp_path / "map.png")
    mesh = read_mesh(tmp_path, textured(tmp_path))
    assert len(mesh.textures) == 1
    torch.testing.assert_close(mesh.textures[0], to_linear(torch.from_numpy(pixels).float() / 255))
    # v 1 (-1, 0, -1) has (0, 0), the texture's lower left, and lies at (x, y) = (z, x) = (-1, -1) here: blue.
    pose = torch.eye(4)[None]
    pose[0, 2, 3] = 4.0
    camera = Cameras(pose, 64.0, 64.0, 32.0, 32.0, 64, 64)
    image = render_mesh(mesh, camera)[0]
    spots = {(-0.5, -0.5): 2, (-0.5, 0.5): None, (0.5, -0.5): 0, (0.5, 0.5): 1}
    for (x, y), channel in spots.items():
        pixel = image[round(32 - 16 * y), round(32 + 16 * x)].tolist()
        assert pixel[3] == 255
        if channel is None:
            assert min(pixel[0], pixel[1]) > 2 * pixel[2]
        else:
            assert pixel[channel] > 2 * max(value for k, value in enumerate(pixel[:3]) if k != channel)


def test_colors_of_vertices_and_of_materials(tmp_path):
    lines = SQUARE.strip().splitlines()
    write(tmp_path / "v.obj", "\n".join(f"{line} 0.5 0.25 1.0" for line in lines) + "\n" + QUAD)
    mesh = read_mesh(tmp_path, tmp_path / "v.obj")
    torch.testing.assert_close(mesh.colors[0, 0], to_linear(torch.tensor([0.5, 0.25, 1.0])), atol=5e-3, rtol=0)
    write(tmp_path / "m.mtl", "newmtl paint\nKd 0.8 0.2 0.1\n")
    write(tmp_path / "k.obj", "mtllib m.mtl\n" + SQUARE + "usemtl paint\n" + QUAD)
    mesh = read_mesh(tmp_path, tmp_path / "k.obj")
    torch.testing.assert_close(mesh.colors[0, 0], to_linear(torch.tensor([0.8, 0.2, 0.1])), atol=5e-3, rtol=0)
    write(tmp_path / "n.obj", SQUARE + QUAD)
    gray = read_mesh(tmp_path, tmp_path / "n.obj").colors[0, 0]
    assert float(gray.max() - gray.min()) == 0
    assert 0.05 < float(gray[0]) < 0.9


def test_a_folder_of_meshes_is_rendered_from_the_cameras_of_made_cars(tmp_path, caplog):
    for k, name in enumerate(("a", "b", "c/model", "d")):
        write(tmp_path / f"{name}.obj", SQUARE.replace("1", str(k + 2)) + QUAD.replace("1", "1"))
    sets = load_objects(tmp_path, views=3, size=16, test=1, seed=4)
    found = sorted((*sets.train, *sets.test), key=lambda item: item.name)
    assert [item.name for item in found] == ["a", "b", "c/model", "d"]
    assert len(sets.test) == 1
    assert (sets.near, sets.far) == (2.0, 6.0)
    for k, item in enumerate(found):
        assert torch.equal(item.cameras.c2w, sphere_cameras(3, 16, 4, k).c2w)
        # Squares of any size fill the unit ball: seen from above they cover the same.
        top = item.images[..., 3].double().mean((1, 2)) / 255
        assert bool((top > 0.02).all())
    again = load_objects(tmp_path, views=3, size=16, test=1, seed=4)
    for one, two in zip((*sets.train, *sets.test), (*again.train, *again.test), strict=True):
        assert torch.equal(one.images, two.images)
    one = load_objects(tmp_path / "b.obj", views=2)
    assert [item.name for item in one.test] == ["b"]
    assert tuple(one.test[0].images.shape) == (2, 128, 128, 4)


def test_bad_meshes_are_skipped_and_named_or_refused(tmp_path, caplog):
    for name in ("a", "b", "c"):
        write(tmp_path / f"data/{name}.obj", SQUARE + QUAD)
    good = gltf(tmp_path / "good.glb", [moved(0, 0, 0)]).read_bytes()
    faults = {
        "corrupt.glb": (good[:100], "corrupt.glb: must be a readable mesh"),
        "text.glb": (b"hello", "text.glb: must be a readable mesh"),
        "empty.obj": (b"", "empty.obj: must"),
        "points.obj": (SQUARE.encode(), "points.obj: must"),
        "line.obj": (b"v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "line.obj: .*one point"),
        "nan.obj": (SQUARE.replace("v 1 0 1", "v nan 0 1").encode() + QUAD.encode(), "nan.obj: must"),
    }
    for name, (content, message) in faults.items():
        bad = tmp_path / "data" / name
        bad.write_bytes(content)
        with caplog.at_level(logging.WARNING, "mclnf_fast"):
            sets = load_objects(tmp_path / "data", views=1, size=8)
        assert sorted(item.name for item in (*sets.train, *sets.test)) == ["a", "b", "c"], name
        assert any(f"skipped as unusable: {bad.stem}" in note for note in sets.notes)
        assert name in caplog.text
        with pytest.raises(InputError, match=message):
            load_objects(tmp_path / "data", views=1, size=8, strict=True)
        bad.unlink()


def test_textures_stay_inside_the_folder_and_must_be_there(tmp_path):
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "secret.png")
    for texture, message in (("../secret.png", "must stay inside the data folder"), ("lost.png", "must have its file")):
        path = textured(tmp_path / "data", texture)
        with pytest.raises(InputError, match=message):
            load_objects(path.parent)
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "data/corrupt.png")
    whole = (tmp_path / "data/corrupt.png").read_bytes()
    (tmp_path / "data/corrupt.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"corrupt\.png: must be a whole readable image"):
        load_objects(textured(tmp_path / "data", "corrupt.png").parent)


@pytest.mark.parametrize("inside", [True, False])
def test_a_corrupt_texture_of_a_gltf_is_reported_and_never_gray(tmp_path, caplog, inside):
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    whole = png(pixels)
    for name in ("a", "b", "c"):
        gltf(tmp_path / f"data/{name}.glb", [moved(0, 0, 0)], picture=whole)
    mesh = read_mesh(tmp_path, tmp_path / "data/a.glb")
    torch.testing.assert_close(mesh.textures[0], to_linear(torch.from_numpy(pixels).float() / 255))
    corrupt = whole[: len(whole) // 2]
    (tmp_path / "data/skin.png").write_bytes(corrupt)
    gltf(tmp_path / "data/corrupt.glb", [moved(0, 0, 0)], picture=corrupt if inside else "skin.png")
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        sets = load_objects(tmp_path / "data", views=1, size=8)
    assert sorted(item.name for item in (*sets.train, *sets.test)) == ["a", "b", "c"]
    assert any("skipped as unusable: corrupt" in note for note in sets.notes)
    named = "corrupt.glb" if inside else "skin.png"
    assert named in caplog.text
    with pytest.raises(InputError, match=rf"{named}.*must be a whole readable image"):
        load_objects(tmp_path / "data", views=1, size=8, strict=True)


def seen(mesh, corner: tuple[float, float]) -> list[int]:
    """The pixel at (y, z) of a mesh that faces +x, from there."""
    pose = torch.tensor([[0.0, 0.0, 1.0, 4.0], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]])[None]
    image = render_mesh(mesh, Cameras(pose, 64.0, 64.0, 32.0, 32.0, 64, 64))[0]
    return image[round(32 - 16 * corner[1]), round(32 + 16 * corner[0])].tolist()


def test_transparent_parts_of_a_material_are_cut_out(tmp_path):
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:, 4:, 3] = 100  # the half of larger u, which is larger y here
    kept, cut = (0.4, 0.3), (1.4, 0.15)
    for material, left in (
        ({}, True),  # opaque, whatever the texture's alpha
        ({"alphaMode": "MASK"}, False),
        ({"alphaMode": "MASK", "alphaCutoff": 0.3}, True),
        ({"alphaMode": "BLEND"}, False),
    ):
        mesh = read_mesh(tmp_path, gltf(tmp_path / "a.glb", [moved(0, 0, 0)], picture=png(pixels), **material))
        assert seen(mesh, kept)[3] == 255
        assert seen(mesh, cut)[3] == (255 if left else 0), material
    # What lies behind is seen through it.
    both = [moved(0, 0, 0), moved(-1, 0, -0.5, 4.0)]
    two = read_mesh(tmp_path, gltf(tmp_path / "a.glb", both, picture=png(pixels), alphaMode="MASK"))
    assert seen(two, cut)[3] == 255
    glass = gltf(tmp_path / "b.glb", [moved(0, 0, 0)], color=(1, 1, 1, 0.25), alphaMode="BLEND")
    with pytest.raises(InputError, match="must hold at least one triangle"):
        read_mesh(tmp_path, glass)
    assert len(read_mesh(tmp_path, gltf(tmp_path / "b.glb", [moved(0, 0, 0)], color=(1, 1, 1, 0.25))).faces) == 1


def test_real_cars(shared_data):
    sets = load_objects(shared_data("objects/kenney_cars"), views=2, size=48, limit=4, test=1, strict=True)
    assert (len(sets.train), len(sets.test)) == (3, 1)
    for item in (*sets.train, *sets.test):
        shown = item.images[item.images[..., 3] == 255][:, :3].double()
        assert 0.1 < len(shown) / item.images[..., 3].numel() < 0.6
        assert float(shown.std(0).mean()) > 15  # painted, not gray
        assert float((shown.amax(1) - shown.amin(1)).mean()) > 10
        assert not item.images[:, 0, :, 3].any()
