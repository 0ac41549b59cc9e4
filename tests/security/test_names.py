"""Names lead nowhere: not out of the results folder, and not into a page, a terminal or a formula."""

from __future__ import annotations

import html.parser
import json
from pathlib import Path

import pytest

from rllib_nbsp.cli import main
from rllib_nbsp.settings import ConfigError
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.folder import open_trials, write_study
from rllib_nbsp.study.reader import load_study
from tests.analysis.conftest import StudyBuilder
from tests.studies import TINY, tiny_study, write_config

LEADING_OUT = {
    "up": "../../x",
    "up alone": "..",
    "up behind": "a/../../x",
    "absolute": "/etc/x",
    "home": "~",
    "home of another": "~root/x",
    "percent": "%2e%2e%2fx",
    "NUL": "a\0b",
    "backslash": "..\\x",
    "dots of unicode": "\u2024\u2024/x",
    "wide slash": "a\uff0fb",
    "newline": "a\nb",
    "newline at the end": "a\n",
    "escape": "\x1b[2J",
    "right to left": "a\u202eb",
    "variable": "$HOME",
    "hidden": ".x",
    "option": "-rf",
    "nothing": "",
    "long": "a" * 300,
}


@pytest.mark.parametrize("name", LEADING_OUT.values(), ids=list(LEADING_OUT))
@pytest.mark.parametrize("where", ["experiment", "sequences", "arms"])
def test_a_name_that_leads_out_of_the_results_folder_is_refused(name: str, where: str, tmp_path: Path) -> None:
    value = name if where == "experiment" else {name: next(iter(TINY[where].values()))}
    with pytest.raises(ConfigError) as caught:
        load_study(write_config(tmp_path, **{where: value}))
    assert where in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("name", LEADING_OUT.values(), ids=list(LEADING_OUT))
def test_a_folder_that_leads_out_of_the_results_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    assert main(["plan", str(write_config(tmp_path)), "--results-dir", str(results), f"--name={name}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: --name is ") and error.rstrip("\n").isprintable()
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_a_link_in_a_study_is_not_followed_when_it_goes_on(depth: int, tmp_path: Path) -> None:
    study = tiny_study(tmp_path)
    trials = study.trials(tmp_path / "results")
    write_study(study, [], make(tmp_path / "results"), resume=False)
    link = [Path(str(trials[0].results_dir)), *Path(str(trials[0].results_dir)).parents][depth]
    make(link.parent)
    link.symlink_to(make(tmp_path / "elsewhere"))
    with pytest.raises(PreflightError, match="is a symbolic link") as caught:
        open_trials(study, trials, tmp_path / "results", resume=True)
    assert str(link) in str(caught.value) and caught.value.exit_code == 4


@pytest.mark.parametrize("name", [".lock", "study.yaml.tmp"])
def test_a_link_in_place_of_a_studys_own_file_is_not_written_through(name: str, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("kept")
    make(tmp_path / "results" / "tiny")
    (tmp_path / "results" / "tiny" / name).symlink_to(other)
    if name == ".lock":
        assert main(["run", str(write_config(tmp_path)), "--results-dir", str(tmp_path / "results")]) == 4
    else:
        write_study(tiny_study(tmp_path), [], tmp_path / "results" / "tiny", resume=False)
    assert other.read_text() == "kept"


def make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# Names in results

MARKUP = {
    "script": "<script>alert(1)</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "link": "[a](javascript:alert(1))",
    "picture": "![a](http://evil.example/x.png)",
    "autolink": "<http://evil.example>",
    "cell": "a | b",
    "code": "`a`",
    "formula": "$\\frac{1$",
    "template": "{{ 7 * 7 }}",
    "screen": "a\x1b[2Jb\x1b]0;title\x07",
    "carriage return": "a\rb",
    "right to left": "a\u202eb",
    "no width": "a\u200bb",
    "lines": "a\n# b",
}


OWN_SCRIPT = Path("analysis/report.html.j2").read_text().partition("<script>")[2].partition("</script>")[0]
"""What a report's page runs, whatever the results say."""


class Page(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.attributes: set[str] = set()
        self.targets: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.targets |= {str(value)[:5] for name, value in attrs if name in ("src", "href", "xlink:href")}

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "script" and self.cdata_elem == "script":
            self.scripts.append(data)


@pytest.mark.parametrize("name", MARKUP.values(), ids=list(MARKUP))
def test_names_in_results_are_words_in_a_report(
    name: str, study: StudyBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    words_of_others = name
    name = name if name.isprintable() else "a"
    folder_name = name.replace("/", ":")
    folder = study.run(sequence=folder_name, arm=folder_name, tasks=[name, "other"], method=name, config_hash=name)
    for rows in (folder / "evaluations.jsonl", folder / "training.jsonl"):
        study.write_rows(rows, [row | {"experiment": name, "suite": name} for row in study.read_rows(rows)])
    (folder / "versions.json").write_text(json.dumps({words_of_others: words_of_others}))
    content = {
        "sequences": {folder_name: [name, "other"]},
        "arms": [folder_name, name[::-1]],
        "seeds": [0],
        "notes": [words_of_others],
    }
    (study.root / "study.yaml").write_text(json.dumps(content))
    assert main(["report", str(study.root), "--allow-partial"]) == 0
    said = capsys.readouterr()
    text = (study.root / "report" / "table.md").read_text()
    page = (study.root / "report" / "report.html").read_text()
    for words in (said.out, said.err, text, page):
        assert all(line.isprintable() for line in words.split("\n"))
    for markup in ("<script", "<img", "<http", "](java", "](http", "\n# b"):
        assert markup not in text
    assert len({line.replace("\\|", "").count("|") for line in said.out.split("\n") if line.startswith("|")}) == 1
    parsed = Page(page)
    assert "".join(parsed.scripts).strip() == OWN_SCRIPT.strip() and parsed.tags.count("script") == 1
    assert not any(name.startswith("on") for name in parsed.attributes)
    assert all(target == "data:" or target.startswith("#") for target in parsed.targets)
    assert "49" not in page.partition("<title>")[2].partition("</title>")[0]


@pytest.mark.parametrize("name", [name for name in MARKUP.values() if not name.isprintable()])
@pytest.mark.parametrize("where", ["row", "folder", "study.yaml"])
def test_a_name_in_results_that_cannot_be_printed_is_refused(
    where: str, name: str, study: StudyBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = study.run(arm=name.replace("/", ":") if where == "folder" else "sac")
    if where == "row":
        study.write_rows(folder / "training.jsonl", [{**study.read_rows(folder / "training.jsonl")[0], "task": name}])
    elif where == "study.yaml":
        (study.root / where).write_text(json.dumps({"sequences": {"pair": [name]}, "arms": ["sac"], "seeds": [0]}))
    assert main(["report", str(study.root)]) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(study.root) in error and error.rstrip("\n").isprintable()
