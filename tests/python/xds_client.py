"""A proxyless gRPC client: resolves `xds:///TARGET`, calls once per line of input, prints which backend answered."""
import collections
import json
import sys

import grpc

channel = grpc.insecure_channel("xds:///" + sys.argv[1])
unary = channel.unary_unary("/test.Echo/Unary")
for line in sys.stdin:
    backends, errors = collections.Counter(), collections.Counter()
    for _ in range(int(line)):
        try:
            backends[unary(b"hello", timeout=10, wait_for_ready=True).decode()] += 1
        except grpc.RpcError as e:
            errors[f"{e.code().name}: {e.details()}"] += 1
    print(json.dumps({"backends": backends, "errors": errors}), flush=True)
