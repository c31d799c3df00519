"""The hub on loopback, as far as uploads of its library ask for more: repositories made, large files, commits."""

import base64
import hashlib
import json
from http.server import BaseHTTPRequestHandler
from typing import Any

from hub_server import LARGE, HubServer, git_name, refuse, send_json

# Who may write, and who may only read.
WRITER, READER = "writer", "reader"


class UploadHub(HubServer):
    """Takes commits from whoever has the token WRITER."""

    def __init__(self) -> None:
        self.large: dict[str, bytes] = {}
        """Large files by their sha256, be they in a commit or not."""
        self.sent: list[str] = []
        """Those that were sent, in their order."""
        self.private: dict[str, bool] = {}
        """What repositories were made, and whether they are private."""
        self.messages: list[str] = []
        """Of commits."""
        super().__init__()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(super()._handler()):  # type: ignore[misc]
            def do_POST(self) -> None:  # noqa: N802 - what it is called by
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                asked_by = self.headers.get("Authorization")
                if asked_by == f"Bearer {WRITER}":
                    hub._post(self, body)
                else:
                    status = 403 if asked_by == f"Bearer {READER}" else 401
                    refuse(self, status, "", "You may not write here")

            def do_PUT(self) -> None:  # noqa: N802 - what it is called by
                content = self.rfile.read(int(self.headers["Content-Length"]))
                digest = hashlib.sha256(content).hexdigest()
                assert self.path == f"/large/{digest}", "what was sent is not what was announced"
                hub.large[digest] = content
                hub.sent.append(digest)
                send_json(self, {})

        return Handler

    def _post(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        parts = handler.path.split("?")[0].split("/")[1:]
        if parts == ["api", "repos", "create"]:
            send_json(handler, self._created(json.loads(body)))
            return
        if parts == ["api", "validate-yaml"]:
            send_json(handler, {"errors": [], "warnings": []})
            return
        if parts[-1] == "batch":
            send_json(handler, self._actions(json.loads(body)))
            return
        repo = "/".join(parts[2:4])
        repository = self.repository(repo)
        files = repository.commits[repository.branches["main"]]
        if parts[4] == "preupload":
            found = [self._mode(file["path"], files) for file in json.loads(body)["files"]]
            send_json(handler, {"files": found})
            return
        assert parts[4] == "commit"
        files = dict(files)
        for line in map(json.loads, body.splitlines()):
            self._apply(line["key"], line["value"], files)
        commit = repository.commit(files)
        url = f"{self.url}/{repo}/commit/{commit}"
        send_json(handler, {"success": True, "commitOid": commit, "commitUrl": url})

    def _created(self, asked: dict[str, Any]) -> dict[str, Any]:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo not in self.private:
            self.private[repo] = asked["visibility"] == "private"
            self.repository(repo).commit({".gitattributes": b""})
        return {"url": f"{self.url}/{repo}", "name": repo}

    def _actions(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = [
            {"oid": one["oid"], "size": one["size"]}
            | (
                {}
                if one["oid"] in self.large
                else {"actions": {"upload": {"href": f"{self.url}/large/{one['oid']}"}}}
            )
            for one in asked["objects"]
        ]
        return {"transfer": "basic", "objects": objects}

    def _mode(self, path: str, files: dict[str, bytes]) -> dict[str, Any]:
        large = path.endswith(LARGE)
        told = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        if path not in files:
            return told
        content = files[path]
        return told | {"oid": hashlib.sha256(content).hexdigest() if large else git_name(content)}

    def _apply(self, key: str, value: dict[str, Any], files: dict[str, bytes]) -> None:
        if key == "header":
            self.messages.append(value["summary"])
        elif key == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            files[value["path"]] = self.large[value["oid"]]
        else:
            assert key == "deletedFile"
            del files[value["path"]]
