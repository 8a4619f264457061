"""A thousand inputs that nobody should be hurt by, made by a seed.

python -m tests.data_pipelines.hostile_inputs FOLDER      # makes them, for a look
"""

import io
import json
import os
import pickle
import random
import struct
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 50_000
"""Width and height that the bombs declare: 2.5 gigapixels, 7.5 GB once decoded."""


class Explosive:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(header: bytes, *chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + chunk(b"IEND", b"")


def bombs() -> dict[str, bytes]:
    """Small files that declare 50,000 x 50,000 pixels, or hide much text."""
    grey = struct.pack(">IIBBBBB", SIZE, SIZE, 8, 0, 0, 0, 0)
    small = struct.pack(">IIBBBBB", 4, 4, 8, 0, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(bytes(5 * 4)))
    text = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(200_000_000), 9))
    jpeg = bytearray(encode(Image.new("RGB", (8, 8)), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", SIZE, SIZE)
    gif = bytearray(encode(Image.new("P", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", SIZE, SIZE)
    bmp = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
    bmp[18:26] = struct.pack("<ii", SIZE, SIZE)
    webp = b"VP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + b"\x4f\xc3\0" + b"\x4f\xc3\0"
    return {
        "bomb.png": png(grey, chunk(b"IDAT", zlib.compress(bytes(1000)))),
        "bomb-text.png": png(small, text, pixels),
        "bomb.jpg": bytes(jpeg),
        "bomb.gif": bytes(gif),
        "bomb.bmp": bytes(bmp),
        "bomb.webp": b"RIFF" + struct.pack("<I", len(webp) + 4) + b"WEBP" + webp,
    }


def largest() -> dict[str, bytes]:
    """Pictures of just under the limit of pixels: small files, and what takes the most memory."""
    side = 4990
    row = zlib.compressobj(1)
    rows = b"".join(row.compress(bytes(1 + 2 * side)) for _ in range(side)) + row.flush()
    header = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    return {
        "large-grey16.png": png(header, chunk(b"IDAT", rows)),
        "large-alpha.webp": encode(Image.new("RGBA", (3990, 3990)), "WEBP", quality=1, method=0),
        "large-alpha.png": encode(Image.new("RGBA", (side, side)), "PNG", compress_level=1),
        "large-cmyk.jpg": encode(Image.new("CMYK", (side, side)), "JPEG", progressive=True),
    }


def odd_pictures() -> dict[str, bytes]:
    """Pictures that are whole but unusual, and files that only have a picture's name."""
    draw = np.random.default_rng(0)
    rgb = Image.fromarray(draw.integers(0, 256, (9, 7, 3), np.uint8))
    wide = Image.fromarray(draw.integers(0, 65536, (9, 7), np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    return {
        "cmyk.jpg": encode(rgb.convert("CMYK"), "JPEG"),
        "grey16.png": encode(wide, "PNG"),
        "palette.png": encode(rgb.convert("P"), "PNG", transparency=0),
        "alpha.webp": encode(rgb.convert("RGBA"), "WEBP"),
        "bilevel.png": encode(rgb.convert("1"), "PNG"),
        "animated.gif": encode(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
        "turned.jpg": encode(rgb, "JPEG", exif=turned),
        "thin.png": encode(Image.new("RGB", (1, 3000)), "PNG"),
        "jpeg.png": encode(rgb, "JPEG"),
        "tiff.png": encode(rgb, "TIFF"),
        "text.png": b"this is no picture\n",
        "page.jpg": b"<!doctype html><script>alert(1)</script>",
        "vector.png": b'<svg xmlns="http://www.w3.org/2000/svg" width="50000" height="50000"/>',
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file\n",
        "zip.webp": b"PK\x03\x04" + bytes(60),
        "pickle.png": pickle.dumps({"a": 1}),
        "empty.png": b"",
        "zeros.jpg": bytes(5000),
        "caf\udce9.png": encode(rgb, "PNG"),  # a name that is no UTF-8
        "new\nline.png": encode(rgb, "PNG"),
    }


def make_folder(root: Path, draw: random.Random) -> int:
    """Images with captions; returns how many files are named like one."""
    root.mkdir(parents=True)
    noise = np.random.default_rng(1).integers(0, 256, (4, 4, 3), np.uint8)
    image = Image.fromarray(noise)
    files = {**bombs(), **largest(), **odd_pictures()}
    smallest = {
        "png": encode(image, "PNG"),
        "jpg": encode(image, "JPEG", quality=1, optimize=True),
        "webp": encode(image, "WEBP", lossless=True),
        "gif": encode(image.quantize(8), "GIF", optimize=True),
    }
    for kind, data in smallest.items():
        files[f"whole.{kind}"] = data
        for length in range(len(data)):
            files[f"cut-{length:03d}.{kind}"] = data[:length]
        for number in range(25):
            flipped = bytearray(data)
            flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            files[f"flip-{number:02d}.{kind}"] = bytes(flipped)
    for name, data in files.items():
        (root / os.fsencode(name).decode("utf-8", "surrogateescape")).write_bytes(data)
    captions = {
        "long": b"x" * 1_000_000, "longer": b"x" * 3_000_000, "nul": b"a\0b", "latin": b"caf\xe9",
        "utf16": "a cat".encode("utf-16"), "blank": b" \n\t\n", "controls": b"\x01\x02\x1b[31m",
        "lines": b"line\n" * 5000,
    }  # fmt: skip
    for name, caption in captions.items():
        (root / f"{name}.png").write_bytes(smallest["png"])
        (root / f"{name}.txt").write_bytes(caption)
    links = {
        "passwd.png": "/etc/passwd", "zero.png": "/dev/zero", "outside.png": "../secret.png",
        "circle.png": "circle.png", "gone.png": "nowhere.png", "inside.png": "alpha.webp",
    }  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    (root / "parent").symlink_to("..")
    os.mkfifo(root / "pipe.png")
    (root / "folder.png").mkdir()
    return len(files) + len(captions) + len(links) + 2  # the pipe, and the link to a folder


def make_lines(path: Path, draw: random.Random) -> int:
    """JSONL with an image's name and a caption; returns the number of lines that say something."""
    good = {"id": "g", "image": "alpha.webp", "caption": "a good line"}
    whole = json.dumps(good).encode()
    lines = [whole, *(whole[:length] for length in range(1, len(whole)))]
    names = [
        "/etc/passwd", "../secret.png", "a/../../secret.png", "..\\secret.png", "C:\\x.png",
        "C:x.png", "\\\\host\\x.png", "passwd.png", "outside.png", "zero.png", "pipe.png",
        "alpha.webp\0.png", "nowhere.png", "", " ", ".", "~", "x" * 5000, "\ud800",
        "parent/secret.png", "folder.png", "http://example.org/x.png", "file:///etc/passwd",
        "alpha.webp/", 7, None, True, ["alpha.webp"], {"path": "/etc/passwd"}, {"bytes": "QUJD"},
        {"bytes": None, "path": None}, 1e400,
    ]  # fmt: skip
    texts = [
        "x" * 1_000_000, "a\0b", "\ud800", "", " ", 7, True, [], {}, [[]], ["a", 7], ["a", {}],
        {"text": "a"}, "\u202e", [None], "😀" * 25_000,
    ]  # fmt: skip
    for number, name in enumerate(names):
        lines.append(json.dumps(good | {"id": f"n{number}", "image": name}).encode())
    for number, text in enumerate(texts):
        lines.append(json.dumps(good | {"id": f"t{number}", "caption": text}).encode())
        lines.append(json.dumps(good | {"id": text}).encode())
    lines += [
        b"[" * 100_000, b'{"id": ' + b"9" * 10_000 + b"}", b"{}", b"null", b"NaN", b'"text"',
        b"[1]", b"\xff\xfe{", b"\0", b'{"image": "alpha.webp", "image": "/etc/passwd"}',
        b'{"caption": "a"}',
        b"\xef\xbb\xbf" + whole, b'{"image": "alpha.webp", "caption": "\xff"}', whole + whole,
        b'{"id": "z", "image": "alpha.webp", "caption": "' + b"y" * 17_000_000 + b'"}',
    ]  # fmt: skip
    for _ in range(60):
        broken = bytearray(whole)
        broken[draw.randrange(len(whole))] = draw.randrange(256)
        lines.append(bytes(broken))
    lines = [line for line in lines if line.strip() and b"\n" not in line]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return len(lines)


def make_conversations(path: Path) -> int:
    """A LLaVA file of entries that are wrong in a way each; returns how many."""
    turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "yes"}]
    entries = [
        {"image": "cmyk.jpg", "conversations": turns},  # the only good one
        7, None, [], "text", {}, {"conversations": turns}, {"image": "/etc/passwd"},
        {"image": "a.webp", "conversations": None}, {"image": "b.webp", "conversations": [7]},
        {"image": "c.webp", "conversations": [{"from": "robot", "value": "x"}]},
        {"image": "d.webp", "conversations": turns[:1]}, {"image": 7, "conversations": turns},
        {"image": "e.webp", "conversations": turns + turns[:1]},
        {"image": {"a": 1}, "conversations": turns}, {"image": "../x", "conversations": turns},
        {"image": ["/etc/passwd", "../x"], "conversations": turns},
        {"conversations": [{"from": "human", "value": 7}, {"from": "gpt", "value": None}]},
        {"conversations": [{"from": ["human"], "value": "x"}, {"value": "y"}]},
    ]  # fmt: skip
    path.write_text(json.dumps(entries))
    return len(entries)


def member(name: str, data: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, data


def make_tars(root: Path, draw: random.Random, canary: Path) -> int:
    """Tars of links, pickles, names that lead out, and tars cut short; returns how many."""
    root.mkdir(parents=True)
    image = encode(Image.new("RGB", (4, 4), "teal"), "PNG")
    good = [member("a.png", image), member("a.txt", b"a caption")]
    load = pickle.dumps(Explosive(canary))
    contents = {
        "symlink": [member("b.png", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        "hardlink": [member("b.png", type=tarfile.LNKTYPE, linkname="../../secret.png")],
        "device": [member("b.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5)],
        "fifo": [member("b.png", type=tarfile.FIFOTYPE)],
        "absolute": [member("/tmp/b.png", image)],
        "upwards": [member("../b.png", image), member("x/../../c.png", image)],
        "nul": [member("b\udcff.png", image)],
        "pickle": [member("b.png", image), member("b.pkl", load)],
        "pyd": [member("b.pyd", load), member("b.png", image)],
        "numpy": [member("b.png", image), member("b.npy", load)],
        "json": [member("b.png", image), member("b.json", b"{broken")],
        "list": [member("b.png", image), member("b.json", b"[1]")],
        "two": [member("b.png", image), member("b.jpg", image)],
        "many": [member(f"b.{number}.txt", b"x") for number in range(200)],
        "long": [member("b.png", image), member("b.txt", b"x" * 1_000_000)],
        "none": [member("b.cls", b"7")],
        "name": [member("x" * 300 + ".png", image)],
        "empty": [member("b.png", b"")],
        "dots": [member(".png", image), member("...", image)],
    }
    for name, members in contents.items():
        with tarfile.open(root / f"{name}.tar", "w") as archive:
            for info, data in [*good, *members]:
                archive.addfile(info, io.BytesIO(data))
    huge = bytearray((root / "empty.tar").read_bytes()[:512])
    huge[124:136] = b"77777777777\0"  # 8 GB
    huge[148:156] = b" " * 8
    huge[148:156] = b"%06o\0 " % sum(huge)
    (root / "huge.tar").write_bytes(bytes(huge) + image)
    whole = (root / "long.tar").read_bytes()[:4096]
    cuts = [0, 1, 100, 511, 512, 513, 600, 1024, 1536, 2000, *draw.sample(range(2048, 4096), 30)]
    for length in cuts:
        (root / f"cut-{length:05d}.tar").write_bytes(whole[:length])
    for number in range(40):
        broken = bytearray(whole)
        broken[draw.randrange(2048)] = draw.randrange(256)
        (root / f"flip-{number:02d}.tar").write_bytes(bytes(broken))
    return len(list(root.iterdir()))


def make(root: Path, seed: int = 0) -> dict[str, int]:
    """Make everything.

    Args:
        root: a folder to fill.
        seed: decides flips and cuts.

    Returns:
        Source, as `prepare` takes it -> how many inputs it holds.
    """
    draw = random.Random(seed)
    pictures = root / "pictures"
    counts = {f"folder:{pictures}": make_folder(pictures, draw)}
    (root / "secret.png").write_bytes(encode(Image.new("RGB", (4, 4), "red"), "PNG"))
    lines = make_lines(root / "lines.jsonl", draw)
    counts[f"jsonl:{root / 'lines.jsonl'},images={pictures}"] = lines
    counts[f"llava:{root / 'chat.json'},images={pictures}"] = make_conversations(root / "chat.json")
    counts[f"webdataset:{root / 'tars'}"] = make_tars(root / "tars", draw, root / "exploded")
    return counts


if __name__ == "__main__":
    made = make(Path(sys.argv[1]))
    print(json.dumps(made | {"total": sum(made.values())}, indent=2))
