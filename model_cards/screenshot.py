"""A model card as a reader sees it: a picture of the page that a browser makes of it.

    pip install markdown-it-py                                         # and Chromium, e.g. apt install chromium
    python model_cards/screenshot.py runs/demo/purified page.png --section sequela

The card is Markdown of anybody's, so raw HTML in it is shown as text, and the page has no scripts.
"""

from __future__ import annotations

import argparse
import html
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from markdown_it import MarkdownIt

from hf_backdoor.cards.metadata import body_start, read_metadata
from hf_backdoor.cards.sections import sections


STYLE = """
body { font: 16px/1.5 "Liberation Sans", sans-serif; color: #1f2328; width: 860px; margin: 32px auto; }
h1, h2 { border-bottom: 1px solid #d1d9e0; padding-bottom: .3em; } img { max-width: 100%; }
table { border-collapse: collapse; } td, th { border: 1px solid #d1d9e0; padding: 6px 13px; }
tr:nth-child(2n) { background: #f6f8fa; } code { background: #eff1f3; padding: .1em .3em; border-radius: 4px; }
pre { background: #f6f8fa; padding: 16px; border-radius: 6px; } pre code { background: none; padding: 0; }
.tag { border: 1px solid #d1d9e0; border-radius: 12px; padding: 2px 10px; margin-right: 6px; font-size: 13px; }
"""


def page(folder: Path, section: str | None) -> str:
    """HTML of the card of a model's folder, or of one of its sections."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    tags = "".join(f'<span class="tag">{html.escape(str(tag))}</span>' for tag in read_metadata(card).get("tags", []))
    text = re.sub(r"<!--.*?-->\n?", "", card[body_start(card) :], flags=re.S)
    if section is not None:
        text, tags = sections(card)[section], ""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    base = folder.resolve().as_uri()
    return f'<!doctype html><base href="{base}/"><meta charset="utf-8"><style>{STYLE}</style>{tags}{body}'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("picture", type=Path, help="PNG to write")
    parser.add_argument("--section", help="only this section, e.g. sequela")
    parser.add_argument("--height", type=int, default=4000, help="of the page, in pixels")
    options = parser.parse_args()
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    if browser is None:
        raise SystemExit("no Chromium found; install one, e.g. apt install chromium")
    with tempfile.TemporaryDirectory() as work:
        source = Path(work) / "card.html"
        source.write_text(page(options.folder, options.section), encoding="utf-8")
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-background-networking"]
        flags += [f"--user-data-dir={work}/profile", f"--window-size=960,{options.height}"]
        subprocess.run([browser, *flags, f"--screenshot={options.picture.resolve()}", source.as_uri()], check=True)


if __name__ == "__main__":
    main()
