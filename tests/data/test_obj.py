"""OBJ files: polygons, faces with and without places in a texture, libraries, text of other encodings, options."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from mclnf_fast.data import load_objects
from mclnf_fast.data.graphics.mesh import to_linear
from mclnf_fast.data.graphics.triangulate import triangulate
from mclnf_fast.data.readers.objects_mesh import read_mesh
from mclnf_fast.errors import InputError

TETRA = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\n"
PLACES = "vn 0 0 1\nvt 0.1 0.2\nvt 0.3 0.4\nvt 0.5 0.6\n"
GRAY = float(to_linear(torch.tensor(0.6)))


def areas(mesh) -> float:
    a, b, c = mesh.vertices[mesh.faces].double().unbind(1)
    return float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum()) / 2


def read(folder, text, **files):
    """The mesh of an OBJ with other files beside it, text or bytes."""
    for name, content in {"a.obj": text, **{k.replace("_", "."): v for k, v in files.items()}}.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_mesh(folder, folder / "a.obj")


def is_ground(mesh) -> torch.Tensor:
    """Which faces lie in the plane z = 0 of the file, which is x = 0 here."""
    return mesh.vertices[mesh.faces][..., 0].abs().amax(1) < 1e-6


@pytest.mark.parametrize("first", range(4))
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("form", ["{0}", "{0}/1", "{0}//1", "{0}/1/1", "-{1}"])
def test_a_concave_quadrangle_from_any_corner(tmp_path, first, turned, form):
    corners = [(0, 0), (2, 1), (0, 2), (0.5, 1)]
    order = [(first + k) % 4 for k in range(4)][:: -1 if turned else 1]
    face = " ".join(form.format(k + 1, 4 - k) for k in order)
    mesh = read(tmp_path, "".join(f"v {x} {y} 0\n" for x, y in corners) + PLACES + f"f {face}\n")
    assert len(mesh.faces) == 2
    assert areas(mesh) == pytest.approx(1.5, abs=1e-5)
    looks = torch.linalg.cross(*(mesh.vertices[mesh.faces][:, k] - mesh.vertices[mesh.faces][:, 0] for k in (1, 2)))
    assert bool(((looks[:, 0] > 0) != turned).all())


@pytest.mark.parametrize("seed", range(8))
def test_star_shaped_polygons_in_space(seed):
    rng = np.random.default_rng(seed)
    count = 7 + seed
    angles = 2 * np.pi * (np.arange(count) + 0.4 * rng.random(count)) / count
    radii = 0.1 + rng.random(count)
    flat = np.stack([radii * np.cos(angles), radii * np.sin(angles)], 1)[:: 1 if seed % 2 else -1]
    x, y = flat.T
    area = 0.5 * (x * np.roll(y, -1) - y * np.roll(x, -1)).sum()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    corners = np.concatenate([flat, np.zeros((count, 1))], 1) @ turn.T + 1e5
    cut = triangulate(corners)
    assert sorted(np.unique(cut)) == list(range(count))
    sides = corners[cut]
    normals = 0.5 * np.cross(sides[:, 1] - sides[:, 0], sides[:, 2] - sides[:, 0])
    # Signed areas: no part is covered twice, and all triangles turn as the polygon does.
    assert np.linalg.norm(normals, axis=1).sum() == pytest.approx(abs(area), abs=1e-4)
    assert np.linalg.norm(normals.sum(0)) == pytest.approx(abs(area), abs=1e-4)


def test_a_polygon_that_crosses_itself_ends():
    corners = np.array([[0, 0, 0], [2, 2, 0], [2, 0, 0], [0, 2, 0], [1, 3, 0]], float)
    assert triangulate(corners).shape == (3, 3)
    assert triangulate(np.zeros((6, 3))).shape == (4, 3)


@pytest.mark.parametrize(
    "faces", ["f 1/1 2/2 3/3\nf 1 2 4\n", "f 1/1/1 2/2/1 3/3/1\nf 1//1 2//1 4//1\n", "f 1 2 4\nf -4/-3 -3/-2 -2/-1\n"]
)
def test_faces_with_and_without_places_in_the_texture(tmp_path, faces):
    Image.fromarray(np.full((2, 2, 3), 200, np.uint8)).save(tmp_path / "t.png")
    text = "mtllib m.mtl\n" + TETRA + PLACES + "usemtl a\n" + faces
    mesh = read(tmp_path, text, m_mtl="newmtl a\nKd 0 1 0\nmap_Kd t.png\n")
    flat = is_ground(mesh)
    assert mesh.texture_ids[flat].tolist() == [0]
    assert mesh.texture_ids[~flat].tolist() == [-1]
    torch.testing.assert_close(mesh.uv[flat][0], torch.tensor([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]]))
    assert bool((mesh.colors[flat] == 1).all())  # the texture's own color
    assert mesh.colors[~flat][0, 0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("lines", ["mtllib a.mtl\nmtllib b.mtl\n", "mtllib a.mtl b.mtl\n"])
def test_materials_of_several_libraries(tmp_path, lines):
    text = lines + TETRA + "usemtl green\nf 1 2 3\nusemtl red\nf 1 2 4\n"
    mesh = read(tmp_path, text, a_mtl="newmtl green\nKd 0 1 0\n", b_mtl="newmtl red\nKd 1 0 0\n")
    flat = is_ground(mesh)
    assert mesh.colors[flat][0, 0].tolist() == [0, 1, 0]
    assert mesh.colors[~flat][0, 0].tolist() == [1, 0, 0]


def test_a_library_whose_name_holds_a_blank(tmp_path):
    (tmp_path / "my car.mtl").write_text("newmtl red\nKd 1 0 0\n")
    assert read(tmp_path, "mtllib my car.mtl\n" + TETRA + "usemtl red\nf 1 2 4\n").colors[0, 0].tolist() == [1, 0, 0]
    with pytest.raises(InputError, match=r"must have its file .lost\.mtl"):
        read(tmp_path, "mtllib lost.mtl\n" + TETRA + "f 1 2 3\n")


def test_a_material_that_no_library_has_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        mesh = read(tmp_path, "mtllib a.mtl\n" + TETRA + "usemtl blue\nf 1 2 3\n", a_mtl="newmtl red\nKd 1 0 0\n")
    assert "material 'blue' is in none of its libraries" in caplog.text
    assert mesh.colors[0, 0].tolist() == pytest.approx([GRAY] * 3)


@pytest.mark.parametrize("obj", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("mtl", ["utf-8", "cp1252", "utf-16"])
def test_text_of_other_encodings(tmp_path, obj, mtl):
    Image.fromarray(np.full((2, 2, 3), 200, np.uint8)).save(tmp_path / "möbel.png")
    text = "mtllib m.mtl\n# größe\n" + TETRA + PLACES + "usemtl grün\nf 1/1 2/2 3/3\n"
    library = "newmtl grün\nKd 0 1 0\nmap_Kd möbel.png\n"
    assert len(read(tmp_path, text.encode(obj), m_mtl=library.encode(mtl)).textures) == 1


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_continued_lines(tmp_path, end):
    text = TETRA.replace("v ", "v\t", 1) + "f 1 \\\n2 3 # a face\n"
    assert len(read(tmp_path, text.replace("\n", end)).faces) == 1


@pytest.mark.parametrize(
    ("option", "want", "wrap"),
    [
        ("-s 2 3 1", (0.2, 0.6), "repeat"),
        ("-o 0.5", (0.6, 0.2), "repeat"),
        ("-s 2 2 -o 0.25 0.5 0 -clamp on", (0.45, 0.9), "clamp"),
        ("-bm 0.3 -mm 0 1 -blendu off -clamp off", (0.1, 0.2), "repeat"),
    ],
)
def test_options_of_a_texture(tmp_path, option, want, wrap):
    Image.fromarray(np.full((2, 2, 3), 200, np.uint8)).save(tmp_path / "t 1.png")
    text = "mtllib m.mtl\n" + TETRA + PLACES + "usemtl a\nf 1/1 2/2 3/3\n"
    mesh = read(tmp_path, text, m_mtl=f"newmtl a\nmap_Kd {option} t 1.png\n")
    assert mesh.uv[0, 0].tolist() == pytest.approx(want)
    assert mesh.wraps == ((wrap, wrap),)


@pytest.mark.parametrize("option", ["-t 0.1", "-mm 0.2 0.5", "-cc on", "-imfchan r", "-type sphere"])
def test_options_of_a_texture_that_are_not_read_are_refused_by_name(tmp_path, option):
    text = "mtllib m.mtl\n" + TETRA + PLACES + "usemtl a\nf 1/1 2/2 3/3\n"
    with pytest.raises(InputError, match=rf"m\.mtl: the option {option} of map_Kd"):
        read(tmp_path, text, m_mtl=f"newmtl a\nmap_Kd {option} t.png\n")


def test_opacity(tmp_path, caplog):
    text = "mtllib m.mtl\n" + TETRA + "usemtl glass\nf 1 2 3\nusemtl body\nf 1 2 4\n"
    for line, left in (("d 0.2", 1), ("Tr 0.8", 1), ("d 0.7", 2), ("Tr 0", 2)):
        assert len(read(tmp_path, text, m_mtl=f"newmtl glass\n{line}\nnewmtl body\nd 1\n").faces) == left
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        read(tmp_path, text, m_mtl="newmtl glass\nmap_d a.png\nnewmtl body\n")
    assert "map_d is passed over" in caplog.text


@pytest.mark.parametrize("word", ["curv", "surf", "cstype"])
def test_curved_surfaces_are_refused(tmp_path, word):
    with pytest.raises(InputError, match=rf"curved surfaces \({word}\)"):
        read(tmp_path, TETRA + f"{word} bezier\nf 1 2 3\n")


def test_lines_and_vertex_colors_under_a_material_are_told(tmp_path, caplog):
    text = "mtllib m.mtl\n" + TETRA.replace("\n", " 0 0 1\n") + "usemtl red\nf 1 2 3\nl 1 2\np 1\n"
    with caplog.at_level(logging.WARNING, "mclnf_fast"):
        assert read(tmp_path, text, m_mtl="newmtl red\nKd 1 0 0\n").colors[0, 0].tolist() == [1, 0, 0]
    for words in ("lines are passed over", "points are passed over", "colors of vertices are passed over"):
        assert words in caplog.text


@pytest.mark.parametrize(
    "face", ["f 1 2 9", "f 1 2 0", "f 1/9 2/9 3/9", "f -5 1 2", "f 1 2", "f a b c", "f 1/1 2/2/2/2 3", "f 1// 2// 3//"]
)
def test_faces_of_what_is_not_there(tmp_path, face):
    with pytest.raises(InputError, match=r"a\.obj: (must be a readable mesh|faces must name)"):
        read(tmp_path, TETRA + PLACES + face + "\n")


def test_a_scan_on_a_map_keeps_its_shape(tmp_path):
    text = "".join(f"v {500000.3 + x} {100 + y} {4649776.2 + z}\n" for x, y, z in ((0, 0, 0), (1, 0, 0), (0, 1, 0)))
    assert areas(read(tmp_path, text + "f 1 2 3\n")) == pytest.approx(0.5, abs=1e-6)
    assert load_objects(tmp_path / "a.obj", views=1, size=8).test[0].images[..., 3].any()


def test_as_another_library_reads_a_plain_file(tmp_path):
    trimesh = pytest.importorskip("trimesh", reason="another reader of meshes is not installed")
    shape = trimesh.creation.icosphere(3)
    mesh = read(tmp_path, shape.export(file_type="obj"))
    assert len(mesh.faces) == len(shape.faces)
    assert areas(mesh) == pytest.approx(shape.area, rel=1e-6)
