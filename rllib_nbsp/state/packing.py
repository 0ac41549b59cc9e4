"""Nested states as JSON and plain arrays, and back; nothing that is read can run code or claim memory it does not fill.

A state is nested dicts and lists of arrays, tensors, numbers, strings, booleans and None. In the JSON an array is
`{"__array__": name}` and a tensor `{"__tensor__": name}`; both lie beside it in an uncompressed `.npz`.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.lib import format as npy
from torch import Tensor

ARRAY, TENSOR, INTEGER_KEYS = "__array__", "__tensor__", "__integer_keys__"
KINDS = "biuf"
"""Of dtypes that are read: booleans, integers and floats."""
MOST_JSON_BYTES = 64 * 2**20


class StateError(ValueError):
    """A state that cannot be read or does not belong here; the message names the file."""


def pack(state: Any) -> tuple[bytes, bytes]:
    """A state as JSON and as the arrays that this names.

    Raises:
        TypeError: naming the place of what is no part of a state.
    """
    arrays: dict[str, np.ndarray] = {}
    text = json.dumps(_to_json(state, arrays, "state"), allow_nan=True)
    return text.encode(), pack_arrays(arrays)


def unpack(text: bytes, arrays: bytes, name: str) -> Any:
    """What `pack` was given; tensors come back on the CPU, and tuples as lists.

    Raises:
        StateError: naming `name`.
    """
    try:
        return _from_json(read_json(text, name), unpack_arrays(arrays, name))
    except (KeyError, TypeError, RecursionError) as error:
        raise StateError(f"{name}: not a state ({type(error).__name__}: {error})") from error


def pack_arrays(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Arrays as the bytes of an `.npz` that is equal whenever they are."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            npy.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue())  # a fixed date
    return file.getvalue()


def unpack_arrays(content: bytes, name: str) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, whose headers must say what is there.

    Raises:
        StateError: naming `name`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED or member.file_size > len(content):
                    raise StateError(f"{name}: {member.filename} is compressed, and states are not")
            return {m.filename.removesuffix(".npy"): _array(archive.read(m), name) for m in archive.infolist()}
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise error if isinstance(error, StateError) else StateError(f"{name}: not arrays ({error})") from error


def read_json(text: bytes, name: str) -> Any:
    """A JSON value of bounded size.

    Raises:
        StateError: naming `name`.
    """
    if len(text) > MOST_JSON_BYTES:
        raise StateError(f"{name}: {len(text):,} bytes of JSON; at most {MOST_JSON_BYTES:,} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StateError(f"{name}: not JSON ({error})") from error


def _array(content: bytes, name: str) -> np.ndarray:
    file = io.BytesIO(content)
    if npy.read_magic(file) != (1, 0):
        raise StateError(f"{name}: an array of another format than ours")
    shape, fortran, dtype = npy.read_array_header_1_0(file)
    if dtype.kind not in KINDS or fortran:
        raise StateError(f"{name}: an array of {dtype}; states hold numbers alone")
    held = len(content) - file.tell()
    if math.prod(shape) * dtype.itemsize != held:
        raise StateError(f"{name}: an array claims shape {shape} of {dtype} and holds {held:,} bytes")
    # A copy: what is read is written to.
    return np.frombuffer(content, dtype, offset=file.tell()).reshape(shape).copy()


def _to_json(value: Any, arrays: dict[str, np.ndarray], place: str) -> Any:
    if isinstance(value, Tensor | np.ndarray):
        kind, array = (TENSOR, value.detach().cpu().numpy()) if isinstance(value, Tensor) else (ARRAY, value)
        if array.dtype.kind not in KINDS:
            raise TypeError(f"{place}: an array of {array.dtype} is no part of a state")
        arrays[str(len(arrays))] = array
        return {kind: str(len(arrays) - 1)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        whole = {type(key) for key in value} == {int}
        packed = {str(key): _to_json(item, arrays, f"{place}.{key}") for key, item in value.items()}
        return {INTEGER_KEYS: packed} if whole else packed
    if isinstance(value, list | tuple):
        return [_to_json(item, arrays, f"{place}[{i}]") for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{place}: a {type(value).__name__} is no part of a state")


def _from_json(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_from_json(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    if ARRAY in value:
        return arrays[value[ARRAY]]
    if TENSOR in value:
        return torch.from_numpy(arrays[value[TENSOR]])
    if INTEGER_KEYS in value:
        return {int(key): _from_json(item, arrays) for key, item in value[INTEGER_KEYS].items()}
    return {key: _from_json(item, arrays) for key, item in value.items()}
