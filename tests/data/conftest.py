"""A web server of a few files, a manifest that points there, and the published prompt files where they are at hand."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from hn.data.manifest import Manifest

SHARED_PROMPTS = Path(os.environ.get("HN_TEST_PROMPTS") or Path(__file__).parents[3] / "shared" / "prompts")


class Server(ThreadingHTTPServer):
    """Serves `files` by their paths on the local machine; does HTTP ranges unless told not to.

    Attributes:
        cuts: after how many bytes the next answers are cut off; an answer takes the first one. None sends all.
        ranges: whether the server can go on in the middle of a file.
        asked: path and Range header of each request.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.cuts: list[int | None] = []
        self.ranges = True
        self.asked: list[tuple[str, str | None]] = []

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        path, wanted = unquote(self.path).lstrip("/"), self.headers.get("Range")
        self.server.asked.append((path, wanted))
        content = self.server.files.get(path)
        if content is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else None
        self.wfile.write(content[start:] if cut is None else content[start : start + cut])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def make_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Manifest]:
    """Writes a manifest of sets {name: {file: (split, content)}} and makes it the one that names are looked up in.

    A file's own name is that of the file without its ending. Keyword arguments are facts of all sets, `mixes` apart.
    """

    def make(sets: dict[str, dict[str, tuple[str, bytes]]], mixes: dict | None = None, **facts) -> Manifest:
        defaults = {"about": "a set", "home": None, "hf": None, "licence": "CC0", "bundled": False}
        defaults |= {"filter_unsafe": False, "schema": "lines", "quirks": "none", "urls": ["http://localhost:9/"]}
        content = {
            name: {**defaults, **facts, "files": {Path(file).stem: entry(file, *what) for file, what in files.items()}}
            for name, files in sets.items()
        }
        path = tmp_path / "manifest.yaml"
        path.write_text(yaml.safe_dump({"sets": content, "mixes": mixes or {}}, sort_keys=False))
        manifest = Manifest(path)
        for module in ("hn.data.sources", "hn.cli.prompts"):
            monkeypatch.setattr(f"{module}.load_manifest", lambda: manifest)
        return manifest

    return make


def entry(file: str, split: str, content: bytes) -> dict:
    """A file's entry in a manifest."""
    prompts = [line for line in content.decode(errors="replace").split("\n") if line.strip()]
    counts = {"prompts": len(prompts), "unique": len(set(prompts)), "bytes": len(content)}
    return {"file": file, "split": split, **counts, "sha256": hashlib.sha256(content).hexdigest()}


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Fetched sets are kept in a folder of the test's own, and the network is not asked by way of a proxy."""
    folder = tmp_path / "store"
    monkeypatch.setenv("HN_PROMPTS", str(folder))
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture(scope="session")
def published() -> Path:
    """The published prompt files, named by HN_TEST_PROMPTS or at ../shared/prompts."""
    if not SHARED_PROMPTS.is_dir():
        pytest.skip(f"the published prompt files are not at {SHARED_PROMPTS}; name their folder with HN_TEST_PROMPTS")
    return SHARED_PROMPTS
