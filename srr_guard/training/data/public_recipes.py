"""The recipes `public`, `extended` and `public-test`.

All sources of `public` are open and may be used for any purpose. `extended` adds sets for
non-commercial use and gated ones. `public-test` is for measuring only (see `held_out`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from srr_guard.errors import ConfigurationError
from srr_guard.training.data import mappings, measured_mappings
from srr_guard.training.data.recipes import Recipe, RecipeSource
from srr_guard.training.data.records import Record

LANGUAGES = ("Arabic", "Chinese", "French", "German", "Hindi", "Japanese", "Russian", "Spanish")
TEST_LANGUAGES = ("English", "Chinese", "German")
XSTEST_MODELS = ("gpt4", "llama2new", "llama2orig", "mistralguard", "mistralinstruct")

_CELLS = {
    "compliance": 2500,
    "refusal": 2500,
    "benign-help": 2500,
    "over-refusal": 1500,
    "safe-answer": 1000,
}
_AEGIS_CELLS = {"compliance": 2500, "refusal": 1500, "benign-help": 1000, "safe-answer": 1000}
_NEMOTRON = "nvidia/Nemotron-Safety-Guard-Dataset-v3"
_NEMOTRON_LANGUAGES = ("ar", "de", "es", "fr", "hi", "ja", "zh")


def _metadata_language(record: Record) -> str:
    metadata = record.get("metadata")
    return str(metadata.get("language")) if isinstance(metadata, Mapping) else ""


def _language(record: Record) -> str:
    return str(record.get("language"))


def _tulu_part(record: Record) -> str:
    source = str(record.get("source")).lower()
    return next((part for part in _TULU_PARTS if part in source), "")


def _data_type(record: Record) -> str:
    return str(record.get("data_type"))


def _subset(record: Record) -> str:
    return str(record.get("subset"))


_TULU_PARTS = ("wildjailbreak", "wildguard")
_WILDJAILBREAK_TYPES = (
    "vanilla_harmful",
    "adversarial_harmful",
    "vanilla_benign",
    "adversarial_benign",
)

POLYGUARD = RecipeSource(
    name="polyguardmix",
    path="ToxicityPrompts/PolyGuardMix",
    map=mappings.wildguard,
    licence="CC-BY-4.0",
    limit=10_000,
    cells=_CELLS,
    part=_metadata_language,
    parts=("English",),
    stream=True,
    fallback=("nemotron3_en",),
)
_POLYGUARD_LANGUAGES = replace(
    POLYGUARD,
    name="polyguardmix_languages",
    limit=500 * len(LANGUAGES),
    cells={kind: most // 20 for kind, most in _CELLS.items()},
    parts=LANGUAGES,
    fallback=("nemotron3_languages",),
)
_AEGIS = RecipeSource(
    name="aegis2",
    path="nvidia/Aegis-AI-Content-Safety-Dataset-2.0",
    map=mappings.aegis,
    licence="CC-BY-4.0",
    limit=6000,
    cells=_AEGIS_CELLS,
    fallback=("nemotron3_en",),
)
_COCONOT = RecipeSource(
    name="coconot",
    path="allenai/coconot",
    config="original",
    map=mappings.coconot,
    licence="ODC-BY",
    limit=1500,
    cells={"refusal": 750, "safe-answer": 750},
)
_ULTRACHAT = RecipeSource(
    name="ultrachat",
    path="HuggingFaceH4/ultrachat_200k",
    split="train_sft",
    map=mappings.chat,
    licence="MIT",
    limit=1500,
    stream=True,
    follow_lengths=True,
    fallback=("smoltalk", "wildchat"),
)

_PUBLIC = (
    POLYGUARD,
    _POLYGUARD_LANGUAGES,
    _AEGIS,
    RecipeSource(
        name="harmfulqa",
        path="declare-lab/HarmfulQA",
        map=mappings.harmfulqa,
        licence="Apache-2.0",
        limit=2500,
        weight=0.5,
    ),
    RecipeSource(
        name="hh_harmless",
        path="Anthropic/hh-rlhf",
        data_dir="harmless-base",
        map=mappings.hh,
        licence="MIT",
        limit=6000,
    ),
    _COCONOT,
    replace(
        _COCONOT,
        name="coconot_pref",
        config="pref",
        map=mappings.coconot_pref,
        limit=1854,
        cells={},
    ),
    RecipeSource(
        name="helpsteer3",
        path="nvidia/HelpSteer3",
        config="preference",
        map=mappings.helpsteer3,
        licence="CC-BY-4.0",
        limit=2500,
    ),
    _ULTRACHAT,
    RecipeSource(
        name="dolly",
        path="databricks/databricks-dolly-15k",
        map=mappings.dolly,
        licence="CC-BY-SA-3.0",
        limit=1000,
    ),
    RecipeSource(
        name="diasafety",
        path="thu-coai/diasafety",
        map=mappings.diasafety,
        licence="Apache-2.0",
        limit=1500,
        weight=0.3,
    ),
    RecipeSource(
        name="tulu3_safety",
        path="allenai/tulu-3-sft-mixture",
        map=mappings.tulu_safety,
        licence="ODC-BY",
        limit=1500,
        cells={"refusal": 375, "benign-help": 375},
        part=_tulu_part,
        parts=_TULU_PARTS,
        stream=True,
        weight=0.5,
    ),
)

_FALLBACKS = (
    RecipeSource(
        name="nemotron3_en",
        path=_NEMOTRON,
        data_files=("en/train.jsonl",),
        map=mappings.aegis,
        licence="CC-BY-4.0",
        limit=6000,
        cells=_AEGIS_CELLS,
    ),
    RecipeSource(
        name="nemotron3_languages",
        path=_NEMOTRON,
        data_files=tuple(f"{language}/train.jsonl" for language in _NEMOTRON_LANGUAGES),
        map=mappings.aegis,
        licence="CC-BY-4.0",
        limit=500 * len(_NEMOTRON_LANGUAGES),
        cells={"compliance": 200, "refusal": 120, "benign-help": 90, "safe-answer": 90},
        part=_language,
        parts=_NEMOTRON_LANGUAGES,
        stream=True,
    ),
    replace(
        _ULTRACHAT,
        name="smoltalk",
        path="HuggingFaceTB/smoltalk",
        config="all",
        split="train",
        licence="Apache-2.0",
        fallback=(),
    ),
    replace(
        _ULTRACHAT,
        name="wildchat",
        path="allenai/WildChat-1M",
        split="train",
        map=mappings.wildchat,
        licence="ODC-BY",
        fallback=(),
    ),
)

_EXTENDED = (
    RecipeSource(
        name="wildguardmix",
        path="allenai/wildguardmix",
        config="wildguardtrain",
        map=mappings.wildguard,
        licence="ODC-BY",
        limit=10_000,
        cells=_CELLS,
        gated=True,
        fallback=("polyguardmix",),
    ),
    *(source for source in _PUBLIC if source is not POLYGUARD),
    RecipeSource(
        name="wildjailbreak",
        path="allenai/wildjailbreak",
        config="train",
        map=mappings.wildjailbreak,
        licence="ODC-BY",
        limit=4000,
        cells={"refusal": 1000, "benign-help": 1000},
        part=_data_type,
        parts=_WILDJAILBREAK_TYPES,
        options={"delimiter": "\t", "keep_default_na": False},
        stream=True,
        gated=True,
    ),
    RecipeSource(
        name="pku_saferlhf",
        path="PKU-Alignment/PKU-SafeRLHF",
        config="default",
        map=mappings.pku_mixed,
        licence="CC-BY-NC-4.0",
        limit=8000,
        terms="nc",
    ),
    RecipeSource(
        name="beavertails",
        path="PKU-Alignment/BeaverTails",
        split="30k_train",
        map=mappings.beavertails,
        licence="CC-BY-NC-4.0",
        limit=4000,
        majority=True,
        terms="nc",
    ),
    RecipeSource(
        name="falsereject",
        path="AmazonScience/FalseReject",
        map=mappings.falsereject,
        licence="CC-BY-NC-4.0",
        limit=3000,
        terms="nc",
    ),
    RecipeSource(
        name="do_not_answer",
        path="LibrAI/do-not-answer",
        map=mappings.do_not_answer,
        licence="CC-BY-NC-SA-4.0",
        limit=2000,
        cells={"compliance": 700, "refusal": 650, "safe-answer": 650},
        terms="nc",
    ),
    RecipeSource(
        name="llm_lat",
        path="LLM-LAT/harmful-dataset",
        map=mappings.llm_lat,
        licence="not stated",
        limit=1000,
        terms="unknown",
    ),
)

_TEST = (
    *(
        RecipeSource(
            name=f"polyguardprompts_{language.lower()}",
            path="ToxicityPrompts/PolyGuardPrompts",
            split="test",
            map=measured_mappings.polyguard_prompts,
            licence="CC-BY-4.0",
            limit=None,
            part=_language,
            parts=(language,),
            longest=None,
        )
        for language in TEST_LANGUAGES
    ),
    RecipeSource(
        name="jbb_judge",
        path="JailbreakBench/JBB-Behaviors",
        config="judge_comparison",
        split="test",
        map=measured_mappings.jbb_judge,
        licence="MIT",
        limit=None,
        longest=None,
    ),
    *(
        RecipeSource(
            name=f"xstest_{model}",
            path="natolambert/xstest-v2-copy",
            split=model,
            map=measured_mappings.xstest,
            licence="CC-BY-4.0",
            limit=None,
            longest=None,
        )
        for model in XSTEST_MODELS
    ),
    replace(
        _AEGIS,
        name="aegis2_test",
        split="test",
        map=measured_mappings.aegis_test,
        limit=None,
        cells={},
        longest=None,
        fallback=(),
    ),
    RecipeSource(
        name="rewardbench2_safety",
        path="allenai/reward-bench-2",
        split="test",
        map=measured_mappings.reward_bench,
        licence="ODC-BY",
        limit=None,
        part=_subset,
        parts=("Safety",),
        longest=None,
    ),
)

RECIPES: Mapping[str, Recipe] = {
    "public": Recipe(
        name="public",
        sources=_PUBLIC,
        fallbacks={source.name: source for source in _FALLBACKS},
        contrast=True,
    ),
    "extended": Recipe(
        name="extended",
        sources=_EXTENDED,
        fallbacks={source.name: source for source in (POLYGUARD, *_FALLBACKS)},
        contrast=True,
        terms=("nc",),
    ),
    "public-test": Recipe(name="public-test", sources=_TEST),
}
"""All recipes, by name."""


def find_recipe(name: str) -> Recipe:
    """The recipe of this name.

    Raises:
        ConfigurationError: There is none.
    """
    if name not in RECIPES:
        known = ", ".join(map(repr, RECIPES))
        raise ConfigurationError(f"there is no recipe {name!r}: take one of {known}")
    return RECIPES[name]
