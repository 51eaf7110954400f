"""A client of HTTP/2 that sends what gRPC's libraries would not, one call at a time."""
import socket
import struct

import h2.config
import h2.connection
import h2.errors
import h2.events

from server import LIMIT_S


def frame(message, packed=False):
    return struct.pack(">BI", packed, len(message)) + message


class Answer:
    def __init__(self):
        self.headers, self.trailers, self.body, self.reset = {}, {}, b"", None


class Connection:
    def __init__(self, port, opens_windows=True):
        self.opens_windows = opens_windows
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding="utf-8",
                                                                      validate_outbound_headers=False))
        self.h2.initiate_connection()
        self.flush()

    def __enter__(self):
        return self

    def __exit__(self, *why):
        self.socket.close()

    def flush(self):
        try:
            self.socket.sendall(self.h2.data_to_send())
        except OSError:
            pass  # the server has ended it: what it said first is still there to read

    def ask(self, path, body, headers=(), ends=True):
        at = self.h2.get_next_available_stream_id()
        head = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost", "te": "trailers",
                "content-type": "application/grpc", **dict(headers)}
        self.h2.send_headers(at, list(head.items()))
        self.h2.send_data(at, body, end_stream=ends)
        self.flush()
        return at

    def events(self):
        self.flush()
        data = self.socket.recv(65536)
        if not data:
            raise EOFError
        yield from self.h2.receive_data(data)
        self.flush()

    def answer(self, at):
        found, ended = Answer(), False
        while not ended:
            for event in self.events():
                if getattr(event, "stream_id", at) != at:
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    found.headers = dict(event.headers)
                elif isinstance(event, h2.events.TrailersReceived):
                    found.trailers = dict(event.headers)
                elif isinstance(event, h2.events.DataReceived):
                    found.body += event.data
                    if self.opens_windows:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, at)
                elif isinstance(event, h2.events.StreamReset):
                    found.reset, ended = event.error_code, True
                ended = ended or isinstance(event, h2.events.StreamEnded)
        return found

    def wait_end(self):
        """The code of the server's GOAWAY."""
        while True:
            for event in self.events():
                if isinstance(event, h2.events.ConnectionTerminated):
                    return int(event.error_code)


def call(port, path, body, headers=(), ends=True):
    """One call on a connection of its own."""
    with Connection(port) as c:
        return c.answer(c.ask(path, body, headers, ends))
