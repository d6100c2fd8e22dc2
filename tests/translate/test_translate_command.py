"mmtmerge translate: a line in, a line out; refusals before the model is read; files that can be continued."

import json
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import REPO, environment
from typer.testing import CliRunner

from mmtmerge import engines, translate_files
from mmtmerge.cli import app
from mmtmerge.core import UserError, root
from mmtmerge.corpus.embedded import Corpus
from mmtmerge.engines import open_engine
from mmtmerge.target_script import foreign
from mmtmerge.settings import load
from mmtmerge.translate_files import note_of

MINI = root() / "mmtmerge/data/miniature"
STUDY = load()


@pytest.fixture(scope="module")
def hindi():
    lines = Corpus.open("embedded").test("devtest", "hi-en", 9, 3, 8).source.tolist()
    return [*lines[:4], "", *lines[4:], "  "]


def call(*words, text=None):
    "The command in this process: its standard output; an error is raised as it is."
    done = CliRunner().invoke(app, ["translate", *map(str, words)], input=text, catch_exceptions=True)
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def text_of(lines):
    return "".join(f"{line}\n" for line in lines)


def test_lines_come_out_as_the_engine_writes_them(hindi):
    full = [line for line in hindi if line.strip()]
    expected = open_engine("transformers", MINI, "float32").translate(STUDY.instruction("hi-en"), full, STUDY.p).texts
    written = call(MINI, "hi-en", text=text_of(hindi)).split("\n")
    assert written.pop() == ""
    assert len(written) == len(hindi)
    assert [line for line, source in zip(written, hindi) if source.strip()] == [" ".join(t.split()) for t in expected]
    assert [line for line, source in zip(written, hindi) if not source.strip()] == ["", ""]


def test_a_file_goes_where_standard_input_goes(hindi, tmp_path):
    file, out = tmp_path / "text.hi", tmp_path / "text.en"
    file.write_text(text_of(hindi).removesuffix("\n"), encoding="utf-8")
    assert call(MINI, "hi-en", file, "--out", out) == ""
    assert out.read_text(encoding="utf-8") == call(MINI, "hi-en", text=text_of(hindi))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.en", "text.hi"]


def test_nothing_in_nothing_out():
    assert call(MINI, "hi-en", text="") == ""
    assert call(MINI, "hi-en", text="\n\n") == "\n\n"


def test_windows_line_ends():
    assert call(MINI, "hi-en", text="पानी\r\n\r\n") == call(MINI, "hi-en", text="पानी\n\n")


@pytest.mark.parametrize("options", [[], ["--first", 2], ["--source-tokens"], ["--source-tokens", "--first", 1]])
def test_keeping_to_the_script(hindi, options):
    free = call(MINI, "hi-ta", text=text_of(hindi))
    kept = call(MINI, "hi-ta", "--keep-script", *options, text=text_of(hindi))
    if not options:
        assert [c for c in kept if foreign(c, "Tamil")] == []
        assert kept != free


def test_a_line_that_is_too_long_is_named_before_the_work(tmp_path, unread):
    out = tmp_path / "out.hi"
    for more in ((), ("--out", out)):
        file = tmp_path / "long.en"
        file.write_text("Open the file\n" + "Open the file " * 400 + "\n")
        with pytest.raises(UserError, match="long.en, line 2: it has .* has 512 positions: divide the line"):
            call(MINI, "en-hi", file, *more)
    assert not out.exists()


def test_languages_of_one_script_get_a_note(tmp_path, monkeypatch):
    settings = (REPO / "settings.ini").read_text(encoding="utf-8")
    german = "[language de]\nname = German\nscript = Latin\n\n[language hi]"
    (tmp_path / "settings.ini").write_text(settings.replace("[language hi]", german), encoding="utf-8")
    monkeypatch.setenv("MMTMERGE_ROOT", str(tmp_path))
    words = ["translate", str(MINI), "en-de", "--keep-script", "--quiet"]
    done = CliRunner().invoke(app, words, input="water\n")
    assert done.exit_code == 0
    assert done.stderr.startswith("note: English and German are both written in Latin")
    words.remove("--keep-script")
    assert "note:" not in CliRunner().invoke(app, words, input="water\n").stderr


def test_a_prompt_of_ones_own(hindi):
    study = call(MINI, "hi-en", text=text_of(hindi))
    same = "Translate the following {source} sentence to {target}"
    assert call(MINI, "hi-en", "--prompt", same, text=text_of(hindi)) == study
    assert call(MINI, "hi-en", "--prompt", "Write this {source} text in {target}", text=text_of(hindi)) != study


def test_the_batch_changes_nothing(hindi):
    many = text_of(hindi)
    assert call(MINI, "hi-en", "--batch", 1, text=many) == call(MINI, "hi-en", "--batch", 7, text=many)


# Refusals


@pytest.mark.parametrize(
    "words, message",
    [
        (["hi-xx"], "unknown language 'xx'"),
        (["hi"], "'hi' is no direction"),
        (["hi-hi"], "the same language"),
        (["hi-en", "missing.txt"], "missing.txt cannot be read"),
        (["hi-en", "--engine", "transformer"], "did you mean 'transformers'"),
        (["hi-en", "--dtype", "float8"], "--dtype 'float8'"),
        (["hi-en", "--first", 2], "--first belongs to --keep-script"),
        (["hi-en", "--source-tokens"], "--source-tokens belongs to --keep-script"),
        (["hi-en", "--out", "no/folder/text.en"], "there is no folder no/folder"),
    ],
)
def test_wrong_words_are_refused_before_the_model_is_read(words, message, unread):
    with pytest.raises(UserError, match=message):
        call(MINI, *words, text="पानी\n")


def test_lines_that_are_not_utf_8_are_named(unread):
    with pytest.raises(UserError, match="standard input, line 3 is not UTF-8"):
        call(MINI, "hi-en", text=b"a\nb\n\xff\xfe\n")


def break_folder(folder, how):
    "Make a copy of a checkpoint one that cannot be used."
    if how == "weights":
        (folder / "model.safetensors").unlink()
    if how == "template":
        (folder / "chat_template.jinja").unlink()
    if how == "tokenizer":
        (folder / "tokenizer.json").write_text("{")
    if how == "parts":
        (folder / "parts.json").write_text("{}")
    if how == "end":
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps(config | dict(eos_token=None)))


BROKEN = dict(
    weights="holds no .*safetensors",
    template="has no chat template",
    tokenizer="the tokenizer of .* cannot be read",
    parts="parts.json",
    end="has no end-of-sequence token",
)


@pytest.mark.parametrize("how", BROKEN)
def test_folders_that_cannot_translate(how, tmp_path, unread):
    folder, out = tmp_path / "checkpoint", tmp_path / "text.en"
    shutil.copytree(MINI, folder)
    break_folder(folder, how)
    with pytest.raises(UserError, match=BROKEN[how]):
        call(folder, "hi-en", "--out", out, text="पानी\n")
    assert not out.exists() and not note_of(out).exists()


def test_no_folder(tmp_path, unread):
    with pytest.raises(UserError, match="is no folder"):
        call(tmp_path / "missing", "hi-en", text="पानी\n")
    with pytest.raises(UserError, match="holds no config.json"):
        call(tmp_path, "hi-en", text="पानी\n")


# Files that can be continued


class Interrupted(Exception):
    "Stands for the end of the process."


def interrupt(monkeypatch, chunks):
    "Let so many chunks be translated."
    whole, left = translate_files.translate_chunk, [chunks]

    def some(*args):
        if not left[0]:
            raise Interrupted
        left[0] -= 1
        return whole(*args)

    monkeypatch.setattr(translate_files, "translate_chunk", some)


def begun(monkeypatch, tmp_path, hindi, chunks=2):
    "A file with some chunks; the words that write it, and what they write in the end."
    file, out = tmp_path / "text.hi", tmp_path / "text.en"
    file.write_text(text_of(hindi), encoding="utf-8")
    whole = call(MINI, "hi-en", file, "--batch", 1)
    words = [MINI, "hi-en", file, "--batch", 1, "--out", out]
    with monkeypatch.context() as context:
        interrupt(context, chunks)
        with pytest.raises(Interrupted):
            call(*words)
    return out, words, whole


@pytest.mark.parametrize("chunks", [0, 1, 2])
def test_an_interrupted_file_is_continued(hindi, tmp_path, monkeypatch, chunks):
    out, words, whole = begun(monkeypatch, tmp_path, hindi, chunks)
    assert len(out.read_text(encoding="utf-8").splitlines()) == 4 * chunks
    assert note_of(out).exists()
    translated = []
    chunk = translate_files.translate_chunk

    def counted(translator, request, lines):
        translated.extend(lines)
        return chunk(translator, request, lines)

    monkeypatch.setattr(translate_files, "translate_chunk", counted)
    call(*words)
    assert translated == hindi[4 * chunks :]
    assert out.read_text(encoding="utf-8") == whole
    assert not note_of(out).exists()


@pytest.mark.parametrize("cut", [1, 10])
def test_half_lines_are_written_again(hindi, tmp_path, monkeypatch, cut):
    out, words, whole = begun(monkeypatch, tmp_path, hindi)
    out.write_bytes(out.read_bytes()[:-cut])
    call(*words)
    assert out.read_text(encoding="utf-8") == whole


def test_a_file_that_was_removed_is_begun_again(hindi, tmp_path, monkeypatch):
    out, words, whole = begun(monkeypatch, tmp_path, hindi)
    out.unlink()
    call(*words)
    assert out.read_text(encoding="utf-8") == whole


def test_a_whole_file_whose_note_was_left_is_not_translated_again(hindi, tmp_path, unread):
    out, file = tmp_path / "text.en", tmp_path / "text.hi"
    file.write_text(text_of(hindi), encoding="utf-8")
    request = translate_files.Request("hi-en", STUDY.prompt, batch=1)
    about = translate_files.made_from(MINI, request, file.read_bytes())
    translate_files.write_json(note_of(out), about)
    out.write_text(text_of("x" for _ in hindi))
    call(MINI, "hi-en", file, "--batch", 1, "--out", out)
    assert out.read_text() == text_of("x" for _ in hindi)
    assert not note_of(out).exists()


def test_what_differs_is_named(tmp_path, unread):
    file, out = tmp_path / "text.hi", tmp_path / "text.en"
    file.write_text("पानी\n", encoding="utf-8")
    request = translate_files.Request("hi-en", STUDY.prompt, batch=1)
    translate_files.write_json(note_of(out), translate_files.made_from(MINI, request, file.read_bytes()))
    out.write_text("")
    words = [MINI, "hi-en", file, "--batch", 1, "--out", out]
    other = tmp_path / "other"
    shutil.copytree(MINI, other)
    (other / "generation_config.json").write_text("{}")
    changes = {
        "another model": [other, *words[1:]],
        "direction 'hi-en', not 'bn-en'": [MINI, "bn-en", *words[2:]],
        "keep '', not 'script:first=3'": [*words, "--keep-script", "--first", 3],
        "batch 1, not 2": [*words[:4], 2, *words[5:]],
        "dtype 'float32', not 'bfloat16'": [*words, "--dtype", "bfloat16"],
        "prompt .*, not 'Say it'": [*words, "--prompt", "Say it"],
    }
    for message, changed in changes.items():
        with pytest.raises(UserError, match=f"was begun with {message}"):
            call(*changed)
    file.write_text("घर\n", encoding="utf-8")
    with pytest.raises(UserError, match="was begun with another input"):
        call(*words)


def test_a_finished_file_is_not_replaced(tmp_path, unread):
    out = tmp_path / "text.en"
    out.write_text("mine")
    with pytest.raises(UserError, match="exists already"):
        call(MINI, "hi-en", "--out", out, text="पानी\n")
    assert out.read_text() == "mine"


# The process


def test_the_process(hindi, tmp_path):
    "Translations on standard output, all else on standard error; status 2 and one sentence for a mistake."
    words = [sys.executable, "-m", "mmtmerge.cli", "translate", str(MINI)]
    process = dict(cwd=REPO, env=environment(REPO), capture_output=True)
    done = subprocess.run([*words, "hi-en"], input=text_of(hindi).encode(), **process)
    assert done.returncode == 0
    assert done.stdout.decode() == call(MINI, "hi-en", text=text_of(hindi))
    assert b"hi-en: 100%" in done.stderr
    wrong = subprocess.run([*words, "hi-xx"], input=b"", **process)
    assert wrong.returncode == 2
    assert wrong.stdout == b"" and wrong.stderr.startswith(b"error: unknown language 'xx'")
    assert wrong.stderr.count(b"\n") == 1


def test_help_has_examples():
    text = call("--help")
    for word in ("Checkpoint folder", "standard input", "--keep-script", "--out", "mmtmerge translate DIR en-hi"):
        assert word in text


@pytest.mark.slow
def test_a_process_that_is_interrupted_goes_on(hindi, tmp_path):
    file, out = tmp_path / "text.hi", tmp_path / "text.en"
    file.write_text(text_of(hindi * 8), encoding="utf-8")
    words = [sys.executable, "-m", "mmtmerge.cli", "translate", str(MINI), "hi-en", str(file), "--out", str(out)]
    words += ["--batch", "1"]
    process = subprocess.Popen(words, cwd=REPO, env=environment(REPO), stderr=subprocess.PIPE)
    while not out.exists() or not out.stat().st_size:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert b"the same command continues" in process.communicate()[1]
    assert process.returncode == 130
    assert note_of(out).exists()
    subprocess.run(words, cwd=REPO, env=environment(REPO), check=True)
    assert len(out.read_text(encoding="utf-8").splitlines()) == len(hindi) * 8
    assert not note_of(out).exists()


# Words of the command line

HINDI = "हिंदी {source} {target}"


def undecoded(text):
    "A word as Python has it under a locale of ASCII."
    return text.encode().decode("ascii", "surrogateescape")


def test_a_prompt_under_a_locale_of_ascii(hindi):
    assert call(MINI, "hi-en", "--prompt", undecoded(HINDI), text=text_of(hindi)) == call(
        MINI, "hi-en", "--prompt", HINDI, text=text_of(hindi)
    )


@pytest.mark.parametrize(
    "words, option",
    [
        (["translate", MINI, "hi-en", "--prompt", "x\udcff {source}", "--out", "OUT"], "--prompt"),
        (["translate", MINI, "hi-en", "--engine", "x\udcff", "--out", "OUT"], "--engine"),
        (["repair", "--base", "b", "--expert", "a-b=e", "--instruction", "\udcff", "--out", "OUT"], "--instruction"),
        (["probe", "--model", MINI, "--direction", "en-\udcff", "--out", "OUT"], "--direction"),
    ],
)
def test_words_that_are_no_text_are_refused_by_name(words, option, tmp_path):
    out = tmp_path / "out"
    done = CliRunner().invoke(app, [str(out) if word == "OUT" else str(word) for word in words], input="पानी\n")
    assert isinstance(done.exception, UserError), done.exception
    assert str(done.exception).startswith(f"{option} ") and "no UTF-8" in str(done.exception)
    assert list(tmp_path.iterdir()) == []


def test_instructions_of_an_artefact_under_a_locale_of_ascii(monkeypatch, tmp_path):
    given = {}

    def repaired(base, experts, out, **options):
        given.update(options)
        raise UserError("far enough")

    monkeypatch.setattr("mmtmerge.repair.artefact.repair_checkpoints", repaired)
    words = ["repair", "--base", "b", "--expert", "en-hi=e", "--out", str(tmp_path / "out")]
    CliRunner().invoke(app, [*words, "--instruction", undecoded("en-hi=हिंदी में")])
    assert given["instructions"] == {"en-hi": "हिंदी में"}


@pytest.mark.parametrize(
    "words, expected",
    [
        ("translate folder en-h", "en-hi"),
        ("translate folder en-hi --engine v", "vllm"),
        ("probe --direction hi-e", "hi-en"),
        ("merge --method ti", "ties"),
        ("merge --method karc", "karcher"),
        ("merge --preset m", "mergekit"),
        ("plan --profile sm", "smoke"),
    ],
)
def test_names_are_completed(words, expected):
    *before, last = words.split()
    shell = dict(_MMTMERGE_COMPLETE="complete_bash", COMP_WORDS=f"mmtmerge {words}", COMP_CWORD=str(len(before) + 1))
    done = CliRunner().invoke(app, [], prog_name="mmtmerge", env=shell)
    assert expected in done.output.split()


# The order of checks


def test_a_finished_file_is_refused_before_the_folder_is_read(tmp_path, monkeypatch):
    def read(*args):
        raise AssertionError("the folder was read")

    monkeypatch.setattr(translate_files, "open_translator", read)
    (tmp_path / "text.en").write_text("mine")
    for out, message in (("text.en", "exists already"), ("no/text.en", "there is no folder")):
        with pytest.raises(UserError, match=message):
            call(MINI, "hi-en", "--out", tmp_path / out, text="पानी\n")


def test_a_model_that_cannot_be_loaded_leaves_no_file(tmp_path, monkeypatch):
    def read(*args, **options):
        raise UserError("the device has no memory")

    monkeypatch.setattr(engines, "load_model", read)
    with pytest.raises(UserError, match="no memory"):
        call(MINI, "hi-en", "--out", tmp_path / "text.en", text="पानी\n")
    assert list(tmp_path.iterdir()) == []
