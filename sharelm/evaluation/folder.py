"""The scorer of a Hugging Face folder: a causal model of the library transformers with its fast tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from sharelm.errors import InputError, first_line
from sharelm.evaluation.causal import CausalScorer
from sharelm.evaluation.encoding import Encoding

if TYPE_CHECKING:
    from transformers import PreTrainedModel


# not cuDNN's, which is compiled anew for every shape of a batch: seconds in all
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


class FolderModel:
    """A causal model of transformers as a `CausalModel`: its head reads only the positions that are scored."""

    def __init__(self, model: PreTrainedModel, context: int) -> None:
        self._model: Any = model
        self.context, self.device = context, model.device

    def hidden(self, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, width] of `tokens` [B, T]."""
        with sdpa_kernel(ATTENTION):
            hidden: Tensor = self._model.get_decoder()(input_ids=tokens, use_cache=False).last_hidden_state
        return hidden

    def head(self, hidden: Tensor) -> Tensor:
        """Logits [..., vocabulary] of hidden states [..., width]."""
        logits: Tensor = self._model.get_output_embeddings()(hidden)
        return logits

    branches = True

    def branched(self, contexts: Tensor, lengths: list[int], rows: list[int], tokens: Tensor) -> Tensor:
        """Final hidden states [R, 1 + T, width] of a context's last token and of the tokens that follow it."""
        with sdpa_kernel(ATTENTION):
            return self._branched(contexts, lengths, rows, tokens)

    def _branched(self, contexts: Tensor, lengths: list[int], rows: list[int], tokens: Tensor) -> Tensor:
        decoder, device = self._model.get_decoder(), contexts.device
        read = decoder(input_ids=contexts, use_cache=True)
        last: Tensor = read.last_hidden_state
        ends = torch.tensor(lengths, device=device)
        start = last[torch.arange(len(lengths), device=device), ends - 1][rows][:, None]
        if not tokens.shape[1]:
            return start
        caches = read.past_key_values
        caches.batch_select_indices(torch.tensor(rows, device=device))
        followed = ends[rows][:, None]
        seen = torch.arange(contexts.shape[1], device=device) < followed
        positions = followed + torch.arange(tokens.shape[1], device=device)
        hidden: Tensor = decoder(
            input_ids=tokens,
            cache=caches,
            attention_mask=torch.cat([seen, torch.ones_like(tokens, dtype=torch.bool)], dim=1).long(),
            position_ids=positions,
            use_cache=True,
        ).last_hidden_state
        return torch.cat([start, hidden], dim=1)

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """The tokens that greedily follow each prompt: `new_tokens`, or fewer where every row has ended."""
        width = max(map(len, prompts))
        tokens = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts], device=self.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device)
        with torch.inference_mode():
            found = self._model.generate(
                input_ids=tokens,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
            )
        rows: list[list[int]] = found[:, width:].tolist()
        return rows


def folder_scorer(path: Path, device: str, precision: torch.dtype, tokens_per_batch: int) -> CausalScorer:
    """The scorer of the model in this folder: config.json, safetensors, tokenizer.json.

    Raises `InputError` for a folder that holds no causal model, no fast tokenizer, or a model whose logits are more
    than a linear map of its hidden states.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            path, dtype=precision, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} holds no causal language model that transformers reads: {first_line(error)}"
        ) from None
    config: Any = model.config
    for field in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        if getattr(config, field, None) not in (None, 1, 1.0):
            raise InputError(f"{path}/config.json: {field} = {getattr(config, field)} is not supported")
    if not tokenizer.is_fast:
        raise InputError(f"{path} has no tokenizer.json, the file of a fast tokenizer")
    first = next(token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None)
    read = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    read.no_padding()
    read.no_truncation()
    encoding = Encoding(read, first, tokenizer.eos_token_id, special_tokens=True)
    placed: Any = model
    causal = FolderModel(placed.to(device).eval(), int(config.max_position_embeddings))
    return CausalScorer(causal, encoding, tokens_per_batch)
