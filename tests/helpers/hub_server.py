"""A stand-in of the Hugging Face hub's HTTP API: repositories in memory, one commit each.

It answers what `huggingface_hub` asks to create, upload and download. `hub(monkeypatch)` points
the library to it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest


class HubServer(ThreadingHTTPServer):
    """Repositories by name: their files by path.

    Attributes:
        repos: The files of each repository.
        gated: Repositories that want a token, for everybody else.
        tokens: Tokens seen so far.
        broken: Paths whose download fails.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repos: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.broken: set[str] = set()
        self.tokens: set[str] = set()
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def add_folder(self, repo: str, folder: Path) -> None:
        """Make a repository of a folder's files."""
        files = (file for file in sorted(folder.rglob("*")) if file.is_file())
        self.repos[repo] = {str(f.relative_to(folder)): f.read_bytes() for f in files}

    def commit_of(self, repo: str) -> str:
        """Its one commit: a digest of its files."""
        state = repr(sorted((k, hashlib.sha1(v).hexdigest()) for k, v in self.repos[repo].items()))
        return hashlib.sha1(state.encode()).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    server: HubServer

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def _serve(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if token := self.headers.get("authorization"):
            self.server.tokens.add(token.removeprefix("Bearer "))
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = "/".join(filter(None, (wanted.get("organization"), wanted["name"])))
            self.server.repos.setdefault(repo, {})
            self._json({"url": f"{self.server.url}/{repo}"})
        elif path == "/api/validate-yaml":  # the front matter of a card
            self._json({"errors": [], "warnings": []})
        elif path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/").split("/"), body)
        else:
            self._file(path.lstrip("/").split("/", 4))

    def _api(self, parts: list[str], body: bytes) -> None:
        repo, verb = "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""
        if not self._allowed(repo, parts[3] if len(parts) > 3 else "main"):
            return
        files = self.server.repos[repo]
        if verb == "preupload":
            wanted = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in wanted
            ]
            self._json({"files": modes})
        elif verb == "commit":
            for line in body.splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    content = base64.b64decode(record["value"]["content"])
                    files[record["value"]["path"]] = content
            sha = self.server.commit_of(repo)
            url = f"{self.server.url}/{repo}/commit/{sha}"
            self._json({"commitUrl": url, "commitOid": sha, "success": True})
        elif verb == "tree":
            self._json([{"type": "file", "path": p, **_facts(c)} for p, c in files.items()])
        else:
            siblings = [{"rfilename": path} for path in files]
            info = {"id": repo, "sha": self.server.commit_of(repo), "siblings": siblings}
            self._json({**info, "private": False, "tags": [], "downloads": 0})

    def _file(self, parts: list[str]) -> None:
        repo, revision, path = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if not self._allowed(repo, revision):
            return
        content = self.server.repos[repo].get(path)
        if content is None:
            self._error(404, "EntryNotFound")
        elif path in self.server.broken and self.command == "GET":
            self._error(500, "")
        else:
            commit = self.server.commit_of(repo)
            self._send(content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit})

    def _allowed(self, repo: str, revision: str) -> bool:
        if repo not in self.server.repos:
            self._error(401, "RepoNotFound")
        elif repo in self.server.gated and not self.headers.get("authorization"):
            self._error(401, "GatedRepo")
        elif revision not in ("main", self.server.commit_of(repo)):
            self._error(404, "RevisionNotFound")
        else:
            return True
        return False

    def _json(self, value: Any) -> None:
        self._send(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, code: str) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": code or "broken"}
        self._send(b"{}", headers, status)

    def _send(self, content: bytes, headers: dict[str, str], status: int = 200) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _facts(content: bytes) -> dict[str, Any]:
    return {"oid": _oid(content), "size": len(content)}


def start(monkeypatch: pytest.MonkeyPatch, cache: Path) -> HubServer:
    """Start a hub, and point huggingface_hub to it with an empty cache."""
    server = HubServer()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    constants = "huggingface_hub.constants"
    monkeypatch.setattr(f"{constants}.ENDPOINT", server.url)
    monkeypatch.setattr(
        f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE",
        server.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "")
    return server
