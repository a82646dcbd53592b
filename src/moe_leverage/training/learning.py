"""One optimiser step, and the state that steps change (Appendix B: AdamW, balance and z-losses).

A step sees one batch and makes one update of the weights and one of the selection biases, however
many processes and micro-batches share the batch.

    loss     cross-entropy of the next token alone, nats a token
    counts   assignments [L, E] of the whole batch to the experts of each layer that routes
    masks    entries of the matrices that a run which prunes has kept
    merged   mean of the late checkpoints that have entered a merge so far, of each window
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from moe_leverage.config import RunConfig
from moe_leverage.model.kernels import cross_entropy
from moe_leverage.model.routing import load_statistics
from moe_leverage.model.transformer import ModelOutput, Transformer, build_model
from moe_leverage.model.upcycling import upcycled
from moe_leverage.rules import require
from moe_leverage.training.machine import Machine, like, whole
from moe_leverage.training.masks import Masks, mask_gradients, prune, pruned_weights
from moe_leverage.training.schedule import (
    learning_rate_multiplier,
    load_steps,
    merge_windows,
    merged_steps,
)

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's names of its two moments of a gradient
NEGLIGIBLE = 1e-30  # a moment this small moves a weight by less than 1e-22 of the learning rate
SMALLEST_NORMAL = 1.2e-38  # of fp32; arithmetic below it is up to thirty times slower on a CPU


@dataclass(kw_only=True, slots=True)
class State:
    """What changes while a run goes on, and so all that a checkpoint has to hold."""

    model: Transformer
    wrapped: nn.Module  # the model as called, which averages gradients over processes
    optimiser: torch.optim.AdamW
    losses: list[float] = field(default_factory=list)  # one a step
    merged: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # by checkpoints, most first
    masks: Masks = field(default_factory=dict)
    loads: list[list[float]] = field(default_factory=list)  # max over mean, [points][L]
    seconds: float = 0.0  # of training, over all sittings

    @property
    def steps_done(self) -> int:
        """Steps that have changed the weights."""
        return len(self.losses)


def start(run: RunConfig, machine: Machine, parents: Sequence[Transformer] = ()) -> State:
    """The state before the first step; `parents` are the trained models of the runs behind it.

    The optimiser begins anew, with or without parents.

    Weight decay acts on matrices, embedding included, and spares norm gains and biases. The paper
    prints the coefficient, 0.1, and not what it acts on; this is the usual reading.
    """
    model = _first_model(run, machine, parents)
    for router in model.routers():
        router.sum_counts = lambda counts: machine.sum(counts.clone())
    wrapped = machine.wrap(model)
    weights = list(model.parameters())
    groups = [
        {"params": [w for w in weights if w.dim() > 1], "weight_decay": run.weight_decay},
        {"params": [w for w in weights if w.dim() <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        groups,
        lr=run.learning_rate,
        betas=(run.adam_beta1, run.adam_beta2),
        eps=run.adam_eps,
        fused=True,
    )
    merged: dict[int, dict[str, Tensor]] = {window: {} for window in merge_windows(run)}
    return State(model=model, wrapped=wrapped, optimiser=optimiser, merged=merged)


def _first_model(run: RunConfig, machine: Machine, parents: Sequence[Transformer]) -> Transformer:
    """A model drawn from the seed, the parent's, or a mixture whose routers alone are drawn."""
    rule = f"must be the trained models of the {len(run.parents)} runs that it begins from"
    require(len(parents) == len(run.parents), "parents", len(parents), rule)
    if len(parents) > 1:
        return upcycled(parents, run.model, run.seed, machine.dispatch)
    model = build_model(run.model, run.seed, machine.dispatch)
    for parent in parents:
        model.load_state_dict(parent.state_dict())
    return model


def learn(state: State, run: RunConfig, tokens: Tensor, machine: Machine) -> bool:
    """One optimiser step on this process's `tokens` [b, s + 1] of the batch.

    False where the loss or the gradient is not finite: nothing is changed then.
    """
    rate = run.learning_rate * learning_rate_multiplier(state.steps_done, run)
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    loss, counts = _backward(state, run, tokens.to(machine.device), machine)
    loss_nats = machine.sum(loss).item() / machine.num_processes
    mask_gradients(state.model, state.masks)
    weights = list(state.model.parameters())
    norm = whole(nn.utils.get_total_norm([w.grad for w in weights if w.grad is not None]))
    norm_value = norm.item()
    if not (math.isfinite(loss_nats) and math.isfinite(norm_value)):
        return False
    if norm_value > run.gradient_clip:
        nn.utils.clip_grads_with_norm_(weights, run.gradient_clip, norm)
    state.optimiser.step()
    state.optimiser.zero_grad()
    state.losses.append(loss_nats)
    prune(state.model, state.masks, run, state.steps_done)
    if run.model.is_moe:
        _note_loads(state, run, machine.sum(counts))
    if state.steps_done % flush_interval(run) == 0:
        _flush_moments(state)
    _merge(state, run)
    return True


def flush_interval(run: RunConfig) -> int:
    """Steps between two times that negligible moments are set to zero.

    The moments of an idle expert, or of a token that does not occur, only shrink, by beta a step:
    flushed this often, they are zero before they are subnormal.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> flush_interval(RunConfig(model=model, corpus="smoke", sequence_length=8, batch_sequences=1,
    ...     num_steps=100, learning_rate=1e-3))
    173
    """
    beta = min(run.adam_beta1, run.adam_beta2)
    if beta == 0:
        return 1
    if beta == 1:
        return run.num_steps
    return max(1, int(math.log(SMALLEST_NORMAL / NEGLIGIBLE) / math.log(beta)))


def tensors(state: State) -> dict[str, Tensor]:
    """Every tensor of the state, whole, by name; all processes must call this together."""
    named = dict(state.model.named_parameters())
    found: dict[str, Tensor] = {f"model.{name}": weight for name, weight in named.items()}
    found |= {f"model.{name}": buffer for name, buffer in state.model.named_buffers()}
    for window, weights in state.merged.items():
        found |= {f"{merge_name(state, window)}.{name}": w for name, w in weights.items()}
    found |= {f"mask.{name}": mask for name, mask in state.masks.items()}
    if state.losses:
        for moment in MOMENTS:
            found |= {f"{moment}.{n}": state.optimiser.state[w][moment] for n, w in named.items()}
    whole_tensors = {name: whole(tensor.detach()).cpu() for name, tensor in found.items()}
    for name in ("losses", "loads"):
        values = torch.tensor(getattr(state, name), dtype=torch.float64, device="cpu")
        whole_tensors[name] = values
    return whole_tensors


def misfit(state: State, saved: Mapping[str, Tensor], steps_done: int) -> str:
    """What keeps `saved`, said to be of so many steps, from being restored; empty if nothing does.

    >>> from moe_leverage.config import ModelConfig
    >>> model = ModelConfig(vocab_size=16, num_layers=1, d_model=8, num_heads=2, num_kv_heads=1,
    ...     d_ffn=16)
    >>> state = State(model=build_model(model, 0), wrapped=nn.Identity(), optimiser=None)
    >>> misfit(state, tensors(state), 0), misfit(state, {}, 0)
    ('', 'model.embedding.weight is missing')
    """
    named = dict(state.model.named_parameters())
    wanted: dict[str, Tensor] = {f"model.{name}": weight for name, weight in named.items()}
    wanted |= {f"model.{name}": tensor for name, tensor in state.model.named_buffers()}
    for kind in MOMENTS if steps_done else ():
        wanted |= {f"{kind}.{name}": weight for name, weight in named.items()}
    for window in state.merged:
        prefix = merge_name(state, window)
        if any(name.startswith(f"{prefix}.") for name in saved):
            wanted |= {f"{prefix}.{name}": weight for name, weight in named.items()}
    for name, weight in pruned_weights(state.model).items():
        if f"mask.{name}" in saved:
            wanted[f"mask.{name}"] = torch.empty_like(weight, dtype=torch.bool)
    for name in [*wanted, "losses", "loads"]:
        if name not in saved:
            return f"{name} is missing"
    for name, tensor in wanted.items():
        if (saved[name].shape, saved[name].dtype) != (tensor.shape, tensor.dtype):
            return f"{name} is of another shape or type than the model's"
    if saved["losses"].shape != (steps_done,):
        return f"losses are not of the {steps_done} steps done"
    return ""


@torch.no_grad()
def restore(state: State, saved: Mapping[str, Tensor], seconds: float) -> None:
    """Make `state`, fresh from `start`, the one that `tensors` gave."""
    named = dict(state.model.named_parameters())
    for name, target in (named | dict(state.model.named_buffers())).items():
        target.copy_(like(target, saved[f"model.{name}"]))
    for name, weight in pruned_weights(state.model).items():
        if f"mask.{name}" in saved:
            state.masks[name] = saved[f"mask.{name}"].to(weight.device)
    state.losses = saved["losses"].tolist()
    state.loads = saved["loads"].tolist()
    state.seconds = seconds
    for name, weight in named.items():
        for window, weights in state.merged.items():
            if (key := f"{merge_name(state, window)}.{name}") in saved:
                weights[name] = like(weight, saved[key])
        if state.losses:
            steps = torch.tensor(float(state.steps_done), device=weight.device)
            moments = {moment: like(weight, saved[f"{moment}.{name}"]) for moment in MOMENTS}
            state.optimiser.state[weight] = {"step": steps, **moments}


def merge_name(state: State, window: int) -> str:
    """What the mean over a window is called in a checkpoint; that over all of them is the run's."""
    return "merged" if window == max(state.merged) else f"merged_last_{window}"


@torch.no_grad()
def exchange_merged(state: State, window: int) -> None:
    """Swap the weights of the last step with the merged ones; a second call swaps them back."""
    merged = state.merged[window]
    for name, weight in state.model.named_parameters():
        last = weight.detach().clone()
        weight.copy_(merged[name])
        merged[name] = last


def _backward(
    state: State, run: RunConfig, tokens: Tensor, machine: Machine
) -> tuple[Tensor, Tensor]:
    """Gradients of the batch, micro-batch by micro-batch in order; its loss and counts."""
    width = machine.execution.micro_batch_sequences or len(tokens)
    starts = range(0, len(tokens), width)
    losses, counts = [], []
    for first in starts:
        piece = tokens[first : first + width]
        share = len(piece) / len(tokens)
        with machine.exchange_gradients(state.wrapped, when=first == starts[-1]):
            with machine.autocast(run.precision):
                output: ModelOutput = state.wrapped(piece[:, :-1])
            loss = cross_entropy(output.logits, piece[:, 1:])
            objective: Tensor = share * (loss + _auxiliary_loss(output, piece, run))
            torch.autograd.backward(objective)
        losses.append(share * loss.detach())
        counts.append(output.counts)
    return torch.stack(losses).sum(), torch.stack(counts).sum(dim=0)


def _auxiliary_loss(output: ModelOutput, tokens: Tensor, run: RunConfig) -> Tensor:
    """Weighted balance and z-losses, and the mean loss of the tokens further ahead."""
    routing = run.model.routing
    loss = routing.balance_coefficient * output.balance_loss + routing.z_coefficient * output.z_loss
    for depth, logits in enumerate(output.mtp_logits, start=1):
        ahead = cross_entropy(logits, tokens[:, 1 + depth :])
        loss = loss + run.mtp_coefficient / len(output.mtp_logits) * ahead
    return loss


def _note_loads(state: State, run: RunConfig, counts: Tensor) -> None:
    """Step the selection biases by the loads of the whole batch; note them now and then."""
    if run.model.routing.bias_update_rate > 0:
        state.model.step_biases(counts)
    if state.steps_done in load_steps(run):
        loads = load_statistics(counts.cpu()).max_over_mean
        state.loads.append([round(load, 4) for load in loads])


@torch.no_grad()
def _flush_moments(state: State) -> None:
    for moments in state.optimiser.state.values():
        for name in MOMENTS:
            moments[name].mul_(moments[name].abs() >= NEGLIGIBLE)


@torch.no_grad()
def _merge(state: State, run: RunConfig) -> None:
    """Let the weights of this step into the running mean of each window that it belongs to."""
    for window, merged in state.merged.items():
        if state.steps_done not in (steps := merged_steps(run, window)):
            continue
        share = 1 / (steps.index(state.steps_done) + 1)
        for name, weight in state.model.named_parameters():
            if name in merged:
                merged[name].lerp_(weight, share)
            else:
                merged[name] = weight.detach().clone()
