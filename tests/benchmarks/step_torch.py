"""A worker: the steps of PyTorch (eager) with transformers' GPT-2 and PEFT's LoRA on c_attn."""

import sys
import warnings

import peft
import torch
import transformers

from tests.benchmarks.sizes import ALPHA, CLIP, LR, SIZES, R, tokens, weights, work


def run(size, adapter, steps, pace=None):
    """Build the model and train it; returns the losses."""
    width, layers, heads, length, _, vocab = SIZES[size]
    config = transformers.GPT2Config(
        vocab_size=vocab, n_positions=length, n_embd=width, n_layer=layers, n_head=heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, use_cache=False,
        activation_function="gelu_pytorch_tanh", bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    base = transformers.GPT2LMHeadModel(config)
    lora = peft.LoraConfig(
        r=R, lora_alpha=ALPHA, target_modules=["c_attn"], fan_in_fan_out=True, lora_dropout=0.0
    )
    model = peft.get_peft_model(base, lora)
    with torch.no_grad():
        for name, p in model.named_parameters():
            plain = name.replace("base_layer.", "").replace(".default", "")
            if "lora_" not in name:
                plain = plain.removeprefix("base_model.model.")
            p.copy_(torch.from_numpy(weights(plain, tuple(p.shape))))
    model.train()
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=LR, weight_decay=0.01, fused=True)
    ids, labels = map(torch.from_numpy, tokens(size))
    losses = []
    for _ in range(steps):
        if pace:
            pace.begin()
        logits = model(input_ids=ids).logits
        loss = torch.nn.functional.cross_entropy(logits.view(-1, vocab), labels.reshape(-1))
        del logits
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    work(run, *sys.argv[1:])
