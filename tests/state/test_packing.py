"""States as JSON and arrays: what goes in comes out, and what did not come from here is refused in one sentence."""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from typing import Any

import hypothesis.extra.numpy as arrays_of
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from rllib_nbsp.state.packing import MOST_JSON_BYTES, StateError, pack, pack_arrays, read_json, unpack, unpack_arrays

DTYPES = [np.bool_, np.uint8, np.int32, np.int64, np.float32, np.float64]
NUMBERS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=3))
)
STATES = st.recursive(
    NUMBERS | ARRAYS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text("ab_", min_size=1, max_size=3), inner, max_size=3)
        | st.dictionaries(st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@given(STATES)
def test_a_state_comes_back_as_it_was(state):
    assert same(unpack(*pack(state), "here"), state)


@given(STATES)
def test_equal_states_are_equal_bytes(state):
    assert pack(state) == pack(state)


def test_tensors_stay_tensors_and_not_a_number_stays():
    state = unpack(*pack({"w": torch.tensor([1.0, 2.0], requires_grad=True), "x": math.nan, "t": (1, 2)}), "here")
    assert torch.equal(state["w"], torch.tensor([1.0, 2.0]))
    assert math.isnan(state["x"]) and state["t"] == [1, 2]


def test_large_integers_of_generators_are_exact():
    state = np.random.default_rng(3).bit_generator.state
    assert unpack(*pack(state), "here") == state


@pytest.mark.parametrize("value", [object(), {1, 2}, np.array(["a"]), np.array([None], object), len])
def test_what_is_no_part_of_a_state_is_named(value):
    with pytest.raises(TypeError, match=r"state\.a\[1\]: .* no part of a state"):
        pack({"a": [0, value]})


# What did not come from here


def npz(content: bytes, compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("0.npy", content)
    return file.getvalue()


def header(shape: tuple[int, ...], descr: str = "<f8") -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"shape": shape, "fortran_order": False, "descr": descr})
    return file.getvalue()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([print], object), allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not arrays"),
        (b"PK\x03\x04 and nothing", "not arrays"),
        (npz(header((10**13,))), "claims shape"),
        (npz(header((3,)) + b"\0" * 16), "claims shape"),
        (npz(header((2,), "|O") + pickle.dumps(1)), "numbers alone"),
        (npz(pickled()), "numbers alone"),
        (npz(header((2,)) + b"\0" * 16, zipfile.ZIP_DEFLATED), "compressed"),
        (npz(b"\x93NUMPY\x03\x00"), "another format"),
        (npz(b"nonsense"), "not arrays"),
    ],
)
def test_foreign_arrays_are_refused_before_memory_is_taken(content, said):
    with pytest.raises(StateError, match=f"^here: .*{said}"):
        unpack_arrays(content, "here")


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff\xfe"])
def test_foreign_json_is_refused(text):
    with pytest.raises(StateError, match=r"^here: "):
        read_json(text, "here")


def test_json_of_no_bounds_is_not_parsed():
    with pytest.raises(StateError, match="at most"):
        read_json(b" " * (MOST_JSON_BYTES + 1), "here")


def test_a_name_of_an_array_that_is_not_there_is_refused():
    with pytest.raises(StateError, match=r"^here: not a state"):
        unpack(b'{"__array__": "7"}', pack_arrays({}), "here")


@given(STATES, st.data())
def test_whatever_is_changed_ends_in_a_state_or_its_error(state, data):
    text, arrays = pack(state)
    both = bytearray(arrays)
    for _ in range(data.draw(st.integers(1, 4))):
        if both:
            both[data.draw(st.integers(0, len(both) - 1))] = data.draw(st.integers(0, 255))
    try:
        unpack(text, bytes(both), "here")
    except StateError as error:
        assert str(error).startswith("here: ")
