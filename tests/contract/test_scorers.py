"""Every scorer of the library passes the tests for anyone's scorer."""

from __future__ import annotations

import pytest

from qwen_rerank import Scorer
from qwen_rerank.testing import ScorerTests
from tests.contract.conftest import KNOWING, WITHOUT_MEANING, make_scorer


class TestScorers(ScorerTests):
    @pytest.fixture(params=KNOWING)
    def scorer(self, request: pytest.FixtureRequest) -> Scorer:
        return make_scorer(request)


class TestScorersWithoutMeaning(ScorerTests):
    ranks_by_relevance = False

    @pytest.fixture(params=WITHOUT_MEANING)
    def scorer(self, request: pytest.FixtureRequest) -> Scorer:
        return make_scorer(request)
