"""How fast we train, in one run beside those a researcher would otherwise use, and how much of the machine that takes.

    python -m benchmarks.throughput [--quick] [--json F] [--sizes 256 768] [--builds N] [--windows N] [--seconds S]
        [--only NAME ...]

Everybody trains SAC on Meta-World's window-open-v3: batch 256, one update per environment step, one torch thread, one
process. And on a game, with the paper's networks: batch 64, an update every fourth step. Windows of the contenders are
interleaved, so that a slow minute of the machine is everybody's; a figure is the median of its windows, a ratio the
ratio of two medians. `README.md` says who the contenders are.

Two contenders with the same code differ by some per cent, according to where their memory came to lie, and keep that
difference for life. A ratio that is to be known closer needs them built several times (`--builds`).

The plain loop must reach `PLAIN_LEAST_GFLOPS_RATIO` of our GFLOP/s: an opponent that wastes the machine proves nothing,
and the run then ends with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray
import torch

from benchmarks.contender import BATCH_SIZE, TASK, Contender, Window
from benchmarks.flops import JOINT_DISCRETE_UPDATE, JOINT_UPDATE, GemmCeiling, update_gemms
from benchmarks.ours import (
    Ours,
    OursInBF16,
    OursInVisit2,
    OursOnAtari,
    measure_frame_replay,
    measure_overlap,
    measure_replay,
    measure_small_update,
    measure_update_over_bare,
)
from benchmarks.plain_atari import ATARI_BATCH_SIZE, GAME, PlainAtari, atari_gemms
from benchmarks.plain_sac import PlainTorch
from benchmarks.stock_rllib import StockRLlib
from benchmarks.timing import ratio_interval
from rllib_nbsp.records import processor

OBS_SIZE, ACTION_SIZE = 39, 4
PLAIN_LEAST_GFLOPS_RATIO = 0.9
CONTENDERS = ("rllib_sac", "rllib_sac_mlp", "plain_torch", "plain_torch_frozen", "sac", "sac_bf16", "nbsp")
PARTS = ("gemm", "update", "overlap", "small", "replay", "atari")
ATARI = "atari"
CLEANRL = "256x256"
"""The networks of CleanRL's and LeanRL's own tables."""
RATIOS = {
    "over_rllib_sac": ("sac", "rllib_sac"),
    "over_rllib_sac_mlp": ("sac", "rllib_sac_mlp"),
    "over_plain_torch": ("sac", "plain_torch"),
    "over_plain_torch_frozen": ("sac", "plain_torch_frozen"),
    "nbsp_over_sac": ("nbsp", "sac"),
    "bf16_over_sac": ("sac_bf16", "sac"),
}


@dataclass(frozen=True)
class Plan:
    """How long and how large.

    Attributes:
        sizes: widths, each of which stands for three hidden layers of it, or the widths of all with an x between them.
        builds: how often the contenders are made anew.
        windows: of each contender in a build.
        seconds: of a window.
        warmup_env_steps: transitions in D before the first update.
        prior_rows: rows of D_pre.
        replay_rows: transitions in the replay measurement.
        atari_rows: the same for frames, half as many of them in D_pre, and the capacity of D on the game.
        only: names of `CONTENDERS` and `PARTS` to measure.
    """

    sizes: tuple[str, ...] = ("256", "768", CLEANRL)
    builds: int = 1
    windows: int = 5
    seconds: float = 20.0
    warmup_env_steps: int = 2_000
    prior_rows: int = 100_000
    replay_rows: int = 1_000_000
    atari_rows: int = 200_000
    only: tuple[str, ...] = CONTENDERS + PARTS


def make_contender(name: str, hidden: Sequence[int], plan: Plan) -> Contender:
    """A contender by its name, ready to be timed."""
    warmup = plan.warmup_env_steps
    makers: dict[str, Callable[[], Contender]] = {
        "rllib_sac": lambda: StockRLlib(hidden, warmup),
        "rllib_sac_mlp": lambda: StockRLlib(hidden, warmup, mlp_critics=True),
        "plain_torch": lambda: PlainTorch(hidden, warmup),
        "plain_torch_frozen": lambda: PlainTorch(hidden, warmup, freeze_critics=True),
        "sac": lambda: Ours(hidden, warmup),
        "sac_bf16": lambda: OursInBF16(hidden, warmup),
        "nbsp": lambda: OursInVisit2(hidden, plan.prior_rows),
    }
    return makers[name]()


def widths_of(size: str) -> list[int]:
    """Widths of the hidden layers that a size stands for.

    Raises:
        ValueError: if it has anything but whole numbers from 1.
    """
    widths = [int(width) for width in size.split("x")]
    if min(widths) < 1:
        raise ValueError(f"widths must be at least 1, got {size}")
    return widths * 3 if len(widths) == 1 else widths


def _size(text: str) -> str:
    try:
        widths_of(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: a width such as 256, or all of them, 256x256") from None
    return text


def measure_size(size: str, plan: Plan) -> dict[str, dict[str, Any]]:
    """Everything that depends on the networks' width.

    Args:
        size: of the networks, as in `Plan`.
        plan: how long.

    Returns:
        `contenders`, `gemm`, `update` and `overlap`, each as in the JSON file, for this width.
    """
    hidden = widths_of(size)
    makers = {name: partial(make_contender, name, hidden, plan) for name in CONTENDERS if name in plan.only}
    ceiling = GemmCeiling(update_gemms(OBS_SIZE, ACTION_SIZE, hidden, BATCH_SIZE, JOINT_UPDATE))
    results = race(size, makers, ceiling if "gemm" in plan.only else None, plan)
    if "update" in plan.only:
        say(f"{size}: update over bare")
        results["update"] = measure_update_over_bare(hidden, plan.windows, plan.seconds / 4)
    if "overlap" in plan.only:
        say(f"{size}: one remote EnvRunner")
        results["overlap"] = measure_overlap(hidden, plan.warmup_env_steps, plan.windows, plan.seconds / 4)
    return results


def measure_atari(plan: Plan) -> dict[str, dict[str, Any]]:
    """Us and the plain loop on a game, with the paper's networks, an update every fourth step.

    Returns:
        `contenders` and `gemm`, each as in the JSON file.
    """
    makers: dict[str, Callable[[], Contender]] = {
        "plain_torch": lambda: PlainAtari(plan.warmup_env_steps, plan.atari_rows),
        "sac": lambda: OursOnAtari(plan.warmup_env_steps, plan.atari_rows),
    }
    return race(ATARI, makers, GemmCeiling(atari_gemms(JOINT_DISCRETE_UPDATE)), plan)


def race(
    label: str, makers: Mapping[str, Callable[[], Contender]], ceiling: GemmCeiling | None, plan: Plan
) -> dict[str, dict[str, Any]]:
    """Interleaved windows of all contenders, in every build.

    Returns:
        `contenders`, and `gemm` if its ceiling is to be measured beside them, each as in the JSON file.
    """
    contenders: list[Contender] = []
    windows: dict[str, list[list[Window]]] = {name: [] for name in makers}
    gemm: list[float] = []
    for build in range(plan.builds):
        contenders = []
        for name, make in makers.items():
            say(f"{label}: preparing {name}, build {build + 1} of {plan.builds}")
            contenders.append(make())
            windows[name].append([])
        for number in range(plan.windows):
            say(f"{label}: window {number + 1} of {plan.windows}")
            for contender in contenders:
                windows[contender.name][-1].append(contender.run(plan.seconds))
            if ceiling is not None:
                gemm.append(ceiling.run(plan.seconds / 4))
        for contender in contenders:
            contender.close()
    results: dict[str, dict[str, Any]] = {
        "contenders": {contender.name: summary(contender, windows[contender.name]) for contender in contenders},
    }
    if gemm:
        results["gemm"] = {"gflop_per_s": statistics.median(gemm), "windows": gemm}
    return results


def summary(contender: Contender, builds: Sequence[Sequence[Window]]) -> dict[str, Any]:
    """A contender's figures: medians over its windows, one for each of its builds, and the windows themselves."""
    windows = [window for build in builds for window in build]
    updates_per_s = statistics.median(w.updates / w.seconds for w in windows)
    return {
        "env_steps_per_s": statistics.median(w.env_steps_per_s for w in windows),
        "builds": [statistics.median(w.env_steps_per_s for w in build) for build in builds],
        "updates_per_s": updates_per_s,
        "gflop_per_update": contender.gflop_per_update,
        "gflop_per_s": updates_per_s * contender.gflop_per_update,
        "passes": contender.passes,
        "windows": [[{**asdict(w), "env_steps_per_s": w.env_steps_per_s} for w in build] for build in builds],
    }


def pairs_of(size: str, results: dict[str, dict[str, Any]]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """The two sides of each ratio of one width, if both were measured."""
    contenders = results["contenders"]
    return {
        f"{name}_{size}": (contenders[over], contenders[under])
        for name, (over, under) in RATIOS.items()
        if over in contenders and under in contenders
    }


def ratios_of(size: str, results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The ratios of one width."""
    ratios = {
        name: over["env_steps_per_s"] / under["env_steps_per_s"]
        for name, (over, under) in pairs_of(size, results).items()
    }
    if "update" in results:
        ratios[f"update_over_bare_{size}"] = results["update"]["ratio"]
    return ratios


def ratio_intervals_of(size: str, results: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """95 % bootstrap intervals of the ratios of one width, over builds and windows."""
    intervals = {
        name: ratio_interval(*([_env_steps_per_s(build) for build in side["windows"]] for side in sides))
        for name, sides in pairs_of(size, results).items()
    }
    if "update" in results:
        intervals[f"update_over_bare_{size}"] = results["update"]["interval"]
    return intervals


def _env_steps_per_s(build: Sequence[dict[str, Any]]) -> list[float]:
    return [window["env_steps_per_s"] for window in build]


def build_ratios_of(size: str, results: dict[str, dict[str, Any]]) -> dict[str, list[float]]:
    """The contenders' ratios of one width in each build."""
    return {
        name: [a / b for a, b in zip(over["builds"], under["builds"], strict=True)]
        for name, (over, under) in pairs_of(size, results).items()
    }


def unfair_sizes(results: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    """Messages about widths at which the plain loop is too slow to be compared with."""
    messages = []
    for size, parts in results.items():
        contenders = parts["contenders"]
        if "sac" in contenders and "plain_torch" in contenders:
            plain, ours = contenders["plain_torch"]["gflop_per_s"], contenders["sac"]["gflop_per_s"]
            if plain < PLAIN_LEAST_GFLOPS_RATIO * ours:
                messages.append(
                    f"{size}: the plain loop runs {plain:.1f} GFLOP/s, under {PLAIN_LEAST_GFLOPS_RATIO} of our "
                    f"{ours:.1f}: over_plain_torch_{size} compares us with a slow opponent"
                )
    return messages


def _share(speed: float, ceiling: float | None) -> str:
    return f"{speed / ceiling:.0%}" if ceiling else "not measured"


def table(size: str, results: dict[str, dict[str, Any]]) -> str:
    """One width's figures as Markdown, or those of the game."""
    sections = [f"### {GAME}" if size == ATARI else f"### {'x'.join(map(str, widths_of(size)))}"]
    ceiling = results.get("gemm", {}).get("gflop_per_s")
    rows = [
        f"| {name} | {row['env_steps_per_s']:.2f} | {row['updates_per_s']:.2f} | {row['gflop_per_update']:.2f} "
        f"| {row['gflop_per_s']:.1f} | {_share(row['gflop_per_s'], ceiling)} | {row['passes']} |"
        for name, row in results["contenders"].items()
    ]
    if ceiling:
        rows.append(f"| GEMM ceiling | | | | {ceiling:.1f} | 100% | the matrix products of `sac` alone |")
    if rows:
        head = (
            "| contender | env steps/s | updates/s | GFLOP/update | GFLOP/s | of GEMM | network passes of an update |"
        )
        sections.append("\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: | --- |", *rows]))
    builds, intervals = build_ratios_of(size, results), ratio_intervals_of(size, results)
    ratios = [
        f"| {name} | {value:.3f} | {intervals[name][0]:.3f} to {intervals[name][1]:.3f} "
        f"| {', '.join(f'{ratio:.3f}' for ratio in builds.get(name, []))} |"
        for name, value in ratios_of(size, results).items()
    ]
    if ratios:
        ratio_head = ["| ratio | value | 95 % | in each build |", "| --- | ---: | --- | --- |"]
        sections.append("\n".join([*ratio_head, *ratios]))
    if "update" in results:
        row = results["update"]
        sections.append(f"`learner_group.update`: {row['full_ms']:.2f} ms, bare: {row['bare_ms']:.2f} ms an update.")
    if "overlap" in results:
        row = results["overlap"]
        sections.append(
            f"One remote EnvRunner, ms per env step: sampling {row['sampling_ms']:.2f} + updates "
            f"{row['updates_ms']:.2f} = {row['sum_of_parts_ms']:.2f}; overlapped {row['overlapped_ms']:.2f}."
        )
    return "\n\n".join(sections)


def describe_machine() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "system": platform.system(),
        "load_average_at_start": os.getloadavg(),
    }


def say(message: str) -> None:
    """Progress, apart from the results on standard output."""
    print(message, file=sys.stderr, flush=True)


def parse(arguments: Sequence[str] | None = None) -> tuple[Plan, Path | None]:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, metavar="F", help="write all figures to F")
    parser.add_argument("--quick", action="store_true", help="a look in under 90 s: one width, two windows of 2 s")
    parser.add_argument("--sizes", type=_size, nargs="+", metavar="N", help="width of three hidden layers, or 256x256")
    parser.add_argument("--builds", type=int, metavar="N", help="how often the contenders are made anew")
    parser.add_argument("--windows", type=int, metavar="N", help="windows of each contender in a build")
    parser.add_argument("--seconds", type=float, metavar="S", help="length of a window")
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS + PARTS, metavar="NAME", help="what to measure: %(choices)s"
    )
    options = parser.parse_args(arguments)
    plan = Plan()
    if options.quick:
        plan = Plan(("256",), windows=2, seconds=2.0, warmup_env_steps=300, prior_rows=2_000, atari_rows=2_000)
    given = {name: getattr(options, name) for name in ("sizes", "builds", "windows", "seconds", "only")}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items() if value}
    return Plan(**{**asdict(plan), **given}), options.json


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON file. Returns the exit code."""
    plan, json_file = parse(arguments)
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    machine = describe_machine()
    own_ray = not ray.is_initialized()
    if own_ray:
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    for name in ("ray", "ray.rllib"):  # RLlib warns, twice an algorithm, that its default is its default
        logging.getLogger(name).setLevel(logging.ERROR)
    mlp_parts = set(plan.only) & {*CONTENDERS, "gemm", "update", "overlap"}
    sizes: dict[str, dict[str, dict[str, Any]]] = {
        size: measure_size(size, plan) for size in (plan.sizes if mlp_parts else ())
    }
    if ATARI in plan.only:
        sizes[ATARI] = measure_atari(plan)
    report: dict[str, Any] = {
        "ratios": {name: value for size in sizes for name, value in ratios_of(size, sizes[size]).items()},
        "intervals": {name: row for size in sizes for name, row in ratio_intervals_of(size, sizes[size]).items()},
        "build_ratios": {name: row for size in sizes for name, row in build_ratios_of(size, sizes[size]).items()},
        "contenders": {
            f"{name}_{size}": row for size, results in sizes.items() for name, row in results["contenders"].items()
        },
        **{
            part: {str(size): results[part] for size, results in sizes.items() if part in results}
            for part in ("gemm", "update", "overlap")
        },
        "small": measure_small_update(plan.windows, plan.seconds / 4) if "small" in plan.only else {},
        "replay": measure_replay(plan.replay_rows) if "replay" in plan.only else {},
        "frame_replay": measure_frame_replay(plan.atari_rows, plan.atari_rows // 2) if ATARI in plan.only else {},
        "settings": {"task": TASK, "batch_size": BATCH_SIZE, "updates_per_env_step": 1, **asdict(plan)},
        "versions": {
            name: version(name) for name in ("ray", "torch", "numpy", "gymnasium", "metaworld", "mujoco", "ale-py")
        },
        "machine": machine,
    }
    if own_ray:
        ray.shutdown()
    print("\n\n".join(table(size, results) for size, results in sizes.items()))
    if report["small"]:
        row = report["small"]
        print(
            f"\nAn update of two layers of 64 on a batch of 64: {row['replayed_ms']:.2f} ms replayed, "
            f"{row['stepwise_ms']:.2f} ms step by step (ratio {row['ratio']:.2f}, "
            f"{row['interval'][0]:.2f} to {row['interval'][1]:.2f})."
        )
    if report["replay"]:
        row = report["replay"]
        print(
            f"\nReplay of {row['rows']:,} transitions: {row['sample_ms']:.3f} ms a batch of {BATCH_SIZE}, "
            f"{row['bytes'] / 1e9:.3f} GB."
        )
    if report["frame_replay"]:
        row = report["frame_replay"]
        print(
            f"\nReplay of {row['rows']:,} transitions of a game: {row['sample_ms']:.3f} ms a batch of "
            f"{ATARI_BATCH_SIZE}, {row['bytes'] / 1e9:.3f} GB; D_pre of {row['prior_rows']:,}: "
            f"{row['prior_bytes'] / 1e9:.3f} GB."
        )
    if json_file:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    messages = unfair_sizes(sizes)
    for message in messages:
        say(f"error: {message}")
    return 1 if messages else 0


if __name__ == "__main__":
    sys.exit(main())
