"""Sparse codes over a dictionary of atoms, and how the atoms are learnt (Yang et al. 2023, for CoTASP's prompts)."""

from __future__ import annotations

import numpy as np
import torch

UNUSED = 1e-6
"""An atom whose coefficients' squares sum to no more than this is drawn anew."""


def sparse_code(embedding: np.ndarray, atoms: np.ndarray, lam: float) -> np.ndarray:
    """`argmin_a 1/2 ||e - a D||^2 + lam ||a||_1`, shape (N,), by LARS; signs are free.

    Args:
        embedding: e, (m,).
        atoms: D, (N, m).
        lam: as above; scikit-learn divides the square by m.
    """
    from sklearn.linear_model import LassoLars  # a second to import, which every rollout worker would pay

    lasso = LassoLars(alpha=lam / len(embedding), fit_intercept=False, max_iter=10 * len(atoms))
    return np.asarray(lasso.fit(atoms.T, embedding).coef_)


class Dictionary:
    """Atoms that texts are sparse sums of, one for each unit of a layer, learnt a text at a time.

    Attributes:
        atoms: D, (N, m), each of norm at most 1.
        codes: A, (N, N), the sum of `a^T a`.
        samples: B, (m, N), the sum of `e^T a`.
    """

    def __init__(self, neurons: int, size: int, generator: torch.Generator) -> None:
        self.atoms = np.stack([_shortened(_normal(size, generator)) for _ in range(neurons)])
        self.codes, self.samples = np.zeros((neurons, neurons)), np.zeros((size, neurons))

    def learn(self, code: np.ndarray, embedding: np.ndarray, generator: torch.Generator) -> None:
        """Move the atoms to what the texts so far are best made of; unused ones come anew from around this text."""
        self.codes += np.outer(code, code)
        self.samples += np.outer(embedding, code)
        for k, use in enumerate(np.diag(self.codes)):
            if use > UNUSED:
                atom = self.atoms[k] + (self.samples[:, k] - self.codes[k] @ self.atoms) / use
            else:
                atom = embedding + embedding.std() * _normal(len(embedding), generator)
            self.atoms[k] = _shortened(atom)


def _normal(size: int, generator: torch.Generator) -> np.ndarray:
    return torch.randn(size, generator=generator, device=generator.device, dtype=torch.float64).cpu().numpy()


def _shortened(atom: np.ndarray) -> np.ndarray:
    return np.asarray(atom / max(np.linalg.norm(atom), 1.0))
