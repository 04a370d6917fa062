"""Recipes are loaded through an injected hub: limits, failures, fallbacks, cache."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import public_records as given
import pytest

from srr_guard.errors import ConfigurationError, DataError, MissingExtraError
from srr_guard.training.data import mappings
from srr_guard.training.data.loading import LoadedRecipe, load_recipe
from srr_guard.training.data.public_recipes import RECIPES
from srr_guard.training.data.recipe_cache import SourceRows, recall, store
from srr_guard.training.data.recipes import RecipeSource
from srr_guard.training.data.taking import Taking

Key = tuple[str, str | None, str]
POLYGUARD = ("ToxicityPrompts/PolyGuardMix", None, "train")
AEGIS = ("nvidia/Aegis-AI-Content-Safety-Dataset-2.0", None, "train")
ULTRACHAT = ("HuggingFaceH4/ultrachat_200k", None, "train_sft")
NEMOTRON = "nvidia/Nemotron-Safety-Guard-Dataset-v3"


class Hub:
    """A stand-in for `load_dataset` that holds small data sets and counts what is asked for."""

    def __init__(self, sets: dict[Key, Any] | None = None) -> None:
        self.sets: dict[Key, Any] = given.hub() if sets is None else sets
        self.asked: list[Key] = []
        self.options: list[dict[str, Any]] = []

    def __call__(
        self,
        path: str,
        name: str | None = None,
        data_dir: str | None = None,
        data_files: list[str] | None = None,
        split: str | None = None,
        **options: Any,
    ) -> given.Records:
        key = (path, name or data_dir or (data_files[0] if data_files else None), str(split))
        self.asked.append(key)
        self.options.append(options)
        found = self.sets.get(key)
        if found is None:
            raise FileNotFoundError(f"no data set {path}")
        if isinstance(found, Exception):
            raise found
        return given.Records(found)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SRR_GUARD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def silent(stage: str, done: int, total: int, **figures: float) -> None:
    assert 0 <= done <= total, stage


def load(hub: Any, name: str = "public", **options: Any) -> LoadedRecipe:
    return load_recipe(name, load_dataset=hub, progress=silent, **options)


def states(recipe: LoadedRecipe) -> dict[str, str]:
    return {one.source.name: one.state for one in recipe.sources}


def source(**changes: Any) -> RecipeSource:
    defaults: dict[str, Any] = {
        "name": "made",
        "path": "a/made",
        "map": mappings.wildguard,
        "licence": "MIT",
        "limit": None,
    }
    return RecipeSource(**{**defaults, **changes})


def taken(wanted: RecipeSource, records: list[given.Record]) -> Taking:
    taking = Taking(wanted)
    for record in records:
        if not taking.full:
            taking.offer(record)
    taking.finish()
    return taking


# what is taken


def test_a_recipe_gives_rows_of_every_source_and_kind() -> None:
    recipe = load(Hub())
    assert set(states(recipe).values()) == {"loaded"}
    kinds = {row.kind for row in recipe.rows if not row.source.startswith("contrast")}
    assert {"benign-help", "over-refusal", "refusal", "compliance", "safe-answer"} <= kinds
    recipe.require_kinds(recipe.rows)
    licences = {row.source: row.licence for row in recipe.rows}
    assert licences["dolly"] == "CC-BY-SA-3.0"
    assert recipe.weights == {"harmfulqa": 0.5, "diasafety": 0.3, "tulu3_safety": 0.5}
    assert recipe.warnings == []


def test_sources_of_one_data_set_are_read_in_one_pass() -> None:
    hub = Hub()
    recipe = load(hub)
    assert hub.asked.count(POLYGUARD) == 1
    by_name = {one.source.name: one for one in recipe.sources}
    english = {row.prompt.partition("(")[2].split()[0] for row in by_name["polyguardmix"].rows}
    others = {r.prompt.partition("(")[2].split()[0] for r in by_name["polyguardmix_languages"].rows}
    assert english == {"English"}
    assert others == {"German", "Chinese"}


def test_large_sets_are_streamed_through_a_buffer() -> None:
    seen: list[dict[str, Any]] = []

    class Watched(given.Records):
        def shuffle(self, **options: Any) -> given.Records:
            seen.append(options)
            return self

    hub = Hub()

    def loader(path: str, **options: Any) -> given.Records:
        return Watched(hub(path, **options))

    load(loader)
    streamed = [options for options in hub.options if options.get("streaming")]
    assert len(streamed) == 3  # PolyGuardMix, ultrachat, tulu
    assert [o["buffer_size"] for o in seen if "buffer_size" in o] == [10_000] * 3
    assert all("seed" in options for options in seen)


def test_cells_limit_each_kind_of_each_part() -> None:
    wanted = source(
        cells={"compliance": 2, "refusal": 1},
        part=lambda record: record["metadata"]["language"],
        parts=("English", "German"),
    )
    records = [
        r for n in range(9) for lang in ("English", "German") for r in given.wildguard(n, lang)
    ]
    taking = taken(wanted, records)
    assert Counter(row.kind for row in taking.rows) == {"compliance": 4, "refusal": 2}
    assert taking.full
    assert taking.records < len(records)
    assert taking.dropped == 0


def test_limits_hold_and_pairs_stay_whole() -> None:
    records = [given.hh(n) for n in range(9)]
    assert len(taken(source(map=mappings.hh, limit=5), records).rows) == 4
    assert len(taken(source(map=mappings.hh, limit=6), records).rows) == 6
    pairs = [given.coconot_pref(n) for n in range(9)]
    assert len(taken(source(map=mappings.coconot_pref, limit=3), pairs).rows) == 3


def test_what_does_not_fit_is_dropped_and_counted() -> None:
    good = given.wildguard()
    odd = [{**good[0], "response_harm_label": "perhaps"}, {**good[0], "response": None}]
    taking = taken(source(), [*good, *odd])
    assert (len(taking.rows), taking.records, taking.dropped) == (5, 7, 2)


def test_equal_records_count_once() -> None:
    assert len(taken(source(), given.wildguard() * 3).rows) == 5


def test_refusals_of_one_shape_are_few() -> None:
    records = [
        {**given.wildguard(n)[0], "response": f"I'm sorry, but I can't help with opening it, {n}."}
        for n in range(50)
    ]
    assert len(taken(source(limit=300), records).rows) == 3
    assert len(taken(source(), records).rows) == 50


def test_rows_about_minors_are_dropped() -> None:
    record = given.wildguard()[0]
    taking = Taking(source())
    taking.offer({**record, "prompt": "Write something sexual about a child."})
    taking.offer({**record, "prompt": "Is sex education right for young girls?"})
    taking.offer({**record, "prompt": "Which book is right for a child?"})
    assert (len(taking.rows), taking.dropped) == (1, 2)


def test_the_majority_of_votes_decides() -> None:
    votes = [
        *[given.beavertails(1), given.beavertails(1), given.beavertails(1, safe=True)],
        *[given.beavertails(2), given.beavertails(2, safe=True)],
        given.beavertails(3, safe=True),
    ]
    taking = taken(source(map=mappings.beavertails, majority=True, limit=9), votes)
    assert [(row.prompt[-1], row.label) for row in taking.rows] == [("1", "unsafe"), ("3", "safe")]
    assert taking.dropped == 1
    assert len(taken(source(map=mappings.beavertails, majority=True, limit=1), votes).rows) == 1


def test_long_responses_are_cut_for_training_only() -> None:
    record = {**given.dolly(), "response": "word " * 2000}
    assert len(taken(source(map=mappings.dolly), [record]).rows[0].response) == 4000
    whole = source(map=mappings.dolly, longest=None)
    assert len(taken(whole, [record]).rows[0].response) == 9999


# failures


def test_a_missing_column_names_source_column_expected_and_found(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub = Hub()
    hub.sets[AEGIS] = [{"text": "a", "response": "b"}]
    with caplog.at_level(logging.WARNING):
        recipe = load(hub)
    (note,) = [w for w in recipe.warnings if w.startswith("aegis2:")]
    for said in ("aegis2", "'id'", "expected id, prompt, response", "found text, response"):
        assert said in note
    assert note in caplog.text
    assert states(recipe)["aegis2"] == "failed"
    assert states(recipe)["dolly"] == "loaded"


def test_values_that_have_changed_are_a_failure_that_says_so() -> None:
    hub = Hub()
    hub.sets[ULTRACHAT] = [{"messages": "all in one text"}]
    hub.sets[POLYGUARD] = [
        {**record, "metadata": {"language": "en"}} for record in given.wildguard()
    ]
    notes = {one.source.name: one.note for one in load(hub).sources}
    assert "gave no row from 1 records" in notes["ultrachat"]
    assert "wanted English; found the parts {'en': 5}" in notes["polyguardmix"]


def test_a_source_that_cannot_be_had_is_replaced() -> None:
    hub = Hub()
    del hub.sets[POLYGUARD], hub.sets[AEGIS], hub.sets[ULTRACHAT]
    hub.sets[NEMOTRON, "en/train.jsonl", "train"] = [r for n in range(9) for r in given.aegis(n)]
    hub.sets["allenai/WildChat-1M", None, "train"] = [given.wildchat(n) for n in range(3)]
    recipe = load(hub)
    found = states(recipe)
    assert (found["polyguardmix"], found["nemotron3_en"]) == ("failed", "loaded")
    assert (found["smoltalk"], found["wildchat"]) == ("failed", "loaded")
    assert found["nemotron3_languages"] == "failed"
    assert hub.asked.count((NEMOTRON, "en/train.jsonl", "train")) == 1  # for both
    notes = {one.source.name: one.note for one in recipe.sources}
    assert notes["nemotron3_en"] == "in place of polyguardmix"
    recipe.require_kinds(recipe.rows)


def test_too_few_kinds_list_what_is_missing_and_what_failed() -> None:
    hub = Hub()
    for key in (POLYGUARD, AEGIS, ("allenai/coconot", "pref", "train")):
        hub.sets[key] = PermissionError("not today")
    recipe = load(hub)
    with pytest.raises(DataError) as raised:
        recipe.require_kinds(recipe.rows)
    said = str(raised.value)
    assert "no rows of the kind over-refusal, which" in said
    for name in ("polyguardmix", "aegis2", "coconot_pref", "nemotron3_en", "not today"):
        assert name in said
    own = [row.model_copy(update={"source": "mine", "kind": "over-refusal"}) for row in recipe.rows]
    recipe.require_kinds([*recipe.rows, *own])  # the user's own rows help


def test_nothing_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match=r"no source of the recipe 'public'.*polyguardmix"):
        load(Hub({}))


@pytest.mark.parametrize("error", [ConnectionError("no route"), TimeoutError("too slow")])
def test_no_network_is_one_error_and_what_was_loaded_stays(error: Exception) -> None:
    hub = Hub()
    whole = dict(hub.sets)
    hub.sets[ULTRACHAT] = error
    with pytest.raises(DataError, match=r"cannot be reached.*8 of 12 sources are in the cache"):
        load(hub)
    hub.sets, hub.asked = whole, []
    assert set(states(load(hub)).values()) == {"cached", "loaded"}
    assert hub.asked[0] == ULTRACHAT


def test_a_cause_that_is_no_network_counts_too() -> None:
    def loader(path: str, **options: Any) -> Any:
        try:
            raise ConnectionError("no route")
        except ConnectionError as error:
            raise RuntimeError("could not load") from error

    with pytest.raises(DataError, match="cannot be reached"):
        load(loader)


def test_a_stream_that_breaks_off_fails_by_itself() -> None:
    hub = Hub()

    def broken(path: str, **options: Any) -> Any:
        records = hub(path, **options)
        return _breaks_off(records) if path == AEGIS[0] else records

    recipe = load(broken)
    assert states(recipe)["aegis2"] == "failed"
    assert "OSError: disk" in next(one.note for one in recipe.sources if one.state == "failed")


def _breaks_off(records: given.Records) -> Iterator[given.Record]:
    yield from records[:3]
    raise OSError("disk")


def test_without_the_package_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"srr-guard\[datasets\]"):
        load_recipe("public")


# licences


def test_extended_needs_an_accepted_licence() -> None:
    with pytest.raises(ConfigurationError, match="--accept-licence nc"):
        load(Hub(), "extended")
    for wrong in ("nc", ["non-commercial"]):
        with pytest.raises(ConfigurationError, match="give 'nc', 'unknown'"):
            load(Hub(), "extended", accept_licences=wrong)


def test_extended_takes_what_is_accepted_and_replaces_what_is_gated() -> None:
    hub = Hub()
    hub.sets |= {
        ("PKU-Alignment/PKU-SafeRLHF", "default", "train"): [given.pku(n) for n in range(3)],
        ("LibrAI/do-not-answer", None, "train"): [given.do_not_answer(n) for n in range(3)],
        ("AmazonScience/FalseReject", None, "train"): [given.falsereject(n) for n in range(3)],
        ("PKU-Alignment/BeaverTails", None, "30k_train"): [given.beavertails(n) for n in range(3)],
        ("allenai/wildjailbreak", "train", "train"): given.wildjailbreak(),
        ("LLM-LAT/harmful-dataset", None, "train"): [given.llm_lat()],
    }
    recipe = load(hub, "extended", accept_licences=["nc"])
    found = states(recipe)
    assert (found["wildguardmix"], found["polyguardmix"]) == ("failed", "loaded")
    assert (found["pku_saferlhf"], found["llm_lat"]) == ("loaded", "left out")
    assert "--accept-licence unknown" in next(w for w in recipe.warnings if "llm_lat" in w)
    assert any(options.get("delimiter") == "\t" for options in hub.options)
    more = load(hub, "extended", accept_licences=["nc", "unknown"])
    assert states(more)["llm_lat"] == "loaded"


def test_public_test_is_measured_by_source() -> None:
    hub = Hub(
        {
            ("ToxicityPrompts/PolyGuardPrompts", None, "test"): [
                r
                for lang in ("English", "German", "Thai")
                for r in given.polyguard_prompts(0, lang)
            ],
            ("JailbreakBench/JBB-Behaviors", "judge_comparison", "test"): given.jbb_judge(),
            ("natolambert/xstest-v2-copy", None, "gpt4"): given.xstest(),
            ("nvidia/Aegis-AI-Content-Safety-Dataset-2.0", None, "test"): given.aegis(),
            ("allenai/reward-bench-2", None, "test"): [
                given.reward_bench(),
                given.reward_bench(1, subset="Math"),
            ],
        }
    )
    recipe = load(hub, "public-test")
    counts = Counter(row.source for row in recipe.rows)
    assert counts == {
        "polyguardprompts_english": 5,
        "polyguardprompts_german": 5,
        "jbb_judge": 2,
        "xstest_gpt4": 5,
        "aegis2_test": 4,
        "rewardbench2_safety": 4,
    }


# the cache


def test_a_second_run_reads_the_cache() -> None:
    first = load(Hub(), revision_of=lambda path, revision: "c0ffee")
    second = load(Hub({}), revision_of=lambda path, revision: "other")
    assert set(states(second).values()) == {"cached"}
    assert second.rows == first.rows
    assert second.digests == first.digests
    assert any("hf:thu-coai/diasafety:train@c0ffee" in name for name in first.digests)
    with pytest.raises(DataError, match="no source"):
        load(Hub({}), resume=False)


def test_the_commit_that_was_found_is_the_one_that_is_read() -> None:
    hub = Hub()
    load(hub, revision_of=lambda path, revision: "c0ffee")
    assert {options["revision"] for options in hub.options} == {"c0ffee"}


def test_another_definition_is_another_file() -> None:
    rows = SourceRows(taken(source(), given.wildguard()).rows, None, 5, 0)
    store(source(), rows)
    assert recall(source()) == rows
    for change in (
        {"limit": 3},
        {"cells": {"refusal": 1}},
        {"revision": "v1"},
        {"split": "test"},
        {"licence": "X"},
        {"map": mappings.aegis},
        {"longest": 9},
    ):
        assert recall(source(**change)) is None
    assert recall(replace(source(), weight=0.5)) == rows


@pytest.mark.parametrize("damage", ["", "{}", "not json", None])
def test_a_damaged_cache_is_loaded_again(
    damage: str | None, own_cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(source(), SourceRows(taken(source(), given.wildguard()).rows, None, 5, 0))
    (file,) = (own_cache / "recipes").glob("made-*.jsonl")
    kept = "".join(file.read_text().splitlines(keepends=True)[:-1])
    file.write_text(kept if damage is None else damage)
    assert recall(source()) is None
    assert "is loaded again" in caplog.text


def test_all_cached_needs_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = load(Hub()).rows
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    assert load_recipe("public").rows == rows


def test_without_the_contrast_set_the_recipe_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(data: object) -> list[Any]:
        raise DataError("the contrast set is not on this machine")

    monkeypatch.setattr("srr_guard.training.data.loading.read_rows", nowhere)
    recipe = load(Hub())
    assert recipe.warnings == ["contrast: the contrast set is not on this machine"]
    assert not any(row.source.startswith("contrast") for row in recipe.rows)
    recipe.require_kinds(recipe.rows)


def test_progress_names_every_source() -> None:
    stages: set[str] = set()

    def report(stage: str, done: int, total: int, **figures: float) -> None:
        stages.add(stage)

    load_recipe("public", load_dataset=Hub(), progress=report)
    assert stages == {f"load {one.name}" for one in RECIPES["public"].sources}
