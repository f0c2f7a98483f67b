"""A model as one safetensors file: its weights, with its shape and sharing in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sharelm.errors import InputError, IntegrityError
from sharelm.model.decoder import Decoder
from sharelm.sharing import ModelShape, Sharing

HEADER = "sharelm"
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def save_weights(model: Decoder, path: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write the stored weights, each once, as `dtype` (the model's own if None)."""
    tensors = {
        name: tensor.detach().to(device="cpu", dtype=dtype or tensor.dtype).contiguous()
        for name, tensor in model.state_dict().items()
    }
    described = json.dumps({"shape": asdict(model.shape), "sharing": asdict(model.sharing)})
    save_file(
        tensors, str(path), metadata={HEADER: described}
    )  # one key: safetensors writes several keys in varying order


def load_model(path: str | Path, device: torch.device | str = "cpu", precision: str | None = None) -> Decoder:
    """The model in this file, ready to evaluate on `device`, in "fp32" or "bf16" (as stored if None).

    Raises `InputError` when the file cannot be read and `IntegrityError` when it is not what `save_weights` wrote.
    """
    dtype = None if precision is None else PRECISIONS[precision]
    try:
        with safe_open(str(path), framework="pt", device=str(device)) as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise IntegrityError(f"{path} is not a safetensors file: {error}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        described = json.loads(metadata[HEADER])
        shape = ModelShape(**described["shape"])
        sharing = TypeAdapter(Sharing).validate_python(described["sharing"])
        with torch.device("meta"):
            model = Decoder(shape, sharing)
        model.load_state_dict({name: tensor.to(dtype or tensor.dtype) for name, tensor in tensors.items()}, assign=True)
    except KeyError as error:
        raise IntegrityError(f"{path} has no {error} in its header; it was not written by save_weights") from error
    except (TypeError, ValueError, AttributeError, InputError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(f"{path} holds no model that its header describes: {reason}") from error
    return model.eval()
