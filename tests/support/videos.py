"""Small videos written by PyAV, whose pictures show their number as bars."""

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT = 160, 96
# A white bar, twelve binary digits of the number, their parity, and a black bar.
_DIGITS = 12
_BARS = _DIGITS + 3


def paint(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture (H, W, 3), uint8, BGR, of a number from 0 to 4095.

    Bars in the upper half show the number, and the lower half is a texture that moves with it,
    so that codecs predict each picture from others. No two turned or mirrored pictures are equal.
    """
    digits = [number >> place & 1 for place in range(_DIGITS)]
    bars = np.array([1, *digits, sum(digits) % 2, 0])
    row = bars[np.arange(width) * _BARS // width]
    x, y = np.meshgrid(np.arange(width) + 2 * number, np.arange(height))
    image = np.stack(
        (96 + 64 * np.sin(x / 7), 128 + 64 * np.sin(x / 11 + y / 5), 2 * y % 256), axis=-1
    ).astype(np.uint8)
    image[: height // 2] = (32 + 192 * row)[None, :, None]
    return image


def painted(
    count: int, width: int = WIDTH, height: int = HEIGHT, grain: float = 0
) -> Iterator[np.ndarray]:
    """Pictures of the numbers from 0; grain makes their files as large as those of cameras."""
    rng = np.random.default_rng(0)
    for number in range(count):
        image = paint(number, width, height)
        noise = rng.normal(0, grain, image.shape) if grain else 0
        yield (image + noise).clip(0, 255).astype(np.uint8)


def read_number(image: np.ndarray) -> int:
    """The number that a picture (H, W, 3) of :func:`paint` shows; -1 if it is not legible."""
    height, width = image.shape[:2]
    middles = ((np.arange(_BARS) + 0.5) * width / _BARS).astype(int)
    rows = image[height // 8 : height * 3 // 8 + 1].mean(axis=(0, 2))
    values = rows[middles]
    if (np.abs(values - 128) < 48).any():
        return -1
    first, *digits, parity, last = (values > 128).astype(int).tolist()
    if not first or last or sum(digits) % 2 != parity:
        return -1
    return sum(digit << place for place, digit in enumerate(digits))


def write_video(
    path: Path | str,
    frames: Iterable[np.ndarray],
    *,
    fps: int | Fraction = 25,
    times: Sequence[float] | None = None,
    codec: str = 'libx264',
    pix_fmt: str = 'yuv420p',
    options: dict[str, str] | None = None,
    gop: int = 12,
    bframes: int = 2,
    turn: tuple[int, bool] | None = None,
    audio: bool = False,
    **container: str,
) -> str:
    """Write a video; returns its path as a string.

    Args:
        path: File, whose suffix is the container.
        frames: Pictures (H, W, 3), uint8, BGR, of one size.
        fps: Frames per second.
        times: Times of the frames in seconds, in steps of 1/1000; None for the frame rate.
        codec: Encoder in PyAV's wheel.
        pix_fmt: Format of the pixels in the file.
        options: Options of the encoder.
        gop: Distance of keyframes.
        bframes: Number of successive B-frames; 0 for codecs without them.
        turn: Rotation in degrees counter-clockwise, and whether to mirror, in the container.
        audio: Whether to add a silent sound track.
        container: Options of the container, as ``movflags='faststart'``.
    """
    rate = Fraction(fps)
    unit = 1 / rate if times is None else Fraction(1, 1000)
    frames = iter(frames)
    first = next(frames)
    with av.open(str(path), 'w', options=container) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = unit
        stream.codec_context.thread_count = 1  # the same bytes on every machine
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = bframes
        defaults = {'preset': 'ultrafast', 'crf': '18'} if codec.startswith('libx26') else {}
        if codec == 'libx264':
            defaults |= {'bf': str(bframes), 'sc_threshold': '0', 'b-adapt': '0'}
        stream.options = defaults | (options or {})
        if turn is not None:
            stream.set_display_rotation(turn[0], hflip=turn[1])
        sound = _add_silence(file) if audio else None
        for index, image in enumerate((first, *frames)):
            frame = av.VideoFrame.from_ndarray(image, format='bgr24')
            frame.pts = index if times is None else round(times[index] * 1000)
            frame.time_base = unit
            file.mux(stream.encode(frame))
            if sound is not None and index % 4 == 3:
                _write_silence(file, sound, float(4 * unit))
        file.mux(stream.encode())
        if sound is not None:
            file.mux(sound.encode())
    return str(path)


def trim_start(source: str, path: Path | str, seconds: float) -> str:
    """Copy a video without decoding, with an edit list that hides its start."""
    container = {'avoid_negative_ts': 'disabled'}
    with av.open(source) as file, av.open(str(path), 'w', options=container) as trimmed:
        stream = trimmed.add_stream_from_template(file.streams.video[0])
        offset = round(seconds / file.streams.video[0].time_base)
        for packet in file.demux(video=0):
            if packet.size:
                packet.pts, packet.dts = packet.pts - offset, packet.dts - offset
                packet.stream = stream
                trimmed.mux(packet)
    return str(path)


def write_sizes(path: Path | str, sizes: Sequence[tuple[int, int]], count: int) -> str:
    """Write a video, without B-frames, whose size changes every ``count`` frames."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=25)
        stream.width, stream.height = sizes[0]
        for part, (width, height) in enumerate(sizes):
            encoder = av.CodecContext.create('libx264', 'w')
            encoder.width, encoder.height, encoder.pix_fmt = width, height, 'yuv420p'
            encoder.time_base, encoder.framerate = Fraction(1, 25), Fraction(25)
            encoder.options = {'preset': 'ultrafast', 'crf': '18', 'tune': 'zerolatency'}
            packets = []
            for number in range(part * count, (part + 1) * count):
                frame = av.VideoFrame.from_ndarray(paint(number, width, height), format='bgr24')
                frame.pts, frame.time_base = number, Fraction(1, 25)
                packets += encoder.encode(frame)
            for packet in packets + encoder.encode():
                packet.stream = stream
                file.mux(packet)
    return str(path)


def cut(source: str, path: Path | str, share: float) -> str:
    """Copy the first part of a file."""
    data = Path(source).read_bytes()
    Path(path).write_bytes(data[: int(share * len(data))])
    return str(path)


def damage(source: str, path: Path | str, seed: int, places: int = 3, size: int = 200) -> str:
    """Copy a video with random bytes in some frames.

    They begin in the first half of a frame. Decoders cannot notice all damage at its end, since
    little is left that could contradict it.
    """
    rng = np.random.default_rng(seed)
    with av.open(source) as file:
        packets = [p for p in file.demux(video=0) if p.size and p.pos is not None]
        chosen = rng.choice(len(packets), places, replace=False).tolist()
        starts = [packets[i].pos + int(rng.integers(8, packets[i].size // 2)) for i in chosen]
    data = bytearray(Path(source).read_bytes())
    for start in starts:
        data[start : start + size] = rng.integers(0, 256, size, dtype=np.uint8).tobytes()
    Path(path).write_bytes(data)
    return str(path)


def write_audio(path: Path | str, seconds: float = 0.5) -> str:
    """Write a silent sound file without video."""
    with av.open(str(path), 'w') as file:
        sound = _add_silence(file)
        _write_silence(file, sound, seconds)
        file.mux(sound.encode())
    return str(path)


def _add_silence(file: av.container.OutputContainer) -> av.AudioStream:
    return file.add_stream('aac', rate=16000, layout='mono')


def _write_silence(
    file: av.container.OutputContainer, sound: av.AudioStream, seconds: float
) -> None:
    samples = np.zeros((1, round(16000 * seconds)), np.float32)
    frame = av.AudioFrame.from_ndarray(samples, format='fltp', layout='mono')
    frame.sample_rate = 16000
    file.mux(sound.encode(frame))
