"All of the sound, or a file that is named: compared with a second decoder, FFmpeg through PyAV, for every container and every way to break it."
import io
import os
import struct
import sys
import time

import numpy as np
import pytest
import soundfile

from nonspeech7k.data.blocks import sound_blocks
from nonspeech7k.data.decoding import BadClip, read_clip, read_sixteen_bits, read_sound
from nonspeech7k.data.formats import NEEDS_PYAV, SOUND_SUFFIXES, why_not
from nonspeech7k.data.mp3flac import mp3_frames
from nonspeech7k.data.ogg import ogg_checksum, ogg_links

av = pytest.importorskip("av")
RATE = 16_000
NOISE = (0.2 * np.random.default_rng(0).standard_normal(3 * RATE)).clip(-1, 1).astype(np.float32)


def encoded(form: str, subtype: str | None = None, seconds: float = 3.0, rate: int = RATE, channels: int = 1, **options) -> bytes:
    file = io.BytesIO()
    samples = np.resize(NOISE, round(seconds * rate))
    soundfile.write(file, np.tile(samples[:, None], channels), rate, format=form, subtype=subtype, **options)
    return file.getvalue()


class Pipe(io.RawIOBase):
    "A place to write to that cannot be gone back in."
    def __init__(self, file): self.file = file
    def writable(self): return True
    def write(self, content): return self.file.write(content)


def ffmpeg(seconds: float, container: str, codec: str, rate: int = RATE, streams: int = 1, **options) -> bytes:
    file = io.BytesIO()
    with av.open(Pipe(file) if "live" in options else file, "w", format=container, options=options) as output:
        for stream in [output.add_stream(codec, rate=rate, layout="mono", options={"b": "48000"}) for _ in range(streams)]:
            resampler = av.AudioResampler(format=stream.codec_context.format, layout="mono", rate=rate)
            fifo, samples = av.AudioFifo(), np.resize(NOISE, round(seconds * rate))
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            for plain in resampler.resample(frame): fifo.write(plain)
            while fifo.samples:
                output.mux(stream.encode(fifo.read(min(stream.codec_context.frame_size or 1024, fifo.samples))))
            output.mux(stream.encode(None))
    return file.getvalue()


def counted(content: bytes, rate: int) -> int:
    "How many samples FFmpeg finds, at this rate."
    with av.open(io.BytesIO(content)) as container: return round(sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0)) * rate)


def says(size: int, riff: int | None = None):
    "A WAV whose data chunk says another size."
    return lambda wav: wav[:4] + struct.pack("<I", (36 + size if riff is None else riff) & 0xFFFFFFFF) + wav[8:40] + struct.pack("<I", size) + wav[44:]


def bare(mp3: bytes) -> bytes:
    "An MP3 without its Xing header."
    return mp3[mp3_frames(io.BytesIO(mp3)).spans[0][0]:]


def unknown(flac: bytes) -> bytes:
    "A FLAC whose STREAMINFO knows neither its length nor its digest."
    return flac[:21] + bytes([flac[21] & 0xF0]) + bytes(20) + flac[42:]


def xing_says(count: int):
    def change(mp3: bytes) -> bytes:
        at = max(mp3.find(b"Xing"), mp3.find(b"Info"))
        return mp3[:at + 8] + struct.pack(">I", count) + mp3[at + 12:]
    return change


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + bytes(size)


FRAGMENTED = ffmpeg(3.0, "mp4", "aac", movflags="frag_keyframe+empty_moov", frag_duration="500000") # of telephones and of streams
LIVE = ffmpeg(3.0, "webm", "libopus", 48_000, live="1", cluster_time_limit="500") # of browsers
LIST = b"LIST" + struct.pack("<I", 30) + b"INFOISFT" + struct.pack("<I", 18) + b"written by nobody\0"
ODD_LIST = b"LIST" + struct.pack("<I", 17) + b"INFOISFT" + struct.pack("<I", 5) + b"Lavf\0" # without its padding
TAG = b"TAG" + bytes(125)
WAV, FLAC, VORBIS, OPUS, MP3 = encoded("WAV"), encoded("FLAC"), encoded("OGG"), encoded("OGG", "OPUS"), encoded("MP3")
VBR = encoded("MP3", bitrate_mode="VARIABLE", compression_level=0.4)
FRAMES, FRAME = mp3_frames(io.BytesIO(MP3)).count, 576


def sized_list(slip: int) -> bytes: return LIST[:4] + struct.pack("<I", len(LIST) - 8 + slip) + LIST[8:]


def bw64(kind: bytes) -> bytes:
    return kind + b"\xFF\xFF\xFF\xFFWAVEds64" + struct.pack("<IQQQI", 28, 36 + 36 + 96_000, 96_000, 48_000, 0) + says(0xFFFFFFFF)(WAV)[12:]


# name: content, samples that there are, how far off one may be
WHOLE = {
    "plain.wav": (WAV, 48_000, 0),
    "list.wav": (WAV + LIST, 48_000, 0),
    **{f"data-size-{more}-over.wav": (says(96_000 + more, 96_036)(WAV), 48_000, 0) for more in (2, 8, 20, 36, 44)},
    **{f"both-sizes-{more}-over.wav": (says(96_000 + more)(WAV), 48_000, 0) for more in (8, 36, 44)},
    **{f"data-size-{less}-under.wav": (says(96_000 - less, 96_036)(WAV), 48_000, 0) for less in (8, 20, 44)},
    "both-sizes-8-under.wav": (says(95_992)(WAV), 47_996, 0),
    "data-size-over-24.wav": ((lambda wav: wav[:40] + struct.pack("<I", 144_044) + wav[44:])(encoded("WAV", "PCM_24")), 48_000, 0),
    "data-size-over.aiff": ((lambda aiff: aiff.replace(struct.pack(">I", 96_008), struct.pack(">I", 96_020)))(encoded("AIFF", "PCM_16")), 48_000, 0),
    "list-cut.wav": (WAV + LIST[:20], 48_000, 0),
    **{f"list-{slip:+}.wav": (WAV + sized_list(slip), 48_000, 0) for slip in (-20, -4, -1, 1, 4, 100_000)},
    "odd-list.wav": (WAV + ODD_LIST, 48_000, 0),
    "odd-list-list.wav": (WAV + ODD_LIST + LIST, 48_000, 0),
    "list-tag.wav": (WAV + LIST + TAG, 48_000, 0),
    "list-before.wav": (WAV[:36] + LIST + WAV[36:], 48_000, 0),
    "tag.wav": (WAV + TAG, 48_000, 0),
    "pipe-ff.wav": (says(0xFFFFFFFF)(WAV), 48_000, 0),
    "pipe-0.wav": (says(0, 0)(WAV), 48_000, 0),
    "pipe-sox.wav": (says(0x7FFFF000)(WAV), 48_000, 0),
    "pipe-arecord.wav": (says(0x80000000)(WAV), 48_000, 0),
    "pipe-0-list.wav": (says(0, 0)(WAV) + LIST, 48_000, 0),
    "pipe-sox-list.wav": (says(0x7FFFF000)(WAV) + LIST, 48_000, 0),
    "pipe-ff-list.wav": (says(0xFFFFFFFF)(WAV) + LIST, 48_000, 0),
    "pipe-half-a-sample.wav": (says(0xFFFFFFFF)(WAV) + b"\1", 48_000, 0),
    "rf64.wav": (bw64(b"RF64"), 48_000, 0),
    "bw64.wav": (bw64(b"BW64"), 48_000, 0),
    "bw64-list.wav": (bw64(b"BW64") + LIST, 48_000, 0),
    "rf64-by-libsndfile.rf64": (encoded("RF64"), 48_000, 0),
    "24.wav": (encoded("WAV", "PCM_24", channels=2), 48_000, 0),
    "alaw.wav": (encoded("WAV", "ALAW"), 48_000, 0),
    "float.wav": (encoded("WAV", "FLOAT"), 48_000, 0),
    "gsm.wav": (encoded("WAV", "GSM610"), 48_000, 320),
    "g721.wav": (encoded("WAV", "G721_32"), 48_000, 120),
    "nms.wav": (encoded("WAV", "NMS_ADPCM_32"), 48_000, 160),
    "ima.wav": (encoded("WAV", "IMA_ADPCM"), 48_000, 1024),
    "a.aiff": (encoded("AIFF", "PCM_16"), 48_000, 0),
    "a.w64": (encoded("W64", "PCM_16"), 48_000, 0),
    "a.caf": (encoded("CAF", "PCM_16"), 48_000, 0),
    "alac.caf": (encoded("CAF", "ALAC_16"), 48_000, 0),
    "pipe.caf": ((lambda caf: caf[:(at := caf.find(b"data")) + 4] + b"\xFF" * 8 + caf[at + 12:])(encoded("CAF", "PCM_16")), 48_000, 0),
    "sox-pipe.aiff": (encoded("AIFF", "PCM_16").replace(struct.pack(">I", 96_008), b"\x7F\0\0\x08"), 48_000, 0),
    "rifx.wav": (encoded("WAV", endian="BIG"), 48_000, 0),
    "odd.wav": (encoded("WAV", "PCM_U8", seconds=2.5 + 1 / RATE) + LIST, 40_001, 0),
    "a.mp2": (ffmpeg(3.0, "mp2", "mp2", 32_000), 96_000, 1152 * 2),
    "flac.oga": (ffmpeg(3.0, "ogg", "flac"), 48_000, 0),
    "ac3.wav": (ffmpeg(3.0, "wav", "ac3", 48_000), 144_000, 1536 * 2),
    "float.caf": (encoded("CAF", "FLOAT", channels=2), 48_000, 0),
    "a.au": (encoded("AU", "PCM_16"), 48_000, 0),
    "pipe.au": (encoded("AU", "PCM_16")[:8] + b"\xFF\xFF\xFF\xFF" + encoded("AU", "PCM_16")[12:], 48_000, 0),
    "a.voc": (encoded("VOC", "PCM_16"), 48_000, 0),
    "a.nist": (encoded("NIST", "PCM_16"), 48_000, 0),
    "a.flac": (FLAC, 48_000, 0),
    "tag.flac": (FLAC + TAG, 48_000, 0),
    "zeros.flac": (FLAC + bytes(3000), 48_000, 0),
    "zeros-tag.flac": (unknown(FLAC) + bytes(3) + TAG, 48_000, 0),
    "zeros-before.mp3": (bytes(2000) + MP3, 48_000, 0),
    "lines-before.mp3": (b"\r\n\r\n" + bare(MP3), 48_000, 3 * FRAME),
    "id3-and-zeros.mp3": (id3(99) + bytes(1000) + MP3 + TAG, 48_000, 0),
    "fragmented.mp4": (FRAGMENTED, 48_000, 2048),
    "live.webm": (LIVE, 144_000, 2048),
    "joined.webm": (LIVE + LIVE, 288_000, 2048),
    "joined.aac": (ffmpeg(3.0, "adts", "aac") * 2, 96_000, 4096),
    "joined.ac3": (ffmpeg(3.0, "ac3", "ac3", 48_000) * 2, 288_000, 1536 * 4),
    "id3.flac": (id3(5000) + FLAC + TAG, 48_000, 0),
    "pipe.flac": (unknown(FLAC), 48_000, 0),
    "joined.flac": (FLAC + FLAC, 96_000, 0),
    "joined-pipes.flac": (unknown(FLAC) + FLAC, 96_000, 0),
    "a.ogg": (VORBIS, 48_000, 0),
    "joined.ogg": (VORBIS + encoded("OGG", seconds=1.0), 64_000, 0),
    "tag.ogg": (VORBIS + TAG, 48_000, 0),
    "a.opus": (OPUS, 48_000, 0),
    "joined.opus": (OPUS * 3, 144_000, 0),
    "a.mp3": (MP3, 48_000, 0),
    "id3.mp3": (id3(300_000) + MP3 + TAG, 48_000, 0),
    "zeros.mp3": (MP3 + bytes(5000), 48_000, 0),
    "cbr.mp3": (bare(MP3), 48_000, 3 * FRAME),
    "vbr.mp3": (bare(VBR), 48_000, 3 * FRAME),
    "vbr-tags.mp3": (id3(99) + bare(VBR) + TAG, 48_000, 3 * FRAME),
    "joined.mp3": (MP3 + VBR, 96_000, 5 * FRAME),
    "joined-tags.mp3": (id3(99) + MP3 + TAG + id3(999) + VBR + TAG, 96_000, 5 * FRAME),
    "xing-too-few.mp3": (xing_says(10)(MP3), 48_000, 3 * FRAME),
    "xing-itself.mp3": (xing_says(FRAMES + 1)(MP3), 48_000, 3 * FRAME),
    "a.m4a": (ffmpeg(3.0, "ipod", "aac"), 48_000, 2048),
    "a.mp4": (ffmpeg(3.0, "mp4", "aac"), 48_000, 2048),
    "a.3gp": (ffmpeg(3.0, "3gp", "aac"), 48_000, 2048),
    "a.aac": (ffmpeg(3.0, "adts", "aac"), 48_000, 2048),
    "a.wma": (ffmpeg(3.0, "asf", "wmav2"), 48_000, 2048),
    "a.webm": (ffmpeg(3.0, "webm", "libopus", 48_000), 144_000, 2048),
    "a.mka": (ffmpeg(3.0, "matroska", "flac"), 48_000, 0),
    "a.wv": (ffmpeg(3.0, "wv", "wavpack"), 48_000, 0),
    "a.tta": (ffmpeg(3.0, "tta", "tta"), 48_000, 0),
    "a.mov": (ffmpeg(3.0, "mov", "pcm_s16le"), 48_000, 0),
    "mp3.wav": (ffmpeg(3.0, "wav", "libmp3lame"), 48_000, 3 * FRAME),
    "mp2.wav": (ffmpeg(3.0, "wav", "mp2", 32_000), 96_000, 1152 * 2),
    **{f"{codec}.avi": (ffmpeg(3.0, "avi", codec, 32_000), 96_000, 1152 * 3) for codec in ("mp2", "libmp3lame", "aac", "pcm_s16le")},
    "ac3.ac3": (ffmpeg(3.0, "ac3", "ac3", 48_000), 144_000, 1536 * 2),
}
GONE = {name: content for name, (content, _, _) in WHOLE.items()
        if name in ("joined.flac", "joined-pipes.flac", "joined.ogg", "joined.opus", "joined.mp3", "joined-tags.mp3", "bw64.wav", "bw64-list.wav", "zeros-tag.flac", "zeros-before.mp3", "lines-before.mp3", "id3-and-zeros.mp3", "joined.ac3", "joined.aac", "joined.webm",
                    "pipe-0.wav", "pipe-0-list.wav", "pipe-half-a-sample.wav", "pipe-sox-list.wav", "pipe-ff-list.wav", "nms.wav", "ac3.ac3",
                    "xing-too-few.mp3", "xing-itself.mp3", "id3.flac", "g721.wav", "pipe.flac", "a.nist", "zeros.mp3", "pipe.caf")} # where FFmpeg itself is not the measure


@pytest.mark.parametrize("name", WHOLE)
def test_all_of_the_sound_is_read(tmp_path, name):
    content, samples, off = WHOLE[name]
    path = tmp_path / name
    path.write_bytes(content)
    read, rate, seconds = read_sound(path)
    assert abs(len(read) - samples) <= off and seconds * rate == pytest.approx(len(read))
    first, _, same = read_sound(path, 1.0)
    assert np.array_equal(first, read[:rate]) and same == seconds
    assert read_clip(path, RATE, 1.0)[1] == read_sixteen_bits(path, RATE, 1.0)[2] == read_sixteen_bits(path, rate, 1.0)[2] == seconds
    blocks = np.concatenate(list(sound_blocks(path, rate, 7_000)))
    assert np.array_equal(blocks, read.mean(1))
    if name not in GONE: assert abs(len(read) - counted(content, rate)) <= max(off, 3 * FRAME), "FFmpeg finds another number"


def patched_page(ogg: bytes, **fields) -> bytes:
    "The last Ogg page with another granule, and the right checksum."
    at = ogg.rfind(b"OggS")
    page = bytearray(ogg[at:])
    page[6:14] = struct.pack("<q", fields["granule"])
    page[22:26] = bytes(4)
    page[22:26] = struct.pack("<I", ogg_checksum(bytes(page)))
    return ogg[:at] + bytes(page)


def hole(content: bytes) -> bytes:
    at, size = len(content) // 3, len(content) // 6
    return content[:at] + bytes(size) + content[at + size:]


def without_a_page(ogg: bytes) -> bytes:
    at = ogg.find(b"OggS", len(ogg) // 2)
    return ogg[:at] + ogg[ogg.find(b"OggS", at + 4):]


def boundary(ogg: bytes) -> bytes: return ogg[:ogg.rfind(b"OggS")]


def half(content: bytes) -> bytes: return content[:len(content) // 2]


def twice(content: bytes) -> bytes: return content * 2


PARTS = encoded("MP3", rate=32_000)
NAMED = {
    "half.wav": (half(WAV), "truncated"), "byte.wav": (WAV[:-1], "truncated"), "stale.wav": (says(16_000)(WAV), "promises 16000 bytes"),
    "half.rf64.wav": (half(bw64(b"RF64")), "truncated"), "half.bw64.wav": (half(bw64(b"BW64")), "truncated"),
    "stale-list.wav": (says(16_000)(WAV) + LIST, "promises 16000 bytes"), "two.wav": (WAV + WAV[36:], "more than one data chunk"),
    "nothing.wav": (says(0)(WAV[:44]), "0 samples"), "nothing-list.wav": (says(0)(WAV[:44]) + LIST, "0 samples"),
    "terabytes.wav": (bw64(b"BW64")[:28] + struct.pack("<Q", 2**43) + bw64(b"BW64")[36:], "truncated"),
    "channels.wav": (WAV[:22] + b"\xFF\xFF" + WAV[24:], ""), "rate.wav": (WAV[:24] + struct.pack("<I", 10**9) + WAV[28:], "Hz"),
    "half.aiff": (half(encoded("AIFF", "PCM_16")), "truncated"), "half.w64": (half(encoded("W64", "PCM_16")), "truncated"),
    "half.caf": (half(encoded("CAF", "PCM_16")), "truncated"), "half.mp2": (WHOLE["a.mp2"][0][:-50], "truncated"), "junk.mp3": (MP3 + b"junk" * 99, "damaged"),
    "stale.aiff": (encoded("AIFF", "PCM_16").replace(struct.pack(">I", 96_008), struct.pack(">I", 16_008)), "promises"),
    "half.au": (half(encoded("AU", "PCM_16")), "truncated"),
    "half.voc": (half(encoded("VOC", "PCM_16")), "truncated"), "half.nist": (half(encoded("NIST", "PCM_16")), "truncated"),
    "rate.flac": (FLAC[:18] + bytes([FLAC[18] ^ 1]) + FLAC[19:], ""), "half.flac": (half(FLAC), ""), "hole.flac": (hole(FLAC), ""), "pipe-half.flac": (half(unknown(FLAC)), ""),
    "stale.flac": (FLAC[:22] + struct.pack(">I", 20_000) + FLAC[26:], "does not end there"),
    "joined-half.flac": (FLAC + half(FLAC), ""), "joined-rates.flac": (FLAC + encoded("FLAC", rate=8_000), "different sampling rates"),
    "half.ogg": (half(VORBIS), "truncated"), "hole.ogg": (hole(VORBIS), "damaged"), "page.ogg": (boundary(VORBIS), "truncated"),
    "missing.ogg": (without_a_page(VORBIS), "damaged"), "joined-half.ogg": (VORBIS + half(VORBIS), "truncated"),
    "half.opus": (half(OPUS), "truncated"), "hole.opus": (hole(OPUS), "damaged"), "page.opus": (boundary(OPUS), "truncated"),
    "joined-rates.ogg": (VORBIS + encoded("OGG", rate=8_000), "different sampling rates"),
    "granule.ogg": (patched_page(VORBIS, granule=2**40), ""), "granule.opus": (patched_page(OPUS, granule=2**62), ""),
    "half.mp3": (half(MP3), "truncated"), "cut-bare.mp3": (bare(VBR)[:-50], "truncated"), "hole.mp3": (hole(MP3), "damaged"),
    "xing-too-many.mp3": (xing_says(FRAMES + 50)(MP3), "truncated"), "joined-rates.mp3": (MP3 + PARTS, "rate"),
    **{f"joined.{name}": (content * 2, "more than one recording") for name, content in (
        ("wav", WAV), ("tags.wav", WAV + LIST), ("w64", encoded("W64", "PCM_16")), ("aiff", encoded("AIFF", "PCM_16")), ("gsm.wav", WHOLE["gsm.wav"][0]),
        ("ima.wav", WHOLE["ima.wav"][0]), ("rf64", encoded("RF64")), ("m4a", WHOLE["a.m4a"][0]), ("mov", WHOLE["a.mov"][0]), ("tta", WHOLE["a.tta"][0]),
        ("flv", ffmpeg(3.0, "flv", "aac", 44_100)), ("wma", WHOLE["a.wma"][0]), ("mp4", FRAGMENTED), ("voc", WHOLE["a.voc"][0]), ("nist", WHOLE["a.nist"][0]))},
    **{f"two-{codec}.{container}": (ffmpeg(1.0, container, codec, rate, 2), "side by side") for container, codec, rate in (
        ("mp4", "aac", RATE), ("mov", "pcm_s16le", RATE), ("matroska", "flac", RATE), ("webm", "libopus", 48_000), ("ogg", "libopus", 48_000), ("ogg", "flac", RATE))},
    "half.fragmented.mp4": (half(FRAGMENTED), "truncated"), "half.live.webm": (half(LIVE), "truncated"), "byte.live.webm": (LIVE[:-1], "truncated"),
    "cut.ac3": (WHOLE["ac3.ac3"][0][:-100], "truncated"), "middle.ac3": (half(WHOLE["ac3.ac3"][0]) + b"\x0B", "truncated"),
    "cut-12.wav": (WAV[:-12], "truncated"), "both-sizes-12-under.wav": (says(95_988)(WAV), "12 more follow"), "zeros-cut.flac": (FLAC[:-20] + bytes(3000), ""),
    "late.flac": (b"\r\n" + FLAC, "2 bytes that are no sound stand at its beginning; cut them off"),
    **{f"joined-list-{slip:+}.wav": (WAV + sized_list(slip) + WAV, "more than one recording") for slip in (-4, -1, 0, 1, 4, 500, 44 + 96_000, 100_000)},
    "joined-odd-list.wav": (WAV + ODD_LIST + WAV, "more than one recording"), "joined-short.wav": (WAV + sized_list(-4) + WAV[:900], "more than one recording"),
    "joined-pipes.wav": (says(0xFFFFFFFF)(WAV) * 2, "more than one recording"),
    **{f"more-behind-{slip:+}.wav": (WAV + sized_list(slip) + WAV[44:], "more follow") for slip in (-4, 0, 500)},
    "half-mp3.wav": (half(WHOLE["mp3.wav"][0]), "truncated"),
    **{f"{cut.__name__}.{codec}.avi": (cut(WHOLE[f"{codec}.avi"][0]), words) for codec in ("mp2", "libmp3lame", "aac", "pcm_s16le")
       for cut, words in ((half, "truncated"), (twice, "more than one recording"))},
    "half.m4a": (half(WHOLE["a.m4a"][0]), ""), "half.webm": (half(WHOLE["a.webm"][0]), ""), "half.mka": (half(WHOLE["a.mka"][0]), ""),
    "half.wma": (half(WHOLE["a.wma"][0]), ""), "half.wv": (half(WHOLE["a.wv"][0]), ""), "half.tta": (half(WHOLE["a.tta"][0]), ""),
    "text.wav": (b"this is no sound " * 99, "cannot be decoded"), "text.m4a": (b"this is no sound " * 99, "cannot be decoded"),
    "list.m4a": (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n", "cannot be decoded"),
}


@pytest.mark.parametrize("name", NAMED)
def test_what_is_not_all_there_is_named(tmp_path, name, capfd):
    content, words = NAMED[name]
    path = tmp_path / name
    path.write_bytes(content)
    begin = time.perf_counter()
    for read in (lambda: read_sound(path, 0.1), lambda: read_clip(path, RATE, 1.0), lambda: read_sixteen_bits(path, RATE, 1.0),
                 lambda: list(sound_blocks(path, RATE, 7_000))):
        with pytest.raises(BadClip) as error: read()
        message = str(error.value)
        assert name in message and words in message and len(message) < 600 and "\n" not in message
    assert time.perf_counter() - begin < 5


def test_more_than_four_gigabytes(tmp_path):
    samples = 2**31 + 8_000 # of 16 bits
    with open(tmp_path / "big.wav", "wb") as file:
        file.write(says(2 * samples % 2**32)(WAV))
        file.truncate(44 + 2 * samples)
    assert read_sixteen_bits(tmp_path / "big.wav", RATE, 1.0)[2] == read_sound(tmp_path / "big.wav", 1.0)[2] == samples / RATE
    with pytest.raises(BadClip, match="too many to be read at once"): read_sound(tmp_path / "big.wav")


def test_a_suffix_does_not_matter(tmp_path):
    for name in ("a.wav", "a.xyz", "a.raw", "a.gsm", "a.vox", "a.mp3", "a", "a.m4a"):
        for content in (WAV, FLAC, VORBIS, MP3, WHOLE["a.m4a"][0]):
            (tmp_path / name).write_bytes(content)
            assert abs(len(read_sound(tmp_path / name)[0]) - 48_000) < 2048, name


def test_without_pyav_the_way_out_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.m4a").write_bytes(WHOLE["a.m4a"][0])
    with pytest.raises(BadClip) as error: read_sound(tmp_path / "a.m4a")
    assert "pip install 'nonspeech7k[formats]'" in str(error.value) and "remove" not in str(error.value)
    assert "pip install" in why_not("a.m4a") and not why_not("a.caf")
    assert ".m4a" in NEEDS_PYAV and {".3gp", ".caf", ".m4a", ".opus", ".aiff", ".amr", ".wma", ".mp4", ".wav"} <= set(SOUND_SUFFIXES)


def test_an_opus_page_tells_its_time():
    link, = ogg_links(io.BytesIO(OPUS))
    assert link.codec == "opus" and link.steady
    with pytest.raises(ValueError, match="its packets hold"): ogg_links(io.BytesIO(patched_page(OPUS, granule=link.granule + 48_000)))
    assert ogg_links(io.BytesIO(patched_page(OPUS, granule=link.granule - 300)))[0].steady, "the end may be cut to the sample"


def test_decoders_do_not_talk_to_the_user(tmp_path, capfd):
    generator, at = np.random.default_rng(0), len(MP3) // 2
    while not (MP3[at] == 0xFF and MP3[at + 1] & 0xE0 == 0xE0): at += 1
    for number in range(20): # the numbers by which a frame is unpacked
        (tmp_path / "spoiled.mp3").write_bytes(MP3[:at + 4] + generator.bytes(17) + MP3[at + 21:])
        assert len(read_sound(tmp_path / "spoiled.mp3")[0]) == 48_000
    assert capfd.readouterr().err == ""


def test_no_file_stays_open(tmp_path):
    (tmp_path / "a.flac").write_bytes(FLAC + FLAC)
    (tmp_path / "b.flac").write_bytes(half(FLAC))
    def reading():
        read_sound(tmp_path / "a.flac")
        with pytest.raises(BadClip): read_sound(tmp_path / "b.flac")
    reading()
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    for _ in range(20): reading()
    assert not before or len(os.listdir("/proc/self/fd")) <= before
