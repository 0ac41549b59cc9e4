"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.__main__ import main
from tests.analysis.conftest import FORGETFUL


def test_report_prints_the_table_and_where_the_page_is(study, capsys, tmp_path):
    study.run(FORGETFUL)
    assert main(["report", str(study.root), "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("| Sequence | Arm | ASR ↑") and "| 0.75 " in out[2]
    assert out[-1] == str(tmp_path / "out" / "report.html") and Path(out[-1]).is_file()
    assert not (study.root / "report").exists()


def test_partial_study_exits_with_3_unless_allowed_and_is_reported_anyway(study, capsys):
    study.run()
    study.study(["sac"], [0, 1, 2, 3, 4])
    assert main(["report", str(study.root)]) == 3
    captured = capsys.readouterr()
    assert "n=1/5" in captured.out and "±" not in captured.out and captured.err.startswith("error: the study is not")
    assert main(["report", str(study.root), "--allow-partial"]) == 0


def test_data_errors_exit_with_3_in_one_line(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: no trials in") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--protocol", "nbsp-visit"], "unknown protocol 'nbsp-visit'; did you mean 'nbsp-visits'"),
        (["--compare", "papr"], "unknown comparison 'papr'; did you mean 'paper'"),
    ],
)
def test_unknown_names_exit_with_2_and_name_the_close_ones(study, capsys, arguments, message):
    study.run()
    assert main(["report", str(study.root), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_study_that_the_paper_does_not_have_says_so_on_the_terminal(study, capsys):
    study.run(tasks=["a", "b"])
    assert main(["report", str(study.root), "--compare", "paper"]) == 0
    assert "The paper has no numbers for these sequences, cycles and arms." in capsys.readouterr().out
    assert main(["report", str(study.root)]) == 0
    assert "The paper" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "out"),
    [
        # Each visit learns its task and forgets the other.
        (["0.625", "1", "1"], "possible under nbsp-visits: with ASR 0.625 and FWT 1 over 4 visits FM is 0.9"),
        (
            ["0.33", "0.94", "0.42"],
            "not possible under nbsp-visits: with ASR 0.33 and FWT 0.42 over 4 visits FM is -0.120",
        ),
        (["0.1", "0.5", "1"], "not possible under nbsp-visits: no runs have these ASR and FWT together"),
        (["0.67", "0.72", "1", "--protocol", "positions"], "possible under positions"),
    ],
)
def test_published_numbers_are_checked(capsys, arguments, out):
    assert main(["check", *arguments, "--tasks", "2"]) == 0
    assert capsys.readouterr().out.startswith(out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "7"], "num_tasks x cycles is 7 x 2; allowed: 1 to 12 visits"),
        (["--tasks", "2", "--protocol", "visits"], "unknown protocol 'visits'"),
    ],
)
def test_a_row_that_cannot_be_checked_exits_with_2(capsys, arguments, message):
    assert main(["check", "0.5", "0.5", "0.5", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_usage_errors_exit_with_2(capsys):
    with pytest.raises(SystemExit) as error:
        main(["reprot"])
    assert error.value.code == 2


def test_a_report_that_cannot_be_written_exits_with_4(study, capsys, tmp_path):
    study.run()
    (tmp_path / "file").write_text("in the way")
    assert main(["report", str(study.root), "--out", str(tmp_path / "file")]) == 4
    assert capsys.readouterr().err.startswith("error: ")


def test_a_terminal_without_unicode_gets_the_table_too(study):
    study.run()
    done = subprocess.run(
        [sys.executable, "-m", "analysis", "report", str(study.root)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"| Sequence | Arm | ASR ?")


def test_analysis_needs_neither_ray_nor_torch_and_of_the_package_formulas_and_how_files_are_read():
    code = (
        "import sys, analysis.__main__; names = ('ray', 'torch', 'rllib_nbsp', 'matplotlib.pyplot'); "
        "print([name for name in sorted(sys.modules) if name in names or name.startswith('rllib_nbsp.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    allowed = ["metrics", "plugins", "reading", "registry", "version"]
    assert done.stdout.strip() == str(["rllib_nbsp", *(f"rllib_nbsp.{name}" for name in allowed)])


def test_neurons_prints_what_was_selected_and_where_the_tables_are(study, capsys, tmp_path):
    study.run(arm="nbsp", neurons=True)
    assert main(["neurons", str(study.root), "--out", str(tmp_path / "out"), "--arm", "nbsp"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "Selection" and out[2].startswith("| Sequence | Arm  | Seed")
    assert out[-1] == str(tmp_path / "out" / "neurons.md") and Path(out[-1]).is_file()


def test_neurons_of_runs_that_kept_no_arrays_are_told_by_their_rows(capsys, tmp_path):
    published = Path(__file__).parents[2] / "results" / "published" / "cpu_button_drawer"
    assert main(["neurons", str(published), "--out", str(tmp_path), "--arm", "mask_only"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "| 1    | 2     |" in line]
    assert len(lines) == 1 and lines[0].count("100 %") == 3  # every masked neuron of the three networks is constant


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--arm", "nbps"], 2, "unknown arm 'nbps'; did you mean 'nbsp'"),
        (["--sequence", "pear"], 2, "unknown sequence 'pear'; did you mean 'pair'"),
        ([], 3, "no run has neurons/visit_NN.npz, and no training row tells of masked neurons"),
    ],
)
def test_neurons_that_nothing_tells_of_are_one_line(study, capsys, arguments, code, message):
    study.run(arm="nbsp")
    assert main(["neurons", str(study.root), *arguments]) == code
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
