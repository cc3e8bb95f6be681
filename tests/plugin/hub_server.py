"""A Hub on loopback: the part of the Hugging Face Hub's HTTP protocol that a push and a read-back use.

Standard library only. It keeps repositories in memory and is as strict as the Hub where strictness is what is
tested: tokens, private repositories, parent commits, digests of large files. `/_test/` is a back door for the
tests: `state` (repositories and requests so far) and `faults` (what is to go wrong next).
"""

import base64
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LARGE = (".safetensors", ".parquet", ".png", ".bin")
OWNER, READER = "hf_ownerownerownerowner", "hf_readerreaderreader"
TOKENS = {OWNER: ("user", True), READER: ("user", False)}


class Repo:
    """Branches, commits (path → content) and visibility of one repository."""

    def __init__(self, private: bool) -> None:
        self.private = private
        self.was_public = not private
        self.commits: dict[str, dict[str, bytes]] = {}
        self.messages: dict[str, str] = {}
        self.branches: dict[str, str] = {}
        self.large: dict[str, bytes] = {}
        self.commit("main", {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {branch} {message}".encode()).hexdigest()
        self.commits[oid], self.messages[oid] = files, message
        self.branches[branch] = oid
        return oid

    def at(self, revision: str) -> str | None:
        return self.branches.get(revision) or (revision if revision in self.commits else None)


def is_large(path: str) -> bool:
    return path.endswith(LARGE)


def oid_of(path: str, content: bytes) -> str:
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class HubServer(ThreadingHTTPServer):
    """`with HubServer() as hub:` serves on `hub.endpoint` until the end of the block."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_address[1]}"
        self.repos: dict[str, Repo] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.faults: dict[str, str] = {}
        self.held = False
        self.lock = threading.RLock()

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.faults = {}
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address) -> None:
        """A client that was killed is no error of the server's."""

    def state(self) -> dict:
        return {
            "held": self.held,
            "requests": self.requests,
            "repos": {
                name: {
                    "private": repo.private,
                    "was_public": repo.was_public,
                    "branches": repo.branches,
                    "messages": list(repo.messages.values()),
                    "contents": {
                        b: {p: oid_of(p, c) for p, c in repo.commits[oid].items()}
                        for b, oid in repo.branches.items()
                    },
                    "files": {b: sorted(repo.commits[oid]) for b, oid in repo.branches.items()},
                }
                for name, repo in self.repos.items()
            },
        }


class Refused(Exception):
    """An answer that is not 2xx."""

    def __init__(self, code: int, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.code, self.kind = code, kind


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def log_message(self, format, *args) -> None:
        pass

    # Answers -----------------------------------------------------------------------------------------
    def answer(self, body: object = None, code: int = 200, headers: dict[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
        given = {"Content-Length": str(len(data)), **(headers or {})}
        self.send_response(code)
        for name, value in given.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        parts = [unquote(p) for p in url.path.strip("/").split("/")]
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        self.user, self.writes = TOKENS.get(token, (None, False))
        try:
            if parts[0] == "_test":
                return self.back_door()
            with self.server.lock:
                self.server.requests.append((self.command, url.path, self.user))
            if self.command == "PUT" and parts[0] == "_lfs":
                return self.receive(parts[1], parts[2])  # not under the lock: it may be held up
            data = self.body()
            with self.server.lock:
                return self.route(parts, data)
        except Refused as refused:
            headers = {"X-Error-Message": str(refused)}
            if refused.kind:
                headers["X-Error-Code"] = refused.kind
            return self.answer({"error": str(refused)}, refused.code, headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def back_door(self) -> None:
        faults = json.loads(self.body()) if self.command == "POST" else None
        with self.server.lock:  # a push may be changing what is told
            if faults is not None:
                self.server.faults, self.server.held = faults, False
            self.answer(self.server.state())

    # Routes ------------------------------------------------------------------------------------------
    def route(self, parts: list[str], data: bytes) -> None:
        if parts[0] == "_lfs":
            return self.send_large(parts[1])
        if parts == ["api", "repos", "create"]:
            return self.create(json.loads(data))
        if parts == ["api", "validate-yaml"]:
            return self.validate(json.loads(data)["content"])
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            name, rest = "/".join(parts[2:4]), parts[4:]
            return self.model(name, self.repo(name), rest, data)
        if parts[1:] and parts[1].endswith(".git") and parts[2:] == ["info", "lfs", "objects", "batch"]:
            name = f"{parts[0]}/{parts[1].removesuffix('.git')}"
            return self.batch(name, self.repo(name, write=True), json.loads(data))
        if len(parts) > 4 and parts[2] == "resolve":
            name = "/".join(parts[:2])
            return self.resolve(name, self.repo(name), parts[3], "/".join(parts[4:]))
        raise Refused(404, "no such page")

    def repo(self, name: str, write: bool = False) -> Repo:
        repo = self.server.repos.get(name)
        if repo is None or (repo.private and self.user != name.split("/")[0]):
            raise Refused(404 if self.user else 401, "Repository not found", "RepoNotFound")
        if write:
            self.must_write(name)
        return repo

    def must_write(self, name: str) -> None:
        if not (self.writes and self.user == name.split("/")[0]):
            raise Refused(403, "Forbidden: you must use a write token with access to this namespace")

    def create(self, asked: dict) -> None:
        name = f"{asked.get('organization') or self.user}/{asked['name']}"
        if self.user is None:
            raise Refused(401, "Invalid username or password.")
        self.must_write(name)
        if name in self.server.repos:
            raise Refused(409, "You already created this model repo")
        self.server.repos[name] = Repo(asked.get("visibility") == "private" or bool(asked.get("private")))
        self.answer({"url": f"{self.server.endpoint}/{name}", "name": name, "id": name})

    def validate(self, content: str) -> None:
        import yaml

        try:
            front = yaml.safe_load(content.split("---")[1])
            errors = [] if isinstance(front, dict) else [{"message": "no mapping"}]
        except (IndexError, yaml.YAMLError) as error:
            errors = [{"message": str(error)}]
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def model(self, name: str, repo: Repo, rest: list[str], data: bytes) -> None:
        what = rest[0] if rest else ""
        if self.command == "GET" and what in ("", "revision"):
            return self.info(name, repo, rest[1] if rest else "main")
        if self.command == "GET" and what == "tree":
            return self.answer(self.entries(repo, rest[1], None))
        if what == "paths-info":
            return self.answer(self.entries(repo, rest[1], parse_qs(data.decode()).get("paths", [])))
        self.must_write(name)
        if what == "preupload":
            return self.preupload(repo, rest[1], json.loads(data))
        if what == "commit":
            return self.commit(name, repo, rest[1], data)
        if what == "branch":
            return self.branch(repo, rest[1])
        if what == "settings":
            asked = json.loads(data)
            repo.private = (
                asked.get("visibility", "private" if asked.get("private") else "public") == "private"
            )
            repo.was_public |= not repo.private
            return self.answer({"private": repo.private})
        raise Refused(404, f"no such page: {self.command} {what}")

    def found(self, repo: Repo, revision: str) -> str:
        oid = repo.at(revision)
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid

    def info(self, name: str, repo: Repo, revision: str) -> None:
        oid = self.found(repo, revision)
        siblings = [{"rfilename": path} for path in sorted(repo.commits[oid])]
        self.answer({"id": name, "modelId": name, "sha": oid, "private": repo.private, "siblings": siblings})

    def entries(self, repo: Repo, revision: str, paths: list[str] | None) -> list[dict]:
        out = []
        for path, content in sorted(repo.commits[self.found(repo, revision)].items()):
            if paths is not None and path not in paths:
                continue
            oid = oid_of(path, content)
            entry = {"type": "file", "path": path, "size": len(content), "oid": oid[:40]}
            if is_large(path):
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
            out.append(entry)
        return out

    def preupload(self, repo: Repo, revision: str, asked: dict) -> None:
        there = repo.commits[self.found(repo, revision)]
        out = []
        for file in asked["files"]:
            path = file["path"]
            line = {"path": path, "uploadMode": "lfs" if is_large(path) else "regular", "shouldIgnore": False}
            out.append(line | ({"oid": oid_of(path, there[path])} if path in there else {}))
        self.answer({"files": out})

    def branch(self, repo: Repo, name: str) -> None:
        if self.command == "DELETE":
            if repo.branches.pop(name, None) is None:
                raise Refused(404, "no such branch", "RevisionNotFound")
        elif name in repo.branches:
            raise Refused(409, "Reference already exists")
        else:
            repo.branches[name] = repo.branches["main"]
        self.answer()

    def commit(self, name: str, repo: Repo, revision: str, data: bytes) -> None:
        if revision not in repo.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        if self.server.faults.get("race") == revision:
            repo.commit(revision, dict(repo.commits[repo.branches[revision]]), "somebody else")
        head = repo.branches[revision]
        files, message = dict(repo.commits[head]), ""
        for line in data.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in repo.large:
                    raise Refused(400, f"LFS object {value['oid']} was not uploaded")
                files[value["path"]] = repo.large[value["oid"]]
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise Refused(400, f"unknown operation {key}")
        oid = repo.commit(revision, files, message)
        url = f"{self.server.endpoint}/{name}/commit/{oid}"
        self.answer({"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})

    # Large files -------------------------------------------------------------------------------------
    def batch(self, name: str, repo: Repo, asked: dict) -> None:
        out = []
        for file in asked["objects"]:
            line = {"oid": file["oid"], "size": file["size"]}
            if file["oid"] not in repo.large:
                href = f"{self.server.endpoint}/_lfs/{name.replace('/', '%2F')}/{file['oid']}"
                line["actions"] = {"upload": {"href": href}}
            out.append(line)
        self.answer({"transfer": "basic", "objects": out}, headers={"Content-Type": "application/json"})

    def receive(self, name: str, oid: str) -> None:
        """PUT of a large file; the storage knows no tokens, as on the Hub."""
        fault = self.server.faults.get("put")
        if fault == "drop once":
            self.server.faults = {}
            return self.hang_up()
        if fault == "hold":
            self.server.held = True
            while self.server.faults.get("put") == "hold":
                time.sleep(0.02)
            return self.hang_up()
        data = self.body()
        if fault == "refuse":
            raise Refused(403, "Request has expired")
        if hashlib.sha256(data).hexdigest() != oid:
            raise Refused(400, "the digest differs")
        with self.server.lock:
            self.server.repos[name].large[oid] = data
        return self.answer()

    def hang_up(self) -> None:
        self.close_connection = True
        self.connection.close()

    def resolve(self, name: str, repo: Repo, revision: str, path: str) -> None:
        commit = self.found(repo, revision)
        content = repo.commits[commit].get(path)
        if content is None:
            raise Refused(404, "Entry not found", "EntryNotFound")
        oid = oid_of(path, content)
        headers = {"X-Repo-Commit": commit, "ETag": f'"{oid}"'}
        if is_large(path):  # elsewhere, as on the Hub
            linked = {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(content))}
            # another host's name: to the client this is storage, not the Hub
            place = f"{self.server.endpoint.replace('127.0.0.1', 'localhost')}/_lfs/{oid}"
            return self.answer({}, 302, headers | linked | {"Location": place})
        return self.answer(self.spoilt(path, content), headers=headers)

    def send_large(self, oid: str) -> None:
        for repo in self.server.repos.values():
            if oid in repo.large:
                return self.answer(self.spoilt("large", repo.large[oid]), headers={"ETag": f'"{oid}"'})
        raise Refused(404, "no such object")

    def spoilt(self, path: str, content: bytes) -> bytes:
        """The content, or with one bit of its last byte turned round: a float stays a float."""
        fault = self.server.faults.get("corrupt")
        if fault is None or not path.endswith(fault) or self.command == "HEAD":
            return content
        return content[:-4] + bytes([content[-4] ^ 1]) + content[-3:]
