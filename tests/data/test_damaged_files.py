"""Damaged files of every format: a reader returns, or raises `InputError` that names the file, and nothing else.

`MCLNF_FUZZ_CASES` is the number of damages per format (40 without it), `MCLNF_FUZZ_SEED` the seed of the first one; a
failure prints the seed of its damage.
"""

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import media_trees as make
import numpy as np
import pytest
from gltf_files import TRIANGLE, glb, png, textured
from PIL import Image
from posed import posed

from mclnf_fast.data import load_audio, load_images, load_objects, load_photos, load_scene, load_videos
from mclnf_fast.data.readers.objects_mesh import read_mesh
from mclnf_fast.errors import InputError
from mclnf_fast.systems.common.folder import RunFolder

CASES = int(os.environ.get("MCLNF_FUZZ_CASES", "40"))
SEED = int(os.environ.get("MCLNF_FUZZ_SEED", "0"))
WORDS = (b"nan", b"-1", b"1e400", b"1e30", b"0", b"null", b"true", b"[]", b"{}", b'""', b"9" * 30, b"\xff", b"../")

PICTURES = ("png", "deep.png", "palette.png", "jpg", "webp", "gif", "tif", "bmp", "ppm")
SOUNDS = ("wav", "flac", "ogg", "mp3", "m4a")
VIDEOS = ("mp4", "mkv", "avi", "clip.gif")


def make_picture(path: Path) -> None:
    if path.name.endswith("deep.png"):
        Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160).save(path)
    elif path.name.endswith("palette.png"):
        Image.fromarray(make.pixels(1, (20, 20))).quantize(16).save(path, transparency=3)
    else:
        make.picture(path, 1, (20, 20))


def make_sound(path: Path) -> None:
    wave = make.tone(0.3, 16000)
    make.sound(path, wave)


def make_video(path: Path) -> None:
    frames = make.shades(6)
    if path.suffix == ".gif":
        stills = [Image.fromarray(np.asarray(frame, np.uint8)) for frame in frames]
        stills[0].save(path, save_all=True, append_images=stills[1:])
    else:
        make.video(path, frames)


def make_mesh(path: Path) -> None:
    root = path.parent
    places = np.array([[0, 1], [1, 1], [0, 0]], np.float32)
    if path.suffix == ".glb":
        textured(path, places)
    elif path.suffix == ".gltf":
        glb(root / "whole.glb", [TRIANGLE], [{"attributes": {"POSITION": 0}}])
        raw = (root / "whole.glb").read_bytes()
        content = json.loads(raw[20 : 20 + int.from_bytes(raw[12:16], "little")])
        content["buffers"][0]["uri"] = "a.bin"
        (root / "a.bin").write_bytes(TRIANGLE.tobytes())
        path.write_text(json.dumps(content))
    else:
        (root / "t.png").write_bytes(png([[[9, 99, 199]]]))
        (root / "a.mtl").write_text("newmtl skin\nKd 0.5 1 0\nd 1\nmap_Kd -s 2 2 t.png\n")
        (root / "a.obj").write_text(
            "mtllib a.mtl\nv 0 0 0\nv 1 0 0\nv 0.3 0.3 0\nv 0 1 0\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl skin\n"
            "f 1/1 2/2 3/3 4/1\nf 1 2 5\nf -1 -2 -3\n"
        )


def make_scene(path: Path) -> None:
    root = path.parent
    posed(root / "one")
    for k in range(6):
        (root / f"one/images/{k}.png").rename(root / f"{k}.png")
    text = (root / "one/transforms.json").read_text().replace("images/", "")
    content = json.loads(text) | {"aabb_points_2_98": [[-1, -1, -1], [1, 1, 1]], "camera_angle_x": 0.7610}
    shutil.rmtree(root / "one")
    (root / "transforms.json").write_text(json.dumps(content))
    points = np.random.default_rng(0).random((60, 3))
    if path.suffix == ".npz":
        np.savez(path, xyz=points)
    elif path.suffix == ".ply":
        head = "ply\nformat binary_little_endian 1.0\nelement vertex 60\n"
        head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
        path.write_bytes(head.encode() + points.astype("<f4").tobytes())


def make_srn(path: Path) -> None:
    car = path.parent
    for name in ("rgb", "pose"):
        (car / name).mkdir()
    Image.new("RGB", (8, 8)).save(car / "rgb/0.png")
    (car / "intrinsics.txt").write_text("10 4 4 0\n0 0 0\n1\n8 8\n")
    (car / "pose/0.txt").write_text(" ".join(map(str, np.eye(4).ravel())))


def pictures(path: Path) -> None:
    sets = load_images(path, size=16)
    assert bool(sets.test.values.isfinite().all())


def posed_picture(path: Path) -> None:
    """As a picture with a pose, by all three doors."""
    root = path.parent
    frame = {"file_path": path.name, "transform_matrix": np.eye(4).tolist()}
    frame["transform_matrix"][2][3] = 4.0
    (root / "transforms.json").write_text(json.dumps({"fl_x": 20.0, "frames": [frame, dict(frame)]}))
    for door in (load_scene, load_photos, lambda folder: load_objects(folder, size=8, strict=True)):
        try:
            door(root)
        except InputError as error:
            if path.name not in str(error):
                raise
    (root / "transforms.json").unlink()


def sounds(path: Path) -> None:
    values = load_audio(path, seconds=0.1, rate=8000).test.values
    assert bool(values.isfinite().all())


def videos(path: Path) -> None:
    sets = load_videos(path, frames=2, size=16)
    assert bool(sets.test.values.isfinite().all())


def meshes(path: Path) -> None:
    mesh = read_mesh(path.parent, path.parent / "a.obj" if path.suffix in (".mtl", ".obj") else path)
    assert bool(mesh.vertices.isfinite().all())


def scenes(path: Path) -> None:
    scene = load_scene(path.parent, holdout_every=0)
    assert bool(scene.aabb.isfinite().all())
    load_photos(path.parent)
    load_objects(path.parent, strict=True)


def srn(path: Path) -> None:
    load_objects(path.parent, strict=True)


def make_yaml(path: Path) -> None:
    lines = (
        "system: image",
        "run:",
        "  out: runs/a",
        "  seed: 3",
        "field: {width: 64, rates: [0.1, 1.0e-3]}",
        "name: null",
    )
    path.write_text("\n".join(lines) + "\n")


def configuration(path: Path) -> None:
    _, config = RunFolder.reopen(path.parent, "image")
    assert isinstance(config, dict)


FORMATS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], None]]] = {
    **{f"{kind} with a pose": (f"a.{kind}", make_picture, posed_picture) for kind in ("png", "deep.png", "jpg")},
    **{kind: (f"a.{kind}", make_picture, pictures) for kind in PICTURES},
    **{kind: (f"a.{kind}", make_sound, sounds) for kind in SOUNDS},
    **{kind: (f"a.{kind}", make_video, videos) for kind in VIDEOS},
    **{kind: (f"a.{kind}", make_mesh, meshes) for kind in ("glb", "gltf", "obj", "mtl")},
    "json": ("transforms.json", make_scene, scenes),
    "npz": ("sparse_points.npz", make_scene, scenes),
    "ply": ("sparse_pc.ply", make_scene, scenes),
    "yaml": ("config.yaml", make_yaml, configuration),
    "srn intrinsics": ("intrinsics.txt", make_srn, srn),
}
TEXT = (".yaml", ".gltf", ".obj", ".mtl", ".json", ".txt", ".ply")


def damaged(content: bytes, rng: random.Random, text: bool) -> bytes:
    """The content with a few bytes changed, cut out, doubled or put in; of text words, too."""
    result = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(max(len(result), 1))
        # Headers decide more than pixels do, and stand first.
        at = at if rng.random() < 0.5 else at % 64
        kind = rng.randrange(8 if text else 6)
        if kind <= 2 and result:
            result[at % len(result)] = rng.choice((rng.randrange(256), 0, 255, 127, 128))
        elif kind == 3 and result:
            result[at % len(result)] ^= 1 << rng.randrange(8)
        elif kind == 4:
            del result[at : at + rng.choice((1, 4, len(result)))]
        elif kind == 5:
            result[at:at] = result[at : at + rng.choice((1, 8))] or bytes(4)
        else:
            end = at
            while end < len(result) and (chr(result[end]).isalnum() or result[end] in b".-"):
                end += 1
            result[at : end + 1] = rng.choice(WORDS)
    return bytes(result)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(FORMATS))
def test_a_damaged_file_is_read_or_named(tmp_path, name):
    file, build, read = FORMATS[name]
    if name in (*SOUNDS, *VIDEOS):
        pytest.importorskip("av", reason="av is not installed (extra media)")
        pytest.importorskip("soundfile", reason="soundfile is not installed (extra media)")
    path = tmp_path / file
    build(path)
    read(path)  # whole it can be read
    whole = path.read_bytes()
    refused = 0
    for seed in range(SEED, SEED + CASES):
        content = damaged(whole, random.Random(f"{name} {seed}"), path.suffix in TEXT)
        path.write_bytes(content)
        try:
            read(path)
        except InputError as error:
            refused += 1
            if path.name not in str(error):
                pytest.fail(f"MCLNF_FUZZ_SEED={seed}, {name}: must name {path}: {error}")
        except Exception as error:
            pytest.fail(f"MCLNF_FUZZ_SEED={seed}, {name}: {type(error).__name__}: {error}")
    print(f"{name}: seeds {SEED} to {SEED + CASES - 1}, {refused} refused")


def test_one_damaged_clip_of_three_is_skipped_and_named(tmp_path):
    pytest.importorskip("av", reason="av is not installed (extra media)")
    for k in range(4):
        make_video(tmp_path / f"{k}.mp4")
    whole = (tmp_path / "1.mp4").read_bytes()
    for seed in range(SEED, SEED + CASES):
        (tmp_path / "1.mp4").write_bytes(damaged(whole, random.Random(f"clip {seed}"), text=False))
        sets = load_videos(tmp_path, frames=2, size=16, test=1)
        names = [*sets.train.names, *sets.validation.names, *sets.test.names]
        skipped = [note for note in sets.notes if "skipped as unusable: 1.mp4" in note]
        assert len(names) == 4 - len(skipped), seed
