"""A search of one's own: the share of skill neurons, `skill_frac`, with which NBSP keeps most of what it learned.

    python examples/own_tune.py                      # random samples; ASHA stops those that have forgotten
    python examples/own_tune.py --optuna             # Optuna chooses each sample by those before it

A result carries what was measured so far: `evaluation/<task>/success_rate` of the last evaluation, and after each visit
`asr`, `fm`, `fwt` and `final_success`, the mean success over all tasks then, which is what is searched for here. Until
something is measured it is NaN.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from rllib_nbsp import NBSPConfig

VISIT_ENV_STEPS = 1_000
VISITS = 4


def config() -> NBSPConfig:
    """NBSP on two cycles of a small pair, a search space in the place of one value."""
    return (
        NBSPConfig()
        .training(skill_frac=tune.uniform(0.05, 0.95))
        .curriculum(suite="point_mass", tasks=["reach-left", "reach-right"], cycles=2, visit_env_steps=VISIT_ENV_STEPS)
        .visit(warmup_env_steps=200, early_stop=None)
        .training(updates_per_env_step=0.25, batch_size=64, rollout_fragment_length=10, score_env_steps=1_000)
        .networks(hidden=[64, 64])
        .evaluation(periodic_episodes=0, boundary_episodes=5)
        .env_runners(num_env_runners=1)
    )


def search(samples: int, folder: Path, *, optuna: bool) -> tune.ResultGrid:
    """Run that many samples; with ASHA a trial goes on after its second visit if it is among the better half."""
    half = ASHAScheduler(
        time_attr="env_steps", grace_period=2 * VISIT_ENV_STEPS, max_t=VISITS * VISIT_ENV_STEPS, reduction_factor=2
    )
    tuner = tune.Tuner(
        "NBSP",
        param_space=config(),
        tune_config=tune.TuneConfig(
            metric="final_success",
            mode="max",
            num_samples=samples,
            scheduler=None if optuna else half,
            search_alg=OptunaSearch(seed=0) if optuna else None,
        ),
        run_config=tune.RunConfig(name="own_tune", storage_path=str(folder.absolute()), verbose=0),
    )
    return tuner.fit()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--optuna", action="store_true", help="choose samples by those before them")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--results-dir", type=Path, default=Path("results"))
    options = parser.parse_args()
    results = search(options.samples, options.results_dir, optuna=options.optuna)
    for result in results:
        skill_frac = result.config["given"]["method_settings"]["skill_frac"]
        measured = {task: result.metrics["evaluation"][task]["success_rate"] for task in ("reach-left", "reach-right")}
        print(f"skill_frac {skill_frac:.2f}: visit {result.metrics['visit']}, {measured}")
    best = results.get_best_result()
    print(f"best: skill_frac {best.config['given']['method_settings']['skill_frac']:.2f}")
