"""Generate the reference pages from the code: parameters, commands, steps, tables, profiles, tasks."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter

from emoverse import profiles as profile_files
from emoverse import tasks as all_tasks
from emoverse.cli import COMMANDS
from emoverse.config import Params
from emoverse.registry import STEPS
from scripts.python_reference import attribute_comments

REPO = Path(__file__).resolve().parents[1]
LINE = re.compile(r"( *)([\w-]+):(?: [^#]*)?(?:# ?(.*))?$")


def table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a Markdown table; vertical bars in cells are escaped."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines
    )


# Parameters


def comments() -> dict[str, str]:
    """Return the comment of each line of params.yaml, by the dotted key; comment lines that follow are joined."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in (REPO / "params.yaml").read_text("utf-8").splitlines():
        if match := LINE.fullmatch(line):
            indent = len(match[1])
            parents = [parent for parent in parents if parent[0] < indent] + [(indent, match[2])]
            found[".".join(key for _, key in parents)] = (match[3] or "").strip()
    return found


def leaves(schema: Mapping[str, Any], tree: Any, path: str, whole: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, schema, value in params.yaml or None) of each parameter below a section."""
    if "$ref" in schema:
        schema = whole["$defs"][schema["$ref"].rpartition("/")[2]]
    if "properties" not in schema:
        yield path, schema, tree
        return
    for name, inner in schema["properties"].items():
        value = tree.get(name) if isinstance(tree, dict) else None
        yield from leaves(inner, value, f"{path}.{name}", whole)


def kind(schema: Mapping[str, Any], whole: Mapping[str, Any]) -> str:
    """Return what a value must be, in words."""
    if "$ref" in schema:
        target = whole["$defs"][schema["$ref"].rpartition("/")[2]]
        return f"mapping with {', '.join(f'`{name}`' for name in target['properties'])}"
    if "anyOf" in schema:
        return " or ".join(kind(option, whole) for option in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    name = {"integer": "whole number", "number": "number", "boolean": "`true`, `false`", "string": "text"}.get(
        schema["type"], ""
    )
    if schema["type"] == "array":
        return f"list of {kind(schema['items'], whole)}"
    if schema["type"] == "object":
        return f"mapping to {kind(schema.get('additionalProperties', {'type': 'string'}), whole)}"
    limits = [f"{word} {schema[key]:g}" for key, word in LIMITS.items() if key in schema and schema[key] < 1 << 31]
    return ", ".join((name, *limits))


LIMITS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def meaning_of(key: str, comment: Mapping[str, str]) -> str:
    """Return a parameter's meaning: its comment in params.yaml, its twin's, or what the code says of it."""
    name = key.partition(".")[2]
    for twin in (key, key.replace("stage2.", "stage1."), f"train.{name}"):
        if comment.get(twin):
            return comment[twin]
    last = key.rpartition(".")[2]
    for node in ast.parse((REPO / "emoverse/config.py").read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef) and last in (
            own := attribute_comments(REPO / "emoverse/config.py", node.name)
        ):
            about = " ".join((ast.get_docstring(node) or "").split())
            text = [text for text in re.split(r"(?<=[.;]) ", about) if f"``{last}``" in text]
            if own[last] or text:
                return own[last] or text[0].replace("``", "`").rstrip(".;")
    return ""


def all_parameters() -> dict[str, list[tuple[str, str, str, str]]]:
    """Return (key, type, default, meaning) of each parameter, by section of params.yaml."""
    tree = yaml.safe_load((REPO / "params.yaml").read_text("utf-8"))
    whole = TypeAdapter(Params).json_schema()
    meaning = comments()
    sections: dict[str, list[tuple[str, str, str, str]]] = {}
    for section in tree:
        source = "stage1" if section == "train" else section
        values = {**tree["train"], **tree[section]} if section == "stage2" else tree[section]
        for key, schema, value in leaves(whole["properties"][source], values, section, whole):
            shared = section in ("stage1", "stage2") and f"{section}.{key.partition('.')[2]}" not in meaning
            if shared or (
                section == "train" and key not in meaning and key.partition(".")[2] in tree["stage1"] | tree["stage2"]
            ):
                continue
            default = value if value is not None else schema.get("default")
            shown = "" if default is None or isinstance(default, dict) else f"`{yaml_text(default)}`"
            sections.setdefault(section, []).append((key, kind(schema, whole), shown, meaning_of(key, meaning)))
    order = {key: number for number, key in enumerate(meaning)}
    return {name: sorted(rows, key=lambda row: order.get(row[0], len(order))) for name, rows in sections.items()}


def yaml_text(value: Any) -> str:
    """Return a value as params.yaml writes it."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip().removesuffix("\n...")
    return text if len(text) < 60 else text[:57] + "..."


def runs_again(section: str) -> list[str]:
    """Return the DVC stages that a change of a section runs again, what follows from them included."""
    stages = {
        name: stage.get("do", stage)
        for name, stage in yaml.safe_load((REPO / "dvc.yaml").read_text("utf-8"))["stages"].items()
    }
    made = {
        out.replace("/${key}", ""): name
        for name, stage in stages.items()
        for out in stage["outs"]
        if isinstance(out, str)
    }
    again = [name for name, stage in stages.items() if section in stage.get("params", [])]
    if section == "corpora":
        again = ["validate", *again]
    for name, stage in stages.items():
        if name not in again and any(made.get(dep) in again for dep in stage.get("deps", [])):
            again.append(name)
    return [name for name in stages if name in again]


def parameters() -> str:
    """Return the parameters, section by section."""
    tops = comments()
    parts = []
    for section, rows in all_parameters().items():
        about = tops.get(section, "")
        again = ", ".join(f"`{name}`" for name in runs_again(section))
        parts.append(f"## {section}\n\n{sentence(about)}\n\nA change runs again: {again}.\n")
        cells = ((f"`{key}`", *rest) for key, *rest in rows)
        parts.append(table(("parameter", "type", "sample", "meaning"), cells) + "\n")
    return "\n".join(parts)


# Commands


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    built = {}
    for name, (module, text) in COMMANDS.items():
        parser = argparse.ArgumentParser(prog=f"emoverse {name}", description=text)
        getattr(importlib.import_module(module), f"add_{name.replace('-', '_')}_options")(parser)
        built[name] = parser
    return built


def commands() -> str:
    """Return the commands with their options."""
    parts = [
        table(("command", "what it does"), ((f"[`{name}`](#{name})", text) for name, (_, text) in COMMANDS.items()))
        + "\n"
    ]
    for name, parser in parsers().items():
        step = " It is a [step](steps.md)." if name in STEPS else ""
        parts.append(f"## {name}\n\n{sentence(COMMANDS[name][1])}{step}\n")
        rows = ((option_text(action), help_text(action)) for action in parser._actions if action.dest != "help")
        parts.append(table(("option", "meaning"), rows) + "\n")
    return "\n".join(parts)


def sentence(text: str) -> str:
    """Return a text with a capital letter and a full stop."""
    return text[:1].upper() + text[1:].rstrip(". ") + "."


def option_text(action: argparse.Action) -> str:
    """Return an option with its value, as it is typed."""
    value = action.metavar or (
        ",".join(map(str, action.choices)) if action.choices else "" if action.nargs == 0 else action.dest.upper()
    )
    many = " ..." if action.nargs == "+" else ""
    head = ", ".join(action.option_strings)
    shown = f"{head} {value}{many}".strip()
    return f"`{shown}`" + (" (required)" if action.required and action.option_strings else "")


def help_text(action: argparse.Action) -> str:
    """Return an option's help with its percent signs resolved."""
    return (
        (action.help or "") % {"default": action.default}
        if "%(" in (action.help or "")
        else (action.help or "").replace("%%", "%")
    )


# Steps, tables, profiles, tasks


def steps() -> str:
    """Return the table of steps as the registry declares them."""
    rows = (
        (
            f"`{step.name}`",
            ", ".join(f"`{name}`" for name in step.inputs),
            ", ".join(f"`{name}`" for name in step.outputs),
            ", ".join(f"[`{name}`](parameters.md#{name})" for name in step.sections),
            step.image,
            ", ".join(f"`{name}`" for name in step.stages) or "on a cluster, or by hand",
        )
        for step in STEPS.values()
    )
    head = ("step", "reads", "writes", "sections of params.yaml", "image", "DVC stages")
    libraries = ((f"`{step.name}`", f"`{step.function}`", ", ".join(step.libraries)) for step in STEPS.values())
    return (
        table(head, rows)
        + "\n\n## Functions and libraries\n\n"
        + table(("step", "function", "libraries whose version decides"), libraries)
    )


def tables() -> str:
    """Return the columns of the Parquet tables, with the comments beside them in the code."""
    source = (REPO / "emoverse/artifacts/tables.py").read_text("utf-8")
    meanings = attribute_comments(REPO / "emoverse/corpora/__init__.py", "Utterance")
    parts = []
    for name, block in re.findall(
        r"^(UTTERANCES|PROBES|QUARANTINE): Final = pa\.schema\(\n(.*?)^\)", source, re.MULTILINE | re.DOTALL
    ):
        fields = re.findall(
            r'pa\.field\("(\w+)", pa\.(.*?\)+)(, nullable=False)?\),(?:  # (.*))?$', block, re.MULTILINE
        )
        rows = (
            (
                f"`{field}`",
                plain_type(kind_),
                "" if required else "yes",
                comment or (meanings.get(field, "") if name == "UTTERANCES" else ""),
            )
            for field, kind_, required, comment in fields
        )
        files = {"UTTERANCES": "utterances.parquet", "PROBES": "probe.parquet", "QUARANTINE": "quarantine.parquet"}
        parts.append(f"### {files[name]}\n\n" + table(("column", "type", "may be null", "meaning"), rows) + "\n")
    return "\n".join(parts)


def plain_type(text: str) -> str:
    """Return ``list of float64`` for ``list_(pa.float64())``."""
    return text.replace("list_(pa.", "list of ").replace("()", "").replace(")", "").strip("_")


def profiles() -> str:
    """Return the profiles and what each is about."""

    def about(name: str) -> str:
        lines = (line for line in profile_files.profile_text(name).splitlines() if line.startswith("# "))
        text = " ".join(line.removeprefix("# ") for line in lines)
        return text.partition("Here: ")[2]

    return table(("profile", "what it is for"), ((f"`{name}`", about(name)) for name in profile_files.names()))


def tasks() -> str:
    """Return the tasks with their headline score."""
    rows = ((f"`{name}`", task.title, f"`{task.headline}`") for name, task in all_tasks.tasks().items())
    return table(("task", "title", "headline score"), rows)
