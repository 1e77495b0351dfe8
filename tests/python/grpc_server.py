"""A gRPC server of all four kinds of call, on raw bytes, so that no generated code is needed."""
import sys
import threading
from concurrent import futures

import grpc

NAME, ADDRESS = sys.argv[1], sys.argv[2]
cancelled = threading.Semaphore(0)
cancelled_count = 0


def unary(request, context):
    context.set_trailing_metadata((("x-trailer", NAME),))
    return NAME.encode()


def collect(requests, context):
    return str(sum(len(r) for r in requests)).encode()


def produce(request, context):
    for i in range(int(request)):
        yield str(i).encode()
    context.set_trailing_metadata((("x-trailer", NAME),))


def chat(requests, context):
    for r in requests:
        yield r


def fail(request, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked: %s" % request.decode())


def slow(request, context):
    threading.Event().wait(3)
    return b"late"


def endless(request, context):
    global cancelled_count
    gone = threading.Event()

    def ended():
        global cancelled_count
        cancelled_count += 1
        gone.set()

    context.add_callback(ended)
    while not gone.wait(0.02):
        yield b"tick"


def cancellations(request, context):
    return ("%s %d" % (NAME, cancelled_count)).encode()


h = grpc.method_handlers_generic_handler("test.Echo", {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Produce": grpc.unary_stream_rpc_method_handler(produce),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Endless": grpc.unary_stream_rpc_method_handler(endless),
    "Cancellations": grpc.unary_unary_rpc_method_handler(cancellations),
})
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers((h,))
server.add_insecure_port(ADDRESS)
server.start()
print("listening", flush=True)
server.wait_for_termination()
