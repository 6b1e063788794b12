"""Masks: golden literals, the constraint, which variables are pruned."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers

from keras_prune.allocation import Global, PerLayer, Uniform, kept_count
from keras_prune.masks import (
    MaskConstraint,
    Recipe,
    apply_masks,
    attach,
    check_model,
    make_mask,
    mask_constraint,
    mask_sparsity,
    named,
    prunable,
)
from keras_prune.patterns import NByM


@pytest.mark.parametrize(
    ("scores", "sparsity", "expected"),
    [
        ([[0.1, 3.0], [2.0, 0.2]], 0.5, [[0, 1], [1, 0]]),
        ([[1.0, 1.0], [1.0, 1.0]], 0.5, [[1, 1], [0, 0]]),  # ties: row-major order
        ([[0.0, 0.0], [0.0, 0.0]], 0.75, [[1, 0], [0, 0]]),  # all zero
        ([[0.0, 0.0, 0.0], [5.0, 6.0, 7.0]], 0.5, [[0, 0, 0], [1, 1, 1]]),  # an all-zero row
        ([[0.0, 0.0, 0.0], [5.0, 6.0, 7.0]], 0.0, [[1, 1, 1], [1, 1, 1]]),  # sparsity 0
        ([[4.0, 9.0, 1.0], [5.0, 6.0, 7.0]], 0.99, [[0, 1, 0], [0, 0, 0]]),  # one survivor
        ([[2.0]], 0.9, [[1]]),
        ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 0.75, [0] * 8 + [1, 1]),  # 2.5 kept: even
    ],
)
def test_make_mask_golden(scores, sparsity, expected):
    mask = make_mask(np.array(scores, np.float32), sparsity)
    assert mask.dtype == np.uint8
    assert mask.tolist() == expected


@given(
    hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=st.floats(0, 10, width=32)),
    st.floats(0, 0.99),
)
def test_make_mask_keeps_the_exact_count_of_the_highest(scores, sparsity):
    mask = make_mask(scores, sparsity).astype(bool)
    assert mask.shape == scores.shape
    assert mask.sum() == kept_count(scores.size, sparsity)
    assert mask.all() or scores[mask].min() >= scores[~mask].max()


def masked_variable(values, mask, inner=None):
    variable = keras.Variable(np.array(values, np.float32), name="w")
    variable.constraint = inner
    assert attach({"w": variable})
    variable.constraint.mask.assign(np.array(mask, np.uint8))
    return variable


def test_constraint_leaves_no_nan_infinity_or_negative_zero():
    variable = masked_variable([np.nan, np.inf, -0.0, -3.0, 2.0], [0, 0, 0, 0, 1])
    result = variable.constraint(variable).numpy()
    assert result.tolist() == [0.0, 0.0, 0.0, 0.0, 2.0]
    assert not np.signbit(result).any()


def test_mask_is_one_byte_a_weight_and_not_trainable():
    variable = masked_variable([1.0, 2.0], [1, 0])
    mask = variable.constraint.mask
    assert (mask.dtype, mask.trainable, mask.shape) == ("uint8", False, (2,))


def test_inner_constraint_sees_the_kept_weights_and_cannot_move_zeros():
    norm = masked_variable([[3.0], [100.0], [4.0]], [[1], [0], [1]], keras.constraints.UnitNorm(axis=0))
    assert norm.constraint(norm).numpy().reshape(-1) == pytest.approx([0.6, 0.0, 0.8], abs=1e-6)

    class Shift(keras.constraints.Constraint):
        def __call__(self, w):
            return w + 1.0

    shifted = masked_variable([1.0, 2.0], [1, 0], Shift())
    assert shifted.constraint(shifted).numpy().tolist() == [2.0, 0.0]


def test_constraint_refuses_to_be_saved_in_a_configuration():
    with pytest.raises(NotImplementedError, match=r"cannot be saved.*keras_prune\.strip"):
        masked_variable([1.0], [1]).constraint.get_config()


def test_attach_keeps_masks_that_are_there():
    variable = masked_variable([1.0, 2.0], [1, 0])
    constraint = variable.constraint
    assert not attach({"w": variable})
    assert variable.constraint is constraint
    assert mask_sparsity({"w": variable}) == 0.5
    apply_masks({"w": variable, "free": keras.Variable([1.0])})
    assert variable.numpy().tolist() == [1.0, 0.0]


def everything():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 4, name="embedding")(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    x = layers.Conv1D(3, 2, name="conv")(x)
    x = layers.BatchNormalization(name="norm")(x)
    frozen = layers.Dense(2, name="frozen", trainable=False)
    x = frozen(layers.Flatten()(x))
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(2, name="dense")], name="inner")
    x = layers.Dense(2, name="dense")(inner(inner(x)))
    return keras.Model(inputs, x)


def test_prunable_is_trainable_weights_of_two_dimensions():
    assert list(prunable(everything())) == [
        "embedding/embeddings",
        "both/forward_lstm/lstm_cell/kernel",
        "both/forward_lstm/lstm_cell/recurrent_kernel",
        "both/backward_lstm/lstm_cell/kernel",
        "both/backward_lstm/lstm_cell/recurrent_kernel",
        "conv/kernel",
        "inner/dense/kernel",
        "dense/kernel",
    ]


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("conv", ["conv/kernel"]),
        (["conv", "embedding/embeddings"], ["embedding/embeddings", "conv/kernel"]),
        (".*recurrent_kernel", [f"both/{d}_lstm/lstm_cell/recurrent_kernel" for d in ("forward", "backward")]),
        (lambda variable: variable.shape[0] == 5, ["embedding/embeddings"]),
    ],
)
def test_prunable_by_choice(chosen, expected):
    assert list(prunable(everything(), chosen)) == expected


def test_prunable_errors():
    with pytest.raises(
        ValueError, match=r"layers: expected names.*got 'conv2'; this model has: embedding/embeddings, both"
    ):
        prunable(everything(), ["conv", "conv2"])
    with pytest.raises(ValueError, match=r"at least one trainable weight.*this model has: embedding/embeddings"):
        prunable(everything(), lambda _: False)
    with pytest.raises(ValueError, match=r"this model has: none; build the model"):
        prunable(keras.Sequential([layers.Dense(2)]))


def test_named_tells_equal_paths_apart():
    variables = [keras.Variable([float(i)], name="w") for i in range(3)]
    assert list(named(keras.Sequential(name="net"), variables)) == ["w", "w#2", "w#3"]


@pytest.mark.parametrize("allocation", [Uniform(), Global(), PerLayer({"conv": 0.5})])
def test_recipe_meets_the_target_and_zeros_weights(allocation, seeded):
    variables = prunable(everything(), ["both", "conv"])
    attach(variables)
    Recipe(allocation=allocation).update(variables, 0.8)
    for variable in variables.values():
        mask, weights = variable.constraint.mask.numpy(), variable.numpy()
        assert (weights[mask == 0] == 0).all()
    if allocation != PerLayer({"conv": 0.5}):
        assert mask_sparsity(variables) == pytest.approx(0.8, abs=0.01)
    else:
        conv = mask_constraint(variables["conv/kernel"])
        assert np.count_nonzero(conv.mask.numpy()) == 18  # half of 2 x 6 x 3


def test_recipe_takes_a_function_as_criterion(seeded):
    variable = keras.Variable(np.arange(1.0, 7.0).reshape(2, 3).astype("float32"), name="w")
    attach({"w": variable})
    Recipe(criterion=lambda weights: -weights).update({"w": variable}, 0.5)
    assert variable.numpy().tolist() == [[1, 2, 3], [0, 0, 0]]
    with pytest.raises(
        ValueError, match=r"criterion: expected one score for each weight of w, shape \(2, 3\), got shape \(\)"
    ):
        Recipe(criterion=np.sum).update({"w": variable}, 0.5)


def test_low_precision_weights_are_pruned():
    variable = keras.Variable(np.arange(8.0), dtype="bfloat16", name="w")
    attach({"w": variable})
    Recipe().update({"w": variable}, 0.75)
    assert keras.ops.cast(variable, "float32").numpy().tolist() == [0, 0, 0, 0, 0, 0, 6, 7]


def test_check_model_names_what_came():
    with pytest.raises(TypeError, match=r"expected a Keras 3 model \(keras\.Model\), got builtins\.int; build it with"):
        check_model(3)
    legacy = type("Model", (), {"__module__": "tf_keras.src.engine.training"})()
    with pytest.raises(TypeError, match=r"got tf_keras\.src\.engine\.training\.Model;.*TF_USE_LEGACY_KERAS"):
        check_model(legacy)


def test_constraint_is_a_public_keras_constraint():
    assert issubclass(MaskConstraint, keras.constraints.Constraint)


def test_factors_of_lora_are_refused():
    """Zeros in them make none in the layer's kernel, to which Keras adds their product."""
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(3, name="out")]
    )
    model.layers[0].enable_lora(2)
    message = r"layers: expected weights of their layers.*factors of LoRA: hidden/lora_kernel_a.*without enable_lora"
    with pytest.raises(ValueError, match=message):
        prunable(model)
    kernels = prunable(model, lambda variable: not variable.name.startswith("lora_"))
    assert list(kernels) == ["out/kernel"]


def test_slopes_and_scales_are_no_kernels():
    stack = [keras.layers.Conv2D(2, 3), keras.layers.PReLU(), keras.layers.LayerNormalization(axis=(1, 2))]
    model = keras.Sequential([keras.Input((6, 6, 1)), *stack])
    assert [variable.name for variable in prunable(model).values()] == ["kernel"]


@pytest.mark.parametrize(
    "criterion", [lambda w: (9 * np.abs(w)).astype(np.uint8), lambda w: np.abs(w) > 1, keras.ops.abs]
)
@pytest.mark.parametrize("allocation", [Uniform(), Global()])
def test_scores_of_any_kind_of_number(criterion, allocation):
    variable = keras.Variable(np.random.default_rng(0).normal(size=(8, 4)))
    attach({"w": variable})
    Recipe(criterion=criterion, pattern=NByM(2, 4), allocation=allocation).update({"w": variable}, 0.5)
    assert (variable.constraint.mask.numpy().reshape(2, 4, 4).sum(axis=1) == 2).all()
