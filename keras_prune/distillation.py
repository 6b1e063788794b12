"""A pruned student that learns from its dense teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable("keras_prune")
class Distiller(keras.Model):
    """Trains a student on the labels and on a teacher's softened probabilities; its outputs are the student's.

    ``loss = alpha * loss(y, student) + (1 - alpha) * T^2 * KL(softmax(z_teacher / T) || softmax(z_student / T))``,
    where z are logits, or logarithms of probabilities, which give the same. Regularizers are added as they are.

    It is compiled and fitted like any model; `PruneCallback` prunes the student. ``distiller.student`` is the result.

    Args:
        student: a model with one output of classes on its last axis.
        teacher: a trained model with the same inputs and classes. It is frozen (``teacher.trainable = False``).
        temperature: T > 0; higher tells more about the classes that are not the best.
        alpha: weight of the labels, in [0, 1].
        from_logits: whether the models give logits; False: probabilities.
        **kwargs: ``name`` and others of every model.

    Raises:
        TypeError: one of them is not a Keras 3 model.
        ValueError: a temperature or alpha out of range, a student that is its own teacher, or (in fit) models of
            several outputs.

    Example:
        >>> import keras, numpy as np
        >>> def make():
        ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
        >>> distiller = Distiller(make(), make(), temperature=2.0, alpha=0.5)
        >>> distiller.compile("sgd", "sparse_categorical_crossentropy")
        >>> history = distiller.fit(np.ones((8, 4)), np.zeros(8), verbose=0)

    Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network" (https://arxiv.org/abs/1503.02531).
    """

    def __init__(
        self,
        student: Any,
        teacher: Any,
        *,
        temperature: float = 4.0,
        alpha: float = 0.1,
        from_logits: bool = False,
        **kwargs: Any,
    ) -> None:
        for name, model in (("student", student), ("teacher", teacher)):
            if not isinstance(model, keras.Model):
                raise TypeError(f"Distiller.{name}: expected a Keras 3 model, got {type(model).__qualname__}")
        if student is teacher:
            raise ValueError(
                "Distiller: expected two models, got the same one as student and teacher, which is frozen; make the "
                "teacher a copy: keras.models.clone_model(model), and then set_weights(model.get_weights())"
            )
        if not temperature > 0:
            raise ValueError(f"Distiller.temperature: expected a number above 0, got {temperature!r}")
        if not 0 <= alpha <= 1:
            raise ValueError(f"Distiller.alpha: expected a number from 0 to 1, got {alpha!r}")
        super().__init__(**kwargs)
        self.student = student
        self.teacher = teacher
        self.teacher.trainable = False
        self.temperature = temperature
        self.alpha = alpha
        self.from_logits = from_logits

    def build(self, input_shape: Any) -> None:
        """Builds both models."""
        for model in (self.student, self.teacher):
            if not model.built:
                model.build(input_shape)
        super().build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The student's outputs."""
        return self.student(inputs, training=training)

    def compute_loss(  # noqa: PLR0917 (Keras' own signature)
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The labels' loss and the teacher's, weighted, and regularizers; in evaluation without the teacher's."""
        hard = super().compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight)
        if not training or self.alpha == 1:
            return hard
        penalty = sum(map(ops.sum, self.losses), ops.zeros((), hard.dtype))
        target = self._log_probabilities(self.teacher(x, training=False))
        found = self._log_probabilities(y_pred)
        soft = self.temperature**2 * _divergence(target, found, sample_weight)
        return self.alpha * hard + (1 - self.alpha) * (soft + _as_loss(penalty, penalty))

    def _log_probabilities(self, outputs: Any) -> Any:
        """Softened and in logarithms, float32 at least: half precision loses small probabilities."""
        if isinstance(outputs, (dict, list, tuple)):
            raise ValueError(
                f"Distiller: expected models with one output, got {len(outputs)}; make models of the output that the "
                "student shall learn"
            )
        outputs = ops.cast(outputs, "float32") if outputs.dtype != "float64" else outputs
        logits = outputs if self.from_logits else ops.log(ops.maximum(outputs, 1e-30))
        return ops.log_softmax(logits / self.temperature, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments, for `from_config`."""
        return {
            **super().get_config(),
            "student": _without_compile(self.student),
            "teacher": _without_compile(self.teacher),
            "temperature": self.temperature,
            "alpha": self.alpha,
            "from_logits": self.from_logits,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None) -> Distiller:
        """Makes the distiller and both models from `get_config`'s result."""
        config = dict(config)
        models = [
            keras.saving.deserialize_keras_object(config.pop(name), custom_objects=custom_objects)
            for name in ("student", "teacher")
        ]
        return cls(*models, **config)


class _Divergence(keras.losses.Loss):
    """``KL(target || found)`` of logarithms of probabilities, reduced as Keras reduces losses, over replicas too."""

    def call(self, target: Any, found: Any) -> Any:
        """One value for each example."""
        return ops.sum(ops.exp(target) * (target - found), axis=-1)


class _AsLoss(keras.losses.Loss):
    """A number as Keras counts it on one of several replicas."""

    def call(self, value: Any, same: Any) -> Any:
        """The number, as a loss of one example."""
        del same
        return ops.reshape(value, (1,))


_divergence, _as_loss = _Divergence(name="divergence"), _AsLoss(name="penalty")


def _without_compile(model: Any) -> dict[str, Any]:
    """A model's configuration without its own optimizer, which was not trained and has nothing saved."""
    config = keras.saving.serialize_keras_object(model)
    return {key: value for key, value in config.items() if key != "compile_config"}
