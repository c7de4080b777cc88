"""General metadata: what llama.cpp's converter writes, but nothing of the machine."""

# SPDX-License-Identifier: MIT

import json
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFWriter, Metadata, size_label

from ggufmix.container import header
from ggufmix.errors import ModelError, SourceError
from ggufmix.general import general

DENSE = (7_600_000_000, 7_600_000_000, 0, 0)
EXPERTS = (35_000_000_000, 3_000_000_000, 125_000_000, 256)
CARD = """---
license: apache-2.0
license_link: https://example.org/LICENSE
base_model:
- Qwen/Qwen2.5-7B
- https://huggingface.co/mistralai/Mistral-7B-v0.1
datasets: org/data-set
language: [en, no]
tags: [chat]
pipeline_tag: text-generation
model_name: Tiny Model 7B Instruct
version: 1.0
author: 2026-01-02
---
# Tiny
"""


def write(
    directory: Path,
    *,
    card: str | None = None,
    config: Any = None,
    generation: Any = None,
) -> Path:
    """A model directory with the files that are given."""
    directory.mkdir(parents=True)
    if card is not None:
        (directory / "README.md").write_text(card, encoding="utf-8")
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        if content is not None:
            (directory / name).write_text(json.dumps(content), encoding="utf-8")
    return directory


def converter(directory: Path, parameters: tuple[int, int, int, int], name: str | None) -> Any:
    """What llama.cpp's prepare_metadata records, by the gguf package; keys in their order."""
    metadata = Metadata.load(None, directory, name, parameters[0])
    if metadata.size_label is None and parameters[0] > 0:
        metadata.size_label = size_label(*parameters)
    writer = GGUFWriter(None, "x")
    writer.add_type("model")
    metadata.set_gguf_meta_model(writer)
    kept = {k: v for k, v in writer.kv_data[0].items() if k != "general.architecture"}
    return [(key, value.type, value.value) for key, value in kept.items()]


def listed(made: dict[str, Any]) -> Any:
    """Our values in the same form."""
    return [(key, value.type, value.data) for key, value in made.items()]


@pytest.mark.parametrize("parameters", [DENSE, EXPERTS], ids=["dense", "experts"])
def test_same_keys_values_and_order_as_the_converter(
    parameters: tuple[int, int, int, int], tmp_path: Path
) -> None:
    """With a name from the card, everything is as the converter writes it."""
    card = CARD.replace(": 1.0", ": v1.0").replace("2026-01-02", "A. Author")
    card = card.replace("[en, no]", "[en, de]")
    generation = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "do_sample": True}
    directory = write(tmp_path / "m", card=card, config={"a": 1}, generation=generation)
    made = general(directory, parameters=parameters)
    assert listed(made) == converter(directory, parameters, None)
    assert made["general.name"].data == "Tiny Model 7B Instruct"
    assert made["general.sampling.temp"].data == 0.6


def test_a_hub_id_in_the_config_names_the_model(tmp_path: Path) -> None:
    """Its parts give organization, base name, size and fine-tune, as in the converter."""
    config = {"_name_or_path": "Qwen/Qwen2.5-7B-Instruct"}
    directory = write(tmp_path / "m", config=config)
    made = general(directory, parameters=DENSE)
    assert listed(made) == converter(directory, DENSE, None)
    assert made["general.basename"].data == "Qwen2.5"


def test_the_users_name_comes_first(tmp_path: Path) -> None:
    """--model-name beats the card."""
    directory = write(tmp_path / "m", card="---\nname: Card\n---\n")
    made = general(directory, parameters=DENSE, model_name="Mine")
    assert made["general.name"].data == "Mine"


@pytest.mark.parametrize(
    "folder", ["secret-project-7B-chat", "Llama-3-8B-Instruct-v2", "a b c", "x"]
)
def test_nothing_comes_from_the_folder(folder: str, tmp_path: Path) -> None:
    """A model without a name gets none, and its folder is not in any value."""
    path = str(tmp_path / "other")
    card = f"---\nbase_model: {path}\ndatasets: [{path}]\nname: ./{folder}\ntags: [ok]\n---\n"
    for config in ({}, {"_name_or_path": path}, {"_name_or_path": f"./{folder}"}, None):
        directory = write(tmp_path / str(id(config)) / folder, card=card, config=config)
        made = general(directory, parameters=DENSE)
        assert "general.name" not in made
        assert made["general.size_label"].data == size_label(*DENSE)
        for word in (str(tmp_path).encode(), tmp_path.name.encode(), folder.encode()):
            assert len(word) < 2 or word not in header(made, [])


def test_the_folder_does_not_change_the_values(tmp_path: Path) -> None:
    """The same files give the same keys wherever they lie."""
    made = [
        general(write(tmp_path / name, card=CARD), parameters=DENSE)
        for name in ("one-7B", "Two-70B-chat")
    ]
    assert made[0] == made[1]


def test_numbers_and_dates_in_the_card_become_text(tmp_path: Path) -> None:
    """`version: 1.0` is a number in YAML and the language `no` is false: both are meant as text."""
    made = general(write(tmp_path / "m", card=CARD), parameters=DENSE)
    assert made["general.version"].data == "1.0"
    assert made["general.author"].data == "2026-01-02"
    assert made["general.languages"].data == ["en", "no"]
    assert header(made, [])


@pytest.mark.parametrize("card", ["---\na: [\n---\n", "---\n- a\n---\n", "", "# no front matter"])
def test_a_card_that_cannot_be_used_is_no_obstacle(card: str, tmp_path: Path) -> None:
    """A model card is decoration: a broken one is told, and the rest is written."""
    warnings: list[str] = []
    made = general(
        write(tmp_path / "m", card=card), parameters=DENSE, model_name="A", warnings=warnings
    )
    assert made["general.name"].data == "A"
    assert bool(warnings) == card.startswith("---\na")


def test_a_sampling_value_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    """And told."""
    warnings: list[str] = []
    directory = write(
        tmp_path / "m", generation={"temperature": "hot", "top_k": 5.0, "top_p": None}
    )
    made = general(directory, parameters=DENSE, warnings=warnings)
    assert "general.sampling.temp" not in made
    assert made["general.sampling.top_k"].data == 5
    assert len(warnings) == 1


def test_a_config_that_is_no_json_is_an_error(tmp_path: Path) -> None:
    """config.json is no decoration."""
    directory = write(tmp_path / "m")
    (directory / "config.json").write_text("{")
    with pytest.raises(SourceError, match=r"config\.json"):
        general(directory, parameters=DENSE)


def test_no_parameters_no_size(tmp_path: Path) -> None:
    """A vocabulary alone has no size label."""
    assert "general.size_label" not in general(write(tmp_path / "m"), parameters=(0, 0, 0, 0))


@pytest.mark.parametrize(
    "content",
    [
        "tags: &a [*a]",
        "a: &a [x]\n"
        + "".join(f"l{i}: &l{i} [{', '.join(['*a'] * 20)}]\na: &a [*l{i}]\n" for i in range(9)),
        'tags: ["\\ud800"]',
        "a: " + "[" * 5000,
    ],
    ids=["its own part", "millions by alias", "no UTF-8", "deep"],
)
def test_a_card_that_nobody_can_use_is_told_of(tmp_path: Path, content: str) -> None:
    """Nothing is taken from it, a warning names it, and the rest goes on."""
    told: list[str] = []
    directory = write(tmp_path / "m", card=f"---\n{content}\n---\n")
    made = general(directory, parameters=DENSE, warnings=told)
    assert made.keys() == {"general.type", "general.size_label"}
    assert len(told) == 1
    assert told[0].startswith("README.md: ")


def test_a_license_that_is_a_number(tmp_path: Path) -> None:
    """Lists of licenses are joined, whatever YAML takes an item for."""
    made = general(write(tmp_path / "m", card="---\nlicense: [mit, 3]\n---\n"), parameters=DENSE)
    assert made["general.license"].data == "mit,3"


def test_a_config_with_infinity_is_read(tmp_path: Path) -> None:
    """Python's json writes NaN and Infinity, so transformers does."""
    config = {"_name_or_path": "org/model-7b", "time_step_limit": [0.0, float("inf")]}
    made = general(write(tmp_path / "m", config=config), parameters=DENSE)
    assert made == general(
        write(tmp_path / "n", config={"_name_or_path": "org/model-7b"}), parameters=DENSE
    )


@pytest.mark.parametrize(("key", "value"), [("top_k", 1 << 40), ("top_p", 1e39)])
def test_a_number_that_its_type_does_not_hold(tmp_path: Path, key: str, value: int) -> None:
    """The header names the key and what was expected."""
    made = general(write(tmp_path / "m", generation={key: value}), parameters=DENSE)
    with pytest.raises(ModelError, match=rf"general\.sampling\.{key}: expected numbers"):
        header(made, [])
