"""The contract of a game (docs/readings.md R38) against the plain emulator behind gymnasium."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ale_py
import gymnasium as gym
import numpy as np
import pytest

from rllib_nbsp.envs import SUITES
from rllib_nbsp.envs.atari import AtariEnv, AtariSettings, AtariSuite

gym.register_envs(ale_py)

SUITE = SUITES["atari"]
NO_NOOPS = AtariSettings(noop_max=0)


def game(name: str, *, seed: int = 0, training: bool = False, settings: AtariSettings | None = None) -> AtariEnv:
    env = AtariSuite(settings).make_env(name, seed=seed, training=training)
    assert isinstance(env, AtariEnv)
    return env


def area_weights(size: int, to: int) -> np.ndarray:
    """What share of each of `size` pixels is in each of `to`: INTER_AREA in one dimension."""
    edges = np.linspace(0, size, to + 1)
    left, right = np.maximum(edges[:-1, None], np.arange(size)), np.minimum(edges[1:, None], np.arange(size) + 1)
    return np.maximum(right - left, 0) / (size / to)


def reference(name: str, actions: list[int]) -> tuple[np.ndarray, list[float]]:
    """Frames (84 x 84, before rounding) and rewards, of four emulator frames an action."""
    env = gym.make(f"ALE/{name}-v5", frameskip=1, repeat_action_probability=0.0, obs_type="grayscale")
    env.reset(seed=0)
    frames, rewards = [], []
    for action in actions:
        screens, total = [], 0.0
        for _ in range(4):
            screen, reward, terminated, _, _ = env.step(action)
            screens.append(screen.astype(float))
            total += float(reward)
            assert not terminated
        merged = np.maximum(screens[-1], screens[-2])
        frames.append(area_weights(210, 84) @ merged @ area_weights(160, 84).T)
        rewards.append(total)
    env.close()
    return np.array(frames), rewards


@pytest.mark.parametrize("name", ["Freeway", "MsPacman", "Bowling"])
def test_frames_and_rewards_are_the_emulators(name: str):
    env = game(name, settings=NO_NOOPS)
    env.reset()
    actions = np.random.default_rng(0).integers(env.action_space.n, size=120).tolist()
    frames, rewards = [], []
    for action in actions:
        obs, reward, *_ = env.step(action)
        frames.append(obs[-1])
        rewards.append(reward)
    fire = [1] if name == "Bowling" else []  # pressed at the start, where the game has it
    expected, expected_rewards = reference(name, [*fire, *actions])
    expected, expected_rewards = expected[len(fire) :], expected_rewards[len(fire) :]
    assert np.abs(np.array(frames) - expected).max() <= 1.0  # rounding
    assert rewards == expected_rewards
    assert sum(rewards) > 0 or name != "MsPacman"


def test_a_stack_moves_on_by_one_frame_and_starts_with_four_alike():
    env = game("Pong", training=True)
    obs, _ = env.reset()
    assert obs.shape == (4, 84, 84)
    assert obs.dtype == np.uint8
    assert (obs == obs[0]).all()
    for _ in range(20):
        after, *_ = env.step(2)
        assert np.array_equal(after[:-1], obs[1:])
        obs = after


def play(env: AtariEnv, steps: int, seed: int = 0) -> list[tuple[float, bool, bool, dict[str, Any]]]:
    rng = np.random.default_rng(seed)
    env.reset()
    seen = []
    for _ in range(steps):
        _, reward, terminated, truncated, info = env.step(int(rng.integers(env.action_space.n)))
        seen.append((reward, terminated, truncated, info))
        if terminated or truncated:
            env.reset()
    return seen


def test_training_ends_episodes_at_a_lost_life_and_reports_whole_games():
    training, whole = play(game("MsPacman", training=True), 3_000), play(game("MsPacman"), 3_000)
    ends = [info for _, terminated, _, info in training if terminated]
    games = [info for info in ends if "episode" in info]
    assert len(games) >= 2
    assert len(ends) >= 3 * len(games)  # three lives
    assert all("episode" in info for _, terminated, _, info in whole if terminated)
    assert {reward for reward, *_ in training} <= {0.0, 1.0}
    assert max(reward for reward, *_ in whole) >= 10.0
    assert games[0]["episode"]["r"] >= 10.0 * sum(
        r for r, *_ in training[: training.index(next(s for s in training if s[3] is games[0]))]
    )


def test_outside_training_an_episode_is_a_game_and_its_rewards_add_up():
    total = 0.0
    for reward, terminated, truncated, info in play(game("MsPacman"), 2_000):
        total += reward
        if terminated or truncated:
            assert info["lives"] == 0
            assert info["episode"]["r"] == total
            total = 0.0


def test_the_next_life_goes_on_in_the_same_game():
    env = game("Breakout", training=True)
    env.reset()
    lives = []
    for _ in range(600):
        _, _, terminated, _, info = env.step(0)
        if terminated:
            lives.append(info["lives"])
            obs, _ = env.reset()
            assert (obs == obs[0]).all()
            if info["lives"] == 0:
                break
    # FIRE serves the ball at the start of each life, or this would never have ended.
    assert lives == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(("training", "pressed"), [(True, [0, 1]), (False, [1])])
def test_a_life_begins_with_fire_alone(monkeypatch: pytest.MonkeyPatch, training: bool, pressed: list[int]):
    # In Breakout FIRE is 1 and RIGHT, which CleanRL presses after it, 2. A no-op leaves the life that training ended.
    env = game("Breakout", training=training)
    actions: list[int] = []
    step = env.game.step

    def noted(action: np.ndarray) -> Any:
        actions.append(int(action[0]))
        return step(action)

    monkeypatch.setattr(env.game, "step", noted)
    env.reset()
    assert actions == [1]
    lives = 5
    while lives == 5:
        actions.clear()
        _, _, terminated, _, info = env.step(3)
        lives = info["lives"]
    assert terminated is training
    if training:
        env.reset()
    assert actions == [3, *pressed]


def test_evaluation_serves_the_next_ball_too():
    env = game("Breakout")
    env.reset()
    for _ in range(600):
        _, _, terminated, _, info = env.step(0)
        if terminated:
            break
    assert terminated
    assert info["episode"]["l"] <= 599  # five balls that were not touched


def test_a_seed_decides_the_game_whatever_was_played_before():
    def first_frames(env: AtariEnv) -> np.ndarray:
        obs, _ = env.reset()
        return np.array([obs, *(env.step(action)[0] for action in (2, 3, 0, 1, 4) * 20)])

    env = game("Pong", seed=3)
    once = first_frames(env)
    assert np.array_equal(once, first_frames(game("Pong", seed=3)))
    for _ in range(30):
        env.step(5)
    SUITE.reseed(env, 3)
    assert np.array_equal(once, first_frames(env))
    SUITE.reseed(env, 4)
    assert not np.array_equal(once, first_frames(env))


def test_no_ops_at_the_start_are_random_and_at_most_noop_max():
    env = game("Freeway", settings=AtariSettings(noop_max=30))
    counts = set()
    for seed in range(40):
        SUITE.reseed(env, seed)
        env.reset()
        counts.add(env.game.step(np.array([0]))[4]["episode_frame_number"][0] - 4)
    assert max(counts) <= 30
    assert len(counts) > 10


def test_an_endless_game_is_cut_not_ended():
    env = game("Freeway")  # two minutes of play, then the game is over by itself
    env.reset()
    steps = 0
    terminated = truncated = False
    while not (terminated or truncated):
        _, _, terminated, truncated, info = env.step(1)
        steps += 1
    assert terminated
    assert not truncated
    assert info["episode"]["l"] == steps
    assert 10 <= info["episode"]["r"] <= 34


def test_games_of_the_paper_have_actions_of_one_number():
    for pair, number in ((["Pong", "Bowling"], 6), (["BankHeist", "Alien"], 18)):
        observation_space, action_space = SUITE.spaces(pair)
        assert observation_space.shape == (4, 84, 84)
        assert action_space.n == number


def test_actions_that_mean_different_things_are_noted():
    (note,) = SUITE.notes(["Pong", "Bowling"])
    assert "in Pong and Bowling" in note
    assert "2 is RIGHT and UP" in note
    assert SUITE.notes(["BankHeist", "Alien"]) == []


def test_different_numbers_of_actions_are_refused_and_the_full_set_helps():
    with pytest.raises(ValueError, match=r"'Pong' and 'Breakout' have 6 and 4 actions .*NOOP FIRE RIGHT LEFT\)"):
        SUITE.spaces(["Pong", "Breakout"])
    full = AtariSuite(AtariSettings(full_action_space=True))
    assert full.spaces(["Pong", "Breakout"])[1].n == 18
    assert full.notes(["Pong", "Breakout"]) == []
    env = full.make_env("Breakout", seed=0)
    assert env.action_space.n == 18
    env.reset()
    env.step(17)


def test_unknown_games_are_named_with_their_neighbours():
    assert SUITE.check_tasks(["Pong", "MsPacMan", "pong"]) == [
        "tasks[1]: unknown atari game 'MsPacMan'; did you mean 'MsPacman' or 'Pacman'?",
        "tasks[2]: unknown atari game 'pong'; did you mean 'Pong' or 'Boxing'?",
    ]


def test_a_missing_rom_is_an_error_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    (error,) = SUITE.check_tasks(["Pong"])
    assert error.startswith("tasks[0]: atari game 'Pong': its ROM cannot be read")


def test_frames_have_the_size_and_stack_that_the_settings_say():
    env = game("Pong", settings=AtariSettings(frame_size=42, frame_stack=2))
    obs, _ = env.reset()
    assert obs.shape == env.observation_space.shape == (2, 42, 42)
    assert env.observation_space.contains(env.step(0)[0])
