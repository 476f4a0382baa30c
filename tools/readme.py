"""README.md from nbs/index.ipynb, without Quarto: `python tools/readme.py` writes it, with `--check` it only compares.

nbdev's own processors read the directives (`#| hide`, `#| filter_stream`, …); what is left of each cell becomes Markdown here.
Code and its text, Markdown and HTML outputs are kept. Pictures are left out: a README has no place to put them."""
import argparse
import posixpath
import re
import sys
from pathlib import Path

from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, filter_stream_, hide_, hide_line, rm_export, strip_ansi

from nonspeech7k.files import write_text

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "nbs" / "index.ipynb"
NOTICE = "<!-- Made from nbs/index.ipynb by `make readme`; edit the notebook, not this file. -->"

_link = re.compile(r"(\]\()([^)\s]+)(\))")
_elsewhere = re.compile(r"[a-z][a-z0-9+.-]*:|[#/]", re.IGNORECASE)  # an address, an anchor, an absolute path
_style = re.compile(r"<style.*?</style>\s*", re.DOTALL)  # GitHub would show the rules as text
_picture = re.compile(r"!\[[^]]*\]\(data:[^)]*\)|<img[^>]*src=[\"']data:[^>]*>")


def _text(value) -> str:
    "A notebook's text, which may be one string or a list of lines."
    return value if isinstance(value, str) else "".join(value)


def _fenced(text: str, language: str) -> str:
    "A code block, in a fence that is longer than any within it."
    longest = max(map(len, re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{language}\n{text.strip(chr(10))}\n{fence}"


def _from_root(text: str) -> str:
    "Markdown in which links that are relative to nbs/ have become relative to the repository, outside code blocks."
    def target(match):
        before, link, after = match.groups()
        if not _elsewhere.match(link): link = posixpath.normpath(posixpath.join("nbs", link))
        return before + link + after
    parts = re.split(r"(^```.*?^```)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(part if part.startswith("```") else _link.sub(target, part) for part in parts)


def _output(output) -> str:
    "One output as Markdown; empty for a picture, and for what went to standard error."
    if output["output_type"] == "error": raise SystemExit(f"{INDEX.name}: a cell failed with {output['ename']}; mend it and run it again")
    if output["output_type"] == "stream":
        return _fenced(_text(output["text"]), "text") if output["name"] == "stdout" and _text(output["text"]).strip() else ""
    data = output["data"]
    if "text/markdown" in data: return _picture.sub("", _from_root(_text(data["text/markdown"]))).strip()
    if "text/html" in data: return _picture.sub("", _style.sub("", _text(data["text/html"]))).strip()
    if "text/plain" in data and not any(kind.startswith("image/") for kind in data): return _fenced(_text(data["text/plain"]), "text")
    return ""


def _cell(cell) -> list[str]:
    "A cell's blocks of Markdown: its text, or its code and each output."
    if cell.cell_type == "markdown": return [_picture.sub("", _from_root(cell.source)).strip()]
    said = {name.rstrip(":"): args for name, args in cell.directives_.items()}
    hidden = {name for name in ("include", "echo", "output") if said.get(name, [""])[0].lower() == "false"}
    if cell.cell_type != "code" or "include" in hidden: return []
    code = "\n".join(line for line in cell.source.splitlines() if not re.match(r"\s*#\s*\|", line)).strip()
    blocks = [_fenced(code, "python")] if code and "echo" not in hidden else []
    return blocks + [_output(output) for output in cell.get("outputs", []) if "output" not in hidden]


def readme(notebook: str | Path = INDEX) -> str:
    "The README that a notebook makes."
    processors = [strip_ansi, hide_line, filter_stream_, rm_export, clean_magics, hide_]
    cells = NBProcessor(notebook, procs=processors, process=True).nb.cells
    blocks = [NOTICE] + [block for cell in cells for block in _cell(cell)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="README.md from nbs/index.ipynb")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where README.md differs")
    check = parser.parse_args().check
    path, text = ROOT / "README.md", readme()
    if path.exists() and path.read_text(encoding="utf-8") == text: return 0
    if check:
        print("README.md is not what nbs/index.ipynb makes; run: make readme", file=sys.stderr)
        return 1
    write_text(path, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
