"""Entropies worked out by hand."""

from __future__ import annotations

import math

import pytest

from glimp_integrations import ConfigError
from glimp_integrations.method.entropy import estimate


def logs(*probs: float) -> list[float]:
    return [math.log(p) if p > 0 else -math.inf for p in probs]


@pytest.mark.parametrize("estimator", ["topk_renorm", "topk_other"])
class TestBothEstimators:
    @pytest.mark.parametrize("k", [1, 2, 5, 20])
    def test_uniform_over_k_is_ln_k(self, estimator, k):
        assert estimate(logs(*[1 / k] * k), estimator) == pytest.approx(math.log(k))

    def test_one_certain_token_is_zero(self, estimator):
        assert estimate([0.0], estimator) == 0.0
        assert estimate([0.0, -math.inf, -math.inf], estimator) == 0.0

    def test_half_and_two_quarters(self, estimator):
        # 1/2 ln 2 + 2 * 1/4 ln 4
        assert estimate(logs(0.5, 0.25, 0.25), estimator) == pytest.approx(1.5 * math.log(2))

    def test_impossible_tokens_count_as_nothing(self, estimator):
        with_impossible = estimate(logs(0.5, 0.5, 0.0), estimator)
        assert with_impossible == estimate(logs(0.5, 0.5), estimator)
        assert not math.isnan(with_impossible)

    def test_never_negative_when_rounding_exceeds_certainty(self, estimator):
        assert estimate([1e-9], estimator) == 0.0

    def test_nan_is_a_mistake_that_shows_the_value(self, estimator):
        with pytest.raises(ConfigError, match="nan"):
            estimate([-0.1, math.nan], estimator)

    @pytest.mark.parametrize("values", [[800.0], [math.inf, 0.0], [0.3, -9.0], [0.0, 0.0]])
    def test_what_is_no_log_probability_is_a_mistake(self, estimator, values):
        with pytest.raises(ConfigError, match="natural logarithms"):
            estimate(values, estimator)

    def test_nothing_is_a_mistake_that_shows_the_value(self, estimator):
        with pytest.raises(ConfigError, match=r"got \[\]"):
            estimate([], estimator)

    def test_only_impossible_tokens_are_a_mistake(self, estimator):
        with pytest.raises(ConfigError, match="-inf"):
            estimate([-math.inf, -math.inf], estimator)


class TestMissingMass:
    """The top two hold 0.4 each; 0.2 lies in the tail."""

    TOP = logs(0.4, 0.4)

    def test_renorm_forgets_the_tail(self):
        assert estimate(self.TOP, "topk_renorm") == pytest.approx(math.log(2))

    def test_other_counts_the_tail_as_one_token(self):
        by_hand = -(2 * 0.4 * math.log(0.4) + 0.2 * math.log(0.2))
        assert estimate(self.TOP, "topk_other") == pytest.approx(by_hand)

    def test_a_single_token_is_certain_only_for_renorm(self):
        assert estimate(logs(0.5), "topk_renorm") == 0.0
        assert estimate(logs(0.5), "topk_other") == pytest.approx(math.log(2))

    def test_mass_rounded_over_one_is_renormalised(self):
        assert estimate(logs(0.5001, 0.5001), "topk_other") == pytest.approx(math.log(2))


def test_unknown_estimator_is_named():
    with pytest.raises(ConfigError, match="'full'"):
        estimate([0.0], "full")


def test_order_does_not_matter():
    probs = [0.1, 0.6, 0.2]
    assert estimate(logs(*probs), "topk_other") == pytest.approx(
        estimate(logs(*sorted(probs, reverse=True)), "topk_other")
    )
