"""The tables of the recipes: what they hold, and what they never hold."""

from __future__ import annotations

import pytest

from srr_guard.errors import ConfigurationError, DataError
from srr_guard.training.data.held_out import HELD_OUT, refuse_held_out
from srr_guard.training.data.hub_names import HubName
from srr_guard.training.data.public_recipes import RECIPES, find_recipe
from srr_guard.training.data.recipes import RecipeSource

TRAINING = [
    source
    for name in ("public", "extended")
    for source in (*RECIPES[name].sources, *RECIPES[name].fallbacks.values())
]
ONE_SIDED = {
    "coconot",
    "coconot_pref",
    "helpsteer3",
    "ultrachat",
    "dolly",
    "tulu3_safety",
    "wildjailbreak",
    "falsereject",
}
"""Sources in which every row is safe."""


def hub_name(source: RecipeSource) -> HubName:
    return HubName(source.path, source.config, source.split)


@pytest.mark.parametrize("source", TRAINING, ids=lambda source: source.name)
def test_no_recipe_trains_on_a_test_set(source: RecipeSource) -> None:
    assert not any(held.holds(hub_name(source)) for held in HELD_OUT)


@pytest.mark.parametrize("source", RECIPES["public-test"].sources, ids=lambda source: source.name)
def test_everything_that_is_measured_on_is_held_out(source: RecipeSource) -> None:
    assert any(held.holds(hub_name(source)) for held in HELD_OUT)
    assert source.limit is None


def test_public_is_open() -> None:
    public = find_recipe("public")
    sources = [*public.sources, *public.fallbacks.values()]
    assert {source.terms for source in sources} == {"open"}
    assert not any("NC" in source.licence or source.gated for source in sources)
    assert sum(source.limit or 0 for source in public.sources) == pytest.approx(40_000, rel=0.02)
    assert public.contrast


@pytest.mark.parametrize("name", ["public", "extended"])
def test_sources_that_are_all_safe_are_fewer_than_the_others(name: str) -> None:
    sources = RECIPES[name].sources
    one_sided = sum(s.limit or 0 for s in sources if s.name in ONE_SIDED)
    assert one_sided < sum(s.limit or 0 for s in sources if s.name not in ONE_SIDED)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_whole(name: str) -> None:
    recipe = RECIPES[name]
    named = [*recipe.sources, *recipe.fallbacks.values()]
    assert len({source.name for source in named}) == len(named)
    assert len({source.digest for source in named}) == len(named)
    for source in named:
        assert source.licence
        assert set(source.fallback) <= set(recipe.fallbacks)
        assert bool(source.part) == bool(source.parts)
        if source.cells and source.limit is not None:
            most = sum(source.cells.values()) * max(1, len(source.parts))
            assert source.limit <= most


def test_wildguard_stands_in_for_its_own_translation() -> None:
    names = {source.name for source in RECIPES["extended"].sources}
    assert "wildguardmix" in names
    assert "polyguardmix" not in names


def test_a_recipe_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match="'public', 'extended', 'public-test'"):
        find_recipe("private")


@pytest.mark.parametrize(
    "item",
    [
        "hf:ToxicityPrompts/PolyGuardPrompts:test",
        "hf:JailbreakBench/JBB-Behaviors/behaviors:harmful",
        "hf:JailbreakBench/JBB-Behaviors/judge_comparison:test",
        "hf:Paul/XSTest",
        "hf:natolambert/xstest-v2-copy:gpt4",
        "hf:allenai/xstest-response:response_refusal",
        "hf:nvidia/Aegis-AI-Content-Safety-Dataset-2.0:test",
        "hf:nvidia/aegis-ai-content-safety-dataset-2.0:train+test[:10%]",
        "hf:PKU-Alignment/PKU-SafeRLHF:test",
        "hf:PKU-Alignment/PKU-SafeRLHF/alpaca-7b:test",
        "hf:PKU-Alignment/BeaverTails:30k_test",
        "hf:PKU-Alignment/BeaverTails:all",
        "hf:allenai/coconot/contrast:test",
        "hf:allenai/coconot/original:test",
        "hf:bench-llm/or-bench/or-bench-hard-1k",
        "hf:bench-llms/or-bench/or-bench-toxic:train",
        "hf:AmazonScience/FalseReject:test",
        "hf:allenai/reward-bench:filtered",
        "hf:allenai/reward-bench-2:test",
        "hf:Qwen/Qwen3GuardTest:thinking",
        "hf:walledai/HarmBench/standard",
        "hf:AlignmentResearch/StrongREJECT:validation",
        "hf:sorry-bench/sorry-bench-202503",
        "hf:lmsys/toxic-chat/toxicchat0124:test",
        "hf:allenai/wildguardmix/wildguardtest:test",
        "hf:walledai/WildGuardTest",
    ],
)
def test_test_sets_are_refused(item: str) -> None:
    with pytest.raises(DataError, match="never trained on"):
        refuse_held_out(["rows.jsonl", item])


def test_training_splits_are_not_refused() -> None:
    refuse_held_out(
        [
            "xstest.jsonl",
            "hf:nvidia/Aegis-AI-Content-Safety-Dataset-2.0",
            "hf:PKU-Alignment/BeaverTails:330k_train",
            "hf:allenai/coconot/original:train",
            "hf:bench-llm/or-bench/or-bench-80k",
            "hf:lmsys/toxic-chat/toxicchat0124:train",
            "hf:allenai/wildguardmix/wildguardtrain:train",
        ]
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("imdb", HubName("imdb")),
        ("a/b", HubName("a/b")),
        ("a/b:test", HubName("a/b", None, "test")),
        ("a/b:train[:10%]", HubName("a/b", None, "train[:10%]")),
        ("a/b/c", HubName("a/b", "c")),
        ("a/b/c:test", HubName("a/b", "c", "test")),
        ("a/b:", HubName("a/b")),
    ],
)
def test_names_on_the_hub(text: str, expected: HubName) -> None:
    assert HubName.parse(text) == expected


@pytest.mark.parametrize("text", ["", ":train", "a/", "/b", "a/b/c/d", "a//c"])
def test_names_that_are_none(text: str) -> None:
    with pytest.raises(DataError, match="config:split"):
        HubName.parse(text)
