"Kernels are loaded only from where nobody else can write, only whole, and look at their arguments."
import os
import stat
import subprocess
import sys

import pytest

from nonspeech7k import native

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernels are for Linux")

COMPILER = """#!/bin/sh
echo x >> "$COUNT"
pwd > "$COUNT.folder"
while [ "$1" != -o ]; do shift; done
head -c 3000 /dev/zero > "$2"
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "A cache, and a compiler that writes zeros and counts how often it was called."
    script = tmp_path / "compiler"
    script.write_text(COMPILER)
    script.chmod(0o700)
    monkeypatch.setattr(native, "find_compiler", lambda: (str(script), "1"))
    monkeypatch.setenv("NONSPEECH7K_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    return tmp_path / "cache"


def compiled(cache) -> int:
    count = cache.parent / "count"
    return len(count.read_text()) // 2 if count.exists() else 0


def test_the_library_is_compiled_once_into_a_private_folder(cache):
    library = native.compile_kernels()
    assert native.compile_kernels() == library and compiled(cache) == 1
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700 and not library.stat().st_mode & 0o077
    assert [path.name for path in cache.iterdir()] == [library.name]
    assert (cache.parent / "count.folder").read_text().strip() == str(cache), "the compiler looks around in the folder that it stands in"


def cut(library): library.write_bytes(library.read_bytes()[:1000])
def emptied(library): library.write_bytes(b"")
def changed(library): library.write_bytes(b"\x7fELF" + library.read_bytes()[4:])
def without_digest(library): library.write_bytes(library.read_bytes()[:-32])
def writable(library): library.chmod(0o620)


def replaced(library):
    planted = library.parent.parent / "planted.so"
    planted.write_bytes(library.read_bytes())
    library.unlink()
    library.symlink_to(planted)


def pipe(library):
    library.unlink()
    os.mkfifo(library)


@pytest.mark.parametrize("damage", [cut, emptied, changed, without_digest, writable, replaced, pipe])
def test_a_damaged_library_is_compiled_anew(cache, damage):
    library = native.compile_kernels()
    whole = library.read_bytes()
    damage(library)
    assert native.compile_kernels() == library and compiled(cache) == 2
    assert library.read_bytes() == whole and library.is_file() and not library.is_symlink()
    if damage is replaced: assert (cache.parent / "planted.so").read_bytes() == whole


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777, 0o722])
def test_a_folder_that_others_can_write_is_refused(cache, mode):
    cache.mkdir()
    cache.chmod(mode)
    with pytest.raises(native.Obstacle, match="NONSPEECH7K_CACHE"): native.compile_kernels()
    assert compiled(cache) == 0 and not list(cache.iterdir())


def test_a_folder_that_others_can_exchange_is_refused(cache):
    cache.parent.chmod(0o777)
    try:
        with pytest.raises(native.Obstacle, match="everybody can write"): native.compile_kernels()
    finally: cache.parent.chmod(0o700)
    assert compiled(cache) == 0


def test_a_folder_or_a_link_of_somebody_else_is_refused(cache, monkeypatch):
    cache.mkdir(0o700)
    us = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: us + 1)
    with pytest.raises(native.Obstacle, match="somebody else"): native.compile_kernels()
    if us == 0: # only root can give a link away
        monkeypatch.undo()
        link = cache.parent / "link"
        link.symlink_to(cache)
        os.lchown(link, 12345, 12345)
        with pytest.raises(native.Obstacle, match="link that belongs to somebody else"): native._private(link)


ATTACK = """
import random, torch
from nonspeech7k import native
if not native.available(): raise SystemExit
chance, refused = random.Random(1), 0
sizes = [0, 1, -1, 2, 3, 8, 16, 48, 64, 2**20, 2**31, 2**40, 2**61, -2**40]
pieces = {kind: [None, *(torch.zeros(count, dtype=dtype) for count in (0, 1, 16, 64, 90, 256, 4096))] for kind, dtype in native.TYPES.items()}
for turn in range(4000):
    name = chance.choice(list(native.signatures()))
    values = [chance.choice(sizes if kind == "long" else pieces[kind]) for kind, argument in native.signatures()[name][:-1]]
    try: native.call(name, *values)
    except ValueError: refused += 1
for hop in (-10**6, -1, 0, 2**40):
    try: native.call("band_powers", 1, 1000, 64, hop, 1, torch.zeros(1000), torch.zeros(64), torch.zeros(33), torch.zeros(1))
    except ValueError: refused += 1
print(refused)
"""


def test_no_arguments_end_the_process():
    done = subprocess.run([sys.executable, "-c", ATTACK], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout or int(done.stdout) > 3000
