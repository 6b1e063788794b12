"""Prune wrappers: masks that are saved with the layer, wrap and strip, callbacks of wrappers."""

from __future__ import annotations

import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from keras_prune.callbacks import PruneCallback
from keras_prune.criteria import Magnitude
from keras_prune.masks import prunable
from keras_prune.patterns import Block, Unstructured
from keras_prune.schedules import ConstantSparsity, PolynomialDecay
from keras_prune.surgery import prune, strip
from keras_prune.wrapper_training import wrapper_callbacks
from keras_prune.wrappers import Prune, wrap, wrappers

pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore:__array__ implementation")]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 6)).astype("float32")
Y = RNG.normal(size=(32, 3)).astype("float32")


def dense(**options):
    stack = [layers.Dense(8, "relu", name="hidden"), layers.Dense(3, name="out")]
    model = keras.Sequential([keras.Input((6,)), *stack], **options)
    model.compile("adam", "mse", jit_compile=False)
    return model


def fit(model, *callbacks, **options):
    return model.fit(X, Y, callbacks=list(callbacks), **{"batch_size": 8, "epochs": 2, "verbose": 0, **options})


def sparsities(model):
    return [(variable.numpy() == 0).mean() for variable in prunable(model).values()]


def test_masks_are_weights_of_one_byte_and_shown(capsys):
    wrapper = Prune(layers.Dense(3, name="dense"))
    model = keras.Sequential([keras.Input((4,)), wrapper])
    assert wrapper.name == "prune_dense"
    mask = wrapper.masks["kernel_mask"]
    assert (mask.dtype, tuple(mask.shape), mask.trainable) == ("uint8", (4, 3), False)
    assert mask.numpy().all()
    assert [v.name for v in model.non_trainable_weights] == ["kernel_mask"]
    model.summary(line_length=100)
    text = capsys.readouterr().out
    assert "prune_dense (Prune)" in text
    assert "Non-trainable params: 12 (12.00 B)" in text


FRESH = """
import sys
import keras
import keras_prune
import numpy as np
model = keras.models.load_model(sys.argv[1])
before = [weights.numpy() == 0 for weights in model.trainable_weights if len(weights.shape) > 1]
model.fit(np.ones((16, 6)), np.ones((16, 3)), epochs=2, batch_size=4, verbose=0)
after = [weights.numpy() == 0 for weights in model.trainable_weights if len(weights.shape) > 1]
assert all((a == b).all() for a, b in zip(before, after, strict=True))
print([float(zeros.mean()) for zeros in after])
"""


def test_loaded_in_a_fresh_process_it_trains_on_with_its_masks(tmp_path):
    model = wrap(dense(), PolynomialDecay(final_sparsity=0.75, begin_step=0, end_step=4), pattern=Block((2, 1)))
    fit(model, *wrapper_callbacks(model))
    model.save(tmp_path / "model.keras")
    root = pathlib.Path(__file__).resolve().parents[1]
    run = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "model.keras")],
        capture_output=True,
        text=True,
        cwd=root,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith(str([0.75, 0.75]))


ARGUMENTS = [
    {},
    {"schedule": 0.5},
    {"schedule": "polynomial_decay", "criterion": "magnitude", "pattern": Block((4, 1))},
    {"schedule": PolynomialDecay(0.1, 0.9, begin_step=3, end_step=9, power=2, frequency=3), "kernels": ["kernel"]},
    {"kernels": [0], "name": "mine", "trainable": False, "dtype": "float64"},
]


@pytest.mark.parametrize("arguments", ARGUMENTS)
@pytest.mark.parametrize("built", [False, True])
def test_config_round_trip(arguments, built):
    wrapper = Prune(layers.Dense(8, name="dense"), **arguments)
    if built:
        wrapper.build((None, 4))
    config = wrapper.get_config()
    again = Prune.from_config(config)
    assert again.get_config() == config
    assert (again.schedule, again.criterion, again.pattern) == (wrapper.schedule, wrapper.criterion, wrapper.pattern)
    assert (again.name, again.trainable, again.dtype) == (wrapper.name, wrapper.trainable, wrapper.dtype)
    assert again.kernels == ([0] if built else arguments.get("kernels"))
    serialized = keras.saving.serialize_keras_object(wrapper)
    assert keras.saving.deserialize_keras_object(serialized).get_config() == config
    expected = {"schedule": None, "criterion": Magnitude(), "pattern": Unstructured()}
    if not arguments:
        assert {name: getattr(again, name) for name in expected} == expected
    if arguments.get("schedule") == 0.5:
        assert again.schedule == ConstantSparsity(0.5)


def test_only_the_chosen_kernels():
    wrapper = Prune(layers.SeparableConv1D(3, 2), kernels=["pointwise_kernel"])
    wrapper.build((None, 6, 4))
    assert list(wrapper.masks) == ["pointwise_kernel_mask"]
    assert Prune(layers.Dense(3), kernels="kernel").kernels == ["kernel"]
    with pytest.raises(ValueError, match=r"Prune\.kernels: expected weights of 'd': \['kernel', 'bias'\], got \['x'\]"):
        Prune(layers.Dense(3, name="d"), kernels=["x"]).build((None, 4))


def test_wrong_layers():
    with pytest.raises(ValueError, match="Prune: expected a Keras layer that is not wrapped in Prune already, got 3"):
        Prune(3)
    with pytest.raises(ValueError, match="not wrapped in Prune already"):
        Prune(Prune(layers.Dense(3)))


def test_each_wrapper_has_its_schedule():
    stack = [
        Prune(layers.Dense(8, "relu"), 0.5),
        Prune(layers.Dense(8, "relu"), 0.75, pattern=Block((4, 1))),
        Prune(layers.Dense(8, "relu"), 0.5),
        Prune(layers.Dense(8)),
    ]
    model = keras.Sequential([keras.Input((6,)), *stack, layers.Dense(3)])
    model.compile("adam", "mse", jit_compile=False)
    callbacks = wrapper_callbacks(model)
    assert len(callbacks) == 2
    fit(model, *callbacks)
    assert sparsities(model) == [0.5, 0.75, 0.5, 0, 0]
    assert len(wrappers(model)) == 4
    with pytest.raises(ValueError, match=r"expected layers in Prune\(layer, schedule\), got a model without any"):
        wrapper_callbacks(dense())


def test_wrap_carries_weights_masks_and_compilation_over():
    model = prune(dense(), 0.5, layers="hidden")
    wrapped = wrap(model, layers="hidden")
    assert [type(layer).__name__ for layer in wrapped.layers] == ["Prune", "Dense"]
    np.testing.assert_array_equal(
        wrapped.layers[0].masks["kernel_mask"].numpy(), model.layers[0].kernel.constraint.mask.numpy()
    )
    fit(wrapped)  # compiled as the model was
    assert sparsities(wrapped) == [0.5, 0]
    assert sparsities(model) == [0.5, 0]  # the model is left as it was
    assert model.layers[0].kernel is not wrapped.layers[0].layer.kernel
    with pytest.raises(ValueError, match=r"layers: expected names of prunable weights.*got 'other'"):
        wrap(model, layers="other")


def test_a_wrapped_model_is_wrapped_once():
    model = wrap(prune(dense(), 0.5))
    again = wrap(model)
    assert [type(wrapper.layer).__name__ for wrapper in wrappers(again)] == ["Dense", "Dense"]
    assert sparsities(again) == [0.5, 0.5]
    for old, new in zip(wrappers(model), wrappers(again), strict=True):
        np.testing.assert_array_equal(old.masks["kernel_mask"].numpy(), new.masks["kernel_mask"].numpy())


def test_shared_layers_and_models_stay_shared():
    layer = layers.Dense(6, name="layer")
    inner = keras.Sequential([keras.Input((6,)), layer, layers.Dense(6, name="other")], name="inner")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Add()([inner(inputs), layer(inner(layer(inputs)))]))
    wrapped = wrap(model)
    assert len(wrappers(wrapped)) == 2
    assert wrapped.get_layer("prune_layer") is wrapped.get_layer("inner").layers[0]
    np.testing.assert_allclose(wrapped(X), model(X), rtol=1e-5, atol=1e-6)
    wrapped.compile("adam", "mse", jit_compile=False)
    wrapped.fit(X, X, verbose=0, callbacks=[PruneCallback(ConstantSparsity(0.5))])
    plain = strip(wrapped)
    assert plain.get_layer("layer") is plain.get_layer("inner").layers[0]
    assert len(plain.weights) == len(model.weights) == 4
    np.testing.assert_allclose(plain(X), wrapped(X), rtol=1e-6)


def test_strip_gives_the_plain_model_back():
    model = dense(name="mine")
    wrapped = wrap(model)
    fit(wrapped, PruneCallback())
    plain = strip(wrapped)
    assert plain is not wrapped
    assert wrappers(plain) == []
    assert (plain.name, [layer.name for layer in plain.layers]) == ("mine", ["hidden", "out"])
    assert [v.name for v in plain.weights] == [v.name for v in model.weights]
    np.testing.assert_array_equal(plain(X), wrapped(X))
    assert sparsities(plain) == sparsities(wrapped) == pytest.approx([0.8, 0.8], abs=0.03)
    fit(plain)  # without masks weights come back, but for those of units that relu keeps silent
    assert max(sparsities(plain)) < 0.5


def test_masks_of_time_steps_and_states_reach_the_layer():
    tokens = RNG.integers(0, 3, size=(8, 7))
    inputs = keras.Input((7,), dtype="int32")
    x = layers.Embedding(3, 4, mask_zero=True)(inputs)
    sequence, state = layers.GRU(5, return_sequences=True, return_state=True)(x)
    model = keras.Model(
        inputs,
        layers.Bidirectional(layers.LSTM(3))(layers.GRU(5, return_sequences=True)(sequence, initial_state=state)),
    )
    wrapped = wrap(model)
    assert len(wrappers(wrapped)) == 4
    np.testing.assert_allclose(wrapped(tokens), model(tokens), rtol=1e-5, atol=1e-6)
    assert not np.allclose(model(tokens), model(np.where(tokens == 0, 1, tokens)), atol=1e-4)


def test_training_only_behaviour_and_precision_are_the_layers_own():
    class Loud(layers.Layer):
        def call(self, x, training=False, scale=1.0):
            return x * scale + (1.0 if training else 0.0)

    wrapper = Prune(Loud())
    assert float(wrapper(np.zeros(1))[0]) == 0
    assert float(wrapper(np.zeros(1), training=True)[0]) == 1
    assert float(wrapper(np.ones(1), scale=3.0)[0]) == 3
    half = Prune(layers.Dense(3, dtype="mixed_bfloat16"))
    assert half(np.ones((2, 4))).dtype == "bfloat16"
    assert half.layer.kernel.dtype == "float32"


def test_constraints_of_the_layer_go_on_working():
    model = keras.Sequential([keras.Input((6,)), Prune(layers.Dense(3, kernel_constraint="non_neg"), 0.5)])
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
    fit(model, *wrapper_callbacks(model))
    weights = model.layers[0].layer.kernel.numpy()
    assert (weights >= 0).all()
    assert (weights == 0).sum() >= 9


def test_frozen_layers():
    model = dense()
    model.layers[0].trainable = False
    wrapped = wrap(model)
    assert [type(layer).__name__ for layer in wrapped.layers] == ["Dense", "Prune"]
    model = wrap(prune(dense(), 0.5))
    model.layers[0].trainable = False
    again = Prune.from_config(model.layers[0].get_config())
    again.build((None, 6))
    assert list(again.masks) == ["kernel_mask"]


def test_subclassed_models():
    class Wrapped(keras.Model):
        def __init__(self):
            super().__init__()
            self.hidden, self.out = Prune(layers.Dense(8, "relu")), layers.Dense(3)

        def call(self, x):
            return self.out(self.hidden(x))

    model = Wrapped()
    model.compile("adam", "mse", jit_compile=False)
    fit(model, PruneCallback(ConstantSparsity(0.5)))
    assert sparsities(model) == [0.5, 0.5]
    with pytest.raises(TypeError, match="wrap: expected a Sequential or functional model, got the subclassed Wrapped"):
        wrap(model)
    with pytest.raises(TypeError, match=r"strip: .*make the same model without Prune"):
        strip(model)


def test_weights_files_bring_masks(tmp_path):
    wrap(prune(dense(), 0.5)).save_weights(tmp_path / "a.weights.h5")
    other = wrap(dense())
    other.load_weights(tmp_path / "a.weights.h5")
    fit(other)
    assert sparsities(other) == [0.5, 0.5]
