"""For mkdocs: pages that stand elsewhere in the repository, and links to them."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[2]
OUTSIDE = {"../hw_models/README.md": "chip-files.md"}
"""By a link of a page in docs/: the page it becomes on the site."""


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for link, page in OUTSIDE.items():
        text = (ROOT / "docs" / link).resolve().read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Points links to them."""
    for link, page in OUTSIDE.items():
        markdown = markdown.replace(f"]({link}", f"]({page}")
    return markdown.replace("```sh fails", "```sh")
