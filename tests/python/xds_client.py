"""A proxyless gRPC client: resolves `xds:///TARGET` and calls for some seconds; every line tells which backends answered 50 calls."""
import collections
import json
import sys
import time

import grpc

channel = grpc.insecure_channel("xds:///" + sys.argv[1])
unary = channel.unary_unary("/test.Echo/Unary")
end = time.time() + float(sys.argv[2])
while time.time() < end:
    backends, errors = collections.Counter(), collections.Counter()
    for _ in range(50):
        try:
            backends[unary(b"hello", timeout=10, wait_for_ready=True).decode()] += 1
        except grpc.RpcError as e:
            errors[f"{e.code().name}: {e.details()}"] += 1
    print(json.dumps({"backends": backends, "errors": errors}), flush=True)
    time.sleep(0.1)
