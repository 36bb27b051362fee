import json
from pathlib import Path

import pytest

from saymask.export.checkpoint import open_checkpoint
from saymask.runtime.cli import main
from saymask.train.systems import evf_sam


def test_it_goes_on_and_says_where_the_checkpoint_is(
    trained, brief_recipe, few_samples, capsys, monkeypatch
):
    monkeypatch.setattr(evf_sam, "RECIPES", {"brief": brief_recipe})
    monkeypatch.setattr(evf_sam, "scaled", lambda full, scale: full)
    words = ["train", "evf-sam", "--out", str(trained), "--scale", "0.001"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert open_checkpoint(out.strip()).folder == trained / "checkpoint"
    assert err == "", "nothing was left to learn"
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoint": str(trained / "checkpoint")}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["evf"], "system must be one of evf-sam, sam4mllm; got 'evf'"),
        (
            ["sam4mllm", "--recipe", "ppg"],
            "recipe of sam4mllm must be one of miniature, miniature-ppg, paper, paper-ppg, "
            "released; got 'ppg'",
        ),
        (["evf-sam", "--scale", "0"], "--scale must be above 0 and at most 1; got 0"),
        (["evf-sam", "--scale", "1.5"], "got 1.5"),
        (["evf-sam", "--scale", "nan"], "got nan"),
        (["evf-sam", "--scale", "some"], "invalid float value: 'some'"),
    ],
)
def test_wrong_calls_end_in_one_line_and_make_nothing(tmp_path, capsys, words, said):
    assert main(["train", *words, "--out", str(tmp_path / "run")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_out_that_cannot_be_written_ends_in_one_line(tmp_path, capsys):
    file = tmp_path / "notes.txt"
    file.write_text("precious")
    unwritable = [file, file / "run"] + [Path("/proc")] * Path("/proc").is_dir()
    for out in unwritable:
        assert main(["train", "evf-sam", "--out", str(out)]) == 1
        err = capsys.readouterr().err
        assert f"--out must be a folder that can be written; {out} is not: " in err
        assert err.count("\n") == 1
    assert file.read_text() == "precious"
