"""The command that runs a study: every sequence x arm x seed of a YAML file as a Ray Tune trial, then its report.

Exit codes: 0 done; 1 a trial failed; 2 usage or configuration; 3 results or data; 4 machine or resources; 130 and 143
stopped by Ctrl-C and SIGTERM.
"""

from __future__ import annotations

import argparse
import functools
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from rllib_nbsp.reading import printable
from rllib_nbsp.settings import ConfigError, RunSettings
from rllib_nbsp.study.errors import PreflightError
from rllib_nbsp.study.folder import open_trials, planned, saved_env_steps, study_folder, study_lock, write_study
from rllib_nbsp.study.private import check_home
from rllib_nbsp.study.reader import load_study
from rllib_nbsp.study.stages import stage
from rllib_nbsp.study.stop_signal import StopSignal
from rllib_nbsp.study.study import CheckedStudy, safe_name, trial_label
from rllib_nbsp.study.versions import check_versions

if TYPE_CHECKING:
    from rllib_nbsp.study.trials import Outcome

MOST_SEEDS = 10_000


def main(argv: Sequence[str], *, program: Sequence[str], report: Callable[[Sequence[str]], int]) -> int:
    """Run the command line.

    Args:
        argv: its arguments.
        program: the words before them, for the commands that it tells.
        report: makes the report of a folder.

    Returns:
        The exit code.
    """
    argv = list(argv)
    options, stop = _parser(program).parse_args(argv), StopSignal()
    seeds = None if options.seeds is None else [seed for several in options.seeds for seed in several]
    stop.install()
    resources = ("num_env_runners", "num_learners", "num_gpus_per_learner")
    given = [f"resources.{key}={getattr(options, key)}" for key in resources if getattr(options, key) is not None]
    try:
        check_home()
        study = load_study(
            options.config, [*given, *options.set], sequences=options.sequences, arms=options.arms, seeds=seeds
        )
        name = safe_name("--name", study.settings.experiment if options.name is None else options.name)
        folder = study_folder(options.results_dir, name, options.resume)
        if options.dry_run:
            return _dry_run(study, folder, options)
        with study_lock(folder):
            return _run(study, folder, options, stop, Told(program, argv, report))
    except KeyboardInterrupt:
        return stop.exit_code
    except (ConfigError, PreflightError) as error:
        if options.debug:
            raise
        for problem in error.problems:
            print(f"error: {printable(problem)}", file=sys.stderr)
        return error.exit_code
    except OSError as error:  # of a disk that is full or gone, in the study's own files
        if options.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 4


def _dry_run(study: CheckedStudy, folder: Path, options: argparse.Namespace) -> int:
    from rllib_nbsp.study.plan import make_plan  # imports Ray: seconds that a mistyped key need not wait for

    to_run = open_trials(study, study.trials(folder), folder, options.resume)
    _say_versions(folder, to_run)
    if not to_run:
        print(f"all trials are finished already in {folder}")
        return 0
    plan = make_plan(to_run, options.address is not None, options.max_concurrent, folder)
    if plan.problems:
        raise PreflightError(plan.problems, 4)
    plan.show(Console(), folder)
    for note in study.notes():
        print(f"note: {note}")
    return 0


def _say_versions(folder: Path, to_run: Sequence[RunSettings]) -> None:
    """Which versions the results that stay were made with, if others are here.

    Raises:
        PreflightError: if too much has changed since.
    """
    refused, said = check_versions(folder, to_run)
    if refused:
        raise PreflightError(refused, 3)
    for line in said:
        print(f"note: {line}")


@dataclass(frozen=True)
class Told:
    """How the command was called, and what makes its report."""

    program: Sequence[str]
    argv: Sequence[str]
    report: Callable[[Sequence[str]], int]

    def again(self) -> str:
        """The command that goes on."""
        return shlex.join([*self.program, *(arg for arg in self.argv if arg != "--resume"), "--resume"])

    def with_seed(self, seed: int) -> str:
        """The same command for another seed of the same study."""
        kept, in_seeds = [], False
        for arg in self.argv:
            in_seeds = arg == "--seeds" or (in_seeds and not arg.startswith("--"))
            if not in_seeds and arg != "--resume" and not arg.startswith("--seeds="):
                kept.append(arg)
        return shlex.join([*self.program, *kept, "--seeds", str(seed), "--resume"])


def _run(study: CheckedStudy, folder: Path, options: argparse.Namespace, stop: StopSignal, told: Told) -> int:
    console, trials = Console(), study.trials(folder)
    describe = functools.partial(write_study, study, options.set, folder, options.resume)
    to_run = open_trials(study, trials, folder, options.resume)
    if len(to_run) < len(trials):
        console.print(f"{len(trials) - len(to_run)} of {len(trials)} trials are finished already", highlight=False)
    _tell_saved(to_run, console, "goes on from")
    if to_run:
        with stage(console, "importing Ray and PyTorch"):
            from rllib_nbsp.study.trials import run_study

        _say_versions(folder, to_run)
        outcome = run_study(
            to_run,
            folder,
            address=options.address,
            max_concurrent=options.max_concurrent,
            loggers=study.settings.loggers,
            stop=stop,
            console=console,
            on_start=describe,
            go_on=told.again(),
        )
        if not (folder / "study.yaml").is_file():
            print(f"error: {folder / 'study.yaml'} was removed during the run, and is written anew", file=sys.stderr)
            folder.mkdir(parents=True, exist_ok=True)
            describe()
        if outcome.stopped or outcome.failed:
            _tell_saved(to_run, console, "is saved at")
            print(f"finished trials are kept; go on with: {told.again()}")
            return _exit_code(outcome, options, stop)
    else:
        describe()
    return _report(study, folder, told)


def _tell_saved(trials: Sequence[RunSettings], console: Console, is_it: str) -> None:
    for trial, steps in zip(trials, saved_env_steps(trials), strict=True):
        if steps:
            line = f"{trial_label(trial)} {is_it} environment step {steps:,}"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _exit_code(outcome: Outcome, options: argparse.Namespace, stop: StopSignal) -> int:
    if outcome.cut_off is not None:
        if options.debug:
            raise outcome.cut_off
        lines = str(outcome.cut_off).splitlines() or ["(no message)"]
        print(f"error: Ray Tune cannot go on: {type(outcome.cut_off).__name__}: {lines[0]}", file=sys.stderr)
        return 4
    return stop.exit_code if outcome.stopped else 1


def _report(study: CheckedStudy, folder: Path, told: Told) -> int:
    sequences, arms, seeds = planned(folder)
    # What was asked for is there; of what else the folder should hold in the end, a part may still be to come.
    partly = ["--allow-partial"] if len(study.trials()) < len(sequences) * len(arms) * len(seeds) else []
    code = told.report([str(folder), *partly])
    print(f"one more seed: {told.with_seed(max(seeds) + 1)}")
    return code


def _parser(program: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=" ".join(program), description="Run a study: sequences x arms x seeds of a YAML file, then its report."
    )
    add = parser.add_argument
    add("config", nargs="?", default="tune_configs/quickstart.yaml", metavar="CONFIG", help="default: %(default)s")
    add("--sequences", nargs="+", metavar="NAME", help="only these task sequences of the file")
    add("--arms", nargs="+", metavar="NAME", help="only these arms of the file")
    add("--seeds", nargs="+", type=_seeds, metavar="N", help="in place of the file's seeds: 3, or 0-4")
    add("--name", help="folder under --results-dir; default: the file's experiment")
    add("--results-dir", default="results", metavar="DIR", help="default: %(default)s")
    add("--resume", action="store_true", help="skip finished trials; the others go on where they were saved")
    add("--address", metavar="ADDR", help="of a Ray cluster, or auto; default: this machine alone")
    add("--num-env-runners", metavar="N", help="remote rollout workers of a trial")
    add("--num-learners", metavar="N", help="remote Learners of a trial")
    add("--num-gpus-per-learner", metavar="F", help="may be a fraction")
    add("--max-concurrent", type=_positive, metavar="N", help="trials side by side; default: as many as fit")
    add("--set", action="extend", nargs="+", default=[], metavar="KEY.PATH=VALUE", help="a key of the file, replaced")
    add("--dry-run", action="store_true", help="print trials, resources, memory, disk and time, and run nothing")
    add("--debug", action="store_true", help="tracebacks in place of one-line errors")
    return parser


def _seeds(text: str) -> list[int]:
    """A seed, or `A-B` for those from A to B."""
    if not (match := re.fullmatch(r"(-?\d+)|(\d+)-(\d+)", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor A-B with two of them")
    if match[1]:
        return [int(match[1])]
    first, last = int(match[2]), int(match[3])
    if not first <= last < first + MOST_SEEDS:
        raise argparse.ArgumentTypeError(f"{text!r} must go up, and over at most {MOST_SEEDS} seeds")
    return list(range(first, last + 1))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
