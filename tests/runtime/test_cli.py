import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from saymask.runtime import cli
from saymask.runtime.cli import SUMMARIES, main


def test_help_lists_every_verb(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, summary in SUMMARIES.items():
        assert f"  {verb:<10}{summary}" in text


def _modules_after(*words: str) -> set[str]:
    code = (
        "import sys; from saymask.runtime.cli import main; main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *words]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stderr.split())


def test_help_imports_no_verb_and_no_engine():
    modules = _modules_after("--help")
    assert not {name for name in modules if name.startswith("saymask.runtime.verbs.")}
    assert not modules & {"av", "cv2", "onnxruntime", "sentencepiece", "torch"}


def test_a_verbs_help_imports_that_verb_alone():
    verbs = {name for name in _modules_after("info", "--help") if ".verbs." in name}
    assert verbs == {"saymask.runtime.verbs.info"}


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("saymask 0.")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["segmen"], "verb must be one of bench, build, check, compare, doctor"),
        ([], "required: VERB"),
        (["segment", "x.png"], "required: --prompt; see: saymask segment --help"),
        (["info", "x", "--jsn"], "unrecognized arguments: --jsn"),
        (["info", "x", "--js"], "unrecognized arguments: --js"),
        (["bench", "x", "--iterations", "0"], "--iterations: must be a whole number from 1"),
        (["segment", "x.png", "--prompt", "a", "--threads", "many"], "got 'many'"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(words, said, capsys):
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("saymask: error: ")
    assert said in err
    assert err.count("\n") == 1


def _offer(monkeypatch, name: str, value: str) -> None:
    entry = EntryPoint(name=name, value=value, group=cli.GROUP)
    monkeypatch.setattr(cli, "entry_points", lambda group: (entry,))


def test_a_verb_without_its_library_names_the_extra(monkeypatch, capsys):
    _offer(monkeypatch, "export", "no_such_library.verb")
    assert main(["export", "--help"]) == 1
    err = capsys.readouterr().err
    assert "'export' needs a library" in err
    assert "pip install 'saymask[export]'" in err


class _Verb:
    """A verb of another package, which ends as it is told."""

    @staticmethod
    def add_arguments(parser):
        parser.add_argument("--raise", dest="error")

    @staticmethod
    def run(args):
        raise {"interrupt": KeyboardInterrupt, "system": OSError("no space left")}[args.error]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        ("interrupt", 130, "saymask: interrupted\n"),
        ("system", 1, "saymask: error: no space left\n"),
    ],
)
def test_other_packages_verbs_end_the_same_way(monkeypatch, capsys, error, code, said):
    _offer(monkeypatch, "more", "no.matter")
    monkeypatch.setattr(cli, "_load", lambda verb: _Verb)
    assert main(["more", "--raise", error]) == code
    assert capsys.readouterr().err == said


def test_a_reader_that_leaves_early_is_no_traceback(saymask, tiny_bundle):
    done = saymask("info", tiny_bundle, shell='{ sleep 0.1; "$@"; echo "code $?" >&2; } | true')
    assert done.stderr == "saymask: error: whoever read the output has stopped\ncode 1\n"


def test_full_output_is_an_error(saymask, tiny_bundle):
    done = saymask("info", tiny_bundle, shell='exec "$@" >/dev/full')
    assert done.returncode == 1
    assert done.stderr == "saymask: error: [Errno 28] No space left on device\n"
