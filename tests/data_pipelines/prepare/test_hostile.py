"""A thousand hostile inputs: each ends in a batch or in the quarantine with its reason."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipelines.images import open_image
from tests.data_pipelines.hostile_inputs import make

REPOSITORY = Path(__file__).parents[3]

RUN = """
import json, re, sys
from pathlib import Path
from data_pipelines.loading.dataset import PreparedDataset
from data_pipelines.loading.image_dataset import PreparedImages
from tests.prepared import prepare_sources

def held(kind):
    # Not getrusage, whose maximum counts what the process that started this one held.
    status = open("/proc/self/status").read()
    return int(re.search(kind + r":\\s+(\\d+) kB", status)[1]) * 1024

out, counts, seen = Path(sys.argv[1]), json.loads(sys.argv[2]), {}
for number, source in enumerate(counts):
    folder = prepare_sources(source, out / str(number), shard_size=100)
    data = PreparedDataset(folder, images_only=True)
    images = PreparedImages(data, 16, num_crops=2)
    names = [data.ids[index] for index in range(len(data)) if images[index]["pixels"].any() >= 0]
    quarantine = (folder / "quarantine.jsonl").read_text().splitlines()
    seen[source] = {
        "batches": names, "texts": len(PreparedDataset(folder)) - len(data),
        "rejects": [json.loads(line) for line in quarantine],
    }
print(json.dumps({"seen": seen, "peak": held("VmHWM")}))
"""


def tree(root: Path, without: Path) -> dict[str, tuple]:
    """Name, size and times of everything below a folder but for one."""
    found = {}
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name) != without]
        for name in [*names, *folders]:
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_size, status.st_mtime_ns, status.st_mode)
    return found


@pytest.mark.slow
def test_a_thousand_hostile_inputs_end_in_a_batch_or_in_the_quarantine(tmp_path):
    counts = make(tmp_path / "inputs", seed=0)
    assert sum(counts.values()) >= 1000
    out = tmp_path / "out"
    (out / "home").mkdir(parents=True)
    before = tree(tmp_path, out)
    finished = subprocess.run(
        [sys.executable, "-c", RUN, str(out), json.dumps(counts)],
        cwd=REPOSITORY, capture_output=True, text=True,
        env=os.environ | {"HOME": str(out / "home"), "HF_HOME": str(out / "home"),
                          "TMPDIR": str(out / "home"), "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr[-3000:]
    result = json.loads(finished.stdout)
    assert result["peak"] < 1e9  # with torch's libraries, half of it in a CUDA build
    assert tree(tmp_path, out) == before  # nothing outside was touched, nothing unpickled

    told = {}
    for source, seen in result["seen"].items():
        assert all(entry["reason"] and entry["source"] == source for entry in seen["rejects"])
        ended = len(seen["batches"]) + seen["texts"] + len(seen["rejects"])
        told[source.partition(":")[0]] = (ended, counts[source])
    for kind in ("folder", "jsonl"):  # an input there is a record, so none was lost
        assert told[kind][0] == told[kind][1]
    assert told["llava"][0] >= told["llava"][1] and told["webdataset"][0] >= told["webdataset"][1]

    folder, lines, _, tars = (seen for seen in result["seen"].values())
    for name in ("large-grey16.png", "large-alpha.webp", "large-alpha.png", "large-cmyk.jpg"):
        assert name in folder["batches"]  # within the limit, and within the memory
    for name in ("cmyk.jpg", "grey16.png", "animated.gif", "turned.jpg", "jpeg.png", "inside.png"):
        assert name in folder["batches"]
    reasons = {entry["id"]: entry["reason"] for entry in folder["rejects"]}
    for name in ("bomb.png", "bomb.jpg", "bomb.gif", "bomb.bmp", "bomb.webp"):
        assert "pixels" in reasons[name] or "damaged" in reasons[name]
    for name in ("passwd.png", "zero.png", "outside.png", "circle.png"):
        assert "link" in reasons[name] or "regular file" in reasons[name]
    assert "limit is 1,048,576" in reasons["longer.png"]
    assert "1,000,000 characters" in reasons["long.png"]
    assert "NUL" in reasons["nul.png"]
    kept = [name for name in folder["batches"] if name.startswith("cut-")]
    pictures = tmp_path / "inputs" / "pictures"
    for name in kept:  # only where every pixel was there before the cut
        whole = open_image(pictures / f"whole.{name[-4:].strip('.')}")
        assert open_image(pictures / name).tobytes() == whole.tobytes()
    assert len(kept) < 40
    secrets = {"passwd.png", "outside.png", "/etc/passwd", "../secret.png"}
    assert not secrets & {*folder["batches"], *lines["batches"], *tars["batches"]}
    assert any("pickle" in entry["reason"] for entry in tars["rejects"])
    assert any("link, a device or sparse" in entry["reason"] for entry in tars["rejects"])
    assert any("breaks off" in entry["reason"] for entry in tars["rejects"])
