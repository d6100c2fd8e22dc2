"Counts and rates of a user's own that cannot be."
import numpy as np
import pytest

from mmtmerge.core import UserError
from mmtmerge.probe.neurons import nua, select_neurons

RATES = np.full((3, 4), .5)


@pytest.mark.parametrize("a, b, message", [
    (RATES[0], RATES[0], r"rates \(blocks, neurons\) of shape \(4,\)"),
    (RATES, RATES[:2], "must have the same blocks"),
])
def test_rates_that_cannot_be(a, b, message):
    with pytest.raises(UserError, match=message):
        nua(a, b)


@pytest.mark.parametrize("counts, tokens, message", [
    (np.ones((3, 2, 4)), [9, 9], "counts of 3 languages and tokens of 2"),
    (np.full((2, 2, 4), 10), [9, 9], "more tokens than were counted"),
    (np.ones((2, 2, 4)), [9, 0], "languages without a token"),
])
def test_counts_that_cannot_be(counts, tokens, message):
    with pytest.raises(UserError, match=message):
        select_neurons(counts, np.array(tokens))


@pytest.mark.parametrize("thresholds, message", [
    (dict(rule="alife"), "did you mean 'alive'"),
    (dict(rho=0), "rho must lie in"),
    (dict(tau=1), "tau in"),
])
def test_thresholds_that_cannot_be(thresholds, message):
    with pytest.raises(UserError, match=message):
        select_neurons(np.ones((2, 2, 4)), np.array([9, 9]), **thresholds)
