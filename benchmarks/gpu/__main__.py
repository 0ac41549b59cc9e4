"""The check of a GPU machine: first whether it computes what it should, then how fast.

    python -m benchmarks.gpu [--json F] [--minutes M] [--only PART ...]

Needs a CUDA GPU, torch and what `python -m benchmarks.gpu_wheels` collects, but no simulator: the transitions are
random numbers of Meta-World's shapes. A part that fails is reported in its place, and the others go on.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import correctness, updates

MINUTES = 8.0
ESTIMATES = {
    "precision_768": {"sac fp32 eager": 2.5, "sac fp32 graph": 0.95, "sac tf32 graph": 0.65},
    "kernels": {"eager": {"kernels": 244}},
}
"""What was thought of an H100 before anything ran on one: ms an update, and kernels of one."""


def parts(seconds: float) -> dict[str, Callable[[], Any]]:
    """What is measured, in order; `seconds` for each figure that is a time."""
    return {
        "host_waits": lambda: correctness.host_waits(64),
        "gpu_over_cpu": lambda: correctness.gpu_agrees_with_cpu(256, 20),
        "graph_equals_eager": lambda: correctness.graph_equals_eager(256, 100),
        "resumes": lambda: correctness.resumes(256),
        "precision_768": lambda: updates.by_precision(768, seconds),
        "plain_768": lambda: updates.plain([768] * 3, seconds),
        "precision_256x2": lambda: updates.by_precision([256, 256], seconds),
        "plain_256x2": lambda: updates.plain([256, 256], seconds),
        "kernels": lambda: updates.kernels(768),
        "methods_768": lambda: updates.by_method(768, seconds),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print each part as it is done, write the JSON file. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures to F, after each part")
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help="about how long (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=list(parts(0.0)), metavar="PART", help="of: %(choices)s")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu: torch sees no CUDA GPU on this machine", file=sys.stderr)
        return 2
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    report: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(),
        "machine": platform.platform(),
        "versions": {name: version(name) for name in ("torch", "ray", "numpy")},
        "estimates": ESTIMATES,
        "seconds": {},
    }
    failed = False
    for name, part in parts(options.minutes / MINUTES).items():
        if options.only and name not in options.only:
            continue
        start = time.perf_counter()
        try:
            report[name] = part()
        except Exception as error:  # told in its place: a lent machine is not there twice
            failed, report[name] = True, f"failed: {type(error).__name__}: {error}"
        report["seconds"][name] = round(time.perf_counter() - start, 1)
        print(f"== {name} ({report['seconds'][name]} s)", json.dumps(report[name], indent=1), flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2) + "\n")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
