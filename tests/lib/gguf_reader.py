"""Reads whole GGUF files for tests: keys as the bytes of type and value, tensors as (shape, type, bytes). Nothing is checked."""

import struct

from gguf_writer import TYPE_NAMES, row_bytes

_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9


class Reader:
    def __init__(self, path):
        with open(path, "rb") as f:
            self.raw = f.read()
        self.at = 4
        assert self.raw[:4] == b"GGUF"
        self.version, tensors, keys = self._take("I"), self._take("Q"), self._take("Q")
        self.keys = {}
        for _ in range(keys):
            name, start = self._string(), self.at
            self._value(self._take("I"))
            self.keys[name] = self.raw[start:self.at]
        self.alignment = self.u32("general.alignment", 32)
        rows = []
        for _ in range(tensors):
            name = self._string()
            shape = tuple(self._take("Q") for _ in range(self._take("I")))
            rows.append((name, shape, TYPE_NAMES[self._take("I")], self._take("Q")))
        base = self.at + -self.at % self.alignment
        self.tensors, self.offsets = {}, []
        for name, shape, kind, offset in rows:
            n = row_bytes(kind, shape[0])
            for d in shape[1:]:
                n *= d
            self.tensors[name] = (shape, kind, self.raw[base + offset:base + offset + n])
            self.offsets.append(offset)

    def u32(self, key, default=None):
        return struct.unpack("<II", self.keys[key])[1] if key in self.keys else default

    def _take(self, form):
        value = struct.unpack_from("<" + form, self.raw, self.at)[0]
        self.at += struct.calcsize("<" + form)
        return value

    def _string(self):
        n = self._take("Q")
        self.at += n
        return self.raw[self.at - n:self.at].decode(errors="surrogateescape")

    def _value(self, kind):
        if kind == _STRING:
            self._string()
        elif kind == _ARRAY:
            item, n = self._take("I"), self._take("Q")
            if item == _STRING:
                for _ in range(n):
                    self._value(item)
            else:
                self.at += n * _BYTES[item]
        else:
            self.at += _BYTES[kind]
