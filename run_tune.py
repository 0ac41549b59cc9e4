"""Run a study: every sequence x arm x seed of a YAML file as a Ray Tune trial, then its report.

Exit codes: 0 done; 1 a trial failed; 2 usage or configuration; 3 results or data; 4 machine or resources; 130 and 143
stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rllib_nbsp.config import Study, check_name, load_study
from rllib_nbsp.preflight import PreflightError, check_resources
from rllib_nbsp.settings import ConfigError
from rllib_nbsp.stop_signal import StopSignal
from rllib_nbsp.study_folder import open_trials, study_folder, study_lock, write_study


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments, stop = _parser().parse_args(argv), StopSignal()
    stop.install()
    try:
        study = load_study(
            arguments.config, _overrides(arguments), sequences=arguments.sequences, arms=arguments.arms,
            seeds=arguments.seeds,
        )  # fmt: skip
        name = check_name("--name", arguments.name or study.settings.experiment)
        folder = study_folder(arguments.results_dir, name, arguments.resume)
        return _run(study, folder, arguments, stop, argv)
    except KeyboardInterrupt:
        return stop.exit_code
    except (ConfigError, PreflightError) as error:
        if arguments.debug:
            raise
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return error.exit_code


def _run(study: Study, folder: Path, arguments: argparse.Namespace, stop: StopSignal, argv: Sequence[str]) -> int:
    console = Console()
    trials = study.trials(folder)
    if arguments.dry_run:
        from rllib_nbsp.plan import make_plan  # imports Ray, which takes seconds

        make_plan(trials, arguments.address is not None, arguments.max_concurrent, folder).show(console, folder)
        return 0
    again = shlex.join(["python", "run_tune.py", *(arg for arg in argv if arg != "--resume"), "--resume"])
    with study_lock(folder):
        to_run = open_trials(study, trials, folder, arguments.resume)
        write_study(study, arguments.set, folder, arguments.resume)
        if len(to_run) < len(trials):
            console.print(f"{len(trials) - len(to_run)} of {len(trials)} trials are finished already")
        code = _run_trials(to_run, folder, arguments, stop, again, console) if to_run else 0
    if code >= 128:
        return code
    from analysis.__main__ import main as analysis

    return analysis(["report", str(folder)]) or code
