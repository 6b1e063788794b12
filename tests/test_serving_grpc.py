"""A client of TensorFlow Serving, with its request and response protos over gRPC, gets what Keras computes."""

from __future__ import annotations

import concurrent.futures
import pathlib
import shutil
import sys

import numpy as np
import pytest
import serving_models  # type: ignore[import-not-found]
import tensorflow as tf

from keras_prune import native

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "benchmarks"))
import serving_host

pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api: pip install keras-prune[serving]")
import grpc
import serving_front  # type: ignore[import-not-found]
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

pytestmark = pytest.mark.slow  # as tests/test_serving_host.py


def predict_request(x, **spec):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = spec.pop("name", "lenet")
    request.model_spec.signature_name = spec.pop("signature", "serving_default")
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(x))
    request.output_filter.extend(spec.pop("outputs", ()))
    return request


@pytest.fixture(scope="module", params=sorted(serving_models.WAYS))
def served(request, tmp_path_factory):
    """A client's stub, the folder of versions, and what the first of them computes."""
    folder = tmp_path_factory.mktemp("models")
    expected = serving_models.WAYS[request.param](serving_models.network(1), folder / "1")
    with serving_host.Host(serving_host.build(), folder, [f"op_library={native.op_path()}"]) as host:
        server, port = serving_front.serve("lenet", host)
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            yield prediction_service_pb2_grpc.PredictionServiceStub(channel), host, folder, expected
        server.stop(None).wait()


def test_a_client_gets_what_keras_computes_and_the_new_version_after_a_reload(served):
    stub, host, folder, expected = served
    batches = [serving_models.examples(1 + seed % 4, seed) for seed in range(100)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda x: stub.Predict(predict_request(x)), batches))
    for x, response in zip(batches, responses, strict=True):
        assert response.model_spec.version.value == 1
        (got,) = response.outputs.values()
        serving_models.assert_computes(tf.make_ndarray(got), expected, x)
    shutil.copytree(folder / "1", folder / "2")
    assert host.reload() == 2
    again = stub.Predict(predict_request(batches[0]))
    assert again.model_spec.version.value == 2
    for name, got in again.outputs.items():
        np.testing.assert_array_equal(tf.make_ndarray(got), tf.make_ndarray(responses[0].outputs[name]))


def test_a_client_is_told_what_is_wrong(served):
    stub, *_ = served
    x = serving_models.examples(1)
    for request, code in (
        (predict_request(x, name="other"), grpc.StatusCode.NOT_FOUND),
        (predict_request(x, signature="other"), grpc.StatusCode.INVALID_ARGUMENT),
        (predict_request(x, outputs=["other"]), grpc.StatusCode.INVALID_ARGUMENT),
        (predict_request(x[:, 1:]), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            stub.Predict(request)
        assert caught.value.code() == code
