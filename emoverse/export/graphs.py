"""Write a loaded InternVL as three ONNX graphs in fp32, fp16, int8 and int4, with the same bytes on every run."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from emoverse.compat.transformers import all_experts
from emoverse.config import ExportParams, Precision
from emoverse.errors import UserError
from emoverse.inference.onnx_engine import GRAPHS
from emoverse.inference.torch_engine import load_model

OPSET: Final = 20
BITS: Final = {"int8": 8, "int4": 4}
BLOCK: Final = 32  # weights that share a scale


def write_all(model: Path, out: Path, params: ExportParams) -> dict[str, Any]:
    """Write the graphs of a model folder in every precision of ``params``, the first into ``out`` itself.

    The others go into folders named after them. Half precision is traced from the model in half, so that norms stay in
    float32 as transformers computes them; 8 and 4 bits start from float32. Returns the decoder's sizes, as
    `write_graphs` does.
    """
    full, decoder = out / ".fp32", {}
    if {"fp32", *BITS} & set(params.precision):
        full.mkdir()
        decoder = write_graphs(load_model(model), full, params.one_file)
    for name, folder in precision_folders(out, params.precision).items():
        folder.mkdir(exist_ok=True)
        if name == "fp16":
            decoder = write_graphs(load_model(model).to(torch.float16), folder, params.one_file)
        elif name in BITS:
            quantise(full, folder, BITS[name], params.one_file)
        else:
            shutil.copytree(full, folder, dirs_exist_ok=True)
    shutil.rmtree(full, ignore_errors=True)
    return decoder


def precision_folders(out: Path, precisions: Sequence[Precision]) -> dict[Precision, Path]:
    """Return the folder of each precision's graphs: the first is ``out`` itself."""
    return {name: out if number == 0 else out / name for number, name in enumerate(precisions)}


def check_precisions(params: ExportParams) -> None:
    """Raise UserError unless every precision is named once and has a tolerance."""
    if not params.precision or len(set(params.precision)) != len(params.precision):
        problem = f"{list(params.precision)} names none or one twice"
        raise UserError(problem, place="export.precision", remedy="name each precision once")
    for name in params.precision:
        if name not in params.tolerance:
            raise UserError(f"{name} has no tolerance", place="export.tolerance", remedy="add one to params.yaml")


class _Vision(torch.nn.Module):
    """Frames (n, 3, height, width) to projected features (n, tokens per frame, hidden)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner = model.model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        output = self.inner.get_image_features(
            pixel_values=pixels.to(self.inner.dtype),
            vision_feature_layer=self.inner.config.vision_feature_layer,
            vision_feature_select_strategy=self.inner.config.vision_feature_select_strategy,
            return_dict=True,
        )
        features: torch.Tensor = output.pooler_output
        return features


class _Decoder(torch.nn.Module):
    """New embeddings, a mask, positions and a flat KV cache to logits at some columns and the longer cache."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.language, self.head = model.model.language_model, model.lm_head
        self.config = model.config.text_config

    def forward(
        self,
        embeds: torch.Tensor,
        mask: torch.Tensor,
        positions: torch.Tensor,
        columns: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        from transformers import DynamicCache

        pairs = list(zip(past[::2], past[1::2], strict=True))
        additive = torch.where(mask, 0.0, float("-inf")).to(embeds.dtype)  # once, not in every layer
        cache = DynamicCache(pairs, config=self.config)
        out = self.language(
            inputs_embeds=embeds, attention_mask=additive, position_ids=positions, past_key_values=cache, use_cache=True
        )
        logits = self.head(out.last_hidden_state.index_select(1, columns))
        present = [part for layer in out.past_key_values.layers for part in (layer.keys, layer.values)]
        return (logits.float(), *present)


def write_graphs(model: Any, folder: Path, one_file: int = 1 << 30) -> dict[str, int]:
    """Write ``vision.onnx``, ``embed.onnx`` and ``decoder.onnx``; return the sizes that the decoder's caller needs.

    Batch, sequence and past are dynamic, the past may be empty. A model in half precision gives graphs with half
    embeddings and cache; pixels and logits stay float32.

    Args:
        model: In eval mode on a CPU.
        folder: Where to write.
        one_file: A graph with more bytes of weights stores them in ``<name>.data`` beside it, as a protobuf file holds
            at most two gigabytes.
    """
    text, vision = model.config.text_config, model.config.vision_config
    heads = int(text.num_key_value_heads)
    size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
    layers, hidden = int(text.num_hidden_layers), int(text.hidden_size)
    replace_branching_rotary(model)
    batch, new, past, frames = (torch.export.Dim(name, max=1 << 20) for name in ("batch", "new", "past", "frames"))
    columns, clips = torch.export.Dim("kept", max=1 << 20), torch.zeros(2, 3, *vision.image_size)
    _export(
        _Vision(model), (clips,), ("pixels",), ("features",), {"pixels": {0: frames}}, folder / "vision.onnx", one_file
    )
    ids = torch.zeros(2, 5, dtype=torch.int64)
    shape = {"input": {0: batch, 1: new}}
    _export(model.get_input_embeddings(), (ids,), ("ids",), ("embeds",), shape, folder / "embed.onnx", one_file)
    cache = [torch.zeros(2, heads, 3, size, dtype=model.dtype) for _ in range(2 * layers)]
    arguments = (
        torch.zeros(2, 5, hidden, dtype=model.dtype),
        torch.ones(2, 1, 5, 8, dtype=torch.bool),
        torch.arange(3, 8).expand(2, 5).contiguous(),
        torch.tensor([3, 4]),
        cache,
    )
    shapes = {
        "embeds": {0: batch, 1: new},
        "mask": {0: batch, 2: new, 3: torch.export.Dim.AUTO},
        "positions": {0: batch, 1: new},
        "columns": {0: columns},
        "past": [{0: batch, 2: past}] * (2 * layers),
    }
    names = [f"{kind}_{i}" for i in range(layers) for kind in ("key", "value")]
    inputs = ("embeds", "mask", "positions", "columns", *(f"past_{name}" for name in names))
    outputs = ("logits", *(f"present_{name}" for name in names))
    with all_experts(model):
        _export(_Decoder(model), arguments, inputs, outputs, shapes, folder / "decoder.onnx", one_file)
    image_id = int(model.config.image_token_id)
    return {"layers": layers, "key_value_heads": heads, "head_size": size, "image_id": image_id}


def _export(
    module: torch.nn.Module,
    arguments: tuple[Any, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    shapes: Any,
    path: Path,
    one_file: int,
) -> None:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            arguments,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    strip(program.model)
    weights = (value.const_value for value in program.model.graph.initializers.values())
    size = sum(int(weight.nbytes) for weight in weights if weight is not None)
    program.save(path, external_data=size > one_file)


def strip(model: Any) -> None:
    """Remove stack traces and paths of this machine from an onnx_ir model's metadata and documentation."""
    model.metadata_props.clear()
    for graph in (model.graph, *model.functions.values()):
        graph.metadata_props.clear()
        graph.doc_string = None
        for value in (*graph.inputs, *graph.outputs, *getattr(graph, "initializers", {}).values()):
            value.metadata_props.clear()
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()


class LengthRotary(torch.nn.Module):
    """Compute cosines and sines as transformers' "dynamic" (InternLM2) and "longrope" (Phi-3) do, without branching.

    Frequencies switch where the largest position of the batch passes the original context. transformers keeps the
    frequencies of the longest "dynamic" sequence until a short one comes; this class has no state, so an answer does
    not depend on the calls before it.
    """

    def __init__(self, rotary: Any) -> None:
        super().__init__()
        rope = rotary.config.rope_parameters
        self.dynamic = rotary.rope_type == "dynamic"
        self.scaling = float(rotary.attention_scaling)
        self.inv_freq = torch.nn.Buffer(rotary.original_inv_freq.float())
        if self.dynamic:
            self.limit = int(rotary.config.max_position_embeddings)
            self.theta, self.factor = float(rope["rope_theta"]), float(rope["factor"])
        else:
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            self.limit = int(rope["original_max_position_embeddings"])
            longer, _ = ROPE_INIT_FUNCTIONS["longrope"](rotary.config, torch.device("cpu"), seq_len=self.limit + 1)
            self.long = torch.nn.Buffer(longer.float())

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (batch, new, head size) cosines and sines in ``x``'s type."""
        length = position_ids.max() + 1
        beyond = self._scaled(length) if self.dynamic else self.long
        frequencies = torch.where(length > self.limit, beyond, self.inv_freq)
        angles = position_ids[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return (angles.cos() * self.scaling).to(x.dtype), (angles.sin() * self.scaling).to(x.dtype)

    def _scaled(self, length: torch.Tensor) -> torch.Tensor:
        """Return the frequencies that NTK scaling gives this length; within the original context, the original ones."""
        size = 2 * self.inv_freq.numel()
        stretch = self.factor * length.clamp(min=self.limit) / self.limit - (self.factor - 1)
        base = self.theta * stretch ** (size / (size - 2))
        exponents = torch.arange(0, size, 2, dtype=torch.float32) / size
        return 1.0 / base**exponents


def replace_branching_rotary(model: Any) -> None:
    """Replace a rotary embedding that branches on the length, which a graph cannot express; leave any other."""
    language = model.model.language_model
    if language.rotary_emb.rope_type in ("dynamic", "longrope"):
        language.rotary_emb = LengthRotary(language.rotary_emb)


def quantise(source: Path, target: Path, bits: int, one_file: int) -> None:
    """Write the graphs of a float32 folder with linear layers quantised, symmetric, one scale a block.

    The vision encoder stays at 8 bits: it is small, and quantisation costs it more. The embedding table is looked up,
    not multiplied, so it is stored in float16.

    Args:
        source: Folder with the float32 graphs.
        target: Folder to write to.
        bits: 8 or 4.
        one_file: Bytes of weights from which a graph stores them in ``<name>.data`` beside it.
    """
    for name in GRAPHS:
        model = onnx.load(source / name)
        if name == "embed.onnx":
            _halve_table(model)
        else:
            model = _in_blocks(model, 8 if name == "vision.onnx" else bits)
        save_graph(model, target / name, one_file)


def _in_blocks(model: Any, bits: int) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(model, bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=1)
    logging.disable(logging.INFO)  # it logs every layer
    try:
        quantizer.process()
    finally:
        logging.disable(logging.NOTSET)
    return quantizer.model.model


def _halve_table(model: Any) -> None:
    """Store the table of the embedding graph in float16, cast to float32 after the lookup."""
    (node,), (table,) = model.graph.node, model.graph.initializer
    assert node.op_type == "Gather"
    half = numpy_helper.from_array(numpy_helper.to_array(table).astype(np.float16), table.name)
    table.CopyFrom(half)
    (out,) = node.output
    node.output[0] = f"{out}_half"
    model.graph.node.append(helper.make_node("Cast", [f"{out}_half"], [out], to=TensorProto.FLOAT))


def save_graph(model: Any, path: Path, one_file: int) -> None:
    """Write a graph; more than ``one_file`` bytes of weights go to ``<name>.data`` beside it."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size > one_file:
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    else:
        onnx.save_model(model, path)
