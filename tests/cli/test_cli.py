"""The command as a person or a script meets it: streams, exit codes, words."""

# SPDX-License-Identifier: MIT

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest


def ggufmix(*arguments: object, **more: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ggufmix", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]


def test_plan_json_is_for_machines(example: Path) -> None:
    """Stdout is one JSON document with the promised keys; what is said besides goes to stderr."""
    done = ggufmix("plan", example, "--json")
    assert done.returncode == 0
    made = json.loads(done.stdout)
    assert {"name", "shape", "role", "type", "encoder", "reason", "bytes"} <= made["tensors"][
        0
    ].keys()
    by_name = {t["name"]: t for t in made["tensors"]}
    assert by_name["blk.0.ffn_down_exps.weight"]["shape"] == [128, 256, 4]
    assert by_name["blk.0.ssm_alpha.weight"]["reason"] == "protect: gates"
    assert made["total_bytes"] > 4_000_000
    assert "qwen35" in done.stderr
    assert "recognised" in done.stderr


def test_plan_lists_every_tensor_and_the_exact_size(example: Path, tmp_path: Path) -> None:
    """The table has a line for each tensor; its last line names the size of the file that convert
    writes.
    """
    done = ggufmix("plan", example)
    out = tmp_path / "x.gguf"
    assert ggufmix("convert", example, "--outfile", out).returncode == 0
    lines = done.stdout.splitlines()
    for tensor in json.loads(ggufmix("plan", example, "--json").stdout)["tensors"]:
        assert sum(line.startswith(tensor["name"] + " ") for line in lines) == 1
    assert f"{out.stat().st_size:,} bytes" in lines[-1]


def test_convert_says_its_result_on_stdout_only(example: Path, tmp_path: Path) -> None:
    """Stdout holds one line, the result; an existing output is refused with exit 1 and a hint."""
    out = tmp_path / "x.gguf"
    done = ggufmix("convert", example, "-o", out)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stdout.startswith(f"{out}: ")
    again = ggufmix("convert", example, "-o", out)
    assert again.returncode == 1
    assert "exists" in again.stderr
    assert "hint: --overwrite" in again.stderr
    assert again.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--nonsense"],
        ["plan"],
        ["plan", "nowhere"],
        ["plan", "{src}", "--recipe", "q9"],
        ["plan", "{src}", "--set", "ffn_down_exps=Q9"],
        ["plan", "{src}", "--set", "nothing"],
        ["plan", "{src}", "--tensor-type", "nothing_here=Q8_0"],
        ["plan", "{src}", "--gates", "f8"],
        ["plan", "{src}", "--mirror", "ollama"],
        ["plan", "{src}", "--tokenizer-pre", "nobody"],
        ["convert", "{src}"],
        ["convert", "{src}", "-o", "x.gguf", "--threads", "0"],
        ["inspect", "nowhere"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_meant_is_exit_2(example: Path, arguments: list[str]) -> None:
    """An unknown option, recipe, type, role or a missing source: exit 2, nothing on stdout, no
    traceback.
    """
    done = ggufmix(*(str(example) if a == "{src}" else a for a in arguments))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr
    assert "Traceback" not in done.stderr


def test_data_that_is_wrong_is_exit_1(model: Path, tmp_path: Path) -> None:
    """A damaged checkpoint: exit 1, the file named, nothing written."""
    file = model / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    done = ggufmix("convert", model, "-o", tmp_path / "x.gguf")
    assert done.returncode == 1
    assert "model.safetensors" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.gguf").exists()


def test_inspect_a_directory_and_a_file(example: Path, tmp_path: Path) -> None:
    """Both say architecture, types and which layers are recurrent."""
    out = tmp_path / "x.gguf"
    ggufmix("convert", example, "-o", out)
    for src, kind in ((example, "BF16"), (out, "Q8_0")):
        found = json.loads(ggufmix("inspect", src, "--json").stdout)
        assert found["architecture"] == "qwen35moe"
        assert (found["recurrent_layers"], found["attention_layers"]) == ("0-2", "3")
        assert next(iter(found["types"])) == kind
        assert found["metadata"]["qwen35moe.block_count"] == 4
    text = ggufmix("inspect", out).stdout
    assert "qwen35moe.expert_count" in text
    assert text.startswith("architecture")
    assert "tokenizer.ggml.tokens" in text


def test_inspect_a_damaged_file(tmp_path: Path) -> None:
    """A file that is no GGUF, or cut short, is exit 1 with its name."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\x03\0\0\0" + b"\xff" * 16)
    done = ggufmix("inspect", bad)
    assert done.returncode == 1
    assert "bad.gguf" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_is_quick_and_loads_no_numbers() -> None:
    """`--help` needs neither numpy nor gguf nor the compiled part."""
    code = (
        "import sys; from ggufmix.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "assert not {'numpy', 'gguf', 'tokenizers', 'ggufmix._core'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "convert" in done.stdout


def test_no_colour_and_no_bar_when_piped(example: Path, tmp_path: Path) -> None:
    """Piped output has no escape codes, on either stream."""
    environment = {**os.environ, "FORCE_COLOR": ""}
    done = ggufmix("convert", example, "-o", tmp_path / "x.gguf", env=environment)
    assert "\x1b" not in done.stdout + done.stderr


def test_formats_and_recipes_list_what_there_is() -> None:
    """`formats` tells what can be encoded from what is decoded only; `recipes` says who each is
    for.
    """
    rows = {r["type"]: r for r in json.loads(ggufmix("formats", "--json").stdout)}
    assert rows["Q8_0"]["encodes"]
    assert rows["Q4_0"]["encoders"] == ["Q4_0", "Q4_X"]
    assert not rows["IQ2_XXS"]["encodes"]
    assert "q8_0" in ggufmix("recipes").stdout


def test_streams_that_are_closed(example: Path, tmp_path: Path) -> None:
    """With stderr closed nothing but data comes on stdout; no output gets a stream's number."""
    command = f"{sys.executable} -m ggufmix convert {example} -r q8_0 -r q6_k -o {tmp_path}/"
    for which, lines in (("2>&-", 2), (">&-", 0), ("<&- 2>&-", 2)):
        done = subprocess.run(
            ["sh", "-c", f"{command} --overwrite {which}"],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        assert len(done.stdout.splitlines()) == lines, done.stdout


def test_too_little_memory_is_an_error(example: Path, tmp_path: Path) -> None:
    """It ends with a sentence, not with a traceback, and leaves nothing."""
    code = (
        "import sys, ggufmix.cli\n"
        "def full(*_): raise MemoryError('Unable to allocate 8 bytes')\n"
        "import ggufmix.writing.encoding as e; e.encode_band = full\n"
        "sys.argv = ['ggufmix', 'convert', *sys.argv[1:]]; ggufmix.cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, example, "-o", tmp_path / "x.gguf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "error: not enough memory: Unable to allocate 8 bytes" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_behind_stdout_is_an_error(example: Path) -> None:
    """A result that cannot be printed ends with exit 1 and one line that says why."""
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full")
    for command in (["formats"], ["plan", str(example), "--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "ggufmix", *command],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 1
        assert "error: output: No space left on device" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_stopped_leaves_nothing(
    example: Path, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, a service manager's TERM, a closed terminal: no file is left, finished or not."""
    slow = (
        "import os, signal, sys, time\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from ggufmix.writing import places\n"
        "put = places.put\n"
        "def slowly(*args):\n"
        "    put(*args)\n"
        "    os.write(1, b'written\\n')  # at once: several threads do\n"
        "    time.sleep(0.2)\n"
        "places.put = slowly\n"
        "sys.argv = ['ggufmix', 'convert', *sys.argv[1:]]\n"
        "from ggufmix.cli import main\n"
        "main()\n"
    )
    out = tmp_path / "x.gguf"
    run = subprocess.Popen(
        [sys.executable, "-c", slow, str(example), "-o", str(out)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "written\n"
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf.part"]
    run.send_signal(number)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + number
    assert "Traceback" not in said
    assert not list(tmp_path.iterdir())


MEETS = """
import os, signal, sys
class Finder:
    def find_spec(self, name, path, target=None):
        if name == MODULE:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError(f"{name} failed to import") from None
sys.meta_path.insert(0, Finder())
"""
AT_THE_END = "import atexit, os, signal; atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"


@pytest.mark.parametrize(
    ("when", "code"),
    [
        (MEETS.replace("MODULE", "'typer'"), -signal.SIGINT),
        (MEETS.replace("MODULE", "'numpy'"), 128 + signal.SIGINT),
        (AT_THE_END, -signal.SIGINT),
    ],
    ids=["before it has begun", "while modules are loaded", "when all is done"],
)
def test_ctrl_c_at_any_time(example: Path, when: str, code: int) -> None:
    """Not a word of Python's, and the shell gets 130. Numpy, met by Ctrl-C in the middle of its
    import, would tell that it cannot be imported, and print a traceback itself.
    """
    start = f"{when}\nsys.argv = ['ggufmix', *sys.argv[1:]]\nfrom ggufmix.__main__ import main\n"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{start}main()\n", "inspect", example],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (code, "")


def test_names_from_files_do_not_steer_the_terminal(example: Path, tmp_path: Path) -> None:
    """An escape sequence in a tensor's name is printed as text."""
    folder = tmp_path / "m"
    shutil.copytree(example, folder)
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes().replace(b'"lm_head.weight"', b'"lm\\u001b[2Jx.w"'))
    done = ggufmix("plan", folder)
    assert done.returncode == 1
    assert "\x1b" not in done.stderr
    assert r"lm\x1b[2Jx.w" in done.stderr


@pytest.mark.parametrize("regex", ["ffn_[a-z]+_exps", "ffn_up_exps|[/x]y", "_exps|:boom:|\x1b"])
def test_brackets_are_no_markup(example: Path, regex: str) -> None:
    """A regular expression is shown as it was typed, whatever it looks like to a text renderer."""
    done = ggufmix("plan", example, "--tensor-type", f"{regex}=Q4_0")
    assert done.returncode == 0
    shown = regex.replace("\x1b", r"\x1b")
    assert f"override {shown}=Q4_0" in done.stdout


def test_inspect_shows_a_chat_template_of_brackets(example: Path, tmp_path: Path) -> None:
    """Mistral's templates close tags that nobody opened; they are metadata like others."""
    folder, out = tmp_path / "m", tmp_path / "x.gguf"
    shutil.copytree(example, folder)
    (folder / "chat_template.jinja").write_text("[INST] {{ x }} [/INST]\x1b[2J")
    assert ggufmix("convert", folder, "-o", out).returncode == 0
    done = ggufmix("inspect", out)
    assert done.returncode == 0
    assert "[INST] {{ x }} [/INST]" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("command", ["", "convert", "quantize", "recipes show"])
def test_h_is_help(command: str) -> None:
    """`-h`, which is what most people type first."""
    short, long = (ggufmix(*command.split(), word) for word in ("-h", "--help"))
    assert (short.returncode, short.stdout) == (0, long.stdout)
