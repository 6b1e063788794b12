"""Files whose bytes were damaged on purpose: a ValueError or a result, never anything else, in bounded memory."""

from __future__ import annotations

import pathlib
import struct

import pytest
from hostile_files import WORDS, allowed_bytes, peak_bytes, read_all, seeds  # type: ignore[import-not-found]
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_prune import sparse_format, tensor_format
from keras_prune_export import associated, flatbuffer, packing
from keras_prune_export.schemes import Schemes
from keras_prune_export.targets import packed

_places = st.floats(0, 1, exclude_max=True)  # in any file
_edit = st.one_of(
    st.tuples(st.just("flip"), _places, st.integers(0, 7)),
    st.tuples(st.just("byte"), _places, st.integers(0, 255)),
    st.tuples(st.just("word"), _places, st.sampled_from(WORDS)),
    st.tuples(st.just("add"), _places, st.sampled_from([-8, -4, -1, 1, 4, 8])),  # offsets that overlap or go back
    st.tuples(st.just("self"), _places, st.sampled_from([-1, 0, 1])),  # the distance to the file's start or end
    st.tuples(st.just("splice"), _places, _places),
    st.tuples(st.just("cut"), _places, st.just(0)),
)


def damaged(data, edits):
    """The file after some edits; the identifier stays, so that readers go on."""
    result = bytearray(data)
    for kind, place, value in edits:
        at = 8 + int(place * (len(result) - 12))
        word = at & ~3
        if kind == "flip":
            result[at] ^= 1 << value
        elif kind == "byte":
            result[at] = value
        elif kind == "word":
            result[word : word + 4] = value.to_bytes(4, "little")
        elif kind == "add":
            old = int.from_bytes(result[word : word + 4], "little")
            result[word : word + 4] = ((old + value) % 2**32).to_bytes(4, "little")
        elif kind == "self":
            distance = (value * (len(result) if value > 0 else word) - max(value, 0) * word) % 2**32
            result[word : word + 4] = distance.to_bytes(4, "little")
        elif kind == "splice":
            source = 8 + int(value * (len(result) - 24))
            result[word : word + 16] = result[source : source + 16]
        else:
            del result[max(at, 16) :]
    return bytes(result)


@pytest.mark.parametrize("name", seeds())
def test_undamaged_seeds_are_read(name):
    errors = read_all(seeds()[name])
    packed_already = {"_pack", "_quantize"} if b"KerasPrune" in seeds()[name] else set()
    assert {reader for reader, error in errors.items() if error is not None} == packed_already


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(seeds())), edits=st.lists(_edit, min_size=1, max_size=4))
def test_damaged_bytes(name, edits):
    read_all(damaged(seeds()[name], edits))


@settings(max_examples=25)
@given(name=st.sampled_from(sorted(seeds())), edits=st.lists(_edit, min_size=1, max_size=3))
def test_memory_follows_the_file_and_its_shapes(name, edits):
    data = damaged(seeds()[name], edits)
    assert peak_bytes(data) <= allowed_bytes(data)


@pytest.mark.parametrize("name", ["packed two subgraphs", "archive"])
def test_truncations(name):
    data = seeds()[name]
    for length in range(0, len(data), max(1, len(data) // 60)):
        read_all(data[:length])


@settings(max_examples=150)
@given(data=st.binary(max_size=200), version=st.integers(0, 3))
def test_any_bytes_as_packed_weights(data, version):
    data = sparse_format.MAGIC + bytes([version]) + data
    for reader in (packed.decode, tensor_format.check, tensor_format.decode_codes, sparse_format.check):
        with pytest.raises(sparse_format.FormatError):
            reader(data)


@settings(max_examples=100)
@given(edits=st.lists(_edit, min_size=1, max_size=3))
def test_damaged_archives(edits):
    """The files that metadata appends: refused, left out, or kept as they were."""
    data = seeds()["archive"]
    _, start = associated.archive(data)
    broken = data[:start] + damaged(bytes(8) + data[start:], edits)[8:]
    try:
        found, begin = associated.archive(broken)
    except ValueError:
        return
    assert found == broken[begin:]
    moved = associated.append(data[: start - 100], found, begin)
    assert len(moved) == start - 100 + len(found)
    associated.archive(moved)


def test_an_archive_that_claims_more_files_than_it_has():
    data = bytearray(seeds()["archive"])
    end = data.rfind(b"PK\x05\x06")
    struct.pack_into("<2H", data, end + 8, 65535, 65535)
    with pytest.raises(ValueError, match="appended files is damaged"):
        packing.pack(bytes(data), Schemes("lossless"))


def test_a_published_file_with_damaged_tables(data_dir: pathlib.Path):
    data = (data_dir / "models" / "mediapipe_hand_landmark_sparse_v1.tflite").read_bytes()
    root = int.from_bytes(data[:4], "little")
    for at in range(root & ~3, root + 48, 4):  # the root's table: offsets to the vectors of all others
        broken = data[:at] + WORDS[at // 4 % len(WORDS)].to_bytes(4, "little") + data[at + 4 :]
        try:
            flatbuffer.read(broken)
        except ValueError as error:
            assert "damaged" in str(error)  # noqa: PT017 (some of them are read)
