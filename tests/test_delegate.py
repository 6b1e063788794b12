"""The delegate in LiteRT: packed operators against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from packed_models import (  # type: ignore[import-not-found]
    ACTIVATIONS,
    Node,
    Tensor,
    assert_close,
    build,
    dense_result,
    load,
    one_layer,
    options_bytes,
    packed_tensor,
    random_codes,
    run,
    supported_isas,
)

from keras_prune import sparse_format, tensor_format


@pytest.fixture
def layer():
    codes, codebook = random_codes((30, 100), 0.1, 16)
    return codes, codebook, sparse_format.encode(codes, codebook)


@pytest.mark.parametrize("isa", ["reference", "scalar", "avx2", "avx512"])
@pytest.mark.parametrize(("shape", "density", "size"), [((300, 784), 0.06, 16), ((10, 100), 0.3, 256), ((1, 7), 1, 4)])
def test_matches_dense(isa, *, shape, density, size):
    if isa not in supported_isas():
        pytest.skip(f"this CPU has no {isa}")
    rows, cols = shape
    codes, codebook = random_codes(shape, density, size)
    rng = np.random.default_rng(1)
    bias = rng.standard_normal(rows).astype(np.float32)
    model = one_layer(sparse_format.encode(codes, codebook), bias, (1, cols))
    interpreter = load(model, plugin_options={"isa": isa})
    for batch in (1, 3, 17, 1):
        x = rng.standard_normal((batch, cols)).astype(np.float32)
        got = run(interpreter, x)
        assert got.shape == (batch, rows)
        np.testing.assert_allclose(got, dense_result(codes, codebook, x, bias=bias), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@pytest.mark.parametrize("with_bias", [True, False])
def test_activation_and_bias(layer, activation, with_bias):
    codes, codebook, packed = layer
    bias = np.linspace(-2, 2, 30).astype(np.float32) if with_bias else None
    x = np.random.default_rng(2).standard_normal((4, 100)).astype(np.float32) * 3
    got = run(load(one_layer(packed, bias, (4, 100), options=options_bytes(activation))), x)
    assert_close(got, dense_result(codes, codebook, x, bias=bias, activation=activation))


def test_two_inputs_are_a_layer_without_bias(layer):
    codes, codebook, packed = layer
    model = build(Tensor([2, 100]), [Node([packed_tensor(packed)], Tensor([2, 30]))])
    x = np.random.default_rng(2).standard_normal((2, 100)).astype(np.float32)
    assert_close(run(load(model), x), dense_result(codes, codebook, x))


@pytest.mark.parametrize(
    ("x_shape", "keep", "expected"),
    [
        ((2, 3, 100), True, (2, 3, 30)),
        ((2, 3, 100), False, (6, 30)),
        ((4, 5, 20), False, (4, 30)),
        ((100,), False, (1, 30)),
        ((100,), True, (30,)),
        ((1, 1, 1, 100), True, (1, 1, 1, 30)),
    ],
)
def test_output_shape(layer, *, x_shape, keep, expected):
    codes, codebook, packed = layer
    model = one_layer(packed, None, x_shape, options=options_bytes(keep_num_dims=keep))
    x = np.random.default_rng(2).standard_normal(x_shape).astype(np.float32)
    got = run(load(model), x)
    assert got.shape == expected
    assert_close(got.reshape(-1, 30), dense_result(codes, codebook, x))


def test_a_net_with_a_dynamic_batch():
    shapes = [((64, 100), 0.1), ((20, 64), 0.2), ((5, 20), 1.0)]
    layers = [random_codes(*shape, 16, seed=seed) for seed, shape in enumerate(shapes)]
    nodes = []
    for codes, codebook in layers:
        output = Tensor([1, len(codes)])
        nodes.append(Node([packed_tensor(sparse_format.encode(codes, codebook)), None], output, options_bytes(1)))
    interpreter = load(build(Tensor([1, 100]), nodes, dynamic_batch=True))
    for batch in (1, 8, 2, 0, 33):
        x = want = np.random.default_rng(batch).standard_normal((batch, 100)).astype(np.float32)
        for codes, codebook in layers:
            want = dense_result(codes, codebook, want, activation=1)
        got = run(interpreter, x)
        assert got.shape == (batch, 5)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)  # three layers: errors add up


def test_one_file_in_several_interpreters(layer):
    codes, codebook, packed = layer
    model = one_layer(packed, None, (1, 100))
    x = np.random.default_rng(2).standard_normal((1, 100)).astype(np.float32)
    interpreters = [load(model) for _ in range(3)]
    for interpreter in interpreters:
        assert_close(run(interpreter, x), dense_result(codes, codebook, x))


def test_nothing_leaks_from_pruned_positions(layer):
    codes, _, packed = layer
    model = one_layer(packed, None, (1, 100))
    column = int(np.argmin((codes != 0).sum(0)))
    for value in (np.inf, -np.inf, np.nan):
        x = np.ones((1, 100), np.float32)
        x[0, column] = value
        got = run(load(model), x)[0]
        assert np.array_equal(np.isfinite(got), codes[:, column] == 0)


def test_all_pruned_and_nothing_pruned():
    for density in (0, 1):
        codes, codebook = random_codes((17, 33), density, 16)
        x = np.random.default_rng(2).standard_normal((1, 33)).astype(np.float32)
        bias = np.arange(17, dtype=np.float32)
        got = run(load(one_layer(sparse_format.encode(codes, codebook), bias, (1, 33))), x)
        assert_close(got, dense_result(codes, codebook, x, bias=bias))


VERSION_2_LAYOUTS = [
    None,
    tensor_format.Layout("gaps", (1, 1), 15, coder="rans", lane_bits=2),
    tensor_format.Layout("bitmap", (1, 1), 0, coder="fixed"),
    tensor_format.Layout("all", (1, 1), 0, coder="rans", lane_bits=6),
    tensor_format.Layout("gaps", (4, 1), 255, coder="fixed"),
    tensor_format.Layout("bitmap", (3, 8), 0, coder="rans", lane_bits=0),
    tensor_format.Layout("all", (7, 16), 0, coder="fixed"),
]


@pytest.mark.parametrize("layout", VERSION_2_LAYOUTS, ids=str)
@pytest.mark.parametrize("density", [0, 0.002, 0.1, 1])
def test_version_2_gives_the_same_bits_as_version_1(layout, density):
    codes, codebook = random_codes((30, 1000), density, 16)
    x = np.random.default_rng(2).standard_normal((3, 1000)).astype(np.float32)
    packed = tensor_format.encode_codes(codes, codebook, layout=layout)
    got, want = (run(load(one_layer(p, None, (3, 1000))), x) for p in (packed, sparse_format.encode(codes, codebook)))
    assert got.tobytes() == want.tobytes()


def test_version_2_with_a_dynamic_batch():
    codes, codebook = random_codes((30, 100), 0.1, 16)
    bias = np.arange(30, dtype=np.float32)
    interpreter = load(one_layer(tensor_format.encode_codes(codes, codebook), bias, (1, 100), dynamic_batch=True))
    for batch in (1, 5, 2):
        x = np.random.default_rng(batch).standard_normal((batch, 100)).astype(np.float32)
        assert_close(run(interpreter, x), dense_result(codes, codebook, x, bias=bias))
