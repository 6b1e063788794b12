"""Training of shared weights: each layer's kept weights are a few values, and these are what is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_prune.gradients import slots, stand_before
from keras_prune.masks import (
    Layers,
    attach,
    check_model,
    mask_constraint,
    prunable,
    reset_train_function,
)
from keras_prune.quantization import Codebook


@dataclasses.dataclass
class _Tie:
    """A constraint that gives all weights of one code the value of the first of them.

    They have equal gradients and equal slots, so they move together anyway, and not a bit is lost; where rounding of a
    kernel of another shape, or an average of weights, would part them, they are brought together again.
    """

    codes: Any  # variable of the weight's shape, uint8; code 0 is pruned
    first: np.ndarray  # (size,) positions of each code's first member
    inner: Any  # the constraint before
    release: Callable[[], None]  # ends the training that this tie belongs to

    def __call__(self, w: Any) -> Any:
        if self.inner is not None:
            w = self.inner(w)
        values = ops.take(ops.reshape(w, (-1,)), self.first)
        return ops.take(values, ops.cast(self.codes, "int32"))

    def gather(self, gradient: Any) -> Any:
        """Each weight's gradient becomes its code's: ``dC/dc_k = sum of dC/dw_i over the members i of k``."""
        gradient = ops.convert_to_tensor(gradient)
        codes = ops.cast(self.codes, "int32")
        sums = ops.segment_sum(ops.reshape(gradient, (-1,)), ops.reshape(codes, (-1,)), len(self.first))
        return ops.where(codes > 0, ops.take(sums, codes), ops.zeros((), sums.dtype))


class CodebookCallback(keras.callbacks.Callback):
    """Fine-tunes a pruned model as it will be stored: k-means once, then the shared values are trained.

    When ``fit`` begins, each kernel's kept weights become at most ``2**bits - 1`` values, and each weight's code is
    fixed; zeros stay zero. In every step all weights of a code get the sum of their gradients,
    ``dC/dc_k = sum_i dC/dw_i [code_i = k]``, so that any optimizer trains the shared values: with plain SGD
    ``c_k <- c_k - lr * sum_i dC/dw_i``. Afterwards ``export_tflite(model, weights=Codebook(bits))`` stores the kernels
    exactly.

    Sums over thousands of weights are large: take Adam, or a much smaller learning rate with SGD. Clipping by norm
    counts a shared value once for each of its weights. Prune before, in another ``fit``: codes are fixed here.

    Args:
        weights: the codebook to make of each kernel.
        layers: which kernels: names, regular expressions, or a function of the variable; None: all.

    Raises:
        TypeError: not a codebook, or (in fit) not a Keras 3 model.
        ValueError: (in fit) a `PruneCallback` in the same ``fit`` for the same weights.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
        >>> model.compile("adam", "mse")
        >>> _ = model.fit(np.ones((4, 8)), np.ones((4, 8)), callbacks=[CodebookCallback(Codebook(bits=2))], verbose=0)
        >>> len(np.unique(model.get_weights()[0]))
        3

    Han, Mao and Dally 2016, "Deep Compression", section 3.3 (https://arxiv.org/abs/1510.00149).
    """

    def __init__(self, weights: Codebook | None = None, *, layers: Layers = None) -> None:
        super().__init__()
        weights = Codebook() if weights is None else weights
        if not isinstance(weights, Codebook):
            raise TypeError(f"CodebookCallback.weights: expected keras_prune.Codebook(bits=...), got {weights!r}")
        self.weights = weights
        self.layers = layers
        self._variables: dict[str, Any] = {}
        self._ties: dict[int, _Tie] = {}
        self._optimizer: Any = None
        self._undo: Callable[[], None] | None = None  # gives the optimizer its own step back

    def set_model(self, model: Any) -> None:
        """Takes the model; raises TypeError for one that is not of Keras 3."""
        check_model(model)
        super().set_model(model)

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Fits the codebooks, ties the weights of each code, and has the training step compiled anew."""
        model = self.model
        self._release()  # a fit that was broken off
        if not model.built and not model.trainable_variables:
            raise ValueError(
                "CodebookCallback: expected a model that has weights, got one not built yet; train it first"
            )
        _release_broken_off(model)
        self._variables = prunable(model, self.layers)
        attach(self._variables)
        self._claim()
        optimizer = model.optimizer
        if not optimizer.built:
            optimizer.build(model.trainable_variables)
        self._optimizer = getattr(optimizer, "inner_optimizer", optimizer)
        for variable in self._variables.values():
            self._tie(variable)
        self._sum_gradients()
        reset_train_function(model)
        model.make_train_function()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Unties: averages of weights and restored weights are brought to their codes first."""
        self._release()
        reset_train_function(self.model)

    @property
    def codebooks(self) -> dict[str, np.ndarray]:
        """Each kernel's path -> its shared values as they are, ascending, zero included."""
        return {path: np.unique(variable.numpy()) for path, variable in self._variables.items()}

    def _claim(self) -> None:
        fit = getattr(self.model, "history", None)
        for path, variable in self._variables.items():
            claim = variable.constraint.claim
            if claim and fit is not None and claim[1] is fit:
                raise ValueError(
                    f"CodebookCallback: expected codes that stay, got another callback that changes the masks of "
                    f"{path} in this fit; prune in one fit, then train the codebook in a second one"
                )
            variable.constraint.claim = (self, fit)

    def _tie(self, variable: Any) -> None:
        """Quantizes a kernel, masks its zeros, and ties its codes."""
        codes, codebook = self.weights.fit(variable.numpy())
        variable.assign(codebook[codes])
        constraint = variable.constraint  # attach has made it a mask's
        constraint.mask.assign(codes != 0)
        present, first = np.unique(codes, return_index=True)
        positions = np.zeros(len(codebook), np.int32)
        positions[present] = first
        code_variable = keras.Variable(codes, dtype="uint8", trainable=False, name=f"{variable.name}_codes")
        constraint.inner = self._ties[id(variable)] = _Tie(code_variable, positions, constraint.inner, self._release)
        self._tie_slots(variable, codes)

    def _tie_slots(self, variable: Any, codes: np.ndarray) -> None:
        """Gives the optimizer's slots of a code one value, their mean: unequal ones would move its weights apart."""
        counts = np.maximum(np.bincount(codes.reshape(-1)), 1)
        for slot in slots(self._optimizer, self.model.trainable_variables).get(id(variable), ()):
            sums = np.bincount(codes.reshape(-1), slot.numpy().astype(np.float64).reshape(-1))
            slot.assign((sums / counts)[codes])

    def _sum_gradients(self) -> None:
        """Puts the sums over members before the optimizer's own step, for this fit."""
        ties = self._ties

        def apply_sums(apply: Callable[..., Any], grads: Any, trainable_variables: Any) -> Any:
            variables = trainable_variables if trainable_variables is not None else self.model.trainable_variables
            tied = [
                gradient if gradient is None or id(variable) not in ties else ties[id(variable)].gather(gradient)
                for gradient, variable in zip(grads, variables, strict=True)
            ]
            return apply(tied, trainable_variables)

        self._undo = stand_before(self._optimizer, apply_sums)

    def _release(self) -> None:
        for variable in self._variables.values():
            tie = self._ties.pop(id(variable), None)
            constraint = mask_constraint(variable)
            if constraint is None:  # strip has removed it
                continue
            inner: Any = constraint.inner
            if tie is not None and inner is tie:
                variable.assign(constraint(variable))
                constraint.inner = tie.inner
            if constraint.claim and constraint.claim[0] is self:
                constraint.claim = None
        if self._undo is not None:
            self._undo()
            self._undo = None


def _release_broken_off(model: Any) -> None:
    """Unties what another callback has tied in a fit that was broken off, not in this one."""
    fit = getattr(model, "history", None)
    for constraint in filter(None, map(mask_constraint, model.variables)):
        if isinstance(constraint.inner, _Tie) and not (constraint.claim and constraint.claim[1] is fit):
            constraint.inner.release()
