"""A Hub on this machine: the part of the Hugging Face Hub's interface that folders are uploaded and downloaded by."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path


class Hub(http.server.ThreadingHTTPServer):
    """Repositories in memory, by name; every commit replaces the one before."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        match = re.fullmatch(r"/api/models/(\w+/[\w-]+)/(revision|tree)/[\w.-]+(?:\?.*)?", self.path)
        if match is None:
            return self._file()
        files = self.server.repositories.get(match[1])
        if files is None:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        if match[2] == "tree":
            return self._json(
                [{"type": "file", "path": name, "size": len(each), "oid": "0"} for name, each in files.items()]
            )
        siblings = [{"rfilename": name} for name in files]
        return self._json({"id": match[1], "sha": _revision(files), "siblings": siblings, "private": False, "tags": []})

    def do_HEAD(self) -> None:
        self._file()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != "Bearer secret":
            return self._answer(401, b"{}")
        if self.path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given.get('organization') or 'me'}/{given['name']}"
            self.server.repositories.setdefault(name, {})
            return self._json({"url": f"{self.server.address}/{name}", "name": name})
        if self.path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        match = re.fullmatch(r"/api/models/(\w+/[\w-]+)/(preupload|commit)/main", self.path)
        if match is None:
            return self._answer(404, self.path.encode())
        name, task = match.groups()
        if task == "preupload":
            files = [{"path": each["path"], "uploadMode": "regular"} for each in json.loads(body)["files"]]
            return self._json({"files": [each | {"shouldIgnore": False} for each in files]})
        lines = [json.loads(line) for line in body.splitlines()]
        stored = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
        self.server.repositories[name] = {path: base64.b64decode(content) for path, content in stored.items()}
        oid = _revision(self.server.repositories[name])
        return self._json(
            {"commitUrl": f"{self.server.address}/{name}/commit/{oid}", "commitOid": oid, "success": True}
        )

    def _file(self) -> None:
        match = re.fullmatch(r"/(\w+/[\w-]+)/resolve/(\w+)/(.+)", self.path)
        files = self.server.repositories.get(match[1], {}) if match else {}
        if match is None or match[3] not in files:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        contents = files[match[3]]
        etag = hashlib.sha256(contents).hexdigest()
        return self._answer(200, contents, {"ETag": f'"{etag}"', "X-Repo-Commit": _revision(files)})

    def _json(self, found: object) -> None:
        self._answer(200, json.dumps(found).encode())

    def _answer(self, status: int, contents: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(contents)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(contents)


def _revision(files: dict[str, bytes]) -> str:
    digest = hashlib.sha1(usedforsecurity=False)
    for name in sorted(files):
        digest.update(name.encode() + files[name])
    return digest.hexdigest()


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    """Serve a Hub until the context ends."""
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


def python(code: str, home: Path, hub: Hub | None = None, **variables: str) -> str:
    """Run code in a fresh process, whose Hub is the given one, or one that cannot be reached; return what it prints."""
    address = "http://127.0.0.1:9" if hub is None else hub.address  # port 9 refuses connections
    variables = {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **variables}
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout
