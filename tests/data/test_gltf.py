"""Features of glTF: what is shown is what the file says, or the file is refused by the feature's name."""

import base64
import json
import logging
import math

import numpy as np
import pytest
import torch
from gltf_files import TRIANGLE, accessor, glb, png, textured
from PIL import Image

from mclnf_fast.data import load_objects
from mclnf_fast.data.graphics.mesh import to_linear
from mclnf_fast.data.graphics.mesh_render import render_mesh
from mclnf_fast.data.readers.objects_mesh import read_mesh
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

POSITION = [{"attributes": {"POSITION": 0}}]


def corners(mesh) -> torch.Tensor:
    """The corners [F, 3, 3] in the file's axes."""
    return mesh.vertices[mesh.faces][..., [1, 2, 0]]


def areas(mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2


def test_fans_and_strips_stand_beside_triangles(tmp_path):
    square = np.array([[2, 0, 0], [3, 0, 0], [3, 1, 0], [2, 1, 0]], np.float32)
    strip = np.array([[4, 0, 0], [5, 0, 0], [4, 1, 0], [5, 1, 0], [4, 2, 0]], np.float32)
    order = np.array([0, 1, 2, 3, 4, 4], np.uint16)  # the last triangle has no area
    primitives = [
        {"attributes": {"POSITION": 0}},
        {"attributes": {"POSITION": 1}, "mode": 6},
        {"attributes": {"POSITION": 2}, "indices": 3, "mode": 5},
    ]
    mesh = read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE, square, strip, order], primitives))
    assert len(mesh.faces) == 1 + 2 + 3
    assert areas(mesh) == pytest.approx(0.5 + 1 + 1.5)
    a, b, c = corners(mesh).unbind(1)
    assert bool((torch.linalg.cross(b - a, c - a)[:, 2] > 0).all())  # all of them look to +z


@pytest.mark.parametrize("mode", [0, 1, 2, 3])
def test_points_and_lines_are_told(tmp_path, caplog, mode):
    both = [*POSITION, {"attributes": {"POSITION": 0}, "mode": mode}]
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        assert len(read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], both)).faces) == 1
    assert f"(mode {mode}) are passed over" in caplog.text
    with pytest.raises(InputError, match="must hold at least one triangle"):
        read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], both[1:]))


def test_an_unknown_mode_is_refused(tmp_path):
    with pytest.raises(InputError, match="mode must be from 0 to 6, was 7"):
        read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], [{"attributes": {"POSITION": 0}, "mode": 7}]))


@pytest.mark.parametrize(("kind", "top"), [("i1", 127), ("u1", 255), ("i2", 32767), ("u2", 65535)])
@pytest.mark.parametrize("normalized", [True, False])
def test_quantized_vertices(tmp_path, kind, top, normalized):
    stored = np.zeros((3, 4), kind)
    stored[:, :3] = np.round(TRIANGLE * top) if normalized else TRIANGLE
    view = accessor(0, stored[:, :3].copy(), normalized=normalized)
    step = stored.itemsize * 4
    path = glb(tmp_path / "a.glb", [stored], POSITION, [view], extensionsRequired=["KHR_mesh_quantization"],
               bufferViews=[{"buffer": 0, "byteOffset": 0, "byteLength": 3 * step, "byteStride": step}])  # fmt: skip
    torch.testing.assert_close(corners(read_mesh(tmp_path, path))[0], torch.from_numpy(TRIANGLE))


def test_a_normalized_byte_goes_no_lower_than_minus_one(tmp_path):
    stored = np.array([[-128, 0, 0], [127, 0, 0], [0, 127, 0]], np.int8)
    path = glb(tmp_path / "a.glb", [stored], POSITION, [accessor(0, stored, normalized=True)])
    assert corners(read_mesh(tmp_path, path))[0, 0].tolist() == [-1, 0, 0]


@pytest.mark.parametrize("based", [True, False])
def test_sparse_accessors(tmp_path, based):
    rows = np.array([1, 2], np.uint16)
    sparse = {"count": 2, "indices": {"bufferView": 1, "componentType": 5123}, "values": {"bufferView": 2}}
    first = accessor(0, np.zeros((3, 3), np.float32), sparse=sparse)
    if not based:
        del first["bufferView"]
    arrays = [np.zeros((3, 3), np.float32), rows, TRIANGLE[1:]]
    mesh = read_mesh(tmp_path, glb(tmp_path / "a.glb", arrays, POSITION, [first]))
    torch.testing.assert_close(corners(mesh)[0], torch.from_numpy(TRIANGLE))


@pytest.mark.parametrize("kind", ["f4", "u1", "u2"])
@pytest.mark.parametrize("width", [3, 4])
@pytest.mark.parametrize("under", ["nothing", "factor", "texture"])
def test_colors_of_vertices_times_the_materials(tmp_path, kind, width, under):
    top = {"f4": 1, "u1": 255, "u2": 65535}[kind]
    paint = np.array([[1, 0.5, 0, 1]] * 3)[:, :width] * top
    paint = (paint if kind == "f4" else paint.round()).astype(kind)
    skin: dict = {"baseColorFactor": [0.5, 1, 1, 1]}
    if under == "texture":
        skin["baseColorTexture"] = {"index": 0}
    attributes = {"POSITION": 0, "COLOR_0": 1, "TEXCOORD_0": 2}
    primitive = {"attributes": attributes} | ({} if under == "nothing" else {"material": 0})
    arrays = [TRIANGLE, paint, np.zeros((3, 2), np.float32), png([[[255, 255, 255]]])]
    views = [accessor(0, TRIANGLE), accessor(1, paint, normalized=kind != "f4"), accessor(2, arrays[2])]
    path = glb(tmp_path / "a.glb", arrays, [primitive], views, materials=[{"pbrMetallicRoughness": skin}],
               textures=[{"source": 0}], images=[{"bufferView": 3, "mimeType": "image/png"}])  # fmt: skip
    want = torch.tensor([1.0 if under == "nothing" else 0.5, 0.5, 0.0])
    torch.testing.assert_close(read_mesh(tmp_path, path).colors[0, 0], want, atol=5e-3, rtol=0)


def test_the_default_material_is_white(tmp_path):
    assert bool((read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION)).colors == 1).all())


PLACES = np.array([[0.1, 0.2], [0.2, 0.2], [0.1, 0.3]], np.float32)


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ({"texCoord": 0}, (0.1, 0.2)),
        ({"offset": [0.25, 0], "scale": [2, 2]}, (0.45, 0.4)),
        ({"rotation": math.pi / 2}, (0.2, -0.1)),
        ({"rotation": math.pi / 2, "scale": [3, 2], "offset": [1, 2]}, (1.4, 1.7)),
    ],
)
@pytest.mark.parametrize("required", [True, False])
def test_a_texture_is_moved_turned_and_scaled(tmp_path, change, want, required):
    more = {"extensionsRequired": ["KHR_texture_transform"]} if required else {}
    texture = {"extensions": {"KHR_texture_transform": change}}
    mesh = read_mesh(tmp_path, textured(tmp_path / "a.glb", PLACES, texture, **more))
    assert mesh.uv[0, 0].tolist() == pytest.approx([want[0], 1 - want[1]], abs=1e-5)


@pytest.mark.parametrize("by", ["texture", "transform"])
def test_second_texture_coordinates(tmp_path, by):
    second = PLACES + np.float32(0.5)
    texture = {"texCoord": 1} if by == "texture" else {"extensions": {"KHR_texture_transform": {"texCoord": 1}}}
    skin = {"baseColorTexture": {"index": 0, **texture}}
    path = glb(tmp_path / "a.glb", [TRIANGLE, PLACES, second, png([[[9, 9, 9]]])],
               [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1, "TEXCOORD_1": 2}, "material": 0}],
               materials=[{"pbrMetallicRoughness": skin}], textures=[{"source": 0}],
               images=[{"bufferView": 3, "mimeType": "image/png"}])  # fmt: skip
    assert read_mesh(tmp_path, path).uv[0, 0].tolist() == pytest.approx([0.6, 0.3])
    with pytest.raises(InputError, match="must have its places TEXCOORD_1"):
        read_mesh(tmp_path, textured(tmp_path / "b.glb", PLACES, texture))


def test_normalized_texture_coordinates(tmp_path):
    stored = np.array([[0, 255], [255, 255], [0, 0]], np.uint8)
    views = [accessor(0, TRIANGLE), accessor(1, stored, normalized=True)]
    mesh = read_mesh(tmp_path, textured(tmp_path / "a.glb", stored, accessors=views))
    assert mesh.uv[0].tolist() == [[0, 0], [1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("code", "want"),
    [(10497, [0, 1, 0, 1]), (33648, [1, 0, 0, 1]), (33071, [0, 0, 0, 1])],  # the texel at u of -0.75, -0.25, 0.25, 0.75
)
def test_wrap_modes(tmp_path, code, want):
    spots = [-0.75, -0.25, 0.25, 0.75]
    pixels = ((0, 0, 0), (255, 255, 255))
    shown = []
    for spot in spots:
        places = np.full((3, 2), spot, np.float32)
        path = textured(tmp_path / "a.glb", places, pixels=pixels, samplers=[{"wrapS": code, "wrapT": code}],
                        textures=[{"source": 0, "sampler": 0}])  # fmt: skip
        pose = torch.eye(4)[None]
        pose[0, :3, :3] = torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]])
        pose[0, :3, 3] = torch.tensor([2.0, 0.3, 0.3])
        image = render_mesh(read_mesh(tmp_path, path), Cameras(pose, 32.0, 32.0, 4.0, 4.0, 8, 8))
        assert int(image[0, 4, 4, 3]) == 255
        shown.append(int(image[0, 4, 4, 0] > 100))
    assert shown == want


def test_an_unknown_wrap_mode_is_refused(tmp_path):
    path = textured(tmp_path / "a.glb", PLACES, samplers=[{"wrapS": 7}], textures=[{"source": 0, "sampler": 0}])
    with pytest.raises(InputError, match="wrapS and wrapT must be of"):
        read_mesh(tmp_path, path)


@pytest.mark.parametrize(
    "name", ["KHR_draco_mesh_compression", "EXT_meshopt_compression", "KHR_texture_basisu", "VENDOR_new_thing"]
)
def test_a_required_extension_that_is_not_read_is_refused_by_name(tmp_path, name):
    with pytest.raises(InputError, match=rf"a\.glb: requires the extension {name}"):
        read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION, extensionsRequired=[name]))


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"nodes": [{"mesh": 0, "extensions": {"EXT_mesh_gpu_instancing": {}}}]}, "EXT_mesh_gpu_instancing"),
        ({"accessors": [{"count": 3, "type": "VEC3", "componentType": 5126}],
          "meshes": [{"primitives": [{"attributes": {"POSITION": 0},
                                      "extensions": {"KHR_draco_mesh_compression": {}}}]}]}, "KHR_draco"),
        ({"buffers": [{"byteLength": 36, "extensions": {"EXT_meshopt_compression": {"fallback": True}}}],
          "bufferViews": [{"buffer": 0, "byteLength": 36, "extensions": {"EXT_meshopt_compression": {}}}]},
         "EXT_meshopt_compression"),
        ({"asset": {"version": "1.0"}}, "must be glTF 2, was of version 1.0"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_by_name(tmp_path, parts, message):
    with pytest.raises(InputError, match=message):
        read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION, **parts))


def test_pictures_of_other_formats(tmp_path):
    only = {"textures": [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]}
    with pytest.raises(InputError, match="textures/0 has KHR_texture_basisu, which is not read"):
        read_mesh(tmp_path, textured(tmp_path / "a.glb", PLACES, **only))
    webp = {"textures": [{"extensions": {"EXT_texture_webp": {"source": 0}}}]}
    assert len(read_mesh(tmp_path, textured(tmp_path / "a.glb", PLACES, **webp)).textures) == 1


def test_a_texture_of_16_bits_keeps_its_gray(tmp_path):
    Image.fromarray(np.full((1, 1), 32896, np.uint16)).save(tmp_path / "t.png")
    path = textured(tmp_path / "a.glb", PLACES, images=[{"uri": "t.png"}])
    want = to_linear(torch.tensor(128 / 255))
    torch.testing.assert_close(read_mesh(tmp_path, path).textures[0][0, 0], want.expand(3))


def test_glossiness_materials(tmp_path):
    skin = {"extensions": {"KHR_materials_pbrSpecularGlossiness": {"diffuseFactor": [0.2, 0.3, 0.4, 1]}}}
    path = glb(tmp_path / "a.glb", [TRIANGLE], [{"attributes": {"POSITION": 0}, "material": 0}], materials=[skin])
    assert read_mesh(tmp_path, path).colors[0, 0].tolist() == pytest.approx([0.2, 0.3, 0.4])


@pytest.mark.parametrize("alphas", [(0.2, 0.2, 0.2), (0.2, 0.3, 0.1), (0.9, 0.8, 0.7), (0.2, 0.9, 0.9)])
def test_alpha_of_vertex_colors(tmp_path, caplog, alphas):
    paint = np.ones((3, 4), np.float32)
    paint[:, 3] = alphas
    path = glb(tmp_path / "a.glb", [TRIANGLE, paint, TRIANGLE],
               [{"attributes": {"POSITION": 0, "COLOR_0": 1}, "material": 0}, {"attributes": {"POSITION": 2}}],
               materials=[{"alphaMode": "BLEND"}])  # fmt: skip
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        mesh = read_mesh(tmp_path, path)
    assert len(mesh.faces) == (2 if max(alphas) > 0.5 else 1)
    assert ("alpha of vertex colors" in caplog.text) == (min(alphas) < 0.5 < max(alphas))


def test_names_are_percent_encoded_and_stay_inside(tmp_path):
    base = tmp_path / "data"
    path = glb(base / "a.glb", [TRIANGLE], POSITION)
    raw = path.read_bytes()
    content = json.loads(raw[20 : 20 + int.from_bytes(raw[12:16], "little")])
    for name, file, error in (
        ("my%20car.bin", "my car.bin", None),
        ("50%25.bin", "50%.bin", None),
        ("r%C3%A4der.bin", "räder.bin", None),
        ("none%20.bin", None, "must have its file"),
        ("%2e%2e/x.bin", "../x.bin", "must stay inside the data folder"),
        ("/etc/passwd", None, "must be relative"),
    ):
        content["buffers"] = [{"byteLength": 36, "uri": name}]
        (base / "b.gltf").write_text(json.dumps(content))
        if file:
            (base / file).write_bytes(TRIANGLE.tobytes())
        if error is None:
            assert len(read_mesh(base, base / "b.gltf").faces) == 1
        else:
            with pytest.raises(InputError, match=error):
                read_mesh(base, base / "b.gltf")
    content["buffers"][0]["uri"] = "data:application/octet-stream;base64," + base64.b64encode(TRIANGLE).decode()
    (base / "b.gltf").write_text(json.dumps(content))
    assert len(read_mesh(base, base / "b.gltf").faces) == 1


def test_places_of_nodes(tmp_path):
    turn = [0, 0, math.sin(math.pi / 4), math.cos(math.pi / 4)]  # a quarter about z
    nodes = [{"children": [1], "translation": [1, 0, 0]}, {"mesh": 0, "rotation": turn, "scale": [2, 1, 1]}]
    mesh = read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION, nodes=nodes))
    want = torch.tensor([[1.0, 0, 0], [1, 2, 0], [0, 0, 0]])
    torch.testing.assert_close(corners(mesh)[0], want, atol=1e-6, rtol=0)
    for nodes in ([{"children": [0]}], [{"children": [1]}, {"children": [0]}]):
        with pytest.raises(InputError, match=r"a\.glb: must"):
            read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION, nodes=nodes))


def test_skins_and_morph_targets_stand_in_their_stored_pose(tmp_path):
    ids, shares = np.array([[0, 1, 0, 0]] * 3, np.uint8), np.array([[0.5, 0.5, 0, 0]] * 3, np.float32)
    bound = np.tile(np.eye(4, dtype=np.float32).T.reshape(1, 16), (2, 1))
    bound[1, 12:15] = (0, 0, 1)  # columns first
    primitive = {"attributes": {"POSITION": 0, "JOINTS_0": 1, "WEIGHTS_0": 2}}
    nodes = [
        {"mesh": 0, "skin": 0, "translation": [9, 9, 9]},
        {"translation": [2, 0, 0]},
        {"translation": [0, 4, 0]},
    ]
    skins = [{"joints": [1, 2], "inverseBindMatrices": 3}]
    path = glb(tmp_path / "a.glb", [TRIANGLE, ids, shares, bound], [primitive], nodes=nodes, skins=skins)
    want = torch.from_numpy(TRIANGLE) + torch.tensor([1.0, 2.0, 0.5])
    torch.testing.assert_close(corners(read_mesh(tmp_path, path))[0], want)
    morph = [{"attributes": {"POSITION": 0}, "targets": [{"POSITION": 1}]}]
    path = glb(tmp_path / "b.glb", [TRIANGLE, TRIANGLE], morph, nodes=[{"mesh": 0, "weights": [0.5]}])
    torch.testing.assert_close(corners(read_mesh(tmp_path, path))[0], 1.5 * torch.from_numpy(TRIANGLE))


def test_only_the_default_scene_is_shown(tmp_path):
    parts = {"nodes": [{"mesh": 0}, {"mesh": 0}], "scenes": [{"nodes": [0, 1]}, {"nodes": [1]}], "scene": 1}
    assert len(read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION, **parts)).faces) == 1
    hidden = [{"mesh": 0}, {"mesh": 0, "extensions": {"KHR_node_visibility": {"visible": False}}}]
    parts = {"nodes": hidden, "scenes": [{"nodes": [0, 1]}]}
    assert len(read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION, **parts)).faces) == 1


def test_a_mesh_on_a_map_keeps_its_shape(tmp_path, caplog):
    node = [{"mesh": 0, "translation": [500000.3, 4649776.2, 100.0]}]
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        mesh = read_mesh(tmp_path, glb(tmp_path / "a.glb", [TRIANGLE], POSITION, nodes=node))
    assert areas(mesh) == pytest.approx(0.5, abs=1e-6)
    assert "lies far from the origin" in caplog.text


def test_the_door_of_objects_names_the_extension(tmp_path):
    glb(tmp_path / "a.glb", [TRIANGLE], POSITION, extensionsRequired=["VENDOR_x"])
    with pytest.raises(InputError, match=r"a\.glb: requires the extension VENDOR_x"):
        load_objects(tmp_path)


def test_as_another_library_reads_a_plain_file(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="another reader of meshes is not installed")
    scene = trimesh.Scene()
    for k, shape in enumerate((trimesh.creation.icosphere(2), trimesh.creation.cylinder(0.3, 2.0))):
        shape.visual.vertex_colors = np.random.default_rng(k).integers(0, 256, (len(shape.vertices), 4))
        scene.add_geometry(shape, transform=trimesh.transformations.rotation_matrix(0.7 * k, (1, 2, 3), (k, 0, 1)))
    (tmp_path / "a.glb").write_bytes(scene.export(file_type="glb"))
    mesh, other = read_mesh(tmp_path, tmp_path / "a.glb"), trimesh.load_scene(tmp_path / "a.glb")
    for mine, theirs in zip(
        corners(mesh).double().reshape(-1, 3).mean(0).tolist(),
        np.concatenate([part.triangles for part in other.dump()]).reshape(-1, 3).mean(0).tolist(),
        strict=True,
    ):
        assert mine == pytest.approx(theirs, abs=1e-6)
    assert areas(mesh) == pytest.approx(sum(part.area for part in other.dump()), rel=1e-5)
