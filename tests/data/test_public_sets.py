"""Data sets by name: from a server of our own, with the errors that a user meets."""

from __future__ import annotations

import hashlib
import http.server
import pathlib
import threading
from collections.abc import Iterator

import pytest

from mclnf_fast import cli
from mclnf_fast.data import public_sets as module
from mclnf_fast.errors import InputError

CONTENT = {"a b.bin": b"first", "deep/c.bin": b"second file"}


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[str]:
    """Serve CONTENT on this machine; the address of its folder."""
    root = tmp_path / "served"
    for name, content in CONTENT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *given: object) -> None:
            super().__init__(*given, directory=str(root))  # type: ignore[arg-type, misc]

        def log_message(self, *given: object) -> None:
            asked.append(self.path)

    asked.clear()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}/"
    httpd.shutdown()
    httpd.server_close()


asked: list[str] = []


def source(address: str, **changed: str) -> module.Source:
    files = [
        module.SourceFile(f"to/{name}", name, len(content), changed.get(name, hashlib.sha256(content).hexdigest()))
        for name, content in CONTENT.items()
    ]
    return module.Source("ours", "image", "two files", "none", address, tuple(files))


@pytest.fixture
def known(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(module, "sources", lambda: {"ours": source(server)})
    return server


def test_files_come_by_name_and_are_kept(known: str, tmp_path: pathlib.Path) -> None:
    folder, seen = tmp_path / "got", []
    assert module.download("ours", folder, lambda done, total: seen.append((done, total))) == folder
    assert {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()} == {
        f"to/{name}": content for name, content in CONTENT.items()
    }
    assert seen == [(1, 2), (2, 2)]
    assert len(asked) == 2
    (folder / "to/deep/c.bin").write_bytes(b"second filE")  # of the right size, with another content
    module.download("ours", folder)
    assert (folder / "to/deep/c.bin").read_bytes() == CONTENT["deep/c.bin"]
    assert len(asked) == 3


def test_another_content_is_refused_and_leaves_nothing(server: str, monkeypatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(module, "sources", lambda: {"ours": source(server, **{"a b.bin": "0" * 64})})
    with pytest.raises(InputError, match=r"a%20b.bin is not the file that results are of: expected 5 bytes"):
        module.download("ours", tmp_path / "got")
    assert not [path for path in tmp_path.glob("got/**/*") if path.is_file()]


def test_a_longer_answer_is_cut_off_and_refused(known: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "served" / "a b.bin").write_bytes(b"first" * 1000)
    with pytest.raises(InputError, match="got more than 5 bytes"):
        module.download("ours", tmp_path / "got")


def test_without_a_network_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(module, "sources", lambda: {"ours": source("http://127.0.0.1:9/")})
    with pytest.raises(InputError, match=r"cannot fetch http://127.0.0.1:9/a%20b.bin .*put it at .*are checked"):
        module.download("ours", tmp_path / "got")


def test_a_folder_that_cannot_be_made_is_named(known: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/to/a b.bin cannot be written: Not a directory"):
        module.download("ours", tmp_path / "file")


def test_the_command_prints_what_comes_next(known: str, tmp_path: pathlib.Path, capsys) -> None:
    assert cli.main(["data", "ours", "--out", str(tmp_path / "my data")]) == 0
    assert f"mclnf-fast run image --data '{tmp_path}/my data'" in capsys.readouterr().out
    assert cli.main(["data", "our"]) == 2
    assert "NAME" in capsys.readouterr().err


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"one of faces, kodak, speech, .*got 'coco'"):
        module.download("coco", "nowhere")


@pytest.mark.parametrize("name", module.sources())
def test_each_entry_is_whole(name: str) -> None:
    entry = module.sources()[name]
    assert entry.address.startswith("https://")
    assert entry.address.endswith("/")
    assert len({file.name for file in entry.files}) == len(entry.files) > 0
    for file in entry.files:
        assert len(bytes.fromhex(file.sha256)) == 32
        assert not pathlib.PurePosixPath(file.name).is_absolute()
        assert ".." not in pathlib.PurePosixPath(file.name).parts
