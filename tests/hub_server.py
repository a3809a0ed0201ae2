"""A stand-in for a model hub on loopback: the few routes that fetching a model takes, and a log of what was asked."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit


class Hub(ThreadingHTTPServer):
    """Serves folders as repositories, each with the one branch `main` at the commit `commit(name)`."""

    def __init__(self, repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.gated = gated
        self.fetched: list[str] = []  # files whose content was sent, as repository/file

    @property
    def endpoint(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.server_port}"


def commit(name: str) -> str:
    """The one commit of a repository, 40 hex digits."""
    return hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()


@contextmanager
def serving(repositories: dict[str, Path], gated: tuple[str, ...] = ()) -> Iterator[Hub]:
    """A hub that is there for the length of the block."""
    hub = Hub(repositories, gated)
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""

    def _answer(self) -> None:
        steps = [unquote(step) for step in urlsplit(self.path).path.strip("/").split("/")]
        api = steps[:2] == ["api", "models"]
        name = "/".join(steps[2:4] if api else steps[:2])
        route, revision, *inside = [*(steps[4:] if api else steps[2:]), "", ""]
        folder = self.server.repositories.get(name)
        if folder is None:
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", commit(name)):
            self._refuse(404, "RevisionNotFound")
        elif route == "revision":
            siblings = [{"rfilename": file} for file in _files(folder)]
            self._send_json({"id": name, "modelId": name, "sha": commit(name), "siblings": siblings})
        elif route == "tree":
            entries = [
                {"type": "file", "path": file, "oid": _etag(folder / file), "size": _size(folder / file)}
                for file in _files(folder)
            ]
            self._send_json(entries)
        elif route == "resolve" and name in self.server.gated:
            self._refuse(403, "GatedRepo")
        elif route == "resolve" and (folder / inside[0]).is_file():
            self._send_file(name, folder / inside[0])
        else:
            self._refuse(404, "EntryNotFound")

    def _send_file(self, name: str, file: Path) -> None:
        if self.command == "GET":
            self.server.fetched.append(f"{name}/{file.name}")
        self._send(file.read_bytes(), {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": commit(name)})

    def _send_json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str) -> None:
        self._send(b"", {"X-Error-Code": code, "X-Error-Message": code}, status)

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


def _files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()


def _size(file: Path) -> int:
    return file.stat().st_size
