"""Run a study and its report: `rllib-nbsp run` of a checkout, without an installation (`python run_tune.py --help`)."""

import sys

from rllib_nbsp.cli import report
from rllib_nbsp.study.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], program=["python", "run_tune.py"], report=report))
