"Pictures of one's own models: what is drawn is what was computed, from recordings and from plain arrays alike."
import numpy as np
import pytest

from mmtmerge import plots
from mmtmerge.core import UserError
from mmtmerge.probe.geometry import angle_summary, basis
from mmtmerge.probe.recording import Recording
from mmtmerge.probe.similarity import cka

RNG = np.random.default_rng(0)


def features(depths=5, sentences=24, hidden=12):
    return RNG.normal(size=(depths, sentences, hidden)).astype(np.float32)


def recording(array):
    counts = RNG.integers(0, 50, (2, 4, 3, 20))
    return Recording(counts, np.full((2, 4), 50), np.stack([array, features(*array.shape)]))


def test_cka_by_depth():
    a, b = features(), features()
    ax = plots.cka_by_depth(a, b)
    expected = [cka(x, y) for x, y in zip(a, b)]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)
    again = plots.cka_by_depth(recording(a), recording(b), label="the same", ax=ax)
    assert again is ax
    np.testing.assert_allclose(ax.lines[1].get_ydata(), expected)


def test_layers_of_models_of_different_depth():
    a, b = features(5), features(3)
    values = plots.cka_layers(a, b).images[0].get_array()
    assert values.shape == (5, 3)
    assert values[4, 2] == pytest.approx(cka(a[4], b[2]))
    with pytest.raises(UserError, match="5 and 3 depths.*cka_layers"):
        plots.cka_by_depth(a, b)


def test_neurons_from_masks_and_recordings():
    masks = {language: RNG.random((3, 20)) > .7 for language in ("hi", "ta")}
    ax = plots.neurons_by_block(masks)
    heights = np.array([bar.get_height() for bar in ax.patches]).reshape(2, 3)
    np.testing.assert_array_equal(heights, [mask.sum(1) for mask in masks.values()])
    recorded = {language: recording(features()) for language in masks}
    found = plots.masks_of(recorded, rho=.5)
    assert list(found) == ["hi", "ta"] and found["hi"].shape == (3, 20)


def test_angles():
    a, b = features(), features()
    ax = plots.angles_by_depth(a, b, r=4)
    expected = [angle_summary(basis(x, 4), basis(y, 4))["median"] for x, y in zip(a, b)]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), expected)


def test_retention_needs_an_expert():
    with pytest.raises(UserError, match="hi-en: the expert's score"):
        plots.retention_bars({"ties": {"hi-en": 3.}}, {"hi-en": 0.})


def test_recordings_of_other_sentences_or_models_are_refused():
    a, b = recording(features()), recording(features())
    a.about, b.about = (dict(model=m, split=s, ids=[1]) for m, s in (("one", "dev"), ("two", "devtest")))
    for draw in (plots.cka_by_depth, plots.cka_layers, plots.angles_by_depth):
        with pytest.raises(UserError, match="differ in split: dev and devtest"):
            draw(a, b)
    with pytest.raises(UserError, match="differ in model: one and two"):
        plots.neurons_by_block(dict(hi=a, ta=b))
    with pytest.raises(UserError, match="at least two languages"):
        plots.neurons_by_block(dict(hi=a))
    b.about = a.about | dict(ids=[2])
    with pytest.raises(UserError, match="differ in ids: record them alike"):
        plots.cka_by_depth(a, b)
