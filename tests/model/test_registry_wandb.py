"""The registry in Weights & Biases: the official client against a server that answers what the client asks."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import wandb

from onesheet.bundle import load_bundle
from onesheet.errors import (
    BundleCorruptError,
    MissingExtraError,
    MovedMeanwhileError,
    RegistryError,
    UnknownVersionError,
)
from onesheet.registry import open_registry
from onesheet.registry.lineage import submission
from onesheet.settings import Settings
from tests.processes import serve_in_thread

VIEWER = {"id": "v", "entity": "team", "username": "user", "name": "user", "email": "", "flags": "{}", "admin": False}
PROJECT = {"id": "p", "internalId": "1", "name": "films", "entity": {"name": "team"}}
TIME = "2026-01-02T03:04:05Z"


class Server(ThreadingHTTPServer):
    """W&B's server, as far as a registry needs it.

    Attributes:
        answers: What is done for each operation.
        collections: The artifacts of each, uploaded or not.
        stored: What was uploaded, by its path.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.collections, self.stored = {}, {}
        self.one_at_a_time = threading.RLock()
        self.answers = {
            "Viewer": lambda _: {"viewer": {**VIEWER, "teams": {"edges": []}}},
            "GetDefaultEntity": lambda _: {"viewer": VIEWER},
            "ServerFeaturesQuery": lambda _: {"serverInfo": {"features": []}},
            "UpsertBucket": self.start_run,
            "CreateRunFiles": self.name_run_files,
            "ArtifactType": self.kind,
            "CreateArtifact": self.create,
            "CreateArtifactManifest": self.name_manifest,
            "CreateArtifactFiles": self.name_files,
            "CommitArtifact": self.commit,
            "ArtifactByID": self.by_id,
            "ProjectArtifactCollection": self.collection,
            "ProjectArtifacts": self.listed,
            "ArtifactMembershipByName": self.membership,
            "ArtifactMembershipFiles": self.files,
            "AddAliases": self.add_aliases,
            "DeleteAliases": self.delete_aliases,
            "UpdateArtifact": self.update,
        }

    def answer(self, question):
        operation = re.search(r"(?:query|mutation) (\w+)", question["query"])[1]
        asked = question.get("variables") or {}
        assert (asked.get("entity", "team"), asked.get("project", "films")) == ("team", "films")
        with self.one_at_a_time:
            return {"data": self.answers[operation](asked)}

    def versions(self, collection):
        """Those that were uploaded."""
        return [each for each in self.collections.get(collection, []) if each["state"] == "COMMITTED"]

    def start_run(self, asked):
        name = asked["name"]
        place = {"id": "p", "name": asked["project"], "entity": {"id": "e", "name": asked["entity"]}}
        known = dict.fromkeys(("description", "config", "sweepName"))
        bucket = {"id": name, "name": name, "displayName": name, "project": place, "historyLineCount": 0, **known}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def name_run_files(self, asked):
        addresses = [{"name": name, "uploadUrl": f"{self.address}/runs/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": asked["run"], "uploadHeaders": [], "files": addresses}}

    def kind(self, asked):
        found = self.versions(asked["name"].partition(":")[0])
        return {"project": {"artifact": {"artifactType": {"name": found[0]["kind"]}} if found else None}}

    def create(self, asked):
        """Begin an artifact; what the newest version holds already is no other version."""
        wanted = asked["input"]
        name = wanted["artifactCollectionName"]
        newest = next(reversed(self.versions(name)), None)
        if newest is None or newest["digest"] != wanted["digest"]:
            kept = ("digest", "description", "metadata")
            made = {key: wanted[key] for key in kept} | {"kind": wanted["artifactTypeName"], "collection": name}
            number = sum(len(each) for each in self.collections.values())
            made |= {"id": f"artifact{number}", "state": "PENDING", "aliases": [], "files": []}
            self.collections.setdefault(name, []).append(made)
        else:
            made = newest
        latest = {"latestArtifact": {"id": newest["id"]} if newest else None}
        return {"createArtifact": {"artifact": {"id": made["id"], "state": made["state"], "artifactSequence": latest}}}

    def name_manifest(self, asked):
        address = f"{self.address}/manifests/{asked['artifactID']}"
        file = {"id": "m", "uploadUrl": address, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": asked["artifactID"], "file": file}}}

    def name_files(self, asked):
        nodes = []
        for file in asked["input"]["artifactFiles"]:
            path = f"/files/{file['artifactID']}/{file['name']}"
            address = {"storagePath": path, "uploadUrl": self.address + path, "uploadHeaders": []}
            nodes.append({"node": {**address, "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}})
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def commit(self, asked):
        """Make a version of what was uploaded; this is when it gets its number."""
        artifact = self.artifact(asked)
        manifest = json.loads(self.stored[f"/manifests/{artifact['id']}"])
        for name, entry in manifest["contents"].items():
            content = self.stored[f"/files/{artifact['id']}/{name}"]
            assert entry["digest"] == base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
            artifact["files"].append(name)
        artifact |= {"state": "COMMITTED", "number": len(self.versions(artifact["collection"]))}
        return {"commitArtifact": {"artifact": {"id": artifact["id"], "digest": artifact["digest"]}}}

    def artifact(self, asked):
        wanted = asked.get("id") or asked["artifactID"]
        return next(each for all_ in self.collections.values() for each in all_ if each["id"] == wanted)

    def by_id(self, asked):
        return {"artifact": self.shown(self.artifact(asked))}

    def shown(self, artifact):
        place = {"name": artifact["collection"], "project": PROJECT}
        aliases = [{"id": alias, "alias": alias} for alias in artifact["aliases"]]
        newest = self.versions(artifact["collection"])[-1]
        if artifact is newest:
            aliases.append({"id": "latest", "alias": "latest"})
        collection = {"artifactCollection": {"__typename": "ArtifactSequence", **place}}
        return {
            "__typename": "Artifact",
            "id": artifact["id"],
            "artifactSequence": {"__typename": "ArtifactSequence", **place},
            "versionIndex": artifact["number"],
            "artifactType": {"name": artifact["kind"]},
            "description": artifact["description"],
            "metadata": artifact["metadata"],
            "ttlDurationSeconds": -2,
            "ttlIsInherited": True,
            "tags": [],
            "historyStep": None,
            "state": artifact["state"],
            "size": 1,
            "digest": artifact["digest"],
            "commitHash": None,
            "fileCount": len(artifact["files"]),
            "createdAt": TIME,
            "updatedAt": None,
            "aliases": [{"__typename": "ArtifactAlias", **alias, **collection} for alias in aliases],
        }

    def collection(self, asked):
        name, kind = asked["name"], asked["type"]
        found = {
            "__typename": "ArtifactSequence",
            "id": name,
            "name": name,
            "description": None,
            "createdAt": TIME,
            "updatedAt": None,
            "project": PROJECT,
            "type": {"name": kind},
            "tags": {"edges": []},
        }
        known = kind in {each["kind"] for each in self.versions(name)}
        return {"project": {"artifactType": {"artifactCollection": found}} if known else None}

    def listed(self, asked):
        """A page; the client asks for those that are uploaded."""
        assert json.loads(asked["filters"]) == {"state": "COMMITTED"}
        every = self.versions(asked["collection"])[::-1]
        first = int(asked.get("cursor") or 0)
        after = first + asked["perPage"]
        edges = [{"version": f"v{each['number']}", "node": self.shown(each)} for each in every[first:after]]
        page = {"endCursor": str(after), "hasNextPage": after < len(every)}
        artifacts = {"totalCount": len(every), "pageInfo": page, "edges": edges}
        found = {"__typename": "ArtifactSequence", "artifacts": artifacts}
        return {"project": {"artifactType": {"artifactCollection": found}}}

    def membership(self, asked):
        collection, _, version = asked["name"].partition(":v")
        found = [each for each in self.versions(collection) if str(each["number"]) == version]
        if not found:
            return {"project": {"artifactCollectionMembership": None}}
        artifact = self.shown(found[0])
        membership = {
            "__typename": "ArtifactCollectionMembership",
            "id": artifact["id"],
            "versionIndex": artifact["versionIndex"],
            "createdAt": TIME,
            "aliases": artifact["aliases"],
            "artifactCollection": artifact["artifactSequence"],
            "artifact": artifact,
        }
        return {"project": {"artifactCollectionMembership": membership}}

    def files(self, asked):
        number = int(asked["alias"].removeprefix("v"))
        artifact = next(each for each in self.versions(asked["collection"]) if each["number"] == number)
        known = dict.fromkeys(("url", "storagePath", "mimetype", "updatedAt", "digest", "md5"))
        edges = []
        for name in artifact["files"]:
            path = f"/files/{artifact['id']}/{name}"
            file = {"id": path, "name": name, "sizeBytes": 1, "directUrl": self.address + path}
            edges.append({"node": {**file, **known}})
        page = {"endCursor": None, "hasNextPage": False}
        membership = {"files": {"pageInfo": page, "totalCount": len(edges), "edges": edges}}
        found = {"__typename": "ArtifactSequence", "artifactMembership": membership}
        return {"project": {"artifactCollection": found}}

    def add_aliases(self, asked):
        """An alias goes from the version that has it, as W&B has it."""
        for wanted in asked["input"]["aliases"]:
            for each in self.versions(wanted["artifactCollectionName"]):
                each["aliases"] = [alias for alias in each["aliases"] if alias != wanted["alias"]]
            self.artifact(asked["input"])["aliases"].append(wanted["alias"])
        return {"result": {"success": True}}

    def delete_aliases(self, asked):
        for unwanted in asked["input"]["aliases"]:
            self.artifact(asked["input"])["aliases"].remove(unwanted["alias"])
        return {"result": {"success": True}}

    def update(self, asked):
        artifact = self.artifact(asked["input"])
        artifact["metadata"] = asked["input"]["metadata"]
        return {"result": {"artifact": self.shown(artifact)}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        content = self.content()
        self.reply(json.dumps(self.server.answer(json.loads(content)) if self.path == "/graphql" else {}).encode())

    def do_PUT(self):
        self.server.stored[self.path] = self.content()
        self.reply(b"")

    def do_GET(self):
        content = self.server.stored.get(self.path)
        self.reply(content or b"", 404 if content is None else 200)

    def content(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def reply(self, content, status=200):
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def server():
    wandb.teardown()  # what this process knows of another server
    with serve_in_thread(Server()) as server:
        yield server
        wandb.teardown()


@pytest.fixture
def account(server, tmp_path, monkeypatch):
    """An account with the server, and a working folder where nothing shall be left."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    home, folder = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name, value in {"HOME": str(home), "WANDB_BASE_URL": server.address, "WANDB_API_KEY": "0" * 40}.items():
        monkeypatch.setenv(name, value)
    yield
    assert list(folder.iterdir()) == []


@pytest.fixture
def opened(account, request):
    """`opened("Ann", url=…)`: the registry of this test, as somebody sees it."""
    model = re.sub(r"\W", "-", request.node.name)

    def open_(actor="Ann", url="wandb://team/films"):
        return open_registry(Settings(registry_url=url, registry_model=model, actor=actor))

    return open_


@pytest.fixture
def register(tiny_bundle, tmp_path):
    def registered(registry, note=""):
        with submission(str(tiny_bundle), None, tmp_path, tmp_path) as submitted:
            return registry.register(submitted.folder, submitted.lineage, note)

    return registered


def test_versions_are_kept_with_their_lineage_and_become_champion_one_after_the_other(
    opened, register, tiny_bundle, tmp_path, capfd, monkeypatch
):
    monkeypatch.setattr("onesheet.registry.wandb._PAGE", 2)
    registry = opened()
    assert (registry.versions(), registry.aliases(), registry.history()) == ([], {}, [])

    first, second = register(registry, "the first"), register(registry)  # the same files, and yet another version
    assert (first.number, second.number) == (1, 2)
    registry.move(registry.standing("challenger"), second, "register", "new")
    registry.move(registry.standing("champion"), first, "promote", "better than nothing")
    registry.move(registry.standing("champion"), second, "promote", "better")

    seen = opened("Bob", "wandb://films")  # the account's own entity
    assert seen.versions() == [second, first]
    assert seen.find("1").lineage == first.lineage
    assert (seen.find("1").by, seen.find("1").note) == ("Ann", "the first")
    assert seen.aliases() == {"champion": 2}
    moves = [(move.number, move.kind, move.alias, move.before, move.after, move.state) for move in seen.history()]
    assert moves == [
        (1, "register", "challenger", None, 2, "done"),
        (2, "promote", "champion", None, 1, "done"),
        (3, "promote", "champion", 1, 2, "done"),
    ]
    assert seen.former_champion() == first

    bundle = seen.fetch(seen.find("champion"), tmp_path / "fetched")
    assert bundle.files == load_bundle(tiny_bundle).files
    assert capfd.readouterr() == ("", "")


def test_of_two_who_promote_at_once_the_later_one_is_told(opened, register):
    ann, bob = opened("Ann"), opened("Bob")
    first, second = register(ann), register(ann)
    late = bob.standing("champion")
    ann.move(ann.standing("champion"), first, "promote", "")
    with pytest.raises(MovedMeanwhileError, match="Ann moved the champion from version None to 1 meanwhile"):
        bob.move(late, second, "promote", "")
    assert ann.aliases() == {"champion": 1}
    assert [(move.by, move.state) for move in ann.history()] == [("Ann", "done"), ("Bob", "lost")]


def test_a_move_that_was_overtaken_on_its_way_is_given_up(opened, register, server, monkeypatch):
    """Bob, who was numbered later, was through before Ann's move was to be seen."""
    registry = opened("Ann")
    first, second = register(registry), register(registry)
    commit = server.answers["CommitArtifact"]

    def commit_late(asked):
        monkeypatch.setitem(server.answers, "CommitArtifact", commit)
        answer = commit(asked)
        late = server.artifact(asked)
        bobs = json.loads(late["metadata"]) | {"by": "Bob", "after": second.number, "state": "done"}
        server.collections[late["collection"]].append(
            {**late, "id": "bobs", "number": late["number"] + 1, "metadata": json.dumps(bobs)}
        )
        return answer

    monkeypatch.setitem(server.answers, "CommitArtifact", commit_late)
    with pytest.raises(MovedMeanwhileError, match="Bob moved the champion from version None to 2 meanwhile"):
        registry.move(registry.standing("champion"), first, "promote", "")
    assert registry.aliases() == {}
    moves = [(move.number, move.by, move.state) for move in registry.history()]
    assert moves == [(1, "Ann", "lost"), (2, "Bob", "done"), (3, "Ann", "lost")]


def test_what_is_not_there_or_not_what_was_registered_is_told(opened, register, server, tmp_path):
    registry = opened()
    version = register(registry)
    with pytest.raises(UnknownVersionError, match="no alias `champion`; it has none yet"):
        registry.find("champion")
    with pytest.raises(UnknownVersionError, match="no version 7"):
        registry.fetch(version.model_copy(update={"number": 7}), tmp_path / "fetched")
    with pytest.raises(UnknownVersionError, match=r"version 1 .* has no lineage/manifest"):
        registry.fetch_manifest(version.model_copy(update={"has_manifest": True}), tmp_path)
    path = f"/files/{newest(server)['id']}/bundle/bundle.json"
    server.stored[path] += b" "
    with pytest.raises(BundleCorruptError, match="is not what was registered"):
        registry.fetch(version, tmp_path / "fetched")
    del server.stored[path]
    with pytest.raises(RegistryError, match=r"^the registry at wandb://team/films cannot be used: .*404") as error:
        registry.fetch(version, tmp_path / "fetched")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "fetched").exists()


def test_a_file_that_wants_to_be_elsewhere_is_not_fetched(opened, register, server, tmp_path):
    registry = opened()
    version = register(registry)
    name = "bundle/../../elsewhere"
    newest(server)["files"].append(name)
    server.stored[f"/files/{newest(server)['id']}/{name}"] = b"!"
    registry.fetch(version, tmp_path / "deep/fetched")
    assert not list(tmp_path.rglob("elsewhere"))


def newest(server):
    return list(server.collections.values())[-1][-1]


def test_a_server_that_is_away_is_told_in_one_line_and_soon(opened, monkeypatch, free_port):
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("onesheet.registry.wandb._ANSWER_SECONDS", 2)
    with pytest.raises(RegistryError, match=r"^the registry at wandb://team/films cannot be used: it does not answer$"):
        opened().versions()


def test_without_an_account_one_is_told_to_log_in(opened, monkeypatch, free_port):
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("WANDB_API_KEY")
    wandb.teardown()  # the account of the tests before
    with pytest.raises(RegistryError, match=r"^the registry at wandb://team/films needs an account: `wandb login`$"):
        opened().versions()


def test_without_the_client_one_is_told_what_to_install(opened, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match=r"onesheet\[wandb\]"):
        opened().versions()


@pytest.mark.parametrize("url", ["wandb://", "wandb://team/films/onesheet"])
def test_an_address_that_names_no_project_is_refused(opened, url):
    with pytest.raises(RegistryError, match="say wandb://ENTITY/PROJECT"):
        opened(url=url).versions()
