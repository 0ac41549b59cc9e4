"""`python -m analysis report RESULTS`: the tables and figures of a study."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence

from rllib_nbsp.reading import printable

from .errors import AnalysisError
from .metrics import PROTOCOLS
from .report import COMPARISONS, write_report

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
        report = write_report(
            arguments.results,
            arguments.out,
            compare=arguments.compare,
            protocol=arguments.protocol,
            frames=arguments.frames,
            tex=arguments.latex,
            pdf=arguments.pdf,
        )
    except AnalysisError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return EXIT_ENVIRONMENT
    print(report.summary)
    if report.comparison:
        print(f"\n{report.comparison}")
    if report.best:
        print("\n" + "\n".join(["best of each search:", *map(printable, report.best)]))
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m analysis", description="Tables and figures of finished runs.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
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
        help="reading of the metrics (default: %(default)s). "
        + "; ".join(f"{p.name}: {p.description}" for p in PROTOCOLS.values()),
    )
    report.add_argument("--frames", action="store_true", help="add a picture of each task, drawn by its simulator")
    report.add_argument("--latex", action="store_true", help="write each table as LaTeX into latex/ too")
    report.add_argument("--pdf", action="store_true", help="print the page as report.pdf, with Chromium or Chrome")
    report.add_argument("--allow-partial", action="store_true", help="exit with 0 although seeds or visits are missing")
    return parser


if __name__ == "__main__":
    sys.exit(main())
