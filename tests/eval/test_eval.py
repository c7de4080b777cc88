"""`ggufmix eval`: figures that compare with llama-perplexity's, for any length of context."""

# SPDX-License-Identifier: MIT

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import ggufmix
from ggufmix import evaluating, runtime
from ggufmix.cli import app
from ggufmix.errors import EvaluationError, GgufmixError, SourceError, UsageError
from ggufmix.evaluating import base as saved_base
from ggufmix.evaluating.scores import compare, mean

CTX = 128


@pytest.fixture(scope="module")
def files(example: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The example model whole and quantized."""
    folder = tmp_path_factory.mktemp("eval")
    made = {name: folder / f"{name}.gguf" for name in ("f32", "q8_0", "q4_0")}
    for name, path in made.items():
        ggufmix.convert(example, path, name)
    return made


@pytest.fixture(scope="module")
def text(heldout: str) -> str:
    return heldout[:3000]


@pytest.fixture(scope="module")
def windows(files: dict[str, Path], text: str) -> np.ndarray:
    """Tokens of the text, cut as llama-perplexity cuts them."""
    with runtime.Llama(files["f32"]) as model:
        tokens = np.array(model.tokenize(text, special=False))
    n = len(tokens) // CTX
    assert n >= 3
    return tokens[: n * CTX].reshape(n, CTX)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    import torch

    return torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1).numpy()


@pytest.fixture(scope="module")
def theirs(example: Path, windows: np.ndarray) -> np.ndarray:
    """Log probabilities of transformers in float32, (windows, CTX, vocabulary)."""
    import torch
    import transformers

    model = transformers.Qwen3_5MoeForCausalLM.from_pretrained(example, dtype=torch.float32)
    with torch.no_grad():
        logits = model.eval()(torch.tensor(windows)).logits
    return log_probabilities(logits.numpy())


def test_perplexity_of_transformers(
    files: dict[str, Path], text: str, windows: np.ndarray, theirs: np.ndarray
) -> None:
    """The perplexity of the unquantized file is what transformers' own logits give: the second half
    of each window, the spread of independent samples.
    """
    found = evaluating.evaluate(files["f32"], text, CTX).summary()
    nll = -np.concatenate(
        [
            theirs[w, p, windows[w, p + 1]][np.newaxis]
            for w in range(len(windows))
            for p in range(CTX // 2, CTX - 1)
        ]
    )
    assert (found["windows"], found["tokens"]) == (len(windows), len(nll))
    assert found["ppl"] == pytest.approx(np.exp(nll.mean()), rel=1e-4)
    spread = np.exp(nll.mean()) * nll.std() / np.sqrt(len(nll) - 1)
    assert found["ppl_spread"] == pytest.approx(spread, rel=1e-3)
    assert "kld" not in found


def test_divergence_from_a_base(
    files: dict[str, Path], text: str, windows: np.ndarray, theirs: np.ndarray
) -> None:
    """KL divergence, same top and change of probability are those of the two files' logits; the
    order of the two matters.
    """
    found = evaluating.evaluate(files["q4_0"], text, CTX, base=files["f32"]).summary()
    with runtime.Llama(files["q4_0"], CTX) as model:
        own = log_probabilities(np.stack([model.logits(w.tolist()) for w in windows]))
    half = slice(CTX // 2, CTX - 1)
    p, q = theirs[:, half], own[:, half]
    kld = (np.exp(p) * (p - q)).sum(-1).ravel()
    following = windows[:, CTX // 2 + 1 :, np.newaxis]
    change = np.exp(np.take_along_axis(q, following, -1))
    change -= np.exp(np.take_along_axis(p, following, -1))
    assert found["kld"] == pytest.approx(kld.mean(), rel=1e-4)
    assert found["kld_spread"] == pytest.approx(kld.std() / np.sqrt(len(kld) - 1), rel=1e-2)
    assert found["kld_999"] == pytest.approx(np.quantile(kld, 0.999), rel=1e-2)
    assert found["kld_max"] == pytest.approx(kld.max(), rel=1e-2)
    assert found["same_top"] == pytest.approx((p.argmax(-1) == q.argmax(-1)).mean(), abs=0.01)
    assert found["p_change_rms"] == pytest.approx(np.sqrt((change**2).mean()), rel=1e-2)
    other = evaluating.evaluate(files["f32"], text, CTX, base=files["q4_0"]).summary()
    assert other["kld"] != pytest.approx(found["kld"], rel=5e-4)
    assert other["base_ppl"] == pytest.approx(found["ppl"], rel=1e-6)


def test_of_itself(files: dict[str, Path], text: str) -> None:
    """A file does not diverge from itself, anywhere."""
    scores = evaluating.evaluate(files["q4_0"], text, CTX, base=files["q4_0"], windows=2)
    found = scores.summary()
    assert (found["windows"], found["same_top"], found["p_change_rms"]) == (2, 1, 0)
    assert found["kld"] == pytest.approx(0, abs=1e-12)
    assert max(kld for _, kld in scores.by_position()) == pytest.approx(0, abs=1e-12)


def test_pieces_do_not_matter(
    files: dict[str, Path], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context that is fed in pieces says what the whole one says: the recurrent state goes on."""
    whole = evaluating.evaluate(files["f32"], text, CTX, windows=2)
    monkeypatch.setattr(runtime, "_PIECE_VALUES", 7 * 2048)
    pieces = evaluating.evaluate(files["f32"], text, CTX, base=files["f32"], windows=2)
    for one, other in zip(whole.windows, pieces.windows, strict=True):
        assert other.nll == pytest.approx(one.nll, abs=1e-2)
        assert other.kld == pytest.approx(0, abs=1e-12)


def saved(path: Path, windows: np.ndarray, logs: np.ndarray) -> Path:
    """What llama-perplexity saves of a base, by its layout: scale, least, codes of 16 bits."""
    n_vocab = logs.shape[-1]
    with path.open("wb") as out:
        out.write(b"_logits_" + struct.pack("<3i", CTX, n_vocab, len(windows)))
        out.write(windows.astype("<i4").tobytes())
        for window in logs:
            for row in window[CTX // 2 : CTX - 1]:
                least = max(row.min(), row.max() - 16)
                scale = (row.max() - least) / 65535
                codes = np.clip(np.rint((row - least) / scale), 0, 65535)
                out.write(struct.pack("<2f", scale, least))
                out.write(codes.astype("<u2").tobytes() + b"\0\0" * (n_vocab % 2))
    return path


def test_saved_base(
    files: dict[str, Path], text: str, windows: np.ndarray, theirs: np.ndarray, tmp_path: Path
) -> None:
    """What llama-perplexity saved of a base does for it, to what 16 bits hold; it has the text."""
    want = evaluating.evaluate(files["q4_0"], text, CTX, base=files["f32"])
    kept = saved(tmp_path / "base.kld", windows, theirs)
    scores = evaluating.evaluate(files["q4_0"], None, CTX, base=kept)
    found, wanted = scores.summary(), want.summary()
    for name in ("ppl", "base_ppl", "kld", "same_top", "p_change_rms"):
        assert found[name] == pytest.approx(wanted[name], rel=5e-3), name
    assert np.isnan(scores.windows[0].kld[: CTX // 2]).all()
    assert min(position for position, _ in scores.by_position()) >= CTX // 2


@pytest.mark.parametrize("n", [12, 400, -2])
def test_damaged_saved_base(
    n: int, windows: np.ndarray, theirs: np.ndarray, tmp_path: Path
) -> None:
    """A saved base that was cut off is an error with its sizes, before a model is loaded."""
    path = saved(tmp_path / "base.kld", windows, theirs)
    path.write_bytes(path.read_bytes()[:n])
    with pytest.raises(SourceError, match=r"base\.kld: "):
        saved_base.read(path)


def test_begins_with_bos(example: Path, model: Path, tmp_path: Path, text: str) -> None:
    """Where the vocabulary asks for BOS it stands at the beginning of every window."""
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"add_bos_token": True}))
    out = tmp_path / "bos.gguf"
    ggufmix.convert(model, out, "f32")
    with runtime.Llama(out, CTX) as llama:
        assert llama.bos == 2044
        tokens = llama.tokenize(text, special=False, bos=True)
        assert tokens[0] == 2044
        window = [2044, *tokens[CTX + 1 : 2 * CTX]]
        want = compare(llama.logits(window)[:-1], window[1:])
    found = evaluating.evaluate(out, text, CTX, windows=2).windows[1]
    assert found.nll == pytest.approx(want.nll, abs=1e-3)


def test_position_curve(files: dict[str, Path], text: str) -> None:
    """The curve covers the context from its first token to its last, and its runs are means of the
    positions in them.
    """
    scores = evaluating.evaluate(files["q4_0"], text, CTX, base=files["f32"])
    curve = scores.by_position(6)
    kld = np.mean([w.kld for w in scores.windows], axis=0)
    assert curve[0] == (0, pytest.approx(kld[0]))
    positions = [p for p, _ in curve]
    assert positions == sorted(set(positions))
    assert positions[-1] > CTX // 2
    assert min(k for _, k in curve) >= kld.min()


def test_mean() -> None:
    """Mean and standard error by hand; one value has no spread."""
    assert mean(np.array([1.0, 3.0])) == evaluating.scores.Mean(2.0, 1.0)
    assert mean(np.array([5.0])).spread == 0


LOG = """perplexity: calculating perplexity over 160 chunks, n_ctx=512, batch_size=2048, n_seq=4
chunk  PPL  ln(PPL(Q)/PPL(base))  KL Divergence  Δp RMS  Same top p
   1     6.5 ±     1.2     0.00194 ±     0.0008     0.0008 ±    0.0001     0.766 ±  0.096 %
====== Perplexity statistics ======
Mean PPL(Q)                   :   6.533451 ±   0.040781
Mean PPL(base)                :   6.525143 ±   0.040721
====== KL divergence statistics ======
Mean    KLD:   0.004567 ±   0.000112
Maximum KLD:   1.234567
99.9%   KLD:   0.187654
99.0%   KLD:   0.045678
Median  KLD:   0.001234
RMS Δp    :  1.876 ± 0.031 %
Same top p: 96.543 ± 0.101 %
"""


def test_a_log_of_llama_perplexity(tmp_path: Path) -> None:
    """Figures that llama-perplexity printed are read, percents as shares."""
    log = tmp_path / "kld.log"
    log.write_text(LOG)
    assert evaluating.read_log(log) == {
        "ctx": 512,
        "windows": 160,
        "ppl": 6.533451,
        "ppl_spread": 0.040781,
        "base_ppl": 6.525143,
        "kld": 0.004567,
        "kld_spread": 0.000112,
        "kld_max": 1.234567,
        "kld_999": 0.187654,
        "p_change_rms": pytest.approx(0.01876),
        "same_top": pytest.approx(0.96543),
        "same_top_spread": pytest.approx(0.00101),
    }
    log.write_text("...\nFinal estimate: PPL = 8.1035 +/- 0.05123\n")
    assert evaluating.read_log(log) == {"ppl": 8.1035, "ppl_spread": 0.05123}
    log.write_text("error: failed to load the model")
    with pytest.raises(SourceError, match="found no perplexity"):
        evaluating.read_log(log)


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and stdout of a command; its error where it has one."""
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    if isinstance(result.exception, GgufmixError):
        return result.exception.exit_code, str(result.exception)
    return result.exit_code, result.output


def test_command(files: dict[str, Path], text: str, tmp_path: Path) -> None:
    """Every file at every context on a line, logs beside them; the picture is drawn; JSON has the
    curve.
    """
    (tmp_path / "t.txt").write_text(text)
    (tmp_path / "theirs.log").write_text(LOG)
    both = files["q8_0"], files["q4_0"], "--text", tmp_path / "t.txt", "--base", files["f32"]
    code, said = run(
        *both, "--ctx", "64,128", "--chunks", 2, "--plot", tmp_path / "p.svg",
        "--like", tmp_path / "theirs.log",
    )  # fmt: skip
    assert code == 0
    lines = [line.split() for line in said.splitlines() if ".gguf" in line or ".log" in line]
    assert [line[1] for line in lines] == ["512", "64", "128", "64", "128"]
    assert "perplexity of the base" not in said  # the contexts differ
    drawn = (tmp_path / "p.svg").read_text()
    assert drawn.rstrip().endswith("</svg>")
    code, said = run(*both, "--ctx", "128", "--chunks", 2, "--json")
    rows = json.loads(said)
    assert [row["ctx"] for row in rows] == [128, 128]
    assert rows[0]["kld"] < rows[1]["kld"]
    assert {"position", "kld"} == rows[0]["kld_by_position"][0].keys()


def test_bad_requests(files: dict[str, Path], text: str, tmp_path: Path) -> None:
    """What cannot be meant is said, with what was expected."""
    (tmp_path / "t.txt").write_text(text)
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    (tmp_path / "no.gguf").write_bytes(b"GGUF, but not really")
    q8, given = files["q8_0"], ("--text", tmp_path / "t.txt")
    for arguments, code, part in (
        ((q8,), 2, "expected a text"),
        ((q8, *given, "--ctx", "many"), 2, "--ctx: expected numbers"),
        ((q8, *given, "--ctx", "100000"), 2, "at least one window of 100000"),
        ((q8, *given, "--plot", "x.svg"), 2, "--base"),
        ((q8, *given, "--base", q8, "--plot", "x.doc"), 2, ".svg, .png, .pdf"),
        ((tmp_path / "nowhere.gguf", *given), 2, "there is none"),
        ((tmp_path / "no.gguf", *given), 1, "llama.cpp refused the file"),
        ((q8, "--text", tmp_path / "latin.txt"), 1, "expected text in UTF-8, byte 3"),
        ((q8, *given, "--base", tmp_path / "t.gguf"), 1, "No such file"),
    ):
        assert (run(*arguments)[0], part in run(*arguments)[1]) == (code, True), arguments


def test_other_vocabulary(
    files: dict[str, Path], windows: np.ndarray, theirs: np.ndarray, tmp_path: Path
) -> None:
    """A base of another model is refused, and so is another context than a saved one's."""
    kept = saved(tmp_path / "base.kld", windows, theirs[..., :-3])
    with pytest.raises(EvaluationError, match=r"vocabulary of 2048 tokens, .* one of 2045"):
        evaluating.evaluate(files["q8_0"], None, CTX, base=kept)
    with pytest.raises(UsageError, match="windows of 128 tokens, got a context of 256"):
        evaluating.evaluate(files["q8_0"], None, 256, base=kept)
