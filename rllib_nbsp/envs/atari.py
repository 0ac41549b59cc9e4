"""Atari games on the Arcade Learning Environment; the only file that imports `ale_py`.

Contract (docs/readings.md R38; as CleanRL's wrappers have it): no sticky actions, an action lasts `frame_skip` frames
of which the last two are merged by maximum, up to `noop_max` no-ops at a game's start, grey frames of 84 x 84, stacks
of 4. In training, rewards are clipped to their sign and the loss of a life ends an episode, not the game;
`info["episode"]["r"]` is the return of a whole game as it ends. Elsewhere an episode is a game and rewards are its own.

Where a game has the action FIRE, it is pressed at the start of every life, in evaluation too: a policy that never had
to serve would otherwise wait for the ball until the game is cut.

Differences from CleanRL's wrappers: theirs are for training alone; after FIRE they press action 2 (RIGHT in Pong, UP in
Bowling), where ours press FIRE alone; they begin a game with at least one no-op, where ours may begin with none.

Each environment is ALE's native vector of one. It skips, merges and resizes in C++, needs no OpenCV and costs what the
emulator costs; stacks and lives are made here, because its own stack would reach across lives.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, Discrete
from pydantic import Field

from rllib_nbsp.envs.base import ActionSpace, Env, Suite, register_suite
from rllib_nbsp.nn.networks import conv_features
from rllib_nbsp.registry import did_you_mean
from rllib_nbsp.settings import ModelSettings, RunSettings, Settings

MAX_GAME_FRAMES = 108_000  # half an hour of play
NOOP, FIRE = "NOOP", "FIRE"


class AtariSettings(Settings):
    """What games are like (docs/readings.md R38)."""

    frame_stack: Annotated[int, Field(ge=1, le=16)] = 4
    """Frames in an observation."""
    frame_size: Annotated[int, Field(ge=16, le=210)] = 84
    """Height and width of a frame."""
    frame_skip: Annotated[int, Field(ge=1, le=16)] = 4
    """Frames that an action lasts; an environment step is so many frames."""
    noop_max: Annotated[int, Field(ge=0, le=100)] = 30
    """No-ops at a game's start: a random number, at most this."""
    full_action_space: bool = False
    """All 18 actions in every game, instead of those that the game uses."""


class AtariEnv(gym.Env[np.ndarray, Any]):
    """One game.

    Args:
        rom: its name in snake case.
        settings: the run's `atari` section.
        seed: decides the no-ops at a game's start.
        training: clip rewards and end episodes at a lost life.
    """

    def __init__(self, rom: str, settings: AtariSettings, *, seed: int, training: bool) -> None:
        from ale_py.vector_env import AtariVectorEnv

        _quiet()
        size = settings.frame_size
        self.game = AtariVectorEnv(
            rom,
            num_envs=1,
            num_threads=1,
            max_num_frames_per_episode=MAX_GAME_FRAMES,
            repeat_action_probability=0.0,
            full_action_space=settings.full_action_space,
            img_height=size,
            img_width=size,
            stack_num=1,
            frameskip=settings.frame_skip,
            noop_max=settings.noop_max + 1,  # ALE draws fewer than this
            reward_clipping=False,
            use_fire_reset=False,  # ALE would press it for one frame, not for an action's
        )
        self.training = training
        self.next_seed: int | None = seed
        self.observation_space = observation_space(settings)
        meanings = action_meanings(rom, settings.full_action_space)
        self.action_space = Discrete(len(meanings))
        self._fire = meanings.index(FIRE) if FIRE in meanings else None
        self._stack = np.zeros(self.observation_space.shape, np.uint8)
        self._frame = self._stack[0]
        self._start_game(0)
        self._life_lost = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start the next life if training lost one and the game goes on; else, or with a waiting seed, a new game."""
        seed = self.next_seed if seed is None else seed
        over = not self._life_lost
        if seed is None and self._life_lost:
            over = self._press(0)[1] or self._serve()[1]
        while seed is not None or over:
            frames: Any
            frames, info = self.game.reset(seed=None if seed is None else seed % 2**31)
            self._start_game(int(info["lives"][0]))
            self._frame = frames[0, 0]
            seed, over = None, self._serve()[1]
        self.next_seed, self._life_lost = None, False
        self._stack[:] = self._frame
        return self._stack.copy(), {"lives": self._lives}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """`frame_skip` frames under one action."""
        lives = self._lives
        reward, over, truncated = self._press(int(action))
        lost = self._lives < lives and not over
        if lost and not self.training:
            served, over, truncated = self._serve()
            reward += served
        self._stack[:-1] = self._stack[1:]
        self._stack[-1] = self._frame
        info: dict[str, Any] = {"lives": self._lives}
        if over:
            info["episode"] = {"r": self._return, "l": self._length}
        self._life_lost = lost and self.training
        if self.training:
            reward = float(np.sign(reward))
        return self._stack.copy(), reward, (over and not truncated) or self._life_lost, truncated, info

    def close(self) -> None:
        """Free the emulator."""
        self.game.close()

    def _start_game(self, lives: int) -> None:
        self._lives, self._return, self._length = lives, 0.0, 0

    def _press(self, action: int) -> tuple[float, bool, bool]:
        """Reward, whether the game is over, and whether it was cut."""
        frames, rewards, terminated, truncated, info = self.game.step(np.array([action]))
        self._frame = frames[0, 0]
        self._lives = int(info["lives"][0])
        reward = float(rewards[0])
        self._return += reward
        self._length += 1
        return reward, bool(terminated[0] or truncated[0]), bool(truncated[0])

    def _serve(self) -> tuple[float, bool, bool]:
        return self._press(self._fire) if self._fire is not None else (0.0, False, False)


class AtariSuite(Suite):
    """All games of the Arcade Learning Environment, by the names that it registers: `Pong`, `BankHeist`.

    Args:
        settings: the run's `atari` section.
    """

    name = "atari"
    Config = AtariSettings
    has_success = False
    alters_training = True

    def __init__(self, settings: AtariSettings | None = None) -> None:
        self.settings = settings or AtariSettings()

    def configured(self, settings: Settings) -> AtariSuite:
        """The games under a run's `atari` section."""
        assert isinstance(settings, AtariSettings)
        return AtariSuite(settings)

    def task_names(self) -> list[str]:
        """Every game that ale-py knows."""
        return list(_roms())

    def check_tasks(self, tasks: Sequence[str]) -> list[str]:
        """Unknown games, with the nearest names, and games without their ROM."""
        errors = []
        for i, task in enumerate(tasks):
            if task not in _roms():
                errors.append(f"tasks[{i}]: unknown atari game {task!r}{did_you_mean(task, _roms())}")
                continue
            try:
                _rom_path(_roms()[task])
            except OSError as error:
                errors.append(f"tasks[{i}]: atari game {task!r}: its ROM cannot be read; install ale-py anew ({error})")
        return errors

    def check(self, settings: RunSettings, model: ModelSettings) -> list[str]:
        """Kernels that are larger than the frames that they are given."""
        try:
            conv_features(observation_space(self.settings).shape, model.conv)
        except ValueError as error:
            return [f"{error}; raise atari.frame_size or lower the kernel"]
        return []

    def make_env(self, task: str, *, seed: int, training: bool = True) -> Env:
        """Start a game."""
        return AtariEnv(_roms()[task], self.settings, seed=seed, training=training)

    def reseed(self, env: Env, seed: int) -> None:
        """The next reset starts a game with the seed."""
        assert isinstance(env, AtariEnv)
        env.next_seed = seed

    def success(self, info: Any) -> bool:
        """Games are judged by their return."""
        return False

    def task_spaces(self, task: str) -> tuple[Box, ActionSpace]:
        """Stacks of frames, and the game's actions."""
        return observation_space(self.settings), Discrete(len(self._actions(task)))

    def spaces(self, tasks: Sequence[str]) -> tuple[Box, ActionSpace]:
        """The spaces that all games share.

        Raises:
            ValueError: if they have different numbers of actions, naming both sets.
        """
        first, *others = dict.fromkeys(tasks)
        for task in others:
            ours, theirs = self._actions(first), self._actions(task)
            if len(ours) != len(theirs):
                raise ValueError(
                    f"games {first!r} and {task!r} have {len(ours)} and {len(theirs)} actions ({' '.join(ours)}; "
                    f"{' '.join(theirs)}); one head needs one number: atari: {{full_action_space: true}} gives all "
                    "games the same 18"
                )
        return self.task_spaces(first)

    def notes(self, tasks: Sequence[str]) -> list[str]:
        """Pairs of games whose actions of one number mean different things."""
        first, *others = dict.fromkeys(tasks)
        notes = []
        for task in others:
            pairs = zip(self._actions(first), self._actions(task), strict=True)
            differing = [f"{i} is {a} and {b}" for i, (a, b) in enumerate(pairs) if a != b]
            if differing:
                notes.append(f"actions mean different things in {first} and {task}: {', '.join(differing)}")
        return notes

    def _actions(self, task: str) -> list[str]:
        return action_meanings(_roms()[task], self.settings.full_action_space)


def observation_space(settings: AtariSettings) -> Box:
    """Bytes of shape (stack, size, size)."""
    return Box(0, 255, (settings.frame_stack, settings.frame_size, settings.frame_size), np.uint8)


@functools.cache
def action_meanings(rom: str, full: bool) -> list[str]:
    """Names of a game's actions, by number: those that it uses, or all 18."""
    from ale_py import ALEInterface

    _quiet()
    ale = ALEInterface()
    ale.loadROM(_rom_path(rom))
    return [action.name for action in (ale.getLegalActionSet() if full else ale.getMinimalActionSet())]


@functools.cache
def _roms() -> dict[str, str]:
    """ROM names, in snake case, by the games' registered names."""
    from ale_py import registration, roms

    return {registration.rom_id_to_name(rom): rom for rom in sorted(roms.get_all_rom_ids())}


def _rom_path(rom: str) -> Any:
    from ale_py import roms

    return roms.get_rom_path(rom)


def _quiet() -> None:
    from ale_py import ALEInterface, LoggerMode

    ALEInterface.setLoggerMode(LoggerMode.Error)  # a banner for each environment otherwise


register_suite(AtariSuite())
