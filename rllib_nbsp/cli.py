"""The command `rllib-nbsp`: run a study, plan it, report it; the keys of a study, and what its runs have saved."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence

from rllib_nbsp import causal, play
from rllib_nbsp.state.command import main as state
from rllib_nbsp.study import command, keys

PROGRAM = "rllib-nbsp"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code, as `study.command` and the analysis have them."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Continual deep RL: studies, their reports, their keys.")
    told = "; ".join(f"{name}: {what}" for name, (what, _) in COMMANDS.items())
    parser.add_argument("command", choices=COMMANDS, help=told)
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help=f"see {PROGRAM} COMMAND --help")
    options = parser.parse_args(argv)
    return COMMANDS[options.command][1](options.arguments)


def _run(argv: Sequence[str]) -> int:
    return command.main(argv, program=[PROGRAM, "run"], report=report)


def _plan(argv: Sequence[str]) -> int:
    return command.main([*argv, "--dry-run"], program=[PROGRAM, "plan"], report=report)


def report(argv: Sequence[str]) -> int:
    """The analysis' `report`, which lies beside the package in a checkout and within it once installed."""
    return _analysis("report", argv)


def _neurons(argv: Sequence[str]) -> int:
    return _analysis("neurons", argv)


def _causal(argv: Sequence[str]) -> int:
    return causal.main(argv, report=lambda files: _analysis("causal", files))


def _analysis(verb: str, argv: Sequence[str]) -> int:
    name = "rllib_nbsp.analysis" if importlib.util.find_spec("rllib_nbsp.analysis") else "analysis"
    code: int = importlib.import_module(f"{name}.__main__").main([verb, *argv])
    return code


COMMANDS: dict[str, tuple[str, Callable[[Sequence[str]], int]]] = {
    "run": ("a study of a YAML file or a preset", _run),
    "plan": ("what that would take, and run nothing", _plan),
    "report": ("tables and figures of finished runs", report),
    "neurons": ("what the skill neurons are and what became of them", _neurons),
    "play": ("a finished run's policy, on film or as an ONNX model", play.main),
    "causal": ("whether a finished run's policy needs its skill neurons", _causal),
    "state": ("what unfinished runs go on from", state),
    "keys": ("every key of a study, its values, default and meaning", keys.main),
}


if __name__ == "__main__":
    sys.exit(main())
