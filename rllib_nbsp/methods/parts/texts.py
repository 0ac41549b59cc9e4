"""Texts of tasks as vectors: from the words of their names, or from a file."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rllib_nbsp.reading import read_arrays

EMBEDDING_SIZE = 384


def words(name: str) -> list[str]:
    """The words of a task's name, split at hyphens and capitals, without a version: "BankHeist" -> bank, heist."""
    plain = re.sub(r"[-_]v\d+$", "", name)
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", plain)] or [name]


def name_embedding(name: str) -> np.ndarray:
    """The sum of a Gaussian vector for each word, (384,): names that share words are alike."""
    seeds = [int.from_bytes(hashlib.sha256(word.encode()).digest()[:8], "big") for word in words(name)]
    return np.sum([np.random.default_rng(seed).standard_normal(EMBEDDING_SIZE) for seed in seeds], 0)


def read_embeddings(path: str) -> dict[str, np.ndarray]:
    """The vectors of an .npz file by task.

    Raises:
        OSError, ValueError: if it is no such file.
    """
    return {name: np.asarray(array, np.float64) for name, array in read_arrays(Path(path)).items()}


def check_embeddings(path: str, tasks: Sequence[str]) -> list[str]:
    """What is wrong with such a file as the key `embedding` of a run of these tasks; empty if nothing is."""
    place = f"embedding is {path!r}"
    if not Path(path).is_absolute():
        return [f"{place}; give an absolute path: every trial runs in a folder of its own"]
    try:
        vectors = read_embeddings(path)
    except (OSError, ValueError) as error:
        return [f"{place}, which cannot be read as an .npz file: {error}"]
    missing = [task for task in dict.fromkeys(tasks) if task not in vectors]
    if missing:
        return [f"{place}, which has no vector for {', '.join(missing)}"]
    shapes = {vector.shape for vector in vectors.values()}
    if len(shapes) > 1 or len(next(iter(shapes))) != 1:
        return [f"{place}, whose vectors have the shapes {sorted(shapes)}; they must be of one length"]
    if not all(np.isfinite(vector).all() and vector.any() for vector in vectors.values()):
        return [f"{place}, which has a vector of zeros or of numbers that are not finite"]
    return []
