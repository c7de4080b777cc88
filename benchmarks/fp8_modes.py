"""FP8: what each mode and each kind of scale costs, on four kinds of weights, and how fast it is.

    python benchmarks/fp8_modes.py [MODEL]

Prints the tables of docs/fp8-modes.md. MODEL is a checkpoint whose matrices stand for trained
weights, by default the example. Where transformers is installed, its logits are compared too.
"""

# SPDX-License-Identifier: MIT

import importlib.util
import sys
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from ggufmix import sources
from ggufmix.codecs import tiers
from ggufmix.fp8.coding import BLOCK, Quantized, Scale, Search, compare, dequantize, quantize

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-qwen35moe"
TEXT = EXAMPLE.parent / "wiki-heldout.txt"
WINDOWS, LENGTH = 8, 512
BF16 = ml_dtypes.bfloat16
SHAPE = (1024, 1024)
MODES = {
    "max": Search("max"),
    "rms, factor 3": Search("rms", factor=3),
    "rms, factor 5": Search("rms", factor=5),
    "rms (factor 8)": Search("rms"),
    "percentile (99.9)": Search("percentile"),
    "percentile 99.99": Search("percentile", percentile=99.99),
    "mse, 16 scales": Search(grid=16),
    "mse (50 scales)": Search(),
    "mse, 128 scales": Search(grid=128),
}
PLAIN = ("max", "rms (factor 8)", "percentile (99.9)", "mse (50 scales)")
SCALES = ("f32", "bf16", "pow2")
Weights = dict[str, list[np.ndarray]]


def trained(model: Path) -> list[np.ndarray]:
    """Every matrix of at least a block that is not an embedding."""
    found = []
    with sources.open_checkpoint(model) as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            if len(tensor.shape) > 1 and min(tensor.shape[-2:]) >= BLOCK and "embed" not in name:
                found.append(np.array(tensor.rows(0, tensor.n_rows)))
    return found


def kinds(model: Path) -> Weights:
    """Weights by name, as bfloat16."""
    rng = np.random.default_rng(0)
    bell = rng.normal(0, 0.02, SHAPE)
    channels = rng.normal(0, 0.02, SHAPE)
    channels[:, rng.choice(SHAPE[1], 8, replace=False)] *= 20
    return {
        "Gaussian": [bell.astype(BF16)],
        "Student-t, 4 degrees": [(0.02 * rng.standard_t(4, SHAPE)).astype(BF16)],
        "outlier channels (8 of 1024, x 20)": [channels.astype(BF16)],
        "trained": trained(model),
    }


def rrmse(made: Quantized) -> float:
    """Root of the squared error over the squared weights, in percent."""
    return 100 * float(np.sqrt(made.sums.ee / made.sums.ww))


def table(*heads: str) -> None:
    """The head of a Markdown table."""
    print(f"\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")


def of_modes(weights: Weights) -> None:
    """Error, angle, largest error and saturation of each mode; means over tensors."""
    for kind, tensors in weights.items():
        print(f"\n{kind}, {len(tensors)} tensors:")
        table("mode", "relative RMSE", "worst tensor", "cosine", "largest error / rms", "saturated")
        for name, search in MODES.items():
            made = [quantize(x, search) for x in tensors]
            errors = [rrmse(m) for m in made]
            sums = [m.sums for m in made]
            cosine = np.mean([s.wd / np.sqrt(s.ww * s.dd) for s in sums])
            most = max(s.most / np.sqrt(s.ww / s.count) for s in sums)
            saturated = sum(m.saturated for m in made) / sum(s.count for s in sums)
            print(
                f"| {name} | {np.mean(errors):.3f} % | {max(errors):.3f} % | {cosine:.6f} "
                f"| {most:.2f} | {100 * saturated:.4f} % |"
            )


def requantized(x: np.ndarray, made: Quantized) -> Quantized:
    """After an engine's E8M0 path: dequantized, and again with power-of-two scales of its own."""
    again = quantize(dequantize(made.codes, made.scales), Search("max"), scale="pow2")
    return compare(x, again.codes, again.scales)


def of_scales(weights: Weights) -> None:
    """What the type of scale costs on disk, and after a path that wants powers of two."""
    heads = [
        f"{kind.split(',')[0].split(' (')[0]}, {when}"
        for kind in weights
        for when in ("disk", "E8M0")
    ]
    table("mode, scales", *heads)
    for mode in ("max", "mse"):
        for scale in SCALES:
            cells = []
            for tensors in weights.values():
                pairs = [(x, quantize(x, Search(mode), scale=scale)) for x in tensors]
                cells.append(np.mean([rrmse(made) for _, made in pairs]))
                cells.append(np.mean([rrmse(requantized(x, made)) for x, made in pairs]))
            print(f"| {mode}, {scale} | {' | '.join(f'{cell:.3f} %' for cell in cells)} |")


def of_statistics(weights: Weights) -> None:
    """Root of the error times activations, with and without knowing them."""
    table("mode", *weights)
    for name, search in (("max", Search("max")), ("rms", Search("rms")), ("mse", Search())):
        for known in (False, True) if name != "max" else (False,):
            cells = []
            for tensors in weights.values():
                found = []
                for i, x in enumerate(tensors):
                    a = np.random.default_rng(i).lognormal(0, 2, x.shape[1]).astype(np.float32)
                    made = quantize(x, search, weights=a if known else None)
                    w = x.astype(np.float64)
                    e = dequantize(made.codes, made.scales) - w
                    found.append(100 * np.sqrt((e * e * a).sum() / (w * w * a).sum()))
                cells.append(np.mean(found))
            shown = " | ".join(f"{cell:.3f} %" for cell in cells)
            print(f"| {name}{', weighed' if known else ''} | {shown} |")


def of_logits(model: Path) -> None:
    """What is left of the model's predictions with all those matrices in FP8."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokens = AutoTokenizer.from_pretrained(model)(TEXT.read_text()).input_ids
    windows = torch.tensor(tokens[: WINDOWS * LENGTH]).view(WINDOWS, LENGTH)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    first = {name: weight.clone() for name, weight in loaded.state_dict().items()}

    def predictions() -> torch.Tensor:
        with torch.no_grad():
            return torch.log_softmax(loaded(windows).logits, -1)

    def stored(weight: torch.Tensor, search: Search, scale: Scale) -> torch.Tensor:
        made = quantize(weight.numpy().astype(BF16), search, scale=scale)
        return torch.from_numpy(dequantize(made.codes, made.scales))

    base = predictions()
    table("mode, scales", "mean KL divergence", "its error", "same top token")
    for name, scale in [
        *((name, "bf16") for name in MODES),
        ("mse (50 scales)", "f32"),
        ("max", "pow2"),
    ]:
        for key, weight in first.items():
            if weight.ndim > 1 and min(weight.shape[-2:]) >= BLOCK and "embed" not in key:
                parts = weight.reshape(-1, *weight.shape[-2:])
                made = torch.stack([stored(part, MODES[name], scale) for part in parts])
                loaded.state_dict()[key].copy_(made.view(weight.shape))
        now = predictions()
        each = (base.exp() * (base - now)).sum(-1).flatten()
        same = (base.argmax(-1) == now.argmax(-1)).float().mean()
        error = each.std() / len(each) ** 0.5
        print(f"| {name}, {scale} | {each.mean():.4f} | {error:.4f} | {100 * same:.1f} % |")


def of_speed() -> None:
    """One core, on bfloat16 within the caches."""
    x = np.random.default_rng(1).normal(0, 0.02, (BLOCK, 4096)).astype(BF16)
    a = np.ones(4096, np.float32)
    table("MB/s of BF16, one core", *tiers())
    rows = {name: (MODES[name], None) for name in PLAIN}
    rows["mse, weighed"] = Search(), a
    for name, (search, weights) in rows.items():
        cells = []
        for tier in tiers():
            took = []
            for _ in range(30):
                start = time.perf_counter()
                quantize(x, search, weights=weights, tier=tier)
                took.append(time.perf_counter() - start)
            cells.append(f"{x.nbytes / min(took) / 1e6:.0f}")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)
    given = Path(sys.argv[1]) if len(sys.argv) > 1 else EXAMPLE
    here = kinds(given)
    of_modes(here)
    of_scales(here)
    of_statistics(here)
    if importlib.util.find_spec("transformers"):
        of_logits(given)
    of_speed()
