"""Every kind of gRPC call over one channel; prints one JSON object of what came back."""
import collections
import json
import sys
import time

import grpc

target, calls = sys.argv[1], int(sys.argv[2])
# The name goes out as :authority, the address is dialled.
options = [("grpc.default_authority", sys.argv[3])] if len(sys.argv) > 3 else []
channel = grpc.insecure_channel(target, options=options)
S = "/test.Echo/"
unary = channel.unary_unary(S + "Unary")
collect = channel.stream_unary(S + "Collect")
produce = channel.unary_stream(S + "Produce")
chat = channel.stream_stream(S + "Chat")
result = {}

backends = collections.Counter()
for _ in range(calls):
    backends[unary(b"hello", timeout=10).decode()] += 1
result["backends"] = backends

reply, call = unary.with_call(b"hello", timeout=10)
result["trailers"] = dict(call.trailing_metadata()).get("x-trailer") == reply.decode()
result["collected"] = int(collect(iter([b"x" * 1000] * 200), timeout=10))
result["produced"] = [int(m) for m in produce(b"500", timeout=10)] == list(range(500))


def talk():
    for i in range(50):
        yield str(i).encode()


result["chat"] = [m.decode() for m in chat(talk(), timeout=10)] == [str(i) for i in range(50)]


def failure(method, request, timeout):
    try:
        channel.unary_unary(S + method)(request, timeout=timeout)
        return ["OK", ""]
    except grpc.RpcError as e:
        return [e.code().name, e.details()]


result["failure"] = failure("Fail", b"once", 10)
started = time.time()
result["deadline"] = failure("Slow", b"", 0.3)[0]
result["deadline_in_time"] = time.time() - started < 2

for _ in range(9):
    stream = channel.unary_stream(S + "Endless")(b"", timeout=30)
    next(stream)
    stream.cancel()
# Each server says how many of its calls were cancelled; ask until all have been asked.
ask = channel.unary_unary(S + "Cancellations")
seen = {}
deadline = time.time() + 10
while time.time() < deadline and sum(seen.values()) < 9:
    name, count = ask(b"", timeout=10).decode().split()
    seen[name] = int(count)
result["cancelled"] = sum(seen.values())
print(json.dumps(result))
