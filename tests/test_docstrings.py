"`help(f)` shows every parameter, from the comments beside them; imports and `--help` stay as they were."
import inspect
import pickle
import pydoc
import subprocess
import sys

import pytest

import mmtmerge
from conftest import REPO, environment
from mmtmerge import cli, settings
from mmtmerge.lazy import Documented
from mmtmerge.study import provenance, runner


def shown(f):
    return pydoc.render_doc(f, renderer=pydoc.plaintext)


@pytest.mark.parametrize("f", [settings.load, runner.finish, runner.run_notebook, settings.Language])
def test_help_shows_every_parameter(f):
    text = shown(f)
    for name in inspect.signature(f).parameters:
        assert f"\n    {name} : " in text or f" |  {name} : " in text or f"\n    {name}\n" in text
    assert "Parameters\n" in text


def test_meaning_type_and_default():
    text = shown(settings.load)
    assert "profile : str, default 'laptop'\n        a profile of settings.ini\n" in text


def test_what_is_not_annotated():
    assert "paths made besides those that the stage declares: tables, figures" in shown(runner.finish)
    assert "Returns\n    -------\n    yields the folder" in shown(mmtmerge.core.atomic_dir)


def test_the_summary_is_the_docstring():
    doc = provenance.dotted.__doc__
    assert isinstance(doc, Documented) and doc == "A name and its attributes, as they stand in the code."
    assert pickle.loads(pickle.dumps(doc)) == doc


def test_the_command_line_is_untouched():
    assert not isinstance(cli.merge.__doc__, Documented)


def test_nothing_is_parsed_at_import():
    code = "import sys, mmtmerge.settings; print('fastcore.docments' in sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=REPO, env=environment(REPO), check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
