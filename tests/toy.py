"""A tiny corpus, tiny models and a tiny run, shared by the tests of the trainer."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from moe_leverage.config import LING2_ROUTING, ModelConfig, RunConfig
from moe_leverage.corpus.tokens import Corpus
from moe_leverage.training.learning import learn, start
from moe_leverage.training.loop import own_share
from moe_leverage.training.machine import Execution, machine_of

HERE = Path(__file__).resolve().parent  # children that import this module run here
VOCABULARY = 64
CPU = Execution(device="cpu", threads=1)


def toy_corpus(num_tokens=4_096):
    """Text with something to learn: each token is, mostly, the one before plus one of two steps."""
    rng = np.random.default_rng(7)

    def text(size, step):
        moves = np.where(rng.random(size) < 0.9, step, rng.integers(0, VOCABULARY, size))
        return (moves.cumsum() % VOCABULARY).astype(np.uint16)

    return Corpus(
        tier="smoke",
        digest=hashlib.sha256(b"toy").hexdigest(),
        vocab_size=VOCABULARY,
        train=np.concatenate([text(num_tokens // 2, 1), text(num_tokens // 2, 3)]),
        validation={"one": text(600, 1), "three": text(900, 3)},
        bytes_per_token={"one": 2.0, "three": 3.0},
        train_domains=np.array([[num_tokens // 2, 0], [num_tokens, 1]], np.uint32),
    )


CORPUS = toy_corpus()
DENSE = ModelConfig(
    vocab_size=VOCABULARY, num_layers=2, d_model=16, num_heads=2, num_kv_heads=1, d_ffn=32
)
MOE = ModelConfig(
    vocab_size=VOCABULARY,
    num_layers=2,
    d_model=16,
    num_heads=2,
    num_kv_heads=1,
    num_experts=8,
    num_active_experts=2,
    num_shared_experts=1,
    d_expert=8,
)
LING = dataclasses.replace(
    MOE,
    num_dense_layers=1,
    d_ffn=16,
    num_mtp_layers=1,
    qk_norm="head",
    rope_fraction=0.5,
    routing=dataclasses.replace(LING2_ROUTING, num_groups=4, num_groups_kept=2),
)
WIDE = dataclasses.replace(MOE, d_model=32, d_head=16, d_expert=16)  # what our C++ serves
MODELS = {"dense": DENSE, "moe": MOE, "ling": LING}


def run_of(model=MOE, **changes):
    values = {
        "corpus": "smoke",
        "sequence_length": 16,
        "batch_sequences": 8,
        "num_steps": 12,
        "learning_rate": 1e-2,
        "min_warmup_steps": 2,
    }
    return RunConfig(model=model, **values | changes)


def losses_of(run, **execution):
    """Exact losses of every step."""
    with machine_of(dataclasses.replace(CPU, **execution), run.precision) as machine:
        state = start(run, machine)
        for step in range(run.num_steps):
            assert learn(state, run, own_share(run, CORPUS, step, machine), machine)
        return state.losses
