"""Lower bound: an asyncio protocol on httptools' parser.

Not a usable server: it has one path, assumes valid requests, and has no timeouts, limits,
streaming or connection handling.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import httptools
import uvloop
from onnx_model import answer

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: "


class Protocol(asyncio.Protocol):
    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.parser = httptools.HttpRequestParser(self)
        self.body = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        content = answer(self.body)
        self.body = b""
        self.transport.write(HEAD + str(len(content)).encode() + b"\r\n\r\n" + content)


async def main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(Protocol, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
