"Features of a user's own: those that cannot be, and tensors of any type."
import numpy as np
import pytest
import torch

from mmtmerge.core import UserError
from mmtmerge.probe.geometry import principal_angles
from mmtmerge.probe.similarity import cka

ONES = np.ones((8, 5))
WITH_NAN = np.where(np.eye(8, 5) > 0, np.nan, 1)


@pytest.mark.parametrize("a, b, message", [
    (np.full((8, 5), np.inf), ONES, "40 values that are NaN or infinite"),
    (ONES[0], ONES, r"features of shape \(5,\): 2 axes"),
    (ONES, ONES[:7], "features of 8 and 7 sentences"),
])
def test_features_without_cka(a, b, message):
    with pytest.raises(UserError, match=message):
        cka(a, b)


def test_features_without_angles():
    rng = np.random.default_rng(0)
    five, six = rng.normal(size=(8, 5)), rng.normal(size=(8, 6))
    with pytest.raises(UserError, match="subspaces of 5 and 6 dimensions"):
        principal_angles(five, six, 2)
    with pytest.raises(UserError, match="5 values that are NaN"):
        principal_angles(WITH_NAN, ONES, 2)


def test_tensors_of_any_type():
    h = torch.randn(9, 6, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert cka(h, h) == pytest.approx(1)
    assert cka(h, h.float().numpy()) == pytest.approx(1)
    assert principal_angles(h, h, 3).max() < 1e-4
