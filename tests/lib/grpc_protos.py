"""The modules that protoc makes of proto/, and what tests ask of a status."""
import importlib
import pathlib
import sys
import tempfile

from google.rpc import error_details_pb2
from grpc_status import rpc_status
from grpc_tools import protoc

PROTO = pathlib.Path(__file__).resolve().parent.parent.parent / "proto"
_made = tempfile.TemporaryDirectory(prefix="autoglm-proto-")


def _make():
    names = ["autoglm/v1/inference.proto", "grpc_predict_v2.proto"]
    code = protoc.main(["protoc", f"-I{PROTO}", f"--python_out={_made.name}", f"--grpc_python_out={_made.name}", *names])
    assert code == 0, "protoc does not take proto/"
    sys.path.insert(0, _made.name)


_make()
pb = importlib.import_module("autoglm.v1.inference_pb2")
stubs = importlib.import_module("autoglm.v1.inference_pb2_grpc")
kserve = importlib.import_module("grpc_predict_v2_pb2")
kserve_stubs = importlib.import_module("grpc_predict_v2_pb2_grpc")


def info_of(error):
    """The ErrorInfo of a call that failed: reason, and what goes with it."""
    status = rpc_status.from_call(error)
    assert status is not None and status.code == error.code().value[0] and status.message == error.details(), (status, error)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason, dict(info.metadata)
    raise AssertionError("no ErrorInfo")
