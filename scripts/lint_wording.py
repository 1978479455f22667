"""Check user-facing text for words that are not plain English or not terms of the field, and the README's sentences.

Checked are the string literals of the code (messages, help texts, page texts; docstrings only with ``--docstrings``)
and the Markdown files. Run it from the repository's root; it prints ``file:line: word: text`` and exits with 1 for a
match, or when half of the README's sentences are longer than ``LONGEST_MEDIAN`` words.
"""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# Banned word -> what to write instead.
BANNED = {
    r"amiss": "wrong",
    r"eyes": "vision encoder",
    r"houses?": "architecture",
    r"(?<!there )(?:is|are) none|is no (?:name|text|token|number|string)\b": "is not a ...",
    r"lies in(?! \[)|lies at|lie in(?! \[)|lies there|lies beside": "is in",
    r"mend(?:s|ed|ing)?": "correct, repair",
    r"nobody|somebody": "no one named: say what is missing",
    r"(?<!make )rooms?": "package",
    r"told": "passed, set",
    r"thrice": "three times",
    r"verbs?(?!: \[)": "command",  # but a key of Kubernetes' roles
    r"walls?": "contract",
    r"what it is worth": "its value",
    r"not of yours|of yours, not|fault of ours": "internal error",
    r"whence|thither|shall be|be had": "plain English",
}
PATTERN = re.compile("|".join(rf"\b(?:{word})\b" for word in BANNED), re.IGNORECASE)
# Text that is data: what people say in the synthetic corpora and in the tiny model's pretraining.
DATA = ("emoverse/synthetic/", "emoverse/models/pretraining_", "tests/")
CODE = ("emoverse", "components", "pipelines")
LONGEST_MEDIAN = 15  # words in a sentence of the README


def tracked(*patterns: str) -> list[Path]:
    """Return the files that git tracks or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [path for name in sorted(set(done.stdout.splitlines())) if (path := Path(name)).is_file()]


def texts(path: Path, *, docstrings: bool) -> Iterator[tuple[int, str]]:
    """Yield ``(line, text)`` of what a person may read in a file."""
    content = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(content.splitlines(), 1)
        return
    tree = ast.parse(content)
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docs = {id(node.body[0].value) for node in ast.walk(tree)
            if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and (docstrings or id(node) not in docs):
            for number, line in enumerate(node.value.splitlines()):
                yield node.lineno + number, line


def problems(*, docstrings: bool) -> Iterator[str]:
    """Yield one line for each banned word."""
    code = [path for path in tracked("*.py", "*.jinja", "*.js") if str(path).startswith(CODE)]
    for path in [*code, *tracked("*.md")]:
        if path.name == "CHANGELOG.md" or str(path).startswith(DATA):
            continue
        for number, text in texts(path, docstrings=docstrings):
            if match := PATTERN.search(text):
                yield f"{path}:{number}: {match[0]!r}: {text.strip()[:120]}"


def sentences(markdown: str) -> list[str]:
    """Return the sentences of a Markdown text: of paragraphs and list items, not of code, headings and tables."""
    text = re.sub(r"^```.*?^```$", "\n\n", markdown, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?:#|\||!\[).*$|^\[.*(?:·|\))$", "\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    blocks = re.split(r"\n\s*\n|^\s*(?:[-*]|\d+\.) ", text, flags=re.MULTILINE)
    parts = (part for block in blocks for part in re.split(r"(?<=[.!?])\s+", " ".join(block.split())))
    return [part for part in parts if len(part.split()) > 1]


def words_per_sentence(markdown: str) -> float:
    """Return the median number of words in a sentence."""
    return statistics.median(len(sentence.split()) for sentence in sentences(markdown))


def main() -> int:
    """Print the problems; return the exit code."""
    lines = list(problems(docstrings="--docstrings" in sys.argv[1:]))
    median = words_per_sentence(Path("README.md").read_text("utf-8"))
    if median > LONGEST_MEDIAN:
        lines.append(f"README.md: the median sentence has {median:g} words, more than {LONGEST_MEDIAN}")
    done = "wording: no banned word in messages, help texts and documents"
    print("\n".join(lines) if lines else f"{done}; README: {median:g} words a sentence (median)")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
