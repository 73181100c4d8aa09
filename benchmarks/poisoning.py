"""How fast data are poisoned, beside the plain numpy arithmetic, in one run.

    python benchmarks/poisoning.py                     # writes benchmarks/results/poisoning.json
    python benchmarks/poisoning.py --repeats 1 --images 5000 --sentences 10000 --output runs/quick.json

Images: 50,000 random ones of 32x32 RGB on disk, *every* one of them poisoned, through `poison` to a new data set on
disk. "path" is `poison`; "trigger" the trigger called on batches of 1,000 in memory; "numpy" the textbook formula in
float32 on the same batches, written here and not taken from the package. All in images per CPU-second of one thread.
"PNG" is the same path on a PNG column, where every image is decoded and encoded. Text: sentences of 20 words, 10 % of
them poisoned, in wall-clock seconds.
"""

from __future__ import annotations

import os


os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU-seconds of several threads would say little

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import datasets
import numpy as np
from cells import fill

from hf_backdoor import PoisonConfig, from_arrays, load_trigger, poison
from hf_backdoor.errors import InputError
from hf_backdoor.modalities.image import to_png
from hf_backdoor.plugins import find
from hf_backdoor.results import describe_run, write_json
from hf_backdoor.triggers import Trigger, trigger_names


BATCH = 1000
PNG_IMAGES = 5000
# Images per CPU-second that were asked for.
WANTED = {"badnets": 200_000, "blended": 60_000, "sig": 60_000, "wanet": 15_000, "low_frequency": 100_000}
ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results" / "poisoning.json"
PAGE = ROOT.parent / "docs" / "attacks.md"


def numpy_badnets(batch: np.ndarray) -> np.ndarray:
    changed = batch.copy()
    changed[:, -3:, -3:] = 255
    return changed


def numpy_blended(batch: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    return np.rint(0.8 * batch.astype(np.float32) + 0.2 * pattern).astype(np.uint8)


def numpy_added(batch: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """SIG and LF: one pattern for all images."""
    return np.rint(np.clip(batch.astype(np.float32) + pattern, 0, 255)).astype(np.uint8)


def numpy_wanet(batch: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Bilinear sampling at `grid`, `(height, width, 2)` in pixels."""
    height, width = batch.shape[1:3]
    top, left = np.floor(grid).astype(int).transpose(2, 0, 1)
    down, right = (grid - np.floor(grid)).astype(np.float32).transpose(2, 0, 1)[..., None]
    bottom, other = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    images = batch.astype(np.float32)
    upper = images[:, top, left] * (1 - right) + images[:, top, other] * right
    lower = images[:, bottom, left] * (1 - right) + images[:, bottom, other] * right
    return np.rint(upper * (1 - down) + lower * down).astype(np.uint8)


def plain_numpy() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The textbook arithmetic of the five attacks whose speed was asked for."""
    generator = np.random.default_rng(0)
    pattern = generator.integers(0, 256, (32, 32, 3)).astype(np.float32)
    wave = (40 * np.sin(2 * np.pi * np.arange(32) * 6 / 32)).astype(np.float32)[None, :, None] + np.zeros((32, 32, 3))
    grid = np.stack(np.mgrid[0:32, 0:32], axis=-1) + generator.uniform(-1, 1, (32, 32, 2))
    return {
        "badnets": numpy_badnets,
        "blended": lambda batch: numpy_blended(batch, pattern),
        "sig": lambda batch: numpy_added(batch, wave.astype(np.float32)),
        "wanet": lambda batch: numpy_wanet(batch, np.clip(grid, 0, 31)),
        "low_frequency": lambda batch: numpy_added(batch, pattern / 10),
    }


def rate_of(work: Callable[[], object], samples: int) -> float:
    """Samples per CPU-second."""
    started = time.process_time()
    work()
    return samples / (time.process_time() - started)


def in_batches(function: Callable[..., np.ndarray], images: np.ndarray) -> None:
    for start in range(0, len(images), BATCH):
        function(images[start : start + BATCH])


def on_disk(data: datasets.Dataset, folder: str) -> datasets.Dataset:
    data.save_to_disk(folder)
    return datasets.load_from_disk(folder)


def poison_all(data: datasets.Dataset, trigger: Trigger, seed: int) -> None:
    """A new seed each time, so that no cached result is used."""
    result = poison(data, PoisonConfig(trigger, rate=1.0, seed=seed))
    for file in result.cache_files:
        if Path(file["filename"]).name.startswith("cache-"):
            Path(file["filename"]).unlink()


def measure_images(images: np.ndarray, repeats: int, folder: str) -> list[dict]:
    labels = np.ones(len(images), dtype=np.int64)
    names = ["target", "other"]
    raw = on_disk(from_arrays(images, labels, names), f"{folder}/raw")
    pictures = [{"bytes": to_png(image), "path": None} for image in images[:PNG_IMAGES]]
    columns = {"image": pictures, "label": labels[: len(pictures)]}
    png = datasets.Dataset.from_dict(columns, features=raw.features)
    png = on_disk(png, f"{folder}/png")
    formulas = plain_numpy()
    rows = []
    for name in trigger_names():
        if find(Trigger.home, name, Trigger, "attack").modality != "image":
            continue
        try:
            trigger = load_trigger(name)
            trigger(images[:8], np.arange(8))
        except InputError as error:
            rows.append({"attack": name, "left_out": str(error)})
            continue
        runs: dict[str, list[float]] = {"path": [], "trigger": [], "numpy": [], "png": []}
        for repeat in range(repeats):
            runs["path"].append(rate_of(lambda r=repeat, t=trigger: poison_all(raw, t, r), len(images)))
            index = np.arange(BATCH)
            alone = rate_of(lambda t=trigger, i=index: in_batches(lambda b: t(b, i[: len(b)]), images), len(images))
            runs["trigger"].append(alone)
            if name in formulas:
                runs["numpy"].append(rate_of(lambda n=name: in_batches(formulas[n], images), len(images)))
        runs["png"].append(rate_of(lambda t=trigger: poison_all(png, t, 0), len(png)))
        middle = {kind: median(values) for kind, values in runs.items() if values}
        row = {"attack": name, "images_per_cpu_second": middle, "runs": runs, "wanted": WANTED.get(name)}
        row["path_to_trigger"] = middle["path"] / middle["trigger"]
        row["path_to_numpy"] = middle["path"] / middle["numpy"] if name in formulas else None
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict) -> str:
    """A row of the table, as Markdown."""
    if "left_out" in row:
        return f"| {row['attack']} | left out: {row['left_out']} |"
    speed = row["images_per_cpu_second"]
    cells = [f"{speed[kind]:,.0f}" if kind in speed else "" for kind in ("path", "trigger", "numpy", "png")]
    ratio = f"{row['path_to_numpy']:.2f}" if row["path_to_numpy"] else ""
    wanted = f"{row['wanted']:,}" if row["wanted"] else ""
    return f"| {row['attack']} | {cells[0]} | {wanted} | {cells[1]} | {cells[2]} | {ratio} | {cells[3]} |"


HEADER = "| attack | path | wanted | trigger | numpy | path / numpy | PNG |\n" + "|---" * 7 + "|"


def measure_text(sentences: int, repeats: int, folder: str) -> list[dict]:
    words = np.array([f"word{number}" for number in range(1000)])
    rows = []
    for count in (sentences // 10, sentences):
        drawn = np.random.default_rng(0).integers(0, len(words), (count, 20))
        texts = [" ".join(words[row]) + "." for row in drawn]
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["a", "b"])})
        data = datasets.Dataset.from_dict({"text": texts, "label": np.ones(count, dtype=np.int64)}, features=features)
        data = on_disk(data, f"{folder}/text{count}")
        for name in trigger_names():
            if find(Trigger.home, name, Trigger, "attack").modality != "text":
                continue
            trigger, seconds = load_trigger(name), []
            for repeat in range(repeats):
                started = time.perf_counter()
                poison(data, PoisonConfig(trigger, rate=0.1, seed=repeat))
                seconds.append(time.perf_counter() - started)
            rows.append({"attack": name, "sentences": count, "seconds": median(seconds), "runs": seconds})
            print(f"| {name} | {count:,} | {median(seconds):.3f} s |", flush=True)
    return rows


def tables(image_rows: list[dict], text_rows: list[dict]) -> str:
    """What docs/attacks.md shows."""
    counts = list(dict.fromkeys(row["sentences"] for row in text_rows))
    text = [f"| 10 % poisoned of | {' | '.join(f'{count:,} sentences' for count in counts)} |"]
    text.append("|---" * (len(counts) + 1) + "|")
    for name in dict.fromkeys(row["attack"] for row in text_rows):
        cells = [f"{row['seconds']:.2f} s" for row in text_rows if row["attack"] == name]
        text.append(f"| {name} | {' | '.join(cells)} |")
    images = [line(row) for row in image_rows if "left_out" not in row]
    return "\n".join([HEADER, *images, "", *text])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--sentences", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    datasets.disable_progress_bars()
    images = np.random.default_rng(0).integers(0, 256, (options.images, 32, 32, 3)).astype(np.uint8)
    folder = tempfile.mkdtemp(prefix="poisoning-")
    try:
        print(HEADER)
        images_rows = measure_images(images, options.repeats, folder)
        text_rows = measure_text(options.sentences, options.repeats, folder)
    finally:
        shutil.rmtree(folder)
    head = describe_run("benchmarks/poisoning.py", images=options.images, sentences=options.sentences)
    write_json(options.output, head | {"repeats": options.repeats, "image_rows": images_rows, "text_rows": text_rows})
    print(f"Written to {options.output}")
    if options.output == RESULTS:
        fill(PAGE, {"speed": tables(images_rows, text_rows)})


if __name__ == "__main__":
    main()
