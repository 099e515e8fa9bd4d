"""An adapter's words made into bytes: the templates of adapter.toml, as peers/README.md describes them."""

import json
import re

_TOKEN = re.compile(r"\{\{|\}\}|\\x([0-9a-fA-F]{2})|\\(.)|\{([a-z0-9.]+)\}|[{}\\]")
_ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "\\": b"\\"}


class Template:
    """Literal bytes and fields, in order."""

    def __init__(self, text):
        self.parts = []
        at = 0
        for token in _TOKEN.finditer(text):
            self.parts.append(text[at:token.start()].encode())
            at = token.end()
            byte, escape, field = token.groups()
            if token[0] in ("{{", "}}"):
                self.parts.append(token[0][0].encode())
            elif byte:
                self.parts.append(bytes.fromhex(byte))
            elif escape in _ESCAPES:
                self.parts.append(_ESCAPES[escape])
            elif field in _FIELDS or field == "rest.varint":
                self.parts.append(field)
            else:
                raise ValueError(f"{token[0]!r} in the template {text!r}")
        self.parts.append(text[at:].encode())

    def fill(self, topic="", payload=b"", n=0):
        """The bytes; from the end, because a field may count what comes after it."""
        filled = b""
        for part in reversed(self.parts):
            if part == "rest.varint":
                part = _varint(len(filled))
            elif isinstance(part, str):
                part = _FIELDS[part](topic.encode(), payload, n)
            filled = part + filled
        return filled


_FIELDS = {
    "topic": lambda topic, payload, n: topic,
    "topic.len16": lambda topic, payload, n: len(topic).to_bytes(2, "big"),
    "payload": lambda topic, payload, n: payload,
    "payload.bytes": lambda topic, payload, n: str(len(payload)).encode(),
    "payload.json": lambda topic, payload, n: json.dumps(payload.decode(), ensure_ascii=False)[1:-1].encode(),
    "n": lambda topic, payload, n: str(n).encode(),
}


def _varint(number):
    """As MQTT writes a number: seven bits to a byte, the lowest first."""
    encoded = b""
    while number > 127:
        encoded += bytes([number & 127 | 128])
        number >>= 7
    return encoded + bytes([number])
