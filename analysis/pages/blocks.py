"""A page as a list of blocks, written as Markdown, as HTML or for a terminal.

A page is composed once; each format is one function over its blocks.
"""

import base64
import io
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup, escape

from analysis.pages.tabular import Tabular, markdown_escape, markdown_tabular, text_tabular

MAX_ONE_LINE = 30
"""Letters of a name that is kept on one line of a table."""
MAX_EMBEDDED_BYTES = 120_000
"""A larger PNG is embedded in a page as WebP, at most so many pixels wide and in all:"""
MAX_EMBEDDED_WIDTH = 1400
MAX_EMBEDDED_PIXELS = 5_000_000
_MAX_WEBP_SIDE = 16_383


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Picture:
    """A picture file; the report in HTML carries it inside, the one in Markdown links to it."""

    path: Path
    caption: str


Block = Tabular | Heading | Paragraph | Bullets | Code | Picture


def _markdown_picture(picture: Picture, folder: Path) -> str:
    link = picture.path.relative_to(folder).as_posix().replace(" ", "%20")
    return f"![{markdown_escape(picture.caption)}]({link})\n\n{markdown_escape(picture.caption)}"


def _fenced(text: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}\n{text}\n{fence}"


def markdown(title: str, blocks: Sequence[Block], folder: Path) -> str:
    """The report as Markdown; pictures are linked relative to `folder`, where it will lie."""

    def block_text(block: Block) -> str:
        match block:
            case Tabular():
                return markdown_tabular(block)
            case Heading():
                return f"{'#' * block.level} {markdown_escape(block.text)}"
            case Paragraph():
                return markdown_escape(block.text)
            case Bullets():
                return "\n".join(f"- {markdown_escape(item)}" for item in block.items)
            case Code():
                return _fenced(block.text)
            case Picture():
                return _markdown_picture(block, folder)

    return "\n\n".join([f"# {markdown_escape(title)}", *map(block_text, blocks)]) + "\n"


def terminal(blocks: Sequence[Block]) -> str:
    """The page as plain text."""

    def block_text(block: Block) -> str:
        match block:
            case Tabular():
                return text_tabular(block)
            case Heading():
                return block.text.upper()
            case Paragraph() | Code():
                return block.text
            case Bullets():
                return "\n".join(block.items)
            case Picture():
                return f"{block.caption}: {block.path}"

    return "\n\n".join(map(block_text, blocks))


def html_page(title: str, blocks: Sequence[Block]) -> str:
    """The page as HTML that needs no other file: style, script and pictures are inside."""
    import jinja2  # here, since most commands write no HTML

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("analysis.pages"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["embedded"] = _embedded
    environment.filters["wrapped"] = _wrapped
    environment.globals["one_line"] = MAX_ONE_LINE
    anchored = list(zip(blocks, _anchors(blocks), strict=True))
    return environment.get_template("page.html").render(
        title=title,
        blocks=[(type(block).__name__, block, anchor) for block, anchor in anchored],
        contents=[
            {"text": block.text, "level": block.level, "anchor": anchor}
            for block, anchor in anchored
            if isinstance(block, Heading)
        ],
    )


def _anchors(blocks: Sequence[Block]) -> list[str]:
    """What a link to each heading names, no two alike; of a part, with its section's in front."""
    section, found, taken = "", list[str](), set[str]()
    for block in blocks:
        if not isinstance(block, Heading):
            found.append("")
            continue
        words = "-".join(re.findall(r"[a-z0-9]+", block.text.lower())) or "section"
        wanted = words if block.level <= 2 else f"{section}-{words}"
        anchor = next(
            name
            for number in itertools.count(1)
            if (name := wanted if number == 1 else f"{wanted}-{number}") not in taken
        )
        if block.level <= 2:
            section = anchor
        taken.add(anchor)
        found.append(anchor)
    return found


def _wrapped(name: str) -> Markup:
    """A long name, which wraps between its parts, where `,` and `.` divide them."""
    return Markup(re.sub(r",+|[.](?=[a-z])", r"\g<0><wbr>", str(escape(name))))


def _embedded(path: Path) -> str:
    """A picture file as a data URL; a large PNG becomes a smaller WebP."""
    media_type = "svg+xml" if path.suffix == ".svg" else path.suffix.lstrip(".")
    content = path.read_bytes()
    if media_type == "png" and len(content) > MAX_EMBEDDED_BYTES:
        media_type, content = "webp", _as_webp(path)
    return f"data:image/{media_type};base64,{base64.b64encode(content).decode()}"


def _as_webp(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        picture = image.convert("RGB")
    width, height = picture.size
    shrink = min(
        1.0,
        MAX_EMBEDDED_WIDTH / width,
        (MAX_EMBEDDED_PIXELS / (width * height)) ** 0.5,
        _MAX_WEBP_SIDE / height,
    )
    picture.thumbnail((round(width * shrink), round(height * shrink)))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=75)
    return buffer.getvalue()
