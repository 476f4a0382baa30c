"""Ways to spoil what was good: bytes, lines of text and nested values, all of them drawn from a generator, so that a case can be made again from its number."""
import json
from collections.abc import Callable

import numpy as np

NUMBERS = (0, 1, 2, 3, 7, 8, 15, 16, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
WORDS = (b"\0", b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\r\n", b"\n", b",", b";", b'"', b"'", b"\\", b"/", b"..", b"~", b"#", b"%", b"&a", b"*a", b"<<: *a", b"!!python/object:os.system",
         b"- ", b": ", b"{", b"}", b"[", b"]", b"|", b">", b"---", b"...", b"null", b"true", b"NaN", b"inf", b"-1", b"1e999", b"0x10", b"010", b"2024-02-30", b"=1+1", b"@x", b"\xe2\x80\x8b",
         "é".encode(), "e\u0301".encode(), "咳".encode(), b"\x1b[31m", b"9" * 400, b"[" * 300, b"{a: " * 120, b"a" * 5000)


def chosen(rng: np.random.Generator, things):
    "One of several things."
    return things[int(rng.integers(len(things)))]


def span(rng: np.random.Generator, length: int, longest: int = 64) -> slice:
    "A stretch of something so long."
    start = int(rng.integers(length + 1))
    return slice(start, min(length, start + int(rng.integers(1, longest + 1))))


def flip_bit(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    if content: content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))


def set_byte(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    if content: content[int(rng.integers(len(content)))] = chosen(rng, (0, 1, 127, 128, 254, 255))


def set_number(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    size, order = chosen(rng, (2, 4, 8)), chosen(rng, ("little", "big"))
    early = min(len(content), 128) if rng.random() < 0.7 else len(content) # headers stand at the beginning
    start = int(rng.integers(early + 1))
    content[start:start + size] = (chosen(rng, NUMBERS) % 2**(8 * size)).to_bytes(size, order)


def cut_out(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    del content[span(rng, len(content))]


def cut_off(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    del content[int(rng.integers(len(content) + 1)):]


def repeat(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    where = span(rng, len(content), 512)
    content[where.start:where.start] = content[where]


def fill(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    where = span(rng, len(content), 512)
    content[where] = chosen(rng, (b"\0", b"\xff")) * (where.stop - where.start)


def random_bytes(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    content[span(rng, len(content))] = rng.bytes(int(rng.integers(64)))


def splice(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    other = chosen(rng, others)
    content[span(rng, len(content), 2048)] = other[span(rng, len(other), 2048)]


def append(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    content += chosen(rng, others)


def insert_word(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    start = int(rng.integers(len(content) + 1))
    content[start:start] = chosen(rng, WORDS)


def replace_word(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    words = bytes(content).split()
    if words: content[:] = bytes(content).replace(chosen(rng, words), chosen(rng, WORDS), 1)


def move_line(rng: np.random.Generator, content: bytearray, others: list[bytes]):
    lines = bytes(content).splitlines(keepends=True)
    if not lines: return
    line = lines.pop(int(rng.integers(len(lines))))
    for _ in range(int(rng.integers(3))): lines.insert(int(rng.integers(len(lines) + 1)), line)
    content[:] = b"".join(lines)


BYTES = (flip_bit, set_byte, set_number, set_number, cut_out, cut_off, repeat, fill, random_bytes, splice, append)
TEXT = (*BYTES, insert_word, insert_word, insert_word, replace_word, replace_word, replace_word, move_line, move_line)


def spoiled(rng: np.random.Generator, content: bytes, others: list[bytes], ways: tuple[Callable, ...] = BYTES, most: int = 6) -> bytes:
    "Some bytes, spoiled in one to several ways."
    result = bytearray(content)
    for _ in range(int(rng.integers(1, most + 1))): chosen(rng, ways)(rng, result, others)
    return bytes(result[:1 << 20])


VALUES = (None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-300, 1e300, 2**31, 2**63, 10**40, float("nan"), float("inf"), "", "0", "none", "cough", "../..", "/etc/passwd", "hf-hub:timm/resnet18",
          "org/kernel", "a" * 3000, "=1+1", "\u202e", "\ud800", "é", [], [[]], [0] * 2000, [None], {}, {"kind": "transformer"}, {"kind": "timm", "model": "local-dir:/tmp"}, {"a": {"a": {"a": {}}}})


def places_in(value, here=()) -> list[tuple]:
    "The place of every value in nested ones, each a path of keys."
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, item in list(items)[:50] for place in places_in(item, (*here, key)))]


def with_other_value(rng: np.random.Generator, value):
    "Nested values with one of them taken away, doubled, or exchanged for another one."
    value = json.loads(json.dumps(value))
    place = chosen(rng, places_in(value))
    if not place: return chosen(rng, VALUES)
    *way, key = place
    holder = value
    for step in way: holder = holder[step]
    how = rng.random()
    if how < 0.2: del holder[key]
    elif how < 0.3 and isinstance(holder, list): holder.append(holder[key])
    elif how < 0.3: holder[f"{key}x"] = holder[key]
    elif how < 0.45 and isinstance(holder[key], (int, float)) and not isinstance(holder[key], bool): holder[key] = chosen(rng, (-1, 0, 0.1, 3, 1e9)) * holder[key] + chosen(rng, (0, 1, -1))
    else: holder[key] = chosen(rng, VALUES)
    return value


def spoiled_values(rng: np.random.Generator, value, most: int = 3):
    "Nested values, spoiled in one to several places."
    for _ in range(int(rng.integers(1, most + 1))): value = with_other_value(rng, value)
    return value


def as_json(value) -> bytes:
    "JSON as a careless program writes it: with NaN, and with half of a surrogate pair."
    return json.dumps(value).encode()
