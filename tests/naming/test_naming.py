"""File names that the hub and llama.cpp read as they are meant."""

# SPDX-License-Identifier: MIT

import re
from dataclasses import replace
from pathlib import Path

import pytest

import ggufmix
from ggufmix import naming, rules
from ggufmix.errors import UsageError
from ggufmix.pipeline import Options
from ggufmix.splitting import Limits

HUB_TYPES = [
    "F32",
    "F16",
    "Q4_0",
    "Q4_1",
    "Q4_1_SOME_F16",
    "Q4_2",
    "Q4_3",
    "Q8_0",
    "Q5_0",
    "Q5_1",
    "Q2_K",
    "Q3_K_S",
    "Q3_K_M",
    "Q3_K_L",
    "Q4_K_S",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "IQ2_XXS",
    "IQ2_XS",
    "Q2_K_S",
    "IQ3_XS",
    "IQ3_XXS",
    "IQ1_S",
    "IQ4_NL",
    "IQ3_S",
    "IQ3_M",
    "IQ2_S",
    "IQ2_M",
    "IQ4_XS",
    "IQ1_M",
    "BF16",
    "Q4_0_4_4",
    "Q4_0_4_8",
    "Q4_0_8_8",
    "TQ1_0",
    "TQ2_0",
    "MXFP4_MOE",
    "NVFP4",
    "Q1_0",
    "Q2_0",
    "Q2_K_XL",
    "Q3_K_XL",
    "Q4_K_XL",
    "Q5_K_XL",
    "Q6_K_XL",
    "Q8_K_XL",
]
"""huggingface.js, packages/tasks/src/gguf.ts, GGMLFileQuantizationType, in its order."""

READ = {
    "aes-q4_k_m": "Q4_K_M_AES",
    "aes-q5_k_m": "Q5_K_M_AES",
    "hq4_k": "Q4_K_M_HQ",
    "q4_k_l": "Q4_K_M_L",  # the hub knows no Q4_K_L: it would take the word before it
    "q5_k_l": "Q5_K_M_L",
    "q4_x": "Q4_0",
    "q4_x-lossless": "Q4_0",
}
"""What the hub makes of recipes that are not called like a type of its own."""


def hub(name: str) -> str | None:
    """`parseGGUFQuantLabel`: the last match of a type, with a suffix of capitals."""
    found = [m[0] for m in re.finditer(f"(UD-)?({'|'.join(HUB_TYPES)})(_[A-Z]+)?", name.upper())]
    return found[-1] if found else None


def llama_cpp(names: list[str], tag: str) -> str | None:
    """`find_best_model`: the first file that has the tag followed by "-" or "."."""
    return next((n for n in names if re.search(f"{tag}[.-]", n, re.IGNORECASE)), None)


@pytest.fixture(scope="module")
def names(example: Path) -> dict[str, str]:
    """The example model's file name by every built-in recipe."""
    made = {}
    for name, recipe in rules.recipes().items():
        plan = ggufmix.plan(example, name)
        words = naming.fields(plan, rules.tag(recipe))
        made[name] = str(naming.filled("{name}-{tag}.gguf", words))
    return made


def test_the_hub_reads_the_recipe(names: dict[str, str]) -> None:
    """The hub lists each file by its recipe, not by the gates that stay BF16."""
    assert hub("X-Q8_0-BF16-SSM.gguf") == "BF16"  # what a name with the gates last would be
    assert {n: hub(file) for n, file in names.items()} == {n: READ.get(n, n.upper()) for n in names}


def test_llama_cpp_finds_the_file(names: dict[str, str]) -> None:
    """With all files in one place `-hf` finds each by its recipe's word, and no other file."""
    assert len(set(names.values())) == len(names)
    every = sorted(names.values())
    for recipe, file in names.items():
        tag = rules.tag(rules.recipe(recipe)).split("-")[0]
        if recipe in ("f16", "q4_0"):  # llama.cpp sees F16 in BF16, and what Q4_X writes is Q4_0
            continue
        assert llama_cpp(every, tag) == file


def test_gates_come_first(example: Path) -> None:
    """What is protected is said in front of the tag, and only where it is."""

    def tag(**options: str) -> str:
        plan = ggufmix.plan(example, options=Options(**options))
        return naming.fields(plan, rules.tag(rules.recipe(plan.recipe)))["tag"]

    assert tag() == "SSM_BF16-Q8_0"
    assert tag(gates="f32") == "SSM_F32-Q8_0"
    assert tag(gates="recipe") == "Q8_0"
    assert tag(mirror="llama.cpp") == "Q8_0"
    assert tag(recipe="bf16") == "BF16"


def test_name_of_the_model(model: Path) -> None:
    """Name, size and version are put together as gguf puts them; what is unsafe in a path is not in
    it.
    """
    (model / "README.md").write_text("---\nname: ../Qwen3.5 35B\nmodel_name: x\n---\n")
    plan = ggufmix.plan(model, options=Options(model_name="A/B C"))
    words = naming.fields(plan, "Q8_0")
    assert words["size"] == "4x2.9M"
    assert words["name"].endswith("-4x2.9M")
    assert not re.search(r"[/\s\\]", words["name"])
    assert (words["recipe"], words["arch"]) == ("q8_0", "qwen35moe")


@pytest.mark.parametrize("said", ["Qwen3.5-35B-A3B", "Qwen3.5 35B A3B"])
def test_a_name_that_has_its_size(example: Path, said: str) -> None:
    """What is typed as --model-name is not given a second size."""
    words = naming.fields(ggufmix.plan(example, options=Options(model_name=said)), "Q8_0")
    assert (words["name"], words["size"]) == ("Qwen3.5-35B-A3B", "4x2.9M")


@pytest.mark.parametrize(
    ("src", "name"),
    [
        ("/models/Qwen3.5-9B", "Qwen3.5-9B"),
        ("hf://Qwen/Qwen3.5-9B", "Qwen3.5-9B"),
        ("Mistral-9B-Instruct-v0.3/", "Mistral-9B-Instruct-v0.3"),
        ("GLM-4.5-Air", "GLM-4.5-Air-4x2.9M"),
        ("Odd-70B", "Odd-70B"),  # it has 9 billion: what the folder says is kept, nothing is added
        ("/models/Odd-Q8_0.gguf", "Odd-4x2.9M"),
        ("/models/Odd-BF16-00001-of-00003.gguf", "Odd-4x2.9M"),
    ],
)
def test_a_model_without_a_name(
    example: Path, monkeypatch: pytest.MonkeyPatch, src: str, name: str
) -> None:
    """Most checkpoints do not say what they are called: the folder or the address does."""
    plan = ggufmix.plan(example)
    monkeypatch.setattr(type(plan), "n_weights", 9_000_000_000)
    assert naming.fields(plan, "Q8_0", src)["name"] == name
    assert naming.fields(plan, "F16", "x/Qwen3.5-9B", "mmproj")["name"] == "mmproj-Qwen3.5-9B"
    assert naming.fields(plan, "F16", "x/Odd", "mmproj")["name"] == "mmproj-Odd"
    assert naming.fields(plan, "Q8_0", src, "mtp")["name"] == f"mtp-{name}"


@pytest.mark.parametrize("own", ["../../x", "/x", "a/b", "..", "", "{tag}", "-x", "a\\nb"])
def test_recipe_files_stay_in_the_folder(example: Path, tmp_path: Path, own: str) -> None:
    """A recipe that somebody else has written is not asked where its output goes."""
    (tmp_path / "x.toml").write_text(
        f'schema = 1\nname = "{own}"\nbase = "q8_0"\nwhy = "x"\nsource = "x"\n'
    )
    folder = tmp_path / "a" / "b" / "c"
    for template in ("{tag}-{recipe}.gguf", ""):
        (result,) = ggufmix.convert_each(
            example, f"{folder}/{template}", [str(tmp_path / "x.toml")], split=Limits(tensors=60)
        )
        for path in result.paths:
            kept = path.relative_to(folder)
            assert len(kept.parts) == 2
            assert kept.parts[0].startswith("SSM_BF16")
            assert ".." not in path.parts


def test_a_name_of_which_nothing_is_left(example: Path) -> None:
    """What has no plain letter is no name: the folder's counts, and where that is none either,
    what llama.cpp's converter takes. No file begins with a dash.
    """
    plan = ggufmix.plan(example, options=Options(model_name="\u65e5\u672c\u8a9e"))
    assert naming.fields(plan, "Q8_0", "x/Tiny")["name"] == "Tiny-4x2.9M"
    values = {k: v for k, v in plan.values.items() if k != "general.size_label"}
    plan = replace(plan, values=values)
    assert naming.fields(plan, "Q8_0", "x/Tiny")["name"] == "Tiny"
    assert naming.fields(plan, "Q8_0", "x/\u65e5\u672c\u8a9e")["name"] == "ggml-model"
    assert naming.fields(plan, "Q8_0", "x/---")["name"] == "ggml-model"


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("{nme}.gguf", "expected {name}, {size}"),
        ("{name!r}.gguf", "expected {name}"),
        ("{name:>5}.gguf", "expected {name}"),
        ("{}.gguf", "expected {name}"),
        ("{name", "expected '}'"),
    ],
)
def test_bad_templates(template: str, part: str) -> None:
    """A word that there is not is named with those that there are."""
    words = dict.fromkeys(("name", "size", "tag", "recipe", "arch"), "x")
    with pytest.raises(UsageError) as caught:
        naming.filled(template, words)
    assert part in str(caught.value)
    assert naming.filled("out/{name}-{{a}}-{tag}.gguf", words) == Path("out/x-{a}-x.gguf")
    with pytest.raises(UsageError, match="no name comes out of it"):
        naming.filled("{size}", words | {"size": ""})


def test_what_stands_for_a_template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Braces in the name of a folder that is there are no words; in quotes, as templates are, "~"
    is the home all the same; a path in full is left alone.
    """
    folder = tmp_path / "{name}"
    folder.mkdir()
    for said in (folder, f"{folder}/"):
        filled = naming.filled(naming.template(said), {"name": "x", "tag": "Q8_0"})
        assert filled == folder / "x-Q8_0.gguf"
    monkeypatch.setenv("HOME", "/home/x")
    assert naming.template("~/{tag}.gguf") == "/home/x/{tag}.gguf"
    assert naming.template("~/new/") == "/home/x/new/{name}-{tag}.gguf"
    assert naming.template("~/x.gguf") == "~/x.gguf"
    assert naming.template("{recipe}/") == "{recipe}/{name}-{tag}.gguf"
    with pytest.raises(UsageError, match="expected the path of an output"):
        naming.template("")
