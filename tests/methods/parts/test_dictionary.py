"""Sparse codes and dictionaries: by hand, and against the lasso's optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rllib_nbsp.methods.parts.dictionary import Dictionary, sparse_code


@pytest.mark.parametrize(("neurons", "size"), [(8, 5), (40, 384), (768, 384)])
def test_the_sparse_code_satisfies_the_lassos_optimality_conditions(neurons, size):
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    dictionary = Dictionary(neurons, size, generator)
    for _ in range(3):
        e = rng.standard_normal(size)
        e /= np.linalg.norm(e)
        code = sparse_code(e, dictionary.atoms, 1e-3)
        # The gradient of 1/2 ||e - a D||^2 is -lam sign(a) where a is not 0, and at most lam anywhere else.
        slope = dictionary.atoms @ (e - code @ dictionary.atoms)
        assert np.abs(slope[code != 0] - 1e-3 * np.sign(code[code != 0])).max() < 1e-4
        assert np.abs(slope).max() < 1e-3 + 1e-4
        assert (code != 0).sum() <= min(neurons, size)
        dictionary.learn(code, e, generator)


def test_the_sparse_code_over_orthonormal_atoms_by_hand():
    # Each coefficient on its own: e_k shrunk by lam.
    code = sparse_code(np.array([0.6, -0.8, 0.05, 0.0]), np.eye(4), 0.1)
    np.testing.assert_allclose(code, [0.5, -0.7, 0.0, 0.0], atol=1e-12)


def test_an_atom_moves_to_what_its_texts_are_best_made_of():
    # One atom d = (1, 0), text e = (0, 1), code a = 2: A = 4, B = 2 e, so d + (2 e - 4 d) / 4 = e / 2.
    dictionary = Dictionary(1, 2, torch.Generator().manual_seed(0))
    dictionary.atoms[0] = [1.0, 0.0]
    dictionary.learn(np.array([2.0]), np.array([0.0, 1.0]), torch.Generator())
    np.testing.assert_allclose(dictionary.atoms, [[0.0, 0.5]])
    np.testing.assert_allclose(dictionary.codes, [[4.0]])
    np.testing.assert_allclose(dictionary.samples, [[0.0], [2.0]])
    # A small code wants a long atom, (0, 1) / 0.1, which is cut to norm 1.
    fresh = Dictionary(1, 2, torch.Generator().manual_seed(0))
    fresh.learn(np.array([0.1]), np.array([0.0, 1.0]), torch.Generator())
    np.testing.assert_allclose(fresh.atoms, [[0.0, 1.0]], atol=1e-12)


def test_unused_atoms_are_drawn_anew_around_the_text_and_no_atom_is_longer_than_1():
    generator = torch.Generator().manual_seed(0)
    dictionary = Dictionary(60, 30, generator)
    before = dictionary.atoms.copy()
    e = np.random.default_rng(1).standard_normal(30)
    e /= np.linalg.norm(e)
    code = np.zeros(60)
    code[:3] = [0.4, -0.3, 1e-4]  # the third's square is below what counts as use
    dictionary.learn(code, e, generator)
    assert np.linalg.norm(dictionary.atoms, axis=1).max() <= 1.0 + 1e-6
    assert (np.abs(dictionary.atoms - before).max(1) > 0.0).all()
    cosines = dictionary.atoms[2:] @ e / np.linalg.norm(dictionary.atoms[2:], axis=1)
    # Text and noise are about equally long: a cosine of about 0.7.
    assert 0.6 < cosines.mean() < 0.8
    assert len(np.unique(dictionary.atoms[2:].round(6), axis=0)) == 58
    assert np.linalg.norm(e - code[:2] @ dictionary.atoms[:2]) < np.linalg.norm(e - code[:2] @ before[:2])
