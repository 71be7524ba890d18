#!/usr/bin/env bash
# Writes services/image/buildkit/wire/*_pb2.py, *_pb2.pyi and *_grpc.py anew from the .proto files beside them.
# Needs the package grpcio-tools in the Python that runs this, and grpclib's plugin on the path.
set -euo pipefail
cd "$(dirname "$0")/.."
wire=services/image/buildkit/wire
python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. "$wire"/*.proto
python -m grpc_tools.protoc -I . --grpclib_python_out=. "$wire"/{control,gateway,filesync,secrets,ssh,upload}.proto
