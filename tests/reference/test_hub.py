"""The hub, by a stand-in of its HTTP API: what is fetched, from where, and each error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import hub_server
import pytest

from srr_guard import LocalChatModel, SRRScorer
from srr_guard.errors import BundleNotFoundError, ReferenceLoadError, ReferenceNotFoundError
from srr_guard.reference import ReferenceLLM
from srr_guard.reference import source as source_module
from srr_guard.reference.cache_folder import CACHE_VARIABLE
from srr_guard.reference.hub import HubOptions
from srr_guard.reference.source import Named, resolve_reference
from srr_guard.scorer import ScorerBundle

MODEL, SCORER = "someone/tiny", "someone/scorer"


@pytest.fixture
def hub(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_folder: Path, tiny_bundle: ScorerBundle
) -> Iterator[hub_server.HubServer]:
    monkeypatch.delenv(source_module.REFERENCE_VARIABLE, raising=False)
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    server = hub_server.start(monkeypatch, tmp_path / "hub")
    server.add_folder(MODEL, tiny_folder)
    server.add_folder(SCORER, tiny_bundle.folder)
    yield server
    server.shutdown()
    server.server_close()


def test_a_model_is_fetched_once(hub: hub_server.HubServer) -> None:
    found = resolve_reference(MODEL)
    assert (found.name, found.revision) == (MODEL, hub.commit_of(MODEL))
    assert ReferenceLLM.load(found, depth=1).depth == 1
    asked = len(hub.requests)
    assert resolve_reference(MODEL).path == found.path
    assert len(hub.requests) == asked


def test_options_reach_the_hub(hub: hub_server.HubServer, tmp_path: Path) -> None:
    commit = hub.commit_of(MODEL)
    options = HubOptions(revision=commit, token="hf_secret", cache_dir=tmp_path / "elsewhere")
    found = resolve_reference(MODEL, options=options)
    assert tmp_path / "elsewhere" in found.path.parents
    assert hub.tokens == {"hf_secret"}
    assert "hf_secret" not in repr(options)


def test_one_gguf_file_of_a_repository(hub: hub_server.HubServer, tmp_path: Path) -> None:
    hub.repos["someone/gguf"] = {"a-Q4.gguf": b"GGUF4", "a-Q8.gguf": b"GGUF8"}
    found = resolve_reference("someone/gguf", file="a-Q8.gguf")
    assert found.name == "someone/gguf/a-Q8.gguf"
    assert found.is_gguf
    assert found.path.read_bytes() == b"GGUF8"
    with pytest.raises(ReferenceNotFoundError, match=r"no file 'a-Q2\.gguf'"):
        resolve_reference("someone/gguf", file="a-Q2.gguf")


def test_sharded_weights(
    hub: hub_server.HubServer, tiny_llm: ReferenceLLM, tiny_folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    sharded = tmp_path / "sharded"
    shutil.copytree(tiny_folder, sharded)
    (sharded / "model.safetensors").unlink()
    model = AutoModelForCausalLM.from_pretrained(str(tiny_folder))
    model.save_pretrained(sharded, max_shard_size="60KB")
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    hub.add_folder("someone/sharded", sharded)
    llm = ReferenceLLM.load("someone/sharded")
    assert llm.depth == tiny_llm.depth
    shards[-1].unlink()
    with pytest.raises(ReferenceLoadError, match=f"{shards[-1].name} is missing"):
        resolve_reference(sharded)
    hub.add_folder("someone/half", sharded)
    with pytest.raises(ReferenceNotFoundError, match="not all of it"):
        resolve_reference("someone/half")


def test_a_download_that_breaks_off_is_taken_up_again(hub: hub_server.HubServer) -> None:
    hub.broken.add("model.safetensors")
    with pytest.raises(ReferenceNotFoundError, match="someone/tiny"):
        resolve_reference(MODEL)
    hub.broken.clear()
    assert ReferenceLLM.load(MODEL, depth=1).depth == 1


ERRORS = {
    "no such model": ("someone/nothing", {}, "no repository 'someone/nothing', or it is private"),
    "no such revision": (MODEL, {"revision": "v9"}, "no revision 'v9'"),
    "gated": ("someone/gated", {}, "accept its terms on the hub, then give `token=`"),
    "not cached": (MODEL, {"local_files_only": True}, "not in the hub cache"),
    "no hub id": ("no hub id!", {}, "is no hub id"),
    "incomplete": ("someone/empty", {}, "not all of it"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_each_error_is_clear(hub: hub_server.HubServer, name: str) -> None:
    hub.repos |= {"someone/gated": {"config.json": b"{}"}, "someone/empty": {"config.json": b"{}"}}
    hub.gated.add("someone/gated")
    model, options, said = ERRORS[name]
    with pytest.raises(ReferenceNotFoundError, match=said):
        resolve_reference(model, options=HubOptions(**options))
    with pytest.raises(BundleNotFoundError, match=said):
        ScorerBundle.find(model, **options)


def test_a_hub_that_cannot_be_reached(hub: hub_server.HubServer) -> None:
    hub.shutdown()
    hub.server_close()
    with pytest.raises(ReferenceNotFoundError, match="the hub cannot be reached"):
        resolve_reference(MODEL)


class TestScorers:
    """A scorer follows the model that its bundle names."""

    def publish(self, hub: hub_server.HubServer, **change: object) -> None:
        record = json.loads(hub.repos[SCORER]["config.json"])
        hub.repos[SCORER]["config.json"] = json.dumps({**record, **change}).encode()

    def test_its_own_reference(self, hub: hub_server.HubServer) -> None:
        self.publish(hub, reference=MODEL, reference_revision=hub.commit_of(MODEL))
        scorer = SRRScorer.from_pretrained(SCORER)
        assert scorer.score("Hi", ["one", "two"]).order in ((0, 1), (1, 0))
        assert any(f"/{MODEL}/resolve/{hub.commit_of(MODEL)}/" in r for r in hub.requests)

    def test_the_argument_comes_first(self, hub: hub_server.HubServer, tiny_folder: Path) -> None:
        self.publish(hub, reference="someone/nothing")
        scorer = SRRScorer.from_pretrained(SCORER, reference=tiny_folder)
        assert len(scorer.score("Hi", ["one", "two"])) == 2

    def test_the_variable_comes_before_the_bundle(
        self, hub: hub_server.HubServer, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.publish(hub, reference="someone/nothing")
        monkeypatch.setenv(source_module.REFERENCE_VARIABLE, str(tiny_folder))
        assert len(SRRScorer.from_pretrained(SCORER).score("Hi", ["one", "two"])) == 2

    def test_a_reference_that_is_on_another_machine(self, hub: hub_server.HubServer) -> None:
        self.publish(hub, reference="my-own-model")
        scorer = SRRScorer.from_pretrained(SCORER)
        with pytest.raises(
            ReferenceNotFoundError, match=r"'my-own-model'.*give it as `reference=`"
        ):
            scorer.score("Hi", ["one"])

    def test_there_and_back(self, hub: hub_server.HubServer, tmp_path: Path) -> None:
        scorer = SRRScorer.from_pretrained(SCORER)
        url = scorer.push_to_hub("someone/new", token="hf_secret", private=True)
        assert url == f"{hub.url}/someone/new/commit/{hub.commit_of('someone/new')}"
        assert hub.repos["someone/new"].keys() == hub.repos[SCORER].keys()
        assert (
            hub.repos["someone/new"]["model.safetensors"] == hub.repos[SCORER]["model.safetensors"]
        )
        again = SRRScorer.from_pretrained("someone/new")
        assert again.bundle.info == scorer.bundle.info
        again.save_pretrained(tmp_path / "saved")
        assert SRRScorer.from_pretrained(tmp_path / "saved").bundle.info == scorer.bundle.info


def test_the_package_stands_for_the_model_it_holds(
    hub: hub_server.HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "made_up_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "weights.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(source_module, "PACKAGE", "made_up_package")
    for name in (source_module.DEFAULT_MODEL_ID, "weights.gguf"):
        assert resolve_reference(named=Named(name)).name == "weights.gguf"
    assert resolve_reference(named=Named(MODEL)).name == MODEL


def test_chat_models_of_the_hub(hub: hub_server.HubServer) -> None:
    model = LocalChatModel(model=MODEL, token="hf_secret", max_new_tokens=2)
    assert model.invoke("Hi").usage_metadata
    assert hub.tokens == {"hf_secret"}
    assert "hf_secret" not in repr(model)
