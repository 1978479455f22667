"""List every error message with its remedy, for the page *Troubleshooting*: read from the places that raise it.

The code is the only catalogue. A message is read from the syntax tree of its ``UserError(problem, place=, remedy=)``.
Variable parts become ``...``; a name is followed to what its function, or the callers of that function, give it.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
FOLDERS = ("emoverse", "components", "pipelines")
ERRORS = ("UserError", "RowErrors", "NoAnswerError", "RedirectError")
# What is said of one row or clip -> the places of its reason and of its text among the arguments.
ROWS = {"BadRow": (1, 2), "ClipError": (0, 1), "Fault": (0, 1)}
GAP = "..."
OR = " / or: "  # between remedies of which one fits
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
ASSIGNING = (ast.Assign, ast.AnnAssign, ast.NamedExpr, ast.AugAssign, ast.For, ast.comprehension)
MOST = 12  # texts that one expression may stand for


@dataclass(frozen=True, order=True)
class Message:
    """One message: what is wrong and what to do, ``...`` for what varies; the module and line that raise it."""

    problem: str
    remedy: str
    module: str
    line: int


class Module:
    """The syntax tree of one module, with what is needed to follow names in it."""

    def __init__(self, path: Path) -> None:
        self.name = ".".join(path.relative_to(REPO).with_suffix("").parts)
        self.tree = ast.parse(path.read_text("utf-8"))
        nodes = list(ast.walk(self.tree))
        self.parents = {child: node for node in nodes for child in ast.iter_child_nodes(node)}
        self.calls: dict[str, list[ast.Call]] = defaultdict(list)
        for node in nodes:
            if isinstance(node, ast.Call):
                self.calls[getattr(node.func, "id", "") or getattr(node.func, "attr", "")].append(node)
        self.functions = [node for node in nodes if isinstance(node, ast.FunctionDef)]
        self.assignments: dict[ast.AST, list[ast.AST]] = {}

    def enclosing(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the functions around a node, from the inside out, then the module."""
        while node in self.parents:
            node = self.parents[node]
            if isinstance(node, Function):
                yield node
        yield self.tree

    def raises(self) -> Iterator[ast.Call]:
        """Yield the calls that make an error."""
        for name in ERRORS:
            yield from (call for call in self.calls[name] if isinstance(call.func, ast.Name))

    def texts(self, node: ast.expr | None, depth: int = 0) -> list[str]:
        """Return the texts that an expression may have, with ``...`` for what cannot be known."""
        if isinstance(node, ast.Constant):
            return [str(node.value)] if isinstance(node.value, str) else [GAP]
        if isinstance(node, ast.JoinedStr):
            return product([self.texts(part, depth) for part in node.values])
        if isinstance(node, ast.FormattedValue):
            inner = (
                self.texts(node.value, depth + 1) if isinstance(node.value, ast.IfExp | ast.Name | ast.BinOp) else [GAP]
            )
            return inner if node.conversion == -1 else [GAP]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
            return product([self.texts(node.left, depth), self.texts(node.right, depth)])
        if isinstance(node, ast.IfExp):
            return unique([*self.texts(node.body, depth), *self.texts(node.orelse, depth)])
        if isinstance(node, ast.BoolOp):
            return unique(text for value in node.values for text in self.texts(value, depth))
        if isinstance(node, ast.Tuple | ast.List):
            return unique(text for value in node.elts for text in self.texts(value, depth))
        if isinstance(node, ast.Dict):
            return unique(text for value in node.values for text in self.texts(value, depth))
        if isinstance(node, ast.GeneratorExp | ast.ListComp):
            return self.texts(node.elt, depth)
        if isinstance(node, ast.Subscript | ast.Starred):
            return self.texts(node.value, depth)
        if isinstance(node, ast.Name) and depth < 4:
            return self.values(node, depth + 1)
        if isinstance(node, ast.Call):
            return self.results(node, depth + 1)
        return [GAP]

    def results(self, call: ast.Call, depth: int) -> list[str]:
        """Return the texts that a call may return: of a function of this module, or of ``did_you_mean``."""
        function = call.func
        if isinstance(function, ast.Name) and function.id == "did_you_mean":
            return ["did you mean ...?"]
        if isinstance(function, ast.Attribute) and function.attr in (
            "get",
            "join",
            "removeprefix",
            "removesuffix",
            "strip",
        ):
            given = call.args and (function.attr == "join" or (function.attr == "get" and len(call.args) == 2))
            return self.texts(call.args[-1] if given else function.value, depth)
        if isinstance(function, ast.Name) and depth < 4:
            for node in self.functions:
                if node.name == function.id:
                    found = [self.texts(r.value, depth) for r in ast.walk(node) if isinstance(r, ast.Return)]
                    return unique(text for texts in found for text in texts) or [GAP]
        return [GAP]

    def values(self, name: ast.Name, depth: int) -> list[str]:
        """Return the texts that a name may have: what is assigned to it, or what callers pass for a parameter."""
        for scope in self.enclosing(name):
            if scope not in self.assignments:
                self.assignments[scope] = [node for node in ast.walk(scope) if isinstance(node, ASSIGNING)]
            found = [texts for node in self.assignments[scope] for texts in self.assigned(node, name.id, depth)]
            if isinstance(scope, ast.FunctionDef) and any(a.arg == name.id for a in every_argument(scope)):
                found += self.passed(scope, name.id, depth)
            if found:
                return unique(text for texts in found for text in texts)
        return [GAP]

    def assigned(self, node: ast.AST, name: str, depth: int) -> Iterator[list[str]]:
        """Yield the texts that a node assigns to a name, as the whole target or as a part of a tuple."""
        targets: list[ast.expr] = []
        value: ast.expr | None = None
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr | ast.AugAssign):
            targets, value = [node.target], node.value
        elif isinstance(node, ast.For | ast.comprehension):
            targets, value = [node.target], node.iter
        for target in targets:
            if isinstance(target, ast.Name) and target.id == name and value is not None:
                yield self.texts(value, depth)
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple | ast.IfExp | ast.List):
                for place, item in enumerate(target.elts):
                    if isinstance(item, ast.Name) and item.id == name:
                        yield from (self.texts(part, depth) for part in parts_at(value, place))

    def passed(self, function: ast.FunctionDef, name: str, depth: int) -> list[list[str]]:
        """Return the texts that calls in this module pass for a parameter, its default included."""
        arguments = [argument.arg for argument in every_argument(function)]
        place = arguments.index(name) - (arguments[0] in ("self", "cls"))
        found = []
        for node in self.calls[function.name]:
            by_name = [keyword.value for keyword in node.keywords if keyword.arg == name]
            by_place = [node.args[place]] if not by_name and len(node.args) > place else []
            found += [self.texts(value, depth) for value in (*by_name, *by_place)]
        return found


def every_argument(function: ast.FunctionDef) -> list[ast.arg]:
    """Return all parameters of a function."""
    return [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]


def parts_at(value: ast.expr, place: int) -> Iterator[ast.expr]:
    """Yield the part of a tuple at a place; of a conditional, of both its tuples; of a tuple of tuples, of each."""
    if isinstance(value, ast.IfExp):
        yield from parts_at(value.body, place)
        yield from parts_at(value.orelse, place)
    elif isinstance(value, ast.Tuple | ast.List):
        if value.elts and all(isinstance(item, ast.Tuple) for item in value.elts):
            for item in value.elts:
                yield from parts_at(item, place)
        elif len(value.elts) > place:
            yield value.elts[place]


def product(parts: Iterable[list[str]]) -> list[str]:
    """Return every concatenation of one text of each part; at most MOST, the rest replaced by ``...``."""
    whole = [""]
    for texts in parts:
        whole = [head + text for head in whole for text in (texts if len(whole) * len(texts) <= MOST else [GAP])]
    return unique(whole)


def unique(texts: Iterable[str]) -> list[str]:
    """Return each text once, in order."""
    return list(dict.fromkeys(texts))


def cleaned(text: str) -> str:
    """Return a message with one ``...`` for adjacent variable parts, on one line."""
    text = re.sub(r"\.\.\.(?:[\s,:;'(/.]*\.\.\.)+", GAP, " ".join(text.split()))
    text = text.lstrip(":;, ").rstrip(": ")
    return text.rstrip(") ") if text.count(")") > text.count("(") else text


@cache
def modules() -> tuple[Module, ...]:
    """Return all modules that may raise an error for the user."""
    return tuple(Module(path) for folder in FOLDERS for path in sorted((REPO / folder).rglob("*.py")))


def argument(call: ast.Call, name: str, place: int | None) -> ast.expr | None:
    """Return an argument of a call by its name or place."""
    by_place = call.args[place] if place is not None and len(call.args) > place else None
    return next((keyword.value for keyword in call.keywords if keyword.arg == name), by_place)


@cache
def messages() -> tuple[Message, ...]:
    """Return every message, in alphabetical order; one that only passes on another error's text has ``...`` for it."""
    found = set()
    for module in modules():
        for call in module.raises():
            remedies = [cleaned(text) for text in module.texts(argument(call, "remedy", None))]
            remedy = OR.join(unique(text for text in remedies if has_text(text)))
            problems = unique(cleaned(text) for text in module.texts(argument(call, "problem", 0)))
            for problem in [text for text in problems if has_text(text)] or [GAP]:
                found.add(Message(problem, remedy, module.name, call.lineno))
    return tuple(sorted(found, key=lambda m: (m.problem.lstrip(GAP + " '`<-").lower(), m)))


@cache
def row_messages() -> tuple[tuple[str, str], ...]:
    """Return (message, reason) of what is said of single rows and clips, in the quarantine or in a list of bad rows."""
    found = set()
    for module in modules():
        for name, (reason, detail) in ROWS.items():
            for call in module.calls[name]:
                codes = [
                    text for text in module.texts(argument(call, "reason", reason)) if re.fullmatch(r"[a-z-]+", text)
                ]
                found |= {(cleaned(text), ", ".join(codes)) for text in module.texts(argument(call, "detail", detail))}
        for call in module.calls["append"]:
            if isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in ("problems", "self.problems"):
                found |= {(cleaned(text), "") for text in module.texts(call.args[0])}
    return tuple(
        sorted((pair for pair in found if has_text(pair[0])), key=lambda pair: pair[0].lstrip(GAP + " :'`").lower())
    )


def has_text(text: str) -> bool:
    """Return whether a text says enough to be searched for: a word besides what varies."""
    return bool(re.search(r"[A-Za-z]{2,}", text.replace(GAP, " ")))


TOPICS = {
    "Parameters and commands": (
        "emoverse.cli",
        "emoverse.config",
        "emoverse.profiles",
        "emoverse.errors",
    ),
    "Corpora, archives and downloads": (
        "emoverse.corpora",
        "emoverse.fetching",
        "emoverse.artifacts.archives",
        "emoverse.compat.dvc",
    ),
    "Clips and validation": ("emoverse.media", "emoverse.validation"),
    "The instruction dataset": ("emoverse.amt", "emoverse.tasks"),
    "Base models and prompts": ("emoverse.models", "emoverse.prompt", "emoverse.budget"),
    "Training": ("emoverse.training",),
    "Evaluation and prediction files": ("emoverse.evaluation", "emoverse.inference"),
    "Export, predict, demo and report": ("emoverse.export", "emoverse.serving", "emoverse.report"),
    "Outputs and manifests": ("emoverse.artifacts",),
    "Servers and endpoints": ("emoverse.http", "emoverse.chat_client"),
    "Kubeflow": ("components", "pipelines", "emoverse.compat", "emoverse.kubernetes_api"),
}
"""Heading -> the packages whose messages it lists; the first that fits is taken."""


def topic(module: str) -> str:
    """Return the heading that a module's messages are listed under; raise LookupError for a new package."""
    for name, packages in TOPICS.items():
        if any(module == package or module.startswith(package + ".") for package in packages):
            return name
    raise LookupError(f"{module}: give its package a heading in TOPICS of scripts/messages.py")


def as_markdown() -> str:
    """Return the catalogue, topic by topic."""
    rows: dict[str, dict[str, list[str]]] = {name: {} for name in TOPICS}
    for message in messages():
        shown = message.problem if message.problem != GAP else "(the message of a row, a server or a library)"
        rows[topic(message.module)].setdefault(shown, []).append(message.remedy)
    parts = [
        f"{sum(map(len, rows.values())) + len(row_messages())} messages. `...` stands for a name, a number or a path.\n"
    ]
    for name, entries in rows.items():
        lines = [
            f"| {cell(problem)} | {cell(OR.join(unique(filter(None, remedies))))} |"
            for problem, remedies in entries.items()
        ]
        parts.append("\n".join((f"### {name}\n", "| message | what to do |", "| --- | --- |", *lines)) + "\n")
    lines = [f"| {cell(text)} | {f'`{reason}`' if reason else ''} |" for text, reason in row_messages()]
    parts.append(
        "\n".join(("### Single rows and clips\n", "| message | reason in the quarantine |", "| --- | --- |", *lines))
        + "\n"
    )
    return "\n".join(parts)


def cell(text: str) -> str:
    """Return a text as a cell of a Markdown table, shown as it is; text in backticks stays code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick without its partner
        parts = [text.replace("`", "'")]
    for number in range(0, len(parts), 2):
        parts[number] = re.sub(r"([\\*_\[\]<>#{}~])", r"\\\1", parts[number])
    return "`".join(parts).replace("|", "\\|").replace(OR, "<br>or: ")


def quarantine() -> str:
    """Return what each reason for setting a row aside means."""
    from emoverse.validation.results import MEANING

    return "\n".join(
        ("| reason | meaning |", "| --- | --- |", *(f"| `{code}` | {text} |" for code, text in MEANING.items()))
    )
