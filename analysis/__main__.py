"""`python -m analysis report|neurons|causal|check`: a study, what its neurons do, and rows that no runs can have."""

from __future__ import annotations

import argparse
import io
import math
import sys
from collections.abc import Sequence

from rllib_nbsp.reading import printable

from .causal import write_causal_report
from .consistency import MOST_VISITS, check_row
from .errors import AnalysisError
from .metrics import PROTOCOLS
from .neuron_report import write_neuron_report
from .protocols import MEASURES
from .report import COMPARISONS, write_report
from .text import to_markdown
from .videos import KINDS

EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_ENVIRONMENT = 4


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        0; 2 for usage; 3 for missing, damaged or partial data; 4 if the report, or a part that was asked for, cannot be
        made on this machine.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # A terminal that has no arrows must not cost the table.
    try:
        code: int = arguments.command(arguments)
    except AnalysisError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    return code


def _check(arguments: argparse.Namespace) -> int:
    try:
        found = check_row(
            arguments.asr,
            arguments.fm,
            arguments.fwt,
            num_tasks=arguments.tasks,
            cycles=arguments.cycles,
            protocol=arguments.protocol,
        )
    except ValueError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_USAGE
    given = f"with ASR {arguments.asr:g} and FWT {arguments.fwt:g} over {arguments.tasks * arguments.cycles} visits"
    if math.isnan(found.fm_low):
        print(f"not possible under {arguments.protocol}: no runs have these ASR and FWT together")
    else:
        said = "possible" if found.possible else "not possible"
        print(f"{said} under {arguments.protocol}: {given} FM is {found.fm_low:.3f} to {found.fm_high:.3f}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    report = write_report(
        arguments.results,
        arguments.out,
        compare=arguments.compare,
        protocol=arguments.protocol,
        frames=arguments.frames,
        videos=arguments.videos,
        tex=arguments.latex,
        single_column=arguments.single_column,
        pdf=arguments.pdf,
    )
    print(report.summary)
    if report.comparison:
        print(f"\n{report.comparison}")
    if report.best:
        print("\n" + "\n".join(["best of each search:", *map(printable, report.best)]))
    print("", *map(printable, report.headlines), sep="\n")
    print(f"\n{len(report.notes)} notes on these numbers are in the report.")
    print(printable(str(report.html)))
    for line in report.missing:
        print(f"error: {printable(line)}", file=sys.stderr)
    if report.partial and not arguments.allow_partial:
        print(
            "error: the study is not complete (see Seeds above); --allow-partial accepts it as it is", file=sys.stderr
        )
        return EXIT_DATA
    return EXIT_ENVIRONMENT if report.missing else 0


def _neurons(arguments: argparse.Namespace) -> int:
    report = write_neuron_report(arguments.results, arguments.out, arguments.sequence, arguments.arm)
    for title in ("Selection", "Capacity", "Masked neurons that were constant"):
        if title in report.tables:
            print(f"{title}\n\n{to_markdown(report.tables[title])}\n")
    print("\n".join(f"note: {printable(note)}" for note in report.notes), end="\n" if report.notes else "")
    print(printable(str(report.path)))
    return 0


def _causal(arguments: argparse.Namespace) -> int:
    for report in write_causal_report(arguments.files):
        actor = report.text[report.text["Network"] == "policy"]
        print(f"{to_markdown(actor)}\n{printable(str(report.path))}" if len(actor) else printable(str(report.path)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables and figures of finished runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="whether published means of success rates can be ASR, FM and FWT of runs")
    for name in ("asr", "fm", "fwt"):
        check.add_argument(name, type=float, metavar=name.upper(), help="to two digits")
    check.add_argument("--tasks", type=int, required=True, metavar="K", help="distinct tasks")
    check.add_argument(
        "--cycles",
        type=int,
        default=2,
        metavar="C",
        help=f"visits to each (default: %(default)s); K x C is at most {MOST_VISITS}",
    )
    check.add_argument(
        "--protocol",
        default="nbsp-visits",
        metavar="NAME",
        help=f"one of {', '.join(PROTOCOLS)} (default: %(default)s)",
    )
    check.set_defaults(command=_check)
    report = commands.add_parser("report", help="write table.md, table.csv, figures and report.html")
    report.add_argument(
        "results",
        metavar="RESULTS",
        nargs="+",
        help="the study's folder: <sequence>/<arm>/seed_<n>/ lie in it; of several studies one report is made",
    )
    report.add_argument("--out", metavar="DIR", help="folder of the report (default: RESULTS/report, of one study)")
    report.add_argument("--compare", metavar="WITH", help=f"add published numbers: {', '.join(COMPARISONS)}")
    report.add_argument(
        "--protocol",
        default="nbsp-visits",
        metavar="NAME",
        help="reading of ASR, FM and FWT (default: %(default)s). "
        + "; ".join(f"{p.name}: {p.description}" for p in PROTOCOLS.values())
        + f". Every report has the measures of {', '.join(dict.fromkeys(m.protocol for m in MEASURES.values()))} too",
    )
    report.add_argument("--frames", action="store_true", help="add a picture of each task, drawn by its simulator")
    report.add_argument(
        "--videos",
        metavar="KIND",
        help=f"add films of each task before and after a visit, {' or '.join(KINDS)}; this plays runs",
    )
    report.add_argument("--latex", action="store_true", help="write each table as LaTeX into latex/ too")
    report.add_argument(
        "--single-column",
        action="store_true",
        help="write each figure 3.4 inches wide too, as NAME_single.pdf and NAME_single.svg",
    )
    report.add_argument("--pdf", action="store_true", help="print the page as report.pdf, with Chromium or Chrome")
    report.add_argument("--allow-partial", action="store_true", help="exit with 0 although seeds or visits are missing")
    report.set_defaults(command=_report)
    neurons = commands.add_parser("neurons", help="write what the skill neurons are and what became of them")
    neurons.add_argument("results", metavar="RESULTS", help="the study's folder, as for report")
    neurons.add_argument("--out", metavar="DIR", help="folder of neurons.md and its tables (default: RESULTS/neurons)")
    neurons.add_argument("--sequence", metavar="NAME", help="only this sequence")
    neurons.add_argument("--arm", metavar="NAME", help="only this arm; a full study has millions of neurons")
    neurons.set_defaults(command=_neurons)
    causal = commands.add_parser("causal", help="tables and a figure of what `rllib-nbsp causal` measured")
    causal.add_argument("files", nargs="+", metavar="FILE", help="its visit_NN.csv")
    causal.set_defaults(command=_causal)
    return parser


if __name__ == "__main__":
    sys.exit(main())
