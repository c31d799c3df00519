"""A hub on loopback: as much of the Hugging Face Hub as downloads of its library ask for."""

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["model", "dataset"]

# What the hub keeps as large files: it names them by their sha256.
LARGE = (".safetensors", ".parquet", ".bin")


@dataclass
class Repository:
    """A repository: commits, and the branches that point to them."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    token: str | None = None
    """Without it, nobody reads it."""
    gated: bool = False

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """A new commit with these files and no others, to which the branch points from now on."""
        content = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())})
        name = hashlib.sha1(content.encode(), usedforsecurity=False).hexdigest()
        self.commits[name] = dict(files)
        self.branches[branch] = name
        return name


@dataclass(frozen=True)
class Request:
    """What somebody asked for."""

    path: str
    range: str | None
    authorization: str | None


class HubServer:
    """The server. Whoever reads from it has its `url` as HF_ENDPOINT."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[Kind, str], Repository] = {}
        self.requests: list[Request] = []
        # What is served in the place of a file, by its path.
        self.damaged: dict[str, bytes] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.address: tuple[str, int] = ("127.0.0.1", self._server.server_port)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def repository(self, repo: str, kind: Kind = "model") -> Repository:
        """A repository; made if it is missing."""
        return self.repositories.setdefault((kind, repo), Repository())

    def downloads(self, name: str) -> list[Request]:
        """How often the content of a file was asked for."""
        return [one for one in self.requests if "/resolve/" in one.path and one.path.endswith(f"/{name}")]

    def close(self) -> None:
        """Serve no longer."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(hub) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - self is the handler's
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.requests.append(
                    Request(self.path, self.headers.get("Range"), self.headers.get("Authorization"))
                )
                hub._answer(self)

            do_HEAD = do_GET  # noqa: N815 - what it is called by

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        parts = [unquote(part) for part in urlsplit(handler.path).path.split("/")[1:]]
        if parts[0] == "api":
            kind, owner, name, action, revision = [*parts[1:], "revision", "main"][:5]
            rest: list[str] = []
        else:
            kind = parts.pop(0) if parts[0] == "datasets" else "models"
            owner, name, action, revision, *rest = parts
        kind_of: Kind = "dataset" if kind == "datasets" else "model"
        found = self.repositories.get((kind_of, f"{owner}/{name}"))
        if found is None:
            return refuse(handler, 404, "RepoNotFound", "Repository not found")
        if found.token is not None and handler.headers.get("Authorization") != f"Bearer {found.token}":
            return refuse(handler, 401, "RepoNotFound", "Invalid username or password.")
        if found.gated:
            return refuse(handler, 403, "GatedRepo", "Access to this repository is restricted")
        commit = found.branches.get(revision, revision)
        if commit not in found.commits:
            return refuse(handler, 404, "RevisionNotFound", f"Invalid rev id: {revision}")
        files = found.commits[commit]
        if action == "revision":
            siblings = [{"rfilename": path} for path in files]
            return send_json(handler, {"id": f"{owner}/{name}", "sha": commit, "siblings": siblings})
        if action == "tree":
            return send_json(handler, [_entry(path, content) for path, content in files.items()])
        path = "/".join(rest)
        if path not in files:
            return refuse(handler, 404, "EntryNotFound", "Entry not found")
        etag = _entry(path, files[path]).get("lfs", {}).get("oid", git_name(files[path]))
        return _send_content(handler, commit, etag, self.damaged.get(path, files[path]))


def git_name(content: bytes) -> str:
    """What git calls a file of this content."""
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": git_name(content)}
    if path.endswith(LARGE):
        sha256 = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
    return entry


def refuse(handler: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    """Answer with an error, as the hub tells them."""
    handler.send_response(status)
    handler.send_header("X-Error-Code", code)
    handler.send_header("X-Error-Message", message)
    handler.send_header("Content-Length", "0")
    handler.end_headers()


def send_json(handler: BaseHTTPRequestHandler, value: Any) -> None:
    """Answer with this."""
    content = json.dumps(value).encode()
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def _send_content(handler: BaseHTTPRequestHandler, commit: str, etag: str, content: bytes) -> None:
    asked = handler.headers.get("Range")
    start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked else 0
    handler.send_response(206 if asked else 200)
    if asked:
        handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
    handler.send_header("ETag", f'"{etag}"')
    handler.send_header("X-Repo-Commit", commit)
    handler.send_header("Content-Length", str(len(content) - start))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content[start:])
