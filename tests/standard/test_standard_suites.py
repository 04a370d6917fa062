"""The standard suites of langchain-tests, run on SafetyRankedChatModel.

Around a scripted model everything is run that the suites have for models without pictures,
sounds and documents. Around SmolLM2 all that depends on an answer's quality is left out.
"""

from __future__ import annotations

import pytest
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests
from standard.obedient import ObedientChatModel

from srr_guard import LocalChatModel, SafetyRankedChatModel, SamplingPolicy
from srr_guard.testing import FakeScorer


class _Suite:
    @property
    def chat_model_class(self):
        return SafetyRankedChatModel

    @property
    def chat_model_params(self):
        return {
            "model": ObedientChatModel(),
            "scorer": FakeScorer(lambda prompt, answer: 0.9),
            "sampling": SamplingPolicy(n=2),
        }

    @property
    def standard_chat_model_params(self):
        # timeout, max_retries and api_key are left out: they belong to the model inside, and
        # giving them to the guard raises.
        return {"temperature": 0, "max_tokens": 100, "stop": []}

    @property
    def supports_model_override(self):
        return True

    @property
    def model_override_value(self):
        return "obedient-2"


class TestUnit(_Suite, ChatModelUnitTests):
    # test_init_from_env skips itself: nothing is read from the environment.
    # test_serdes skips itself: a scorer cannot be written as a LangChain constructor.
    pass


class TestScripted(_Suite, ChatModelIntegrationTests):
    @property
    def supports_json_mode(self):
        return True

    # The tests of images, audio, video, documents and Anthropic's formats skip themselves:
    # what the content of a message may be is the business of the model inside.
    # test_stream_time needs recorded traffic (enable_vcr_tests) and skips itself.


@pytest.mark.model
class TestSmolLM2(ChatModelIntegrationTests):
    @property
    def chat_model_class(self):
        return SafetyRankedChatModel

    @property
    def chat_model_params(self):
        return {
            "model": LocalChatModel(max_new_tokens=12, seed=0),
            "scorer": FakeScorer(lambda prompt, answer: 0.9),
            "sampling": SamplingPolicy(n=2),
        }

    @property
    def has_tool_calling(self):
        return False  # 12 tokens hold no call, and a model of 135M parameters makes few good ones

    @property
    def has_structured_output(self):
        return False  # for the same reason

    @property
    def supports_model_override(self):
        return False  # a local model is its files
