"""Writes GGUF files (v2, v3, whole or split), and knows the tensor types: how to make blocks and what they stand for.

Only numpy is needed. The simple types are quantized for real; for the K and IQ types random valid blocks are enough for
tests, since `dequantize` says exactly which weights they mean. Nothing here shares code with the engine: it is the other
side of a comparison.
"""

import struct

import numpy as np

# name: (number in the file, weights in a block, bytes of a block)
TYPES = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "BF16": (30, 1, 2),
    "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22), "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84), "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176), "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18), "IQ4_XS": (23, 256, 136),
}
TYPE_NAMES = {number: name for name, (number, _, _) in TYPES.items()}

IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], dtype=np.float64)


def row_bytes(kind, n):
    """Bytes of n weights of a type; n must be whole blocks."""
    _, block, size = TYPES[kind]
    if n % block:
        raise ValueError(f"{n} weights are not whole blocks of {kind} ({block})")
    return n // block * size


# ---- what blocks stand for ------------------------------------------------------------------------------------------

def _f16(b, at):
    """The float16 at byte `at` of each block, as a column."""
    return b[:, at:at + 2].copy().view("<f2").astype(np.float64)


def _nibbles(q):
    """Low nibbles of all bytes, then the high ones."""
    return np.concatenate([q & 15, q >> 4], axis=1)


def _high_bits(b, at):
    """32 single bits stored as a little-endian u32."""
    word = b[:, at:at + 4].copy().view("<u4")
    return ((word >> np.arange(32, dtype=np.uint32)) & 1).astype(np.uint8)


def _k4_scales(s):
    """The 8 scales and 8 minima, 6 bits each, packed into 12 bytes."""
    low = s[:, 0:4] & 63, s[:, 4:8] & 63
    high = (s[:, 8:12] & 15) | (s[:, 0:4] >> 6 << 4), (s[:, 8:12] >> 4) | (s[:, 4:8] >> 6 << 4)
    return np.concatenate([low[0], high[0]], 1).astype(np.float64), np.concatenate([low[1], high[1]], 1).astype(np.float64)


def _q4_0(b):
    return _f16(b, 0) * (_nibbles(b[:, 2:18]).astype(np.float64) - 8)


def _q4_1(b):
    return _f16(b, 0) * _nibbles(b[:, 4:20]) + _f16(b, 2)


def _q5_0(b):
    return _f16(b, 0) * ((_nibbles(b[:, 6:22]) | _high_bits(b, 2) << 4).astype(np.float64) - 16)


def _q5_1(b):
    return _f16(b, 0) * (_nibbles(b[:, 8:24]) | _high_bits(b, 4) << 4) + _f16(b, 2)


def _q8_0(b):
    return _f16(b, 0) * b[:, 2:34].view(np.int8)


def _iq4_nl(b):
    return _f16(b, 0) * IQ4_VALUES[_nibbles(b[:, 2:18])]


def _iq4_xs(b):
    d, high = _f16(b, 0), b[:, 2:4].copy().view("<u2")
    out = []
    for i in range(8):
        scale = (b[:, 4 + i // 2] >> 4 * (i % 2) & 15) | ((high[:, 0] >> 2 * i & 3) << 4).astype(np.uint8)
        out.append(d * (scale.astype(np.float64)[:, None] - 32) * IQ4_VALUES[_nibbles(b[:, 8 + 16 * i:24 + 16 * i])])
    return np.concatenate(out, axis=1)


def _q2_k(b):
    scales, q, d, dmin = b[:, 0:16], b[:, 16:80], _f16(b, 80), _f16(b, 82)
    out = []
    for i in range(16):
        half, shift, side = i // 8, i % 8 // 2 * 2, i % 2
        v = q[:, 32 * half + 16 * side:32 * half + 16 * side + 16] >> shift & 3
        out.append(d * (scales[:, i:i + 1] & 15) * v - dmin * (scales[:, i:i + 1] >> 4))
    return np.concatenate(out, axis=1)


def _q3_k(b):
    mask, q, s, d = b[:, 0:32], b[:, 32:96], b[:, 96:108], _f16(b, 108)
    out = []
    for i in range(16):
        low = s[:, i] & 15 if i < 8 else s[:, i - 8] >> 4
        scale = (low | (s[:, 8 + i % 4] >> 2 * (i // 4) & 3) << 4).astype(np.float64)[:, None] - 32
        half, shift, side = i // 8, i % 8 // 2, i % 2
        v = (q[:, 32 * half + 16 * side:32 * half + 16 * side + 16] >> 2 * shift & 3).astype(np.float64)
        bit = mask[:, 16 * side:16 * side + 16] >> (4 * half + shift) & 1
        out.append(d * scale * (v - 4.0 * (1 - bit.astype(np.float64))))
    return np.concatenate(out, axis=1)


def _q4_k(b):
    d, dmin, (scale, least) = _f16(b, 0), _f16(b, 2), _k4_scales(b[:, 4:16])
    out = []
    for i in range(8):
        v = b[:, 16 + 32 * (i // 2):48 + 32 * (i // 2)] >> 4 * (i % 2) & 15
        out.append(d * scale[:, i:i + 1] * v - dmin * least[:, i:i + 1])
    return np.concatenate(out, axis=1)


def _q5_k(b):
    d, dmin, (scale, least), high = _f16(b, 0), _f16(b, 2), _k4_scales(b[:, 4:16]), b[:, 16:48]
    out = []
    for i in range(8):
        v = (b[:, 48 + 32 * (i // 2):80 + 32 * (i // 2)] >> 4 * (i % 2) & 15) | (high >> i & 1) << 4
        out.append(d * scale[:, i:i + 1] * v - dmin * least[:, i:i + 1])
    return np.concatenate(out, axis=1)


def _q6_k(b):
    low, high, scale, d = b[:, 0:128], b[:, 128:192], b[:, 192:208].view(np.int8).astype(np.float64), _f16(b, 208)
    out = []
    for i in range(16):
        half, quarter, side = i // 8, i % 8 // 2, i % 2
        at = 64 * half + 32 * (quarter % 2) + 16 * side
        v = (low[:, at:at + 16] >> 4 * (quarter // 2) & 15) | \
            (high[:, 32 * half + 16 * side:32 * half + 16 * side + 16] >> 2 * quarter & 3) << 4
        out.append(d * scale[:, i:i + 1] * (v.astype(np.float64) - 32))
    return np.concatenate(out, axis=1)


_DECODE = {"Q4_0": _q4_0, "Q4_1": _q4_1, "Q5_0": _q5_0, "Q5_1": _q5_1, "Q8_0": _q8_0, "IQ4_NL": _iq4_nl,
           "IQ4_XS": _iq4_xs, "Q2_K": _q2_k, "Q3_K": _q3_k, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k}


def dequantize(kind, data):
    """The weights that the bytes of a tensor stand for, float64, flat."""
    data = np.frombuffer(data, dtype=np.uint8)
    if kind == "F32":
        return data.view("<f4").astype(np.float64)
    if kind == "F16":
        return data.view("<f2").astype(np.float64)
    if kind == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return _DECODE[kind](data.reshape(-1, TYPES[kind][2])).reshape(-1)


# ---- making blocks --------------------------------------------------------------------------------------------------

def _pack_nibbles(q):
    half = q.shape[1] // 2
    return (q[:, :half] | q[:, half:] << 4).astype(np.uint8)


def _pack_high_bits(q):
    word = ((q >> 4).astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(axis=1, dtype=np.uint32)
    return word.astype("<u4").view(np.uint8).reshape(-1, 4)


def _bytes_f16(v):
    return v.astype("<f2").view(np.uint8).reshape(-1, 2)


def _symmetric(x, levels):
    """Scale and quants of a type whose largest weight sits at -levels (in size)."""
    peak = np.take_along_axis(x, np.abs(x).argmax(axis=1)[:, None], axis=1)
    d = (peak / -levels).astype("<f2").astype(np.float64)
    q = np.rint(x / np.where(d == 0, 1, d)) + levels
    return d, np.clip(q, 0, 2 * levels - 1).astype(np.uint8)


def _affine(x, top):
    least, most = x.min(axis=1, keepdims=True), x.max(axis=1, keepdims=True)
    d = ((most - least) / top).astype("<f2").astype(np.float64)
    m = least.astype("<f2").astype(np.float64)
    q = np.rint((x - m) / np.where(d == 0, 1, d))
    return d, m, np.clip(q, 0, top).astype(np.uint8)


def quantize(kind, x):
    """The bytes of a float array in a type that is quantized for real (not the K and IQ types)."""
    x = np.asarray(x, dtype=np.float64)
    if kind == "F32":
        return x.astype("<f4").tobytes()
    if kind == "F16":
        return x.astype("<f2").tobytes()
    if kind == "BF16":
        bits = x.astype("<f4").view("<u4").astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2").tobytes()
    b = x.reshape(-1, 32)
    if kind == "Q8_0":
        d = (np.abs(b).max(axis=1, keepdims=True) / 127).astype("<f2").astype(np.float64)
        q = np.clip(np.rint(b / np.where(d == 0, 1, d)), -127, 127).astype(np.int8)
        parts = [_bytes_f16(d), q.view(np.uint8)]
    elif kind == "Q4_0":
        d, q = _symmetric(b, 8)
        parts = [_bytes_f16(d), _pack_nibbles(q)]
    elif kind == "Q5_0":
        d, q = _symmetric(b, 16)
        parts = [_bytes_f16(d), _pack_high_bits(q), _pack_nibbles(q & 15)]
    elif kind == "Q4_1":
        d, m, q = _affine(b, 15)
        parts = [_bytes_f16(d), _bytes_f16(m), _pack_nibbles(q)]
    elif kind == "Q5_1":
        d, m, q = _affine(b, 31)
        parts = [_bytes_f16(d), _bytes_f16(m), _pack_high_bits(q), _pack_nibbles(q & 15)]
    else:
        raise ValueError(f"no quantizer for {kind}; use random_blocks")
    return np.concatenate(parts, axis=1).tobytes()


# Where d and the factor of the minima lie, and the minimum's factor relative to d that puts the mean near zero.
_SCALES = {"Q2_K": (80, 82, 1.5), "Q3_K": (108, None, 0), "Q4_K": (0, 2, 7.5), "Q5_K": (0, 2, 15.5), "Q6_K": (208, None, 0),
           "IQ4_NL": (0, None, 0), "IQ4_XS": (0, None, 0), "Q8_0": (0, None, 0), "Q4_0": (0, None, 0), "Q5_0": (0, None, 0),
           "Q4_1": (0, 2, -7.5), "Q5_1": (0, 2, -15.5)}
_UNIT_STD = {}


def random_blocks(kind, n, rng, std):
    """Bytes of n weights: every bit random except the scales, which give weights of about this standard deviation."""
    _, block, size = TYPES[kind]
    count = n // block
    b = rng.integers(0, 256, size=(count, size), dtype=np.uint8)
    at, at_min, ratio = _SCALES[kind]

    def put(blocks, d):
        blocks[:, at:at + 2] = _bytes_f16(d)
        if at_min is not None:
            blocks[:, at_min:at_min + 2] = _bytes_f16(d * ratio)

    if kind not in _UNIT_STD:
        probe = np.random.default_rng(1).integers(0, 256, size=(256, size), dtype=np.uint8)
        put(probe, np.full((256, 1), 1 / 64))
        _UNIT_STD[kind] = _DECODE[kind](probe).std() * 64
    put(b, std / _UNIT_STD[kind] * rng.uniform(0.5, 1.5, size=(count, 1)))
    return b.tobytes()


# ---- the file -------------------------------------------------------------------------------------------------------

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
_PACK = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}


def _string(s):
    raw = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(raw)) + raw


def _guess(value):
    if isinstance(value, bool):
        return BOOL
    if isinstance(value, int):
        return U32 if value >= 0 else I32
    if isinstance(value, float):
        return F32
    return STRING


def _scalar(kind, value):
    return _string(value) if kind == STRING else struct.pack("<" + _PACK[kind], value)


class Writer:
    """Collects keys and tensors in order; `write` and `write_split` put them down."""

    def __init__(self, version=3, alignment=32):
        self.version, self.alignment = version, alignment
        self.keys, self.tensors = {}, []
        if alignment != 32:
            self.add("general.alignment", alignment)

    def add(self, key, value, kind=None):
        """A value of the given file type, else U32/I32, F32, BOOL or STRING by its Python type. Lists become arrays."""
        if isinstance(value, (list, tuple)):
            item = kind if kind is not None else (_guess(value[0]) if value else U32)
            body = struct.pack("<IQ", item, len(value)) + b"".join(_scalar(item, v) for v in value)
            self.keys[key] = struct.pack("<I", ARRAY) + body
        else:
            kind = _guess(value) if kind is None else kind
            self.keys[key] = struct.pack("<I", kind) + _scalar(kind, value)

    def tensor(self, name, shape, kind, data):
        """shape[0] is a row's length. `data`: bytes of that type."""
        want = row_bytes(kind, shape[0]) * int(np.prod(shape[1:], dtype=np.int64))
        if len(data) != want:
            raise ValueError(f"{name}: {len(data)} bytes, {kind} {shape} takes {want}")
        self.tensors.append((name, tuple(int(d) for d in shape), kind, data))

    def _put(self, path, keys, tensors):
        head = [b"GGUF", struct.pack("<IQQ", self.version, len(tensors), len(keys))]
        head += [_string(key) + value for key, value in keys.items()]
        offset = 0
        for name, shape, kind, data in tensors:
            head.append(_string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
                        + struct.pack("<IQ", TYPES[kind][0], offset))
            offset += len(data) + -len(data) % self.alignment
        head = b"".join(head)
        with open(path, "wb") as f:
            f.write(head + bytes(-len(head) % self.alignment))
            for _, _, _, data in tensors:
                f.write(data)
                f.write(bytes(-len(data) % self.alignment))

    def write(self, path):
        self._put(path, self.keys, self.tensors)
        return path

    def write_split(self, prefix, parts):
        """prefix-00001-of-0000N.gguf …: all keys in the first part, tensors spread in order. Returns the paths."""
        share = -(-len(self.tensors) // parts)
        paths = []
        for i in range(parts):
            part = Writer(self.version, self.alignment)
            part.keys.update(self.keys if i == 0 else {})
            part.add("split.no", i, U16)
            part.add("split.count", parts, U16)
            part.add("split.tensors.count", len(self.tensors), I32)
            paths.append(f"{prefix}-{i + 1:05d}-of-{parts:05d}.gguf")
            self._put(paths[-1], part.keys, self.tensors[i * share:(i + 1) * share])
        return paths
