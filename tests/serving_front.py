"""TensorFlow Serving's gRPC interface in front of the C++ host: its protos, its service, its status codes."""

from __future__ import annotations

import concurrent.futures

import grpc
import serving_host
from tensorflow.core.framework import attr_value_pb2
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

INVALID_ARGUMENT, NOT_FOUND = 3, 5
CODES = {code.value[0]: code for code in grpc.StatusCode}


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """`Predict` of one model; what is asked of other methods is unimplemented, as grpc says."""

    def __init__(self, name, host):
        self._name, self._host = name, host

    def Predict(self, request, context):  # noqa: N802 (the service's name)
        spec = request.model_spec
        if spec.name != self._name:
            context.abort(CODES[NOT_FOUND], f"Servable not found for request: {spec.name}")
        try:
            inputs = dict(request.inputs)
            version, body = self._host.send(serving_host.encode(inputs, spec.signature_name)).result()
        except serving_host.HostError as error:
            context.abort(CODES[error.code], str(error))
        return self._response(request, version, body, context=context)

    def _response(self, request, version, body, *, context):
        answer = attr_value_pb2.NameAttrList.FromString(body)
        wanted = list(request.output_filter) or list(answer.attr)
        unknown = set(wanted) - set(answer.attr)
        if unknown:
            context.abort(CODES[INVALID_ARGUMENT], f"output tensor alias not found in signature: {sorted(unknown)}")
        response = predict_pb2.PredictResponse()
        response.model_spec.name = self._name
        response.model_spec.version.value = version
        response.model_spec.signature_name = request.model_spec.signature_name or "serving_default"
        for name in wanted:
            response.outputs[name].CopyFrom(answer.attr[name].tensor)
        return response


def serve(name, host):
    """A server, started, and its port."""
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(8))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionService(name, host), server)
    port = server.add_insecure_port("localhost:0")
    server.start()
    return server, port
