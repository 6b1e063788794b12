"""Patterns: golden masks with ties, exact counts, edges, axes, errors."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_prune import patterns
from keras_prune.masks import make_mask
from keras_prune.patterns import Balanced, Block, Channel, NByM, Pattern, Unstructured
from keras_prune.selection import kept_count, select_highest_of_rows

ALL = (Unstructured(), Block((2, 3)), NByM(1, 3), Balanced(4), Channel())
SCORES = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=4, max_side=7), elements=st.integers(0, 5).map(float)
)


def mask_of(pattern, scores, sparsity):
    mask = make_mask(np.array(scores, np.float32), sparsity, pattern)
    assert mask.dtype == np.uint8
    return mask.tolist()


def test_unstructured_units_are_weights():
    scores = np.arange(6.0).reshape(2, 3)
    pattern = Unstructured()
    assert pattern.pool(scores).tolist() == [0, 1, 2, 3, 4, 5]
    assert pattern.spread(np.array([1, 0, 0, 1, 0, 0], np.uint8), (2, 3)).tolist() == [[1, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (Block((2, 2)), [3.0, 4.0, 6.0, 7.5]),
        (Block((2, 2), "sum"), [12.0, 8.0, 12.0, 7.5]),
        (Block((2, 2), "max"), [6.0, 5.0, 8.0, 7.5]),
        (Block((1, 3)), [2.0, 14 / 3, 6.5]),
        (Block((3, 1), "sum"), [8.0, 16.0, 15.5]),
    ],
)
def test_block_scores_with_smaller_blocks_at_the_edge(pattern, expected):
    scores = np.array([[1.0, 2.0, 3.0], [3.0, 6.0, 5.0], [4.0, 8.0, 7.5]], np.float32)
    assert pattern.pool(scores).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("pattern", "scores", "sparsity", "expected"),
    [
        (Block((2, 1)), [[1, 1, 9], [1, 1, 9]], 1 / 3, [[1, 0, 1], [1, 0, 1]]),  # a tie: the first block
        (Block((2, 2)), [[0, 0, 0], [0, 0, 0], [0, 0, 0]], 0.5, [[1, 1, 1], [1, 1, 1], [0, 0, 0]]),  # 2 of 4 blocks
        (Block((2, 2)), [[0, 0, 0], [0, 0, 0], [0, 0, 1]], 0.99, [[0, 0, 0], [0, 0, 0], [0, 0, 1]]),  # one survivor
        (Block((9, 9)), [[1, 2], [3, 4]], 0.9, [[1, 1], [1, 1]]),  # one block larger than the weight
        (Block((2, 2)), [[1, 2], [3, 4]], 0.0, [[1, 1], [1, 1]]),
        (NByM(2, 4), [[1], [1], [1], [1], [5], [2], [0], [9]], 0.5, [[1], [1], [0], [0], [1], [0], [0], [1]]),
        (NByM(2, 4), [[1], [1], [1], [1], [5], [2], [0], [9]], 0.25, [[1], [1], [1], [0], [1], [1], [0], [1]]),
        (NByM(2, 4), [[0], [0], [0], [0], [0], [0]], 0.5, [[1], [1], [0], [0], [1], [0]]),  # all zero, a group of two
        (NByM(1, 4), [[3, 0], [2, 0], [1, 4]], 0.75, [[1, 0], [0, 0], [0, 1]]),  # one group of three in each column
        (Balanced(2), [[9, 1], [8, 1], [1, 1], [2, 1]], 0.5, [[1, 1], [0, 0], [0, 1], [1, 0]]),  # ties: the first
        (Balanced(), [[9, 0], [8, 0], [1, 1], [2, 0]], 0.5, [[1, 1], [1, 0], [0, 1], [0, 0]]),
        (Balanced(4), [[9], [8], [7], [6], [5], [1], [2]], 0.75, [[1], [0], [0], [0], [1], [0], [0]]),  # a rest of 3
        (Channel(), [[1, 2, 2], [3, 2, 2]], 0.5, [[1, 1, 0], [1, 1, 0]]),  # 1.5 kept: even; a tie: the first
        (Channel("max"), [[1, 2, 2], [3, 2, 2]], 0.99, [[1, 0, 0], [1, 0, 0]]),
        (Channel(output_axes=0), [[1, 2, 2], [3, 2, 2]], 0.5, [[0, 0, 0], [1, 1, 1]]),
        (Channel(), [[0, 0], [0, 0]], 0.0, [[1, 1], [1, 1]]),
    ],
)
def test_golden_masks(pattern, scores, *, sparsity, expected):
    assert mask_of(pattern, scores, sparsity) == expected


def test_blocks_of_a_convolution_lie_in_each_kernel_position():
    scores = np.zeros((1, 2, 3, 4), np.float32)
    scores[0, 1, :2, 2:] = 1.0
    pattern = Block((2, 2))
    assert pattern.pool(scores).tolist() == [0, 0, 0, 0, 0, 1, 0, 0]  # (position, inputs, outputs)
    mask = make_mask(scores, 0.875, pattern)
    assert np.array_equal(mask, scores)


@pytest.mark.parametrize("shape", [(8, 5), (3, 3, 4, 2), (3, 8, 2), (2, 2, 2, 4, 3)])
def test_n_by_m_of_divisible_input_channels_keeps_n_of_m_channels_at_each_position(shape):
    scores = np.random.default_rng(0).permutation(int(np.prod(shape))).reshape(shape).astype(np.float32)
    mask = make_mask(scores, 0.5, NByM(2, 4))
    groups = np.moveaxis(mask, -2, -1).reshape(-1, 4)
    kept = np.moveaxis(scores, -2, -1).reshape(-1, 4)
    assert (groups.sum(1) == 2).all()
    assert np.array_equal(groups, kept >= np.sort(kept)[:, 2:3])


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_n_by_m_of_a_first_convolution_goes_on_to_the_next_position(channels):
    shape = (4, 4, channels, 5)
    scores = np.random.default_rng(0).random(shape, np.float32)
    mask = make_mask(scores, 0.5, NByM(2, 4))
    groups = np.moveaxis(mask, -1, 0).reshape(-1, 4)  # 16 * channels inputs of each output
    assert (groups.sum(1) == 2).all()


@pytest.mark.parametrize(
    ("shape", "output_axes", "outputs", "inputs"),
    [
        ((3, 3, 8, 5), -2, 8, 45),  # Conv2DTranspose: (height, width, outputs, inputs)
        ((3, 3, 8, 2), (-2, -1), 16, 9),  # DepthwiseConv2D: (height, width, inputs, multiplier)
        ((10, 2, 4), (1, 2), 8, 10),  # attention's query: (inputs, heads, size)
    ],
)
def test_output_axes(shape, output_axes, *, outputs, inputs):
    scores = np.random.default_rng(0).random(shape, np.float32)
    mask = make_mask(scores, 0.5, Balanced(output_axes=output_axes))
    axes = tuple(np.arange(len(shape))[np.atleast_1d(output_axes)])
    others = tuple(axis for axis in range(len(shape)) if axis not in axes)
    assert np.unique(mask.sum(axis=others)).tolist() == [kept_count(inputs, 0.5)]
    mask = make_mask(scores, 0.5, Channel(output_axes=output_axes))
    assert np.unique(mask.sum(axis=others)).tolist() == [0, inputs]
    assert mask.sum() == outputs // 2 * inputs
    mask = make_mask(scores, 0.5, NByM(1, 2, output_axes=output_axes))
    assert (mask.sum(axis=others) == -(-inputs // 2)).all()


@given(SCORES, st.floats(0, 0.99), st.sampled_from(ALL))
def test_exact_counts_and_highest_kept(scores, sparsity, pattern):
    sparsity = min(sparsity, pattern.max_sparsity)
    mask = pattern.keep(scores, sparsity)
    assert mask.shape == scores.shape
    assert mask.dtype == np.uint8
    if isinstance(pattern, Balanced):
        rows = np.moveaxis(mask, -1, 0).reshape(scores.shape[-1], -1)
        assert (np.count_nonzero(rows, axis=1) == np.count_nonzero(rows[0])).all()
        return
    units = pattern.pool(scores)
    kept = pattern.pool(mask.astype(np.float32)) > 0
    if isinstance(pattern, NByM):
        kept = mask.reshape(-1) > 0
        assert kept.sum() >= kept_count(scores.size, sparsity)
        assert kept[units == np.inf].all()
    else:
        assert kept.sum() == kept_count(len(units), sparsity)
    assert kept.all() or units[kept].min() >= units[~kept].max()
    assert np.array_equal(pattern.spread(kept.astype(np.uint8), scores.shape), mask)  # units are kept or pruned whole


@given(SCORES, st.sampled_from(ALL))
def test_masks_are_nested_while_scores_stay(scores, pattern):
    last = np.ones(scores.shape, np.uint8)
    for sparsity in (0.1, 0.3, 0.5, 0.6):
        mask = pattern.keep(scores, min(sparsity, pattern.max_sparsity))
        assert (mask <= last).all()
        last = mask


def test_shared_scores_are_those_of_the_unit():
    scores = np.array([[1.0, 4.0], [3.0, 0.0]], np.float32)
    assert Unstructured().share(scores).tolist() == scores.tolist()
    assert Block((2, 1)).share(scores).tolist() == [[2.0, 2.0], [2.0, 2.0]]
    assert Channel("max").share(scores).tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert Balanced().share(scores).tolist() == scores.tolist()
    assert NByM(1, 2).share(scores).tolist() == [[1.0, np.inf], [np.inf, 0.0]]


ROWS = st.tuples(st.integers(0, 5), st.integers(1, 12))


@given(hnp.arrays(np.float32, ROWS, elements=st.sampled_from([0.0, -0.0, 1.0, 2.0, np.inf])), st.data())
def test_select_highest_of_rows_equals_a_stable_sort(rows, data):
    kept = data.draw(st.integers(0, rows.shape[1]))
    expected = np.zeros(rows.shape, bool)
    np.put_along_axis(expected, np.argsort(-rows, axis=1, kind="stable")[:, :kept], values=True, axis=1)
    assert np.array_equal(select_highest_of_rows(rows, kept), expected)


def test_nan_scores_are_refused():
    for pattern in ALL:
        with pytest.raises(ValueError, match="scores: expected numbers, got NaN"):
            pattern.keep(np.full((4, 4), np.nan, np.float32), 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block((0, 1)), r"Block.size: expected \(rows, cols\).*got \(0, 1\)"),
        (lambda: Block(4), r"Block.size: expected.*Block\(\(4, 1\)\), got 4"),  # type: ignore[arg-type]
        (lambda: Block((2, 2), "median"), r"Block.pooling: expected one of 'mean', 'sum', 'max', got 'median'"),
        (lambda: Block().pool(np.ones(3)), r"expected a weight of two dimensions or more, got shape \(3,\)"),
        (lambda: NByM(4, 4), r"1 <= n < m, such as NByM\(2, 4\), got n=4 and m=4"),
        (lambda: NByM(0, 4), r"got n=0 and m=4"),
        (lambda: NByM().keep(np.ones((4, 4)), 0.8), r"sparsity up to 0\.5, got 0\.8; give this pattern at most 0\.5"),
        (lambda: Balanced(1), r"Balanced.block: expected a whole number of weights >= 2, or None for rows, got 1"),
        (lambda: Balanced(4).keep(np.ones((8, 2)), 0.9), r"sparsity up to 0\.75, got 0\.9"),
        (lambda: Channel("median"), r"Channel.pooling: expected one of"),
        (lambda: Channel(output_axes=2).pool(np.ones((2, 2))), r"got 2 for shape \(2, 2\)"),
        (lambda: Channel(output_axes=(0, 1)).pool(np.ones((2, 2))), r"leave at least one for its inputs"),
    ],
)
def test_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_get():
    assert patterns.get("unstructured") == Unstructured() == patterns.get(Unstructured)
    assert patterns.get("n_by_m") == NByM(2, 4)
    assert patterns.get("balanced") == Balanced(None)
    with pytest.raises(ValueError, match=r"expected one of 'unstructured', 'block', 'n_by_m', .* got '2:4'"):
        patterns.get("2:4")
    with pytest.raises(TypeError, match="pattern: expected a keras_prune pattern"):
        patterns.get((4, 1))


@pytest.mark.parametrize(
    "pattern",
    [
        Unstructured(),
        Block((2, 3), "max"),
        NByM(1, 3, output_axes=-2),
        Balanced(8, output_axes=(-2, -1)),
        Channel("sum", round_to=8, minimum=2, protected=["stem"], exact=False),
    ],
)
def test_round_trips_every_argument(pattern):
    assert type(pattern).from_config(pattern.get_config()) == pattern
    config = keras.saving.serialize_keras_object(pattern)
    assert patterns.get({"class_name": config["class_name"], "config": config["config"]}) == pattern


def test_wrong_types():
    with pytest.raises(TypeError, match=r"Channel.exact: expected True or False, got 1"):
        Channel(exact=1)


def test_base_says_what_to_define():
    with pytest.raises(NotImplementedError, match="must define pool"):
        Pattern().pool(np.ones(2))
    with pytest.raises(NotImplementedError, match="must define spread"):
        Pattern().spread(np.ones(2), (2,))
