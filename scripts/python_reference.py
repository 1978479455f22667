"""Generate the reference of the Python interface: signatures and docstrings, read without importing anything."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

from emoverse.registry import STEPS

REPO = Path(__file__).resolve().parents[1]

PUBLIC = (
    ("Use an exported model", "emoverse.serving.predictor", ("load_predictor", "Predictor", "Prediction", "Answer")),
    ("", "emoverse.serving.predictor", ("predict_dialogue", "DialoguePrediction")),
    ("", "emoverse.serving.clips", ("Limits",)),
    ("Score replies", "emoverse.evaluation.score_file", ("score_file", "compare_files")),
    ("Read outputs", "emoverse.artifacts.manifest", ("open_source", "Source", "read_manifest")),
    ("", "emoverse.media.frames", ("FrameStore",)),
    ("", "emoverse.artifacts.tables", ("read_utterances",)),
    ("Parameters", "emoverse.config", ("load_params",)),
    ("", "emoverse.profiles", ("names", "profile_text")),
    ("Add a corpus", "emoverse.corpora", ("Corpus", "Utterance", "Reading", "Quarantined")),
    ("Add a task", "emoverse.tasks", ("Task", "Context", "Question", "Scorer")),
    ("Errors", "emoverse.errors", ("UserError",)),
)


def python() -> str:
    """Return signatures and docstrings of the public interface, and of each step's function."""
    parts = []
    for title, module, names in (
        *PUBLIC,
        *(("Steps" if n == 0 else "", s.module, (s.function.partition(":")[2],)) for n, s in enumerate(STEPS.values())),
    ):
        if title:
            parts.append(f"## {title}\n")
        parts += [described(module, name) for name in names]
    return "\n".join(parts)


def described(module: str, name: str) -> str:
    """Return one function or class: its signature, its docstring, and its public methods; nothing is imported."""
    path = REPO / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    (node,) = (n for n in ast.parse(path.read_text("utf-8")).body if getattr(n, "name", "") == name)
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    code = signature(node)
    doc = markdown(ast.get_docstring(node) or "")
    if isinstance(node, ast.ClassDef):
        methods = [n for n in node.body if isinstance(n, ast.FunctionDef) and not n.name.startswith("_")]
        doc += "".join(
            f"\n\n- `{signature(n).removeprefix('def ')}`: {(ast.get_docstring(n) or '').partition(chr(10))[0]}"
            for n in methods
        )
    return f"### {module}.{name}\n\n```python\n{code}\n```\n\n{doc}\n"


def signature(node: ast.FunctionDef | ast.ClassDef) -> str:
    """Return a function's signature, or a class with its annotated attributes."""
    if isinstance(node, ast.FunctionDef):
        returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"def {node.name}({ast.unparse(node.args)}){returns}"
    fields = [ast.unparse(n) for n in node.body if isinstance(n, ast.AnnAssign) and not ast.unparse(n).startswith("_")]
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    return f"class {node.name}{bases}" + (":\n" + textwrap.indent("\n".join(fields), "    ") if fields else "")


def markdown(docstring: str) -> str:
    """Return a docstring in Markdown: double backticks as code, Args and the like as bold words and lists."""
    text = re.sub(r"\n {8,}", " ", docstring).replace("``", "`").replace("<", "&lt;")
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    text = re.sub(r"^(Args|Returns|Raises|Attributes):$", r"\n**\1**\n", text, flags=re.MULTILINE)
    text = re.sub(r"^    (\*{0,2}\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)
    return re.sub(r"^    (?=\S)", "", text, flags=re.MULTILINE)  # what is returned, a paragraph and no code


def attribute_comments(path: Path, name: str) -> dict[str, str]:
    """Return the comments at the end of the lines that declare a class's attributes."""
    lines = path.read_text("utf-8").splitlines()
    (node,) = (n for n in ast.parse("\n".join(lines)).body if isinstance(n, ast.ClassDef) and n.name == name)
    return {
        item.target.id: lines[item.lineno - 1].partition("  # ")[2]
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
