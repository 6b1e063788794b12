"""Masks: from scores to 0 and 1, and the constraint that holds pruned weights at zero inside each training step."""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_prune import mask_op
from keras_prune.allocation import Allocation, Uniform, check_keys, matches
from keras_prune.criteria import Criterion, Magnitude
from keras_prune.kernel_axes import OutputAxes
from keras_prune.patterns import Pattern, Unstructured

# Which weights to prune: all, those with these names, or those for which a function of the variable is true.
Layers = None | str | Sequence[str] | Callable[[Any], bool]
# A weight's path -> the mean of what a criterion gathered there, or None.
Statistic = Callable[[str], np.ndarray | None]


def make_mask(scores: np.ndarray, sparsity: float, pattern: Pattern | None = None) -> np.ndarray:
    """Marks the weights to keep: ``round(size * (1 - sparsity))`` units with the highest scores.

    Args:
        scores: any shape, float, not NaN; higher is kept. Of equal scores those that come first are kept.
        sparsity: fraction of units to prune, in [0, 1]. Below 1 at least one unit is kept.
        pattern: which weights form a unit; by default each weight by itself.

    Returns:
        Mask of the same shape, uint8: 1 = kept, 0 = pruned.

    Raises:
        ValueError: a score is NaN, or the pattern cannot have this sparsity.

    Example:
        >>> import numpy as np
        >>> make_mask(np.array([[0.1, 3.0], [2.0, 0.2]]), 0.5).tolist()
        [[0, 1], [1, 0]]
    """
    return (pattern or Unstructured()).keep(scores, sparsity)


class MaskConstraint(keras.constraints.Constraint):
    """Holds pruned weights at exactly zero: ``w -> where(mask, w, 0)``, inside the optimizer's step.

    The variable's own constraint goes on working, on the weights that are kept. A NaN or a negative zero does not
    survive in a pruned weight, as it would in ``w * mask``.

    Args:
        mask: variable of the weight's shape, uint8, 1 = kept; assigning it takes effect without retracing.
        inner: the constraint that the variable had, or None.
    """

    def __init__(self, mask: Any, inner: Callable | None = None) -> None:
        self.mask = mask
        self.inner = inner
        self.claim: tuple[Any, Any] | None = None  # (callback, its fit) while a callback changes the mask
        self.follow: Callable[[], None] | None = None  # masks what goes with pruned channels
        self.output_axes: OutputAxes = -1  # of the weight, as its layer has them
        self.one_pass: Callable[[], bool] | None = None  # whether the step that is traced now may hold the native op

    def __call__(self, w: Any) -> Any:
        """The weights with zeros where the mask is 0; same shape and dtype."""
        if self.inner is not None:
            # Masked first, so that norms are taken over the kept weights; masked again, as it may move zeros.
            w = self.inner(self.apply_mask(w))
        return self.apply_mask(w)

    def apply_mask(self, w: Any) -> Any:
        """The mask alone, without the inner constraint."""
        if self.one_pass is not None and self.one_pass():
            return mask_op.masked(w, self.mask)
        return ops.where(ops.cast(self.mask, "bool"), w, ops.zeros((), w.dtype))

    def get_config(self) -> dict[str, Any]:
        """Refused: a mask belongs to one variable of one model."""
        raise NotImplementedError(
            "MaskConstraint: a mask cannot be saved in a layer's configuration; the zeros are saved with the weights. "
            "Call keras_prune.strip(model) to remove masks"
        )


def check_model(model: Any) -> None:
    """Raises TypeError unless it is a Keras 3 model."""
    if not isinstance(model, keras.Model):
        kind = f"{type(model).__module__}.{type(model).__qualname__}"
        hint = "build it with Keras 3 (import keras)"
        if kind.startswith("tf_keras"):
            hint += (
                "; tf_keras is Keras 2: remove TF_USE_LEGACY_KERAS from the environment and tf_keras from the imports"
            )
        raise TypeError(f"model: expected a Keras 3 model (keras.Model), got {kind}; {hint}")


def named(model: Any, variables: Sequence[Any]) -> dict[str, Any]:
    """Variables by their path in the model; a path that occurs again gets ``#2``, ``#3``, ...

    The model's own name is left out: Keras counts it up (``sequential_3``), so it is not the same in every run.
    """
    result: dict[str, Any] = {}
    for variable in variables:
        path = name = variable.path.removeprefix(f"{model.name}/")
        number = 2
        while name in result:
            name, number = f"{path}#{number}", number + 1
        result[name] = variable
    return result


def is_kernel(variable: Any) -> bool:
    """Whether a variable is a weight to prune by its shape: two dimensions or more, and no bias or scale.

    Some layers have biases (GRU, MultiHeadAttention), scales (LayerNormalization over several axes) or slopes (PReLU)
    of two dimensions: they are left alone, as are those of one.
    """
    return len(variable.shape) >= 2 and variable.name not in ("bias", "gamma", "beta", "alpha", "scale")


def _keys(layers: Any) -> list[str]:
    """Names and regular expressions as a list."""
    keys = [layers] if isinstance(layers, str) else list(layers) if isinstance(layers, Iterable) else [layers]
    wrong = [key for key in keys if not isinstance(key, str)]
    if wrong:
        raise TypeError(
            "layers: expected None, a name or regular expression, a list of these, or a function of the variable, "
            f"got {layers!r}"
        )
    return keys


def prunable(model: Any, layers: Layers = None) -> dict[str, Any]:
    """The variables that are pruned: trainable kernels (`is_kernel`) of the chosen layers.

    Args:
        model: a Keras 3 model that has been built.
        layers: None for all; a name or regular expression or several, as `allocation.matches` takes them; or a
            function of the variable.

    Returns:
        Each variable's path -> the variable, in the model's order.

    Raises:
        ValueError: nothing is left, a name is not in the model, or factors of LoRA are among them.
    """
    found = {path: v for path, v in named(model, model.trainable_variables).items() if is_kernel(v)}
    if callable(layers) and not isinstance(layers, keras.Layer):
        chosen = {path: variable for path, variable in found.items() if layers(variable)}
    elif layers is None:
        chosen = found
    else:
        keys = _keys(layers)
        check_keys(keys, found, "layers")
        chosen = {path: v for path, v in found.items() if any(matches(key, path) for key in keys)}
    if not chosen:
        names = ", ".join(found) or "none; build the model and check that its layers are trainable"
        raise ValueError(
            f"layers: expected at least one trainable weight of two dimensions or more to prune, got none from "
            f"layers={layers!r}; this model has: {names}"
        )
    factors = [path for path, variable in chosen.items() if variable.name.startswith("lora_")]
    if factors:  # zeros in them make none in the kernel, to which their product is added
        raise ValueError(
            f"layers: expected weights of their layers, got factors of LoRA: {', '.join(factors)}; make the model "
            "again without enable_lora and load this one's saved weights, into which Keras merges them, or leave them "
            "out: layers=lambda variable: not variable.name.startswith('lora_')"
        )
    return chosen


def mask_constraint(variable: Any) -> MaskConstraint | None:
    """The mask constraint of a variable, if it has one."""
    constraint = variable.constraint
    return constraint if isinstance(constraint, MaskConstraint) else None


def one_pass_in(model: Any, variable: Any) -> Callable[[], bool] | None:
    """For `MaskConstraint.one_pass`, in a ``fit`` of this model: whenever its step is not compiled by XLA."""
    if not mask_op.fits(variable, variable.constraint.mask):
        return None
    trained = weakref.ref(model)
    return lambda: not getattr(trained(), "jit_compile", True)


def scope_of(variable: Any) -> Any:
    """The scope in which variables are made like this one: mirrored on all its replicas, under `tf.distribute`."""
    strategy = _strategy(variable)
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def _strategy(variable: Any) -> Any:
    """The `tf.distribute.Strategy` that a variable was made under, or None."""
    return getattr(variable.value, "distribute_strategy", None)


def mask_dtype(variable: Any) -> str:
    """That of a variable's mask: TensorFlow cannot send uint8 from one worker to another; bool is a byte too."""
    return "bool" if getattr(_strategy(variable), "cluster_resolver", None) else "uint8"


def attach(variables: Mapping[str, Any]) -> bool:
    """Gives each variable a mask of ones, unless it has a mask; returns whether any was added."""
    new = [variable for variable in variables.values() if mask_constraint(variable) is None]
    for variable in new:
        form = {"shape": variable.shape, "dtype": mask_dtype(variable), "trainable": False}
        with scope_of(variable):
            mask = keras.Variable(initializer="ones", name=f"{variable.name}_mask", **form)
        variable.constraint = MaskConstraint(mask, variable.constraint)
    return bool(new)


def masks_from_zeros(variables: Mapping[str, Any]) -> None:
    """Prunes what is zero: gives weights that come from a file the masks that they were saved under.

    A variable that is all zeros is not pruned but has not been trained yet.
    """
    for variable in variables.values():
        weights = variable.numpy()
        if weights.any():
            variable.constraint.mask.assign((weights != 0).astype(np.uint8))


def reset_train_function(model: Any) -> None:
    """Makes the compiled training step anew: the old one holds the constraints it was traced with.

    At once, not at the next ``fit``: a callback may call this while a ``fit`` runs, which needs one at every batch.
    """
    if getattr(model, "train_function", None) is not None:
        model.train_function = None
        model.make_train_function()


def apply_masks(variables: Mapping[str, Any]) -> None:
    """Sets pruned weights to zero now; variables without a mask stay as they are."""
    follows: dict[Callable[[], None], None] = {}  # each once, though several kernels may have it
    for variable in variables.values():
        constraint = mask_constraint(variable)
        if constraint is not None:
            variable.assign(constraint.apply_mask(variable))
            if constraint.follow is not None:
                follows.update(dict.fromkeys(getattr(constraint.follow, "parts", (constraint.follow,))))
    for follow in follows:
        follow()


def mask_sparsity(variables: Mapping[str, Any]) -> float:
    """The fraction of weights that the masks prune, all variables together."""
    masks = [variable.constraint.mask.numpy() for variable in variables.values()]
    return 1.0 - float(sum(map(np.count_nonzero, masks))) / sum(mask.size for mask in masks)


def _pattern_of(pattern: Pattern, variable: Any) -> Pattern:
    return pattern.of(variable.constraint.output_axes)


class _Scores(Mapping[str, np.ndarray]):
    """Scores by path, computed when asked for and not kept: a second copy of all weights would not fit everywhere."""

    def __init__(
        self, variables: Mapping[str, Any], recipe: Recipe, statistic: Statistic, *, shared: bool = False
    ) -> None:
        self._variables = variables
        self._criterion = recipe.criterion
        self._statistic = statistic
        self._pattern = recipe.pattern if shared else None  # to give each weight the score of its unit

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The weights' shapes by path, for allocations that need no scores."""
        return {path: tuple(variable.shape) for path, variable in self._variables.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def __getitem__(self, path: str) -> np.ndarray:
        weights = self._variables[path].numpy()
        if weights.dtype not in (np.float32, np.float64):
            weights = weights.astype(np.float32)  # NumPy selects no bfloat16
        criterion = self._criterion.of(path) if isinstance(self._criterion, Criterion) else self._criterion
        gathers = getattr(criterion, "gathers", False)
        scores = np.asarray(criterion(weights, self._statistic(path)) if gathers else criterion(weights))
        if scores.shape != weights.shape:
            raise ValueError(
                f"criterion: expected one score for each weight of {path}, shape {weights.shape}, "
                f"got shape {scores.shape}"
            )
        if not np.issubdtype(scores.dtype, np.floating):  # patterns mark some as infinite
            scores = scores.astype(np.float32)
        return scores if self._pattern is None else _pattern_of(self._pattern, self._variables[path]).share(scores)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How masks are made.

    Args:
        criterion: weights -> scores; or, if it gathers gradients, (weights, statistic) -> scores.
        pattern: which weights are pruned together.
        allocation: how the target is shared between layers.
    """

    criterion: Callable[..., np.ndarray] = dataclasses.field(default_factory=Magnitude)
    pattern: Pattern = dataclasses.field(default_factory=Unstructured)
    allocation: Allocation = dataclasses.field(default_factory=Uniform)

    def __post_init__(self) -> None:
        self.allocation.check_criterion(self.criterion)

    def update(
        self,
        variables: Mapping[str, Any],
        sparsity: float,
        *,
        final_sparsity: float | None = None,
        statistic: Statistic = lambda path: None,
    ) -> dict[str, np.ndarray]:
        """Makes the masks anew from the weights as they are, and sets pruned weights to zero.

        Args:
            variables: path -> variable with a mask.
            sparsity: target of all together, in [0, 1).
            final_sparsity: the schedule's last target, in [0, 1); None: `sparsity`.
            statistic: path -> mean of what the criterion gathered, or None.

        Returns:
            For each mask that has changed: path -> bool array, True where the weight was kept and still is.

        Raises:
            ValueError: a score is NaN, or the allocation names a layer that is not there.
        """
        scores, shared = (_Scores(variables, self, statistic, shared=shared) for shared in (False, True))
        sparsities = self.allocation(shared, sparsity, sparsity if final_sparsity is None else final_sparsity)
        steady = {}
        for path, variable in variables.items():
            old = variable.constraint.mask.numpy()
            mask = make_mask(scores[path], sparsities[path], _pattern_of(self.pattern, variable))
            if not np.array_equal(old, mask):
                variable.constraint.mask.assign(mask)
                steady[path] = (old & mask).view(bool)
        apply_masks(variables)
        return steady
