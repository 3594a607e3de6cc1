"""Values that tests are made of, each with defaults that nobody has to know: a test names only what matters to it.

Of the device half and NumPy alone, for they are used where nothing else is installed.
"""

import dataclasses
import json
import math
from collections.abc import Mapping

import numpy as np

from fieldtune.adapters.adapter import PREFIX, Adapter, AdapterCard
from fieldtune.adapters.tensors import StoredTensor, TensorFile
from fieldtune.bundle.layout import BaseWeight, Layout, ParameterSpec
from fieldtune.bundle.manifest import (
    MANIFEST_NAME,
    BaseModelSpec,
    FileSpec,
    GraphSpec,
    ImageSpec,
    Manifest,
    MergedSpec,
    MergeParitySpec,
    OrtParitySpec,
    OrtTrainingSpec,
    PackedSpec,
    PackingCost,
    ParitySpec,
    QuantizedAccuracy,
    SplitSpec,
    TargetSpec,
    TaskSpec,
    TensorSpec,
    TextSpec,
)
from fieldtune.bundle.node_tables import FORMAT_VERSION as TABLE_VERSION
from fieldtune.bundle.node_tables import Node, NodeTable, Quantization, Value
from fieldtune.bundle.opening import Bundle, file_spec
from fieldtune.hardware.installed import RuntimeFeatures
from fieldtune.hardware.reading import FORMAT_VERSION as PROFILE_VERSION
from fieldtune.hardware.specs import (
    Accelerator,
    CpuSpec,
    DetectSpec,
    DpuLimits,
    ExecutionSpec,
    HardwareProfile,
    MemorySpec,
    RuntimeSpec,
    Source,
    TrainingSpec,
)
from fieldtune.placement.reports.report import PlacementReport, ProviderShare
from fieldtune.runtime.providers import choose_provider
from fieldtune.tasks.answering import QuestionExample
from fieldtune.tasks.answering.questions import Span
from fieldtune.tasks.interface import Figure
from fieldtune.training.backends.choice import BackendChoice
from fieldtune.training.config import TrainConfig
from fieldtune.training.evaluation import Evaluation
from fieldtune.training.records import DataCounts, EpochRecord, EvaluationRecord, StepRecord
from fieldtune.training.report import Subject, TrainReport

CORTEX_A53 = (
    "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid\nCPU implementer\t: 0x41\nCPU part\t: 0xd03\n"
)
"""Of /proc/cpuinfo, as logs of a ZCU104 have it (MIDR 0x410fd034)."""
VITIS, CPU = "VitisAIExecutionProvider", "CPUExecutionProvider"
LABELS = ("negative", "positive")
QUERY, WORDS = f"{PREFIX}bert.query", f"{PREFIX}bert.words"
IN, OUT, VOCAB, DIM = 3, 4, 5, 3


def altered(value, **changes):
    """Another dataclass with other values of these fields; a dictionary alters the dataclass that a field holds."""
    for name, change in changes.items():
        held = getattr(value, name)
        if dataclasses.is_dataclass(held) and isinstance(change, dict):
            changes[name] = altered(held, **change)
    return dataclasses.replace(value, **changes)


def rewrite(path, **changes):
    """Put other values of some keys into a JSON file."""
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


# Bundles.


def text_spec(**changes):
    values = {
        "max_length": 8,
        "pad_token_id": 0,
        "stop_token_ids": (),
        "special_tokens": {},
        "chat_template": None,
    }
    return TextSpec(**{**values, **changes})


def image_spec(height=8, width=8, channels=3, **changes):
    values = {"resize": None, "resample": "bilinear", "mean": (0.5,) * channels, "std": (0.25,) * channels}
    return ImageSpec(height=height, width=width, channels=channels, **{**values, **changes})


def tensor_spec(name, *shape, dtype="float32", pad=0):
    return TensorSpec(name=name, dtype=dtype, shape=shape, pad=pad)


def graph_spec(name="infer", **changes):
    values = {
        "path": f"graphs/{name}.onnx",
        "nodes": f"graphs/{name}.nodes.json",
        "opset": 18,
        "ir_version": 8,
        "min_ort": "1.16.3",
        "inputs": (),
        "outputs": (),
        "adapter_inputs": (),
    }
    return GraphSpec(**{**values, **changes})


def target_spec(profile, /, **changes):
    """The prefix for the accelerator of a profile, as the build would write it."""
    accelerator = profile.accelerator
    values = {
        "profile": profile.name,
        "target": accelerator.target,
        "graph": f"prefix_{profile.name}",
        "precision": accelerator.precision,
        "activation_type": accelerator.activation_type,
        "zero_point": accelerator.zero_point,
        "batch": accelerator.batch,
        "quantizer": "test",
        "calibration_examples": 1,
        "accuracy": None,
        "reference": f"graphs/prefix_{profile.name}.reference.safetensors",
    }
    return TargetSpec(**{**values, **changes})


def parameter(key, axes, **facts):
    """A tensor of theta; ``axes`` is name → size, and its module what stands before the first dot, if none is given."""
    values = {"module": key.partition(".")[0], "offset": 0, "decay": True}
    return ParameterSpec(key=key, axes=tuple(axes), shape=tuple(axes.values()), **{**values, **facts})


def layout(*parameters):
    """Parameters one behind another, whatever their offsets were."""
    placed, offset = [], 0
    for one in parameters:
        placed.append(dataclasses.replace(one, offset=offset))
        offset += one.size
    return Layout(tuple(placed))


def base_model(**changes):
    values = {
        "id": "some/base",
        "revision": None,
        "sha256": "a" * 64,
        "architecture": "Bert",
        "licence": None,
        "dtypes": {},
    }
    return BaseModelSpec(**{**values, **changes})


def manifest(*, task="text-classification", labels=LABELS, **changes):
    """A bundle's for texts with nothing to train and no graph; for images, if ``image`` is given."""
    values = {
        "base": base_model(),
        "task": TaskSpec(name=task, labels=tuple(labels)),
        "method": "lora",
        "text": text_spec() if changes.get("image") is None else None,
        "image": None,
        "peft_config": {},
        "layout": Layout(()),
        "graphs": {},
        "parity": (),
        "tools": {},
        "files": {},
    }
    return Manifest(**{**values, **changes})


def full_manifest():
    """A bundle's for texts that has all that a manifest can have, but for what excludes each other."""
    ids, edge = tensor_spec("input_ids", "batch", "sequence", dtype="int64", pad=1), tensor_spec("b", "batch", 4)
    lora_b = tensor_spec("q.lora_B.weight", "rank", 4)
    board = profile(accelerator=Accelerator(target="DPUCZDX8G_ISA1_B4096", family="dpu"))
    accuracy = QuantizedAccuracy(
        measure="model", examples=9, before=0.75, after=0.5, after_half_up=0.25, boundary_snr_db=30.0
    )
    ends = {"prefix": (ids, edge), "suffix_infer": (edge, edge), "infer": (ids, edge), "prefix_board": (ids, edge)}
    return manifest(
        base=base_model(
            revision="main",
            licence="mit",
            dtypes={"w": "bfloat16"},
            packed=PackedSpec(
                recipe="int4/64/symmetric",
                matrices={"q": "int4/64/symmetric", "embeddings": "int8"},
                kept={"patches": "a convolution"},
                cost=(
                    PackingCost(
                        batch=2, sequence=9, loss=0.5, packed_loss=0.625, gradient_cosine=0.875, outputs_relative=0.125
                    ),
                ),
            ),
        ),
        method="dora",
        text=text_spec(stop_token_ids=(2, 3), special_tokens={"bos_token": "<s>"}, chat_template="{{ messages }}"),
        peft_config=lora_config(),
        layout=layout(
            parameter(
                "q.m", {"out_features": 4}, decay=False, weight=BaseWeight(name="q.weight", axes=("out_features", "in"))
            ),
            parameter("q.b", {"out_features": 4, "rank": 2}, transposed=True, scaled=True),
            parameter("head.bias", {"features": 2}, decay=False, optional=True, replaces="head.bias"),
        ),
        graphs={
            name: graph_spec(name, inputs=(given,), outputs=(found,), adapter_inputs=(lora_b,))
            for name, (given, found) in ends.items()
        },
        parity=(
            ParitySpec(
                batch=2,
                sequence=8,
                loss_relative=1e-6,
                gradient_relative=1e-5,
                inference_relative=1e-6,
                vanishing_gradients=("q.b",),
            ),
        ),
        tools={"torch": "2.13"},
        files={"graphs/infer.onnx": FileSpec(sha256="0" * 64, size_bytes=5)},
        ort_training=OrtTrainingSpec(
            training_model="t",
            eval_model="e",
            optimizer_model="o",
            checkpoint="c",
            nominal_checkpoint="n",
            runtime="1.19.2",
            parity=(OrtParitySpec(batch=2, sequence=8, loss_relative=1e-6, gradient_relative=1e-5),),
        ),
        split=SplitSpec(boundary=(edge,)),
        targets={"board": target_spec(board, accuracy=accuracy, unmeasured="as it is small")},
    )


def merged_manifest():
    """A bundle's for images that has an adapter in its weights."""
    measured = MergeParitySpec(batch=2, sequence=0, loss_relative=1e-6, inference_relative=1e-6)
    merged = MergedSpec(
        adapter="a", adapter_sha256="0" * 64, peft_config=lora_config(), base_sha256="a" * 64, parity=(measured,)
    )
    return manifest(task="image-classification", image=image_spec(resize=9), merged=merged)


def write_bundle(root, described, contents):
    """Write files (path → bytes) and the manifest that describes them; return the bundle, unopened.

    Files that the manifest knows already stay as it has them, whether they are there or not.
    """
    for path, data in contents.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    files = {**described.files, **{path: file_spec(root / path) for path in contents}}
    described = dataclasses.replace(described, files=files)
    root.mkdir(parents=True, exist_ok=True)
    (root / MANIFEST_NAME).write_text(described.to_json(), encoding="utf-8")
    return Bundle(root, described)


def table_bundle(root, *tables, boundary=(), targets=(), theta=100, min_ort="1.16.3"):
    """A bundle for images of which there are a manifest and node tables alone: more is not needed to check it."""
    graphs, contents = {}, {}
    absent = {"graphs/weights.safetensors": FileSpec(sha256="0" * 64, size_bytes=1_000_000)}
    for table in tables:
        spec = graph_spec(
            table.graph,
            min_ort=min_ort,
            inputs=_specs(table, [name for name in table.inputs if name not in table.initializers]),
            outputs=_specs(table, table.outputs),
        )
        graphs[table.graph] = spec
        contents[spec.nodes] = table_text(table).encode()
        absent[spec.path] = FileSpec(sha256="0" * 64, size_bytes=5000)
    described = manifest(
        task="image-classification",
        image=image_spec(),
        peft_config={"r": 4},
        layout=layout(parameter("a", {"rank": 4, "in_features": theta // 4})),
        graphs=graphs,
        files=absent,
        split=SplitSpec(boundary=boundary) if boundary else None,
        targets={one.name: target_spec(one) for one in targets},
    )
    return write_bundle(root, described, contents)


def whole_tables():
    """The tables of three graphs of one product each; the weight is 4,000,000 bytes large."""
    for name in ("gradient", "eval", "infer"):
        made = Graph()
        pixels = made.input("pixel_values", "batch", 3, 8, 8)
        flat = made.add("Reshape", [pixels], ("batch", 192), name="flat")
        weight = made.constant("w", 192, 5208, bytes_=192 * 5208 * 4)
        out = made.add("MatMul", [flat, weight], ("batch", 5208), name="product", macs=("batch", 5208, 192))
        yield made.table(out, name=name)


def prefix_table(found, middle="Relu", conv=None, *, dynamic=False):
    """The table of a quantized prefix for a profile's accelerator."""
    batch = "batch" if dynamic else found.accelerator.batch
    made = Graph(found.accelerator.activation_type, found.accelerator.zero_point)
    x = made.quantize(made.input("pixel_values", batch, 3, 8, 8))
    first = made.conv(x, "stem", **(conv or {}))
    activated = made.quantize(made.add(middle, [made.quantize(first)], (batch, 16, 8, 8), name="middle"))
    return made.table(made.quantize(made.conv(activated, "last")), name=f"prefix_{found.name}")


BOUNDARY = tensor_spec("b", "batch", 16, 8, 8)
"""Of what ``split_tables`` has the tables of."""


def split_tables(*profiles, **prefix):
    """The tables of a split bundle: a quantized prefix for each profile, the prefix, whole graphs and suffixes."""
    yield from (prefix_table(one, **prefix) for one in profiles)
    made = Graph()
    yield made.table(made.add("Relu", [made.input("pixel_values", "batch", 3, 8, 8)], BOUNDARY.shape, name="b"))
    for name in ("gradient", "eval", "infer"):
        made = Graph()
        x = made.input("pixel_values", "batch", 3, 8, 8)
        yield made.table(made.add("ReduceMean", [x], ("batch",)), name=name)
        made = Graph()
        x = made.input(BOUNDARY.name, *BOUNDARY.shape)
        weight = made.constant("w", 1024, 10, bytes_=40_960)
        flat = made.add("Reshape", [x], ("batch", 1024))
        yield made.table(
            made.add("MatMul", [flat, weight], ("batch", 10), macs=("batch", 10, 1024)), name=f"suffix_{name}"
        )


def _specs(table, names):
    return tuple(tensor_spec(name, *table.values[name].shape, dtype=table.values[name].dtype) for name in names)


# Node tables.


def quantization(scale=0.125, zero_point=0, *, dtype="int8", axis=None):
    """Of one scale, or of as many as are given."""
    scales = tuple(scale) if isinstance(scale, tuple | list) else (scale,)
    return Quantization(scale=scales, zero_point=(zero_point,) * len(scales), axis=axis, dtype=dtype)


def node(op, inputs=(), outputs=(), **changes):
    values = {"name": "", "module": "", "attributes": {}, "macs": (), "quantization": None}
    return Node(op=op, inputs=tuple(inputs), outputs=tuple(outputs), **{**values, **changes})


def node_table(*nodes, inputs=(), outputs=(), **changes):
    """Nodes as they are; ``Graph`` counts along what they read and write."""
    values = {"graph": "prefix", "opset": 18, "initializers": (), "values": {}}
    return NodeTable(nodes=nodes, inputs=tuple(inputs), outputs=tuple(outputs), **{**values, **changes})


class Graph:
    """A node table in the making; every method returns the name of the value that it adds."""

    def __init__(self, dtype="int8", zero_point=0):
        self.dtype, self.zero_point = dtype, zero_point
        self.inputs, self.initializers, self.values, self.nodes = [], [], {}, []

    def input(self, name, *shape, dtype="float32"):
        self.inputs.append(name)
        self.values[name] = Value(dtype=dtype, shape=shape)
        return name

    def constant(self, name, *shape, dtype="float32", value=None, bytes_=1):
        self.initializers.append(name)
        self.values[name] = Value(dtype=dtype, shape=shape, constant_bytes=bytes_, value=value)
        return name

    def add(self, op, inputs, shape, *, name=None, dtype="float32", macs=(), quantization=None, **attributes):
        name = f"{op}{len(self.nodes)}" if name is None else name
        output = f"{name or op + str(len(self.nodes))}.out"
        self.values[output] = Value(dtype=dtype, shape=shape)
        self.nodes.append(
            node(op, inputs, [output], name=name, attributes=attributes, macs=macs, quantization=quantization)
        )
        return output

    def quantize(self, value, position=4, *, dtype=None, zero_point=None, scale=None):
        found = quantization(
            2.0**-position if scale is None else scale,
            self.zero_point if zero_point is None else zero_point,
            dtype=dtype or self.dtype,
        )
        shape = self.values[value].shape
        quantized = self.add("QuantizeLinear", [value], shape, dtype=found.dtype, quantization=found)
        return self.add("DequantizeLinear", [quantized], shape, quantization=found)

    def weight(self, name, *shape, position=7, dtype="int8", scale=None, zero_point=0, axis=None):
        stored = self.constant(name, *shape, dtype=dtype, bytes_=math.prod(shape))
        found = quantization(scale or 2.0**-position, zero_point, dtype=dtype, axis=axis)
        return self.add("DequantizeLinear", [stored], shape, quantization=found)

    def conv(self, value, name, channels=16, kernel=(3, 3), group=1, **changes):
        batch, inner, height, width = self.values[value].shape
        inner //= group or 1
        weight = self.weight(f"{name}.weight", channels, inner, *kernel)
        attributes = {
            "strides": [1, 1],
            "pads": [kernel[0] // 2, kernel[1] // 2] * 2,
            "dilations": [1, 1],
            "kernel_shape": list(kernel),
            "group": group,
        } | changes
        attributes = {key: setting for key, setting in attributes.items() if setting is not None}
        shape = (batch, channels, height, width)
        macs = (*shape, inner, *kernel)
        return self.add("Conv", [value, weight], shape, name=name, macs=macs, **attributes)

    def gemm(self, value, name, out, **changes):
        rows, inner = self.values[value].shape
        weight = self.weight(f"{name}.weight", out, inner)
        return self.add("Gemm", [value, weight], (rows, out), name=name, macs=(rows, out, inner), transB=1, **changes)

    def table(self, *outputs, name="prefix", opset=18):
        return node_table(
            *self.nodes,
            graph=name,
            opset=opset,
            inputs=self.inputs,
            outputs=outputs,
            initializers=tuple(self.initializers),
            values=self.values,
        )


def table_text(table):
    """A node table as the dev box writes it."""
    values = {
        name: {"dtype": value.dtype, "shape": value.shape}
        | ({} if value.constant_bytes is None else {"bytes": value.constant_bytes})
        | ({} if value.value is None else {"value": value.value})
        for name, value in table.values.items()
    }
    nodes = [{**dataclasses.asdict(one), "attributes": one.attributes} for one in table.nodes]
    whole = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    return json.dumps({"format_version": TABLE_VERSION, **whole, "values": values, "nodes": nodes})


# Hardware profiles, and where graphs run on them.


def profile(**changes):
    """A board of which nothing is known but its name; ``altered`` changes parts of a part."""
    values = {
        "format_version": PROFILE_VERSION,
        "name": "board",
        "title": "A board",
        "support": "current",
        "description": "",
        "cpu": CpuSpec(),
        "memory": MemorySpec(),
        "execution": ExecutionSpec(),
        "runtime": RuntimeSpec(),
        "training": TrainingSpec(),
        "accelerator": None,
        "detect": DetectSpec(),
        "sources": (),
    }
    return HardwareProfile(**{**values, **changes})


def full_profile():
    """A board with all that a profile can say of one."""
    limits = DpuLimits(
        input_channel_parallel=16,
        output_channel_parallel=32,
        pixel_parallel=8,
        kernel_min=1,
        kernel_max=16,
        kernel_area_max=64,
        stride_min=1,
        stride_max=8,
        bank_num=16,
        bank_width=16,
        bank_depth=2048,
        activations=("relu", "leaky_relu"),
        channel_groups_max=255,
        leaky_relu_alpha=0.5,
        shift_cut_min=1,
        shift_cut_max=15,
        add_shift_read_max=6,
    )
    return profile(
        support="legacy",
        description="An old board.",
        cpu=CpuSpec(
            architecture="aarch64", model="M", cores=6, frequency_hz=10**9, gflops=2.5, features=("asimd", "asimddp")
        ),
        memory=MemorySpec(total_bytes=10, available_for_app_bytes=7),
        execution=ExecutionSpec(
            provider=VITIS,
            options={"config_file": "a.json"},
            on_missing="cpu",
            stack="vitis-ai-3.5",
            plugin_library="/usr/lib/ep.so",
            min_offload=0.5,
            max_partitions=2,
            compile_timeout_s=90,
            simulate_latency=True,
            compile_s=60.0,
        ),
        runtime=RuntimeSpec(
            ort_version="1.17",
            threads=2,
            prepacking=False,
            arena=False,
            arena_extend="as-requested",
            memory_pattern=False,
            graph_optimization="basic",
        ),
        training=TrainingSpec(batch_size=2, gradient_accumulation=4, max_length=64, backend="portable"),
        accelerator=Accelerator(
            target="DPUCZDX8G_ISA1_B4096",
            family="dpu",
            peak_tops=61.0,
            batch=14,
            activation_type="uint8",
            zero_point=128,
            opset_min=13,
            opset_max=18,
            memory_bytes=9,
            limits=limits,
            extra={"cores": 3, "names": ["a"]},
        ),
        detect=DetectSpec(device_tree=("Board",), pci_ids=("1022:17f0",)),
        sources=(Source(what="cpu.model", where="the label"),),
    )


def runtime_features(version="1.23.2", providers=(CPU,), **changes):
    return RuntimeFeatures(
        **{"version": version, "has_lora_adapter": True, "has_training_api": False, "providers": providers, **changes}
    )


def machine(root, *, model="", cpu=CORTEX_A53, cores=4, memory_mib=0, pci=(), at="proc/device-tree/model"):
    """Lay out what a Linux machine shows of itself below a folder."""
    files = {"proc/cpuinfo": "\n".join(f"processor\t: {core}\nBogoMIPS\t: 66.66\n{cpu}" for core in range(cores))}
    if memory_mib:
        files["proc/meminfo"] = f"MemTotal:        {memory_mib * 1024} kB\nMemFree:          812345 kB\n"
    if model:
        files[at] = f"{model}\0"
    for index, pci_id in enumerate(pci):
        vendor, device = pci_id.split(":")
        files[f"sys/bus/pci/devices/0000:c6:00.{index}/vendor"] = f"0x{vendor}\n"
        files[f"sys/bus/pci/devices/0000:c6:00.{index}/device"] = f"0x{device}\n"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def profile_text(found):
    """A profile as TOML; what is None is left out."""
    data = dataclasses.asdict(found)
    data["source"] = data.pop("sources")
    return toml_text(data)


def toml_text(data):
    """A table as TOML, its tables inline."""
    return "".join(f"{json.dumps(key)} = {_toml(value)}\n" for key, value in data.items() if value is not None)


def _toml(value):
    if isinstance(value, Mapping):
        inner = (f"{json.dumps(key)} = {_toml(held)}" for key, held in value.items() if held is not None)
        return f"{{ {', '.join(inner)} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        # TOML's escapes are JSON's, but for halves of surrogate pairs; DEL has to be escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def placement_report(**changes):
    """A prefix on the DPU of a VEK280, 99 % of it."""
    values = {
        "profile": "vek280",
        "target": "DPUCV2DX8G_ISA1_C20B14",
        "graph": "prefix_vek280",
        "requested": VITIS,
        "actual": VITIS,
        "emulated": False,
        "reason": "as the profile vek280 says",
        "batch": 14,
        "shares": shares((90, 990), (10, 10)),
        "partitions": 1,
        "boundary_bytes": 4096,
        "cpu_operators": {"Softmax": 10},
        "cache_identity": "",
        "estimated_run_s": None,
    }
    return PlacementReport(**{**values, **changes})


def shares(accelerator, cpu, provider=VITIS):
    """What a provider and the CPU run, each as its number of nodes and of multiply-accumulates."""
    counts = ((provider, *accelerator), (CPU, *cpu))
    return tuple(ProviderShare(provider=name, nodes=nodes, macs=macs) for name, nodes, macs in counts)


# Adapters.

_LORA_FACTS = {
    "lora_a": {"axes": ("rank", "in_features"), "transposed": True},
    "lora_b": {"axes": ("out_features", "rank"), "transposed": True, "scaled": True},
    "lora_embedding_a": {"axes": ("rank", "num_embeddings"), "transposed": True},
    "lora_embedding_b": {"axes": ("embedding_dim", "rank"), "transposed": True, "scaled": True},
    "lora_bias": {"axes": ("out_features",), "scaled": True, "optional": True, "decay": False},
    "bias": {"axes": ("features",), "optional": True, "decay": False},
}


def lora_config(**changes):
    """An adapter_config.json of LoRA with every kind of bias, and a key that nobody knows."""
    values = {
        "zeta": {"from": "a later release"},
        "peft_type": "LORA",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": "some/base",
        "r": 2,
        "lora_alpha": 8,
        "bias": "lora_only",
        "lora_bias": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "inference_mode": False,
    }
    return {**values, **changes}


def lora_rows(rank=2):
    """A linear layer, an embedding and a head: (key, kind, module, shape) of each tensor."""
    return [
        (f"{QUERY}.lora_A.weight", "lora_a", "bert.query", (rank, IN)),
        (f"{QUERY}.lora_B.weight", "lora_b", "bert.query", (OUT, rank)),
        (f"{QUERY}.lora_B.bias", "lora_bias", "bert.query", (OUT,)),
        (f"{QUERY}.base_layer.bias", "bias", "bert.query", (OUT,)),
        (f"{WORDS}.lora_embedding_A", "lora_embedding_a", "bert.words", (rank, VOCAB)),
        (f"{WORDS}.lora_embedding_B", "lora_embedding_b", "bert.words", (DIM, rank)),
        (f"{PREFIX}classifier.bias", "saved", "classifier", (len(LABELS),)),
        (f"{PREFIX}classifier.weight", "saved", "classifier", (len(LABELS), OUT)),
    ]


def lora_parameter(key, kind, module, shape):
    """One tensor of LoRA; one that stands in for the base's where its kind is "bias" or "saved"."""
    facts = dict(_LORA_FACTS.get(kind, {}))
    axes = facts.pop("axes", ("out_features", "in_features")[: len(shape)])
    if kind in ("bias", "saved"):
        facts["replaces"] = key.removeprefix(PREFIX).replace(".base_layer.", ".")
    return parameter(key, dict(zip(axes, shape, strict=True)), module=module, **facts)


def lora_manifest(rows=None, config=None, **changes):
    """A bundle that ``lora_adapter`` fits, or one of other tensors and settings."""
    rows = lora_rows() if rows is None else rows
    config = lora_config() if config is None else config
    return manifest(layout=layout(*(lora_parameter(*row) for row in rows)), peft_config=config, **changes)


def stored(value):
    """A float32 tensor of these numbers, unless it is stored already."""
    return value if isinstance(value, StoredTensor) else StoredTensor.from_float32(np.asarray(value, np.float32), "F32")


def adapter(config=None, tensors=None, *, card=None, where="some/adapter"):
    """An adapter of float32 arrays, or of stored tensors, by key; one of LoRA without a tensor if nothing is given."""
    held = {key: stored(value) for key, value in (tensors or {}).items()}
    return Adapter(
        config={"peft_type": "LORA", "r": 4, "lora_alpha": 8} if config is None else config,
        tensors=TensorFile(tensors=held, metadata={"format": "pt"}),
        card=card,
        where=where,
    )


def adapter_card(**changes):
    values = {"base_sha256": "a" * 64, "task": "text-classification", "labels": LABELS}
    return AdapterCard(**{**values, **changes})


def lora_adapter(**config):
    """An adapter that fits ``lora_manifest``, of random numbers, with a card; and settings that differ."""
    random = np.random.default_rng(0)
    tensors = {key: random.standard_normal(shape) for key, _, _, shape in lora_rows()}
    return adapter(lora_config(**config), tensors, card=adapter_card())


def changed_adapter(found, *, config=None, tensors=None, **fields):
    """An adapter with other settings or tensors (None: without it)."""
    held = {key: value for key, value in {**found.tensors.tensors, **(tensors or {})}.items() if value is not None}
    made = adapter({**found.config, **(config or {})}, held)
    tensors = dataclasses.replace(found.tensors, tensors=made.tensors.tensors)
    return dataclasses.replace(found, config=made.config, tensors=tensors, **fields)


# Runs.


def evaluation(loss, accuracy):
    """Of ten examples, six of which are of one class."""
    figures = (
        Figure(name="accuracy", value=accuracy, unit="%"),
        Figure(name="majority_accuracy", value=0.6, unit="%", better=None, title="majority class"),
    )
    return Evaluation(examples=10, labels=10, loss=loss, figures=figures, seconds=0.5)


def step_record(step, **changes):
    """Of a run with 20 steps an epoch, whose loss is 1 / step."""
    values = {"epoch": step / 20, "loss": 1 / step, "labels": 8, "learning_rate": 0.01, "gradient_norm": 1.0}
    return StepRecord(step=step, **{**values, **changes})


def epoch_record(epoch, seconds, **changes):
    values = {"steps": 20, "prefix_seconds": 0.0, "prefix_emulated": False, "cached": 0, "computed": 0}
    return EpochRecord(epoch=epoch, seconds=seconds, **{**values, **changes})


def train_report(**changes):
    """Of 40 steps on the CPU with an evaluation before and after them."""
    described = manifest(base=base_model(id="b", architecture="B", licence="MIT"))
    values = {
        "adapter": adapter(),
        "kept_step": 40,
        "stopped": "completed",
        "subject": Subject.of(described, ("no", "<yes>")),
        "config": TrainConfig(batch_size=8, gradient_accumulation=1, max_length=64),
        "profile": "cpu-generic",
        "provider": choose_provider(profile(name="cpu-generic"), [CPU]),
        "backend": BackendChoice(name="portable", reason="as asked for"),
        "placement": None,
        "split": None,
        "planned_steps": 40,
        "steps": tuple(step_record(number) for number in range(1, 41)),
        "epochs": (epoch_record(1, 1.25), epoch_record(2, 0.75)),
        "evaluations": (
            EvaluationRecord(step=0, epoch=0.0, evaluation=evaluation(0.7, 0.55)),
            EvaluationRecord(step=40, epoch=2.0, evaluation=evaluation(0.4, 0.83)),
        ),
        "train_data": DataCounts(examples=160, truncated=3, dropped=0),
        "evaluation_data": DataCounts(examples=10, truncated=0, dropped=0),
        "skipped_steps": 0,
        "skipped_microbatches": 0,
        "tokens": 4000,
        "training_seconds": 2.0,
        "seconds": 3.0,
        "environment": {"fieldtune": "0.1.0", "onnxruntime": "1.31.1"},
    }
    return TrainReport(**{**values, **changes})


def questions(*pairs):
    """Pairs of question and context, and the answer: "" for none there, None for what is to be found out."""
    return [
        QuestionExample(
            question=question,
            context=context,
            answers=None if answer is None else (Span(answer, context.index(answer)),) if answer else (),
        )
        for question, context, answer in pairs
    ]
