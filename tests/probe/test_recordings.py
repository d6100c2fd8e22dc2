"Recordings on disk: what is not whole is refused."
import numpy as np
import pytest
import torch

from mmtmerge.core import UserError
from mmtmerge.probe.recording import Recording, load_recording, save_recording, write_features


@pytest.fixture
def folder(tmp_path):
    "A recording of five sentences in two files."
    counts, tokens = np.ones((2, 2, 3, 4), np.int64), np.ones((2, 2), np.int64)
    features = np.zeros((2, 5, 3, 8), np.float32)
    save_recording(Recording(counts, tokens, features, dict(ids=list("abcde"))), tmp_path)
    write_features(torch.zeros(2, 5, 2, 8), tmp_path, 1)
    return tmp_path


def test_features_in_several_files(folder):
    r = load_recording(folder)
    assert r.features.shape == (2, 5, 5, 8) and r.at("target").shape == (5, 5, 8)
    with pytest.raises(UserError, match="unknown span 'targt': did you mean 'target'"):
        r.rates("targt")


@pytest.mark.parametrize("name", ["features-00000.safetensors", "features-00001.safetensors"])
def test_a_file_of_features_is_missing(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=r"has features of \d sentences, about.json names 5: copy the folder again"):
        load_recording(folder)


def test_files_that_are_missing_or_damaged(folder):
    (folder / "features-00001.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="is not whole .*: copy the folder again, or record again"):
        load_recording(folder)
    for file in folder.glob("features-*"):
        file.unlink()
    with pytest.raises(UserError, match="is not whole"):
        load_recording(folder)
    (folder / "counts.safetensors").unlink()
    with pytest.raises(UserError, match="is not whole"):
        load_recording(folder)
