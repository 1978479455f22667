"""What we rely on in Kubeflow Pipelines beyond its public interface; a failure here names what an upgrade changed."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml
from google.protobuf import json_format, struct_pb2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kfp import compiler, dsl
from kfp.components import load_component_from_file
from kfp.dsl.constants import WORKSPACE_MOUNT_PATH

from emoverse.artifacts.digests import canonical
from emoverse.compat import kfp as compat
from emoverse.config import Params, load_params, plain
from pipelines.options import SECTIONS

REPO = Path(__file__).resolve().parents[2]


def test_a_runs_workspace_is_mounted_where_we_say() -> None:
    assert compat.WORKSPACE == WORKSPACE_MOUNT_PATH


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_survives_kubeflows_dictionaries_which_make_every_number_a_float(name: str) -> None:
    params = load_params(REPO / "params.yaml")
    section = getattr(params, name)
    message = json_format.Parse(json.dumps(plain(section)), struct_pb2.Value())
    arrived = json_format.MessageToDict(message)
    assert compat.section(type(section), arrived, place=name) == section
    assert canonical(plain(compat.section(type(section), arrived, place=name))) == canonical(plain(section))


def test_whole_numbers_are_restored_at_any_depth_and_others_kept() -> None:
    value = {"a": 7.0, "b": [1.5, 2.0, {"c": True}], "d": "1.0", "e": None}
    assert compat.whole_numbers(value) == {"a": 7, "b": [1.5, 2, {"c": True}], "d": "1.0", "e": None}
    assert isinstance(compat.whole_numbers(value)["a"], int)


def test_the_header_of_a_compiled_file_prints_defaults_that_we_can_sort(tmp_path: Path) -> None:
    @dsl.component(base_image="python")
    def step(values: dict) -> None: ...

    @dsl.pipeline(name="sorted")
    def one(values: dict = {"b": 1, "a": {"d": 2.5, "c": [3]}}) -> None:  # noqa: B006
        step(values=values)

    compiler.Compiler().compile(one, str(tmp_path / "p.yaml"))
    documents = [json_format.MessageToDict(one.pipeline_spec)]
    text = compat.with_printable_header((tmp_path / "p.yaml").read_text("utf-8"), documents)
    assert "#    values: dict [Default: {'a': {'c': [3], 'd': 2.5}, 'b': 1}]" in text


ODD = ["\u2028", "\u2029", "\x85", "\x7f", "\x80", "\x91", "\x9f", "\ufeff", "\x07", "\x00", "\n", "\r\n", "\t", "'",
       '"', "\\n", "]", "#", "---\n", "\ncomponents:", "{{$.inputs}}", "ü", "你", "\U0001f9d1"]  # fmt: skip


@pytest.mark.parametrize("kind", [str, dict, list])
@given(text=st.lists(st.one_of(st.sampled_from(ODD), st.text(st.characters(exclude_categories=["Cs"]))), max_size=6))
@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_text_survives_in_the_compiled_file(kind: type, text: list[str]) -> None:
    value: Any = "a" + "".join(text) + "b"
    value = {"k": value} if kind is dict else [value] if kind is list else value

    @dsl.component(base_image="python")
    def step(value: kind) -> None: ...

    @dsl.pipeline(name="odd")
    def one(value: kind = value) -> None:
        step(value=value)

    with TemporaryDirectory() as folder:
        path = Path(folder, "p.yaml")
        compiler.Compiler().compile(one, str(path))
        documents = [json_format.MessageToDict(one.pipeline_spec)]
        path.write_text(compat.with_printable_header(path.read_text("utf-8"), documents), "utf-8")
        (written,) = yaml.safe_load_all(path.read_text("utf-8"))
        assert written["root"]["inputDefinitions"]["parameters"]["value"]["defaultValue"] == value
        assert load_component_from_file(str(path)).pipeline_spec == one.pipeline_spec


def test_an_error_of_the_local_runner_loses_its_colours() -> None:
    assert compat.message_of(RuntimeError("Task \x1b[96m'x'\x1b[0m failed.")) == "Task 'x' failed"


def test_every_section_of_the_parameters_has_a_class() -> None:
    assert set(SECTIONS) < set(Params.__annotations__)
