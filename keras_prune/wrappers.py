"""Wrappers: the mask lives in the layer, is saved with it and shown in ``summary()``."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import keras_prune.engine  # noqa: F401 (registers criteria, patterns and schedules with Keras, which saves them)
from keras_prune import criteria, patterns
from keras_prune import schedules as schedules_lib
from keras_prune.averages import hold_averages
from keras_prune.gradients import optimizers_of
from keras_prune.masks import Layers, MaskConstraint, check_model, is_kernel, mask_constraint, mask_dtype, prunable

_NAME = "keras_prune>Prune"  # as Keras writes it into configurations


class _HeldMask(MaskConstraint):
    """A mask constraint whose mask is a weight of a `Prune` wrapper."""

    def __init__(self, mask: Any, inner: Any, wrapper: Prune) -> None:
        super().__init__(mask, inner)
        self._wrapper = weakref.ref(wrapper)

    @property
    def wrapper(self) -> Prune | None:
        """The layer that saves the mask."""
        return self._wrapper()


@keras.saving.register_keras_serializable("keras_prune")
class Prune(keras.layers.Wrapper):
    """A layer with masks on its weights: pruned weights stay zero in training, after saving and after loading.

    ``layer.kernel <- where(mask, layer.kernel, 0)`` in each training step. Masks are non-trainable uint8 weights of
    the wrapper (one byte a weight), all ones at first. `PruneCallback` changes them while ``fit`` trains; without a
    callback they stay as they are. `strip` gives the plain layers back.

    Any layer can be wrapped. ``Bidirectional`` takes recurrent layers only, so it is wrapped itself:
    ``Prune(Bidirectional(LSTM(8)))``.

    Args:
        layer: the layer; its name is kept, the wrapper's is ``"prune_" + layer.name``.
        schedule: what `wrapper_callbacks` makes callbacks of: a schedule, its name, or a sparsity in [0, 1) that holds
            from the first batch on; None: this layer is left to the callbacks that ``fit`` is given.
        criterion: what makes a weight matter, as for `PruneCallback`.
        pattern: which weights are pruned together, as for `PruneCallback`.
        kernels: which weights of the layer get masks: names (``"pointwise_kernel"``) or positions in ``layer.weights``;
            None: all trainable ones of two dimensions or more that are not biases or scales.
        **kwargs: ``name``, ``dtype``, ``trainable`` and others of every layer.

    Raises:
        ValueError: not a layer, a layer that is wrapped already, or (when built) a name that the layer does not have.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((4,)), Prune(keras.layers.Dense(3))])
        >>> [weight.name for weight in model.weights]
        ['kernel_mask', 'kernel', 'bias']
    """

    def __init__(
        self,
        layer: Any,
        schedule: Any = None,
        *,
        criterion: Any = "magnitude",
        pattern: Any = "unstructured",
        kernels: Sequence[str | int] | str | int | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(layer, keras.Layer) or isinstance(layer, Prune):
            raise ValueError(f"Prune: expected a Keras layer that is not wrapped in Prune already, got {layer!r}")
        self.layer = layer  # before Keras reads the signature of `call`
        kwargs.setdefault("name", f"prune_{layer.name}")
        kwargs.setdefault("dtype", layer.dtype_policy)
        super().__init__(layer, **kwargs)
        if isinstance(schedule, (int, float)):
            schedule = schedules_lib.ConstantSparsity(float(schedule))
        self.schedule = None if schedule is None else schedules_lib.get(schedule)
        self.criterion = criteria.get(criterion)
        self.pattern = patterns.get(pattern)
        self.kernels = None if kernels is None else [kernels] if isinstance(kernels, str | int) else list(kernels)
        self.supports_masking = layer.supports_masking

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer; builds it first from all its inputs, of which Keras tells `build` the first only."""
        if not self.layer.built:
            symbolic_args, symbolic_kwargs = keras.tree.map_structure(_symbolic, (args, kwargs))
            self.layer(*symbolic_args, **symbolic_kwargs)
        return super().__call__(*args, **kwargs)

    @property
    def call(self) -> Any:
        """The layer's own call: with its signature, so that masks of time steps and states reach it."""
        layer = self.layer

        def call(*args: Any, **kwargs: Any) -> Any:
            return layer(*args, **kwargs)

        call.__signature__ = inspect.signature(layer.call)  # type: ignore[attr-defined]
        return call

    def build(self, input_shape: Any = None) -> None:
        """Builds the layer and makes its masks."""
        if not self.layer.built:
            self.layer.build(input_shape)
            self.layer.built = True
        positions = self._positions()
        self.kernels = [*positions]
        for position in positions:
            variable = self.layer.weights[position]
            before = mask_constraint(variable)
            name = variable.path.removeprefix(f"{self.layer.path}/").replace("/", "_")
            form = {"shape": variable.shape, "dtype": mask_dtype(variable), "trainable": False}
            mask = self.add_weight(name=f"{name}_mask", initializer="ones", **form)
            if before is not None:
                mask.assign(before.mask)
            variable.constraint = _HeldMask(mask, before.inner if before else variable.constraint, self)
        super().build(input_shape)

    @property
    def masks(self) -> dict[str, Any]:
        """Names of the layer's masked weights -> their masks; empty until the layer is built."""
        positions = self.kernels or [] if self.built else []
        constraints = [mask_constraint(self.layer.weights[position]) for position in positions]
        return {constraint.mask.name: constraint.mask for constraint in constraints if constraint is not None}

    def _positions(self) -> list[int]:
        """Positions in ``layer.weights`` of what gets a mask: saved, as a frozen layer has no trainable weights."""
        weights = self.layer.weights
        if self.kernels is None:
            return [position for position, variable in enumerate(weights) if is_kernel(variable) and variable.trainable]
        names = [variable.name for variable in weights]
        unknown = [key for key in self.kernels if key not in names and key not in range(len(weights))]
        if unknown:
            raise ValueError(f"Prune.kernels: expected weights of {self.layer.name!r}: {names}, got {unknown}")
        return [place for place, name in enumerate(names) if name in self.kernels or place in self.kernels]

    def get_build_config(self) -> dict[str, Any] | None:
        """The layer's own build configuration; None for one without a build method, which a call builds."""
        if type(self.layer).build is keras.Layer.build:
            return None
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Builds the layer as it was built, then the masks."""
        if not self.layer.built and config.get("layer"):
            self.layer.build_from_config(config["layer"])
        if self.layer.built:
            self.build(None)

    def compute_output_shape(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own."""
        return self.layer.compute_output_shape(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own."""
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """The layer's own."""
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`; a criterion that is a function must be registered with Keras."""
        serialize = keras.saving.serialize_keras_object
        config = super().get_config()
        config["layer"].pop("build_config", None)  # the wrapper has it, and leaves out what Keras cannot build from
        return {
            **config,
            "schedule": serialize(self.schedule),
            "criterion": serialize(self.criterion),
            "pattern": serialize(self.pattern),
            "kernels": self.kernels,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Prune:
        """Makes the wrapper and its layer from `get_config`'s result."""
        config = dict(config)
        for name in ("layer", "schedule", "criterion", "pattern"):
            config[name] = keras.saving.deserialize_keras_object(config[name], custom_objects=custom_objects)
        return cls(config.pop("layer"), config.pop("schedule"), **config)


def wrap(
    model: Any,
    schedule: Any = None,
    *,
    criterion: Any = "magnitude",
    pattern: Any = "unstructured",
    layers: Layers = None,
) -> Any:
    """A copy of the model whose prunable layers are wrapped in `Prune`; weights and masks are carried over.

    Zeros without a mask, as in a model that was loaded, are weights like others: call `prune` before.

    Shared layers stay shared, nested models are copied with their layers wrapped, layers around others
    (``TimeDistributed``, ``Bidirectional``, a layer of your own) are wrapped from outside. Frozen layers are copied
    as they are. A compiled model is compiled with the same arguments and a new optimizer.

    Args:
        model: a Keras 3 model, Sequential or functional, that has been built.
        schedule: of every wrapper, as for `Prune`.
        criterion: of every wrapper, as for `Prune`.
        pattern: of every wrapper, as for `Prune`.
        layers: which weights to prune: names, regular expressions, or a function of the variable; None: all.

    Returns:
        The new model.

    Raises:
        TypeError: not a Keras 3 model, or a subclassed one.
        ValueError: no prunable weights, or a name that the model does not have.

    Example:
        >>> import keras, keras_prune
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="dense")])
        >>> [layer.name for layer in wrap(model).layers]
        ['prune_dense']
    """
    _check_copyable(model, "wrap")
    chosen = {id(variable) for variable in prunable(model, layers).values()}
    config = {"schedule": schedule, "criterion": criterion, "pattern": pattern}

    def make(layer: Any) -> Any:
        weights = getattr(layer, "weights", ())  # operations such as x + y have none
        kernels = [position for position, variable in enumerate(weights) if id(variable) in chosen]
        if not kernels or isinstance(layer, Prune):
            return type(layer).from_config(layer.get_config())
        return Prune(type(layer).from_config(layer.get_config()), kernels=kernels, **config)

    copy = _copy(model, make)
    hold_averages(optimizers_of(copy))
    return copy


def wrappers(model: Any) -> list[Prune]:
    """The `Prune` wrappers of a built model, also those inside of other layers, in the order of its variables."""
    found = [v.constraint.wrapper for v in model.variables if isinstance(v.constraint, _HeldMask)]
    return list(dict.fromkeys(wrapper for wrapper in found if wrapper is not None))


def unwrap(model: Any) -> Any:
    """A copy of the model with plain layers instead of `Prune` wrappers; the zeros stay as plain weights.

    Args:
        model: a Keras 3 model, Sequential or functional, that has been built.

    Returns:
        The new model; a compiled model is compiled with the same arguments and a new optimizer.

    Raises:
        TypeError: not a Keras 3 model, or a subclassed one.
    """
    _check_copyable(model, "strip")

    def make(layer: Any) -> Any:
        if isinstance(layer, Prune):
            layer = layer.layer
        return type(layer).from_config(_without_wrappers(layer.get_config()))

    return _copy(model, make)


def without_masks(variables: Sequence[Any]) -> list[Any]:
    """The variables that are not masks of `Prune` wrappers."""
    masks = {id(variable.constraint.mask) for variable in variables if isinstance(variable.constraint, _HeldMask)}
    return [variable for variable in variables if id(variable) not in masks]


def _check_copyable(model: Any, what: str) -> None:
    check_model(model)
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):  # which functional models have
        raise TypeError(
            f"{what}: expected a Sequential or functional model, got the subclassed {type(model).__name__}, whose "
            "layers cannot be exchanged from outside; "
            + (
                "put Prune(...) around its layers where it makes them, or train with PruneCallback, which needs no "
                "wrappers"
                if what == "wrap"
                else "make the same model without Prune(...) and give its layers the weights of the wrapped ones"
            )
        )


def _without_wrappers(config: Any) -> Any:
    """A configuration in which wrapped layers stand for their wrappers."""
    if isinstance(config, dict):
        if config.get("registered_name") == _NAME:
            return _without_wrappers(config["config"]["layer"])
        return {key: _without_wrappers(value) for key, value in config.items()}
    return [_without_wrappers(item) for item in config] if isinstance(config, list) else config


def _copy(model: Any, make: Any) -> Any:
    """Clones a model layer by layer and copies its variables."""
    pairs = []

    def clone(layer: Any) -> Any:
        new = make(layer)
        pairs.append((layer, new))
        return new

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    if not copy.built:
        copy.build(model.input_shape)
    for old, new in pairs:
        if isinstance(old, keras.Layer):
            _copy_variables(old, new)
    compile_as(model, copy)
    return copy


def compile_as(model: Any, copy: Any) -> None:
    """Compiles a copy with the model's arguments, if the model is compiled; older Keras does not do it in cloning."""
    if model.compiled and not copy.compiled:
        copy.compile_from_config(model.get_compile_config())


def _copy_variables(old: Any, new: Any) -> None:
    """Values of a layer's variables, and its masks if both have some."""
    before, after = without_masks(old.variables), without_masks(new.variables)
    if [tuple(v.shape) for v in before] != [tuple(v.shape) for v in after]:
        raise ValueError(
            f"{old.name}: expected a copy with the same weights as the layer, got {[v.path for v in after]} for "
            f"{[v.path for v in before]}; check that its get_config() and from_config() cover all its arguments"
        )
    for source, target in zip(before, after, strict=True):
        masked, wrapped = mask_constraint(source), mask_constraint(target)
        if masked is not None and wrapped is not None:
            wrapped.mask.assign(masked.mask)
        target.assign(source if masked is None else masked.apply_mask(source))
        target.trainable = source.trainable


def _symbolic(value: Any) -> Any:
    """A placeholder for a tensor or array; anything else stays as it is."""
    if isinstance(value, np.ndarray) or keras.ops.is_tensor(value) or isinstance(value, keras.KerasTensor):
        dtype = keras.backend.standardize_dtype(value.dtype)
        return keras.KerasTensor(
            tuple(value.shape), dtype, sparse=isinstance(value, keras.KerasTensor) and value.sparse
        )
    return value
