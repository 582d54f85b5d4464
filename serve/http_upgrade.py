"""Requests that offer another protocol beside their own: the offer is passed over (RFC 9110, 7.8), and the
request read to its end. The parser alone would take all that follows the head for the other protocol.
"""

from __future__ import annotations

from typing import Any

from httptools import HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class Parser(HttpRequestParser):
    """Where a head has such an offer, another parser reads it once more without, and what follows it."""

    def __init__(self, protocol: PlainProtocol) -> None:
        super().__init__(protocol)
        self.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has its own
        self._protocol = protocol

    def feed_data(self, data: Any) -> None:
        """A piece of what arrives."""
        parser = self
        while True:
            try:
                HttpRequestParser.feed_data(parser, data)
                return
            except HttpParserUpgrade as told:
                head = self._protocol.offered
                if not head:  # a web socket, or a tunnel
                    raise
                data = memoryview(data)[told.args[0] :]
            self._protocol.offered = b""
            parser = self._protocol.parser = Parser(self._protocol)
            HttpRequestParser.feed_data(parser, head)


class PlainProtocol(HttpToolsProtocol):
    """A connection that stays with HTTP/1.1; ``offered`` is the head of a request that had an offer,
    without it.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.offered = b""
        self.parser = Parser(self)

    def on_headers_complete(self) -> None:
        """The head is whole; with an offer it is read again."""
        method = self.parser.get_method()
        if self.parser.should_upgrade() and method != b"CONNECT" and not self._should_upgrade():
            first = b"%s %s HTTP/%s\r\n" % (method, self.url, self.parser.get_http_version().encode())
            kept = (b"%s: %s\r\n" % header for header in self.headers if header[0] != b"upgrade")
            self.offered = first + b"".join(kept) + b"\r\n"
            return
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The message is whole, unless its head is to be read again."""
        if not self.offered:
            super().on_message_complete()
