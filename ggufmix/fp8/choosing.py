"""What becomes FP8: a preset, the user's patterns, and what engines cannot take apart."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from ..errors import ModelError, UsageError
from ..rules.files import nearest
from ..tensor import Tensor
from .naming import WEIGHT, Matrix, expert_of, matrices, module_of
from .rulebook import Entry, Group, any_of, groups, preset

BLOCK = 128
_NUMBERED = re.compile(r"(?<=\.)\d+(?=\.|$)")
_EXPERTS = "num_experts", "n_routed_experts", "num_local_experts"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to become of one module.

    module   its name
    stored   name of the stored tensor of its weight
    shape    of its weight
    matrix   its weight, or None where it is nothing that FP8 could hold
    fp8      whether it becomes FP8
    reason   a few words
    """

    module: str
    stored: str
    shape: tuple[int, ...]
    matrix: Matrix | None
    fp8: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to become of a checkpoint.

    decisions      of every module with a weight of two or more dimensions, in stored order
    not_converted  modules_to_not_convert of the config
    warnings       shapes that some loaders do not take
    """

    decisions: tuple[Decision, ...]
    not_converted: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def kinds(self) -> dict[tuple[str, tuple[int, ...], bool, str], int]:
        """How many modules there are of each name (with * for its numbers), shape, decision and
        reason, in stored order.
        """
        return Counter((_alike(d.module), d.shape, d.fp8, d.reason) for d in self.decisions)

    @property
    def quantized(self) -> Iterator[Matrix]:
        """Matrices that become FP8, in stored order."""
        return (d.matrix for d in self.decisions if d.fp8 and d.matrix is not None)


def choose(
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    preset_name: str = "conservative",
    keep: Sequence[str] = (),
    quantize: Sequence[str] = (),
) -> Choice:
    """Decide for every weight of a checkpoint.

    tensors         by stored name
    keep, quantize  globs on names of modules; one that matches a module speaks for all inside it
    Raises UsageError for a pattern that matches nothing, contradicts another one, overrides what
    engines need, or splits modules that they run as one; ModelError for a weight that no rule
    claims and for modules that are there in part.
    """
    book = preset(preset_name)
    claim = _claims(book.keep, book.quantize)
    wanted = {
        "--keep": [_Pattern("--keep", p) for p in keep],
        "--quantize": [_Pattern("--quantize", p) for p in quantize],
    }
    decisions: list[Decision] = []
    unclaimed: list[tuple[str, Tensor]] = []
    for stored, parts in matrices(tensors):
        whole = tensors[stored]
        for matrix in parts or (None,):
            module = matrix.module if matrix is not None else module_of(stored)
            found = claim(module)
            by_user = _asked(module, wanted)
            if by_user is None and found is None:
                unclaimed.append((module, whole))
                continue
            fp8, reason = by_user or (False, "")
            if by_user is None and found is not None:
                fp8, entry = found
                reason = entry.name
            elif fp8 and found is not None and found[1].must:
                raise UsageError(
                    f"{reason}: {module} cannot be FP8 ({found[1].name}): {found[1].why}",
                    hint="leave it out with a narrower pattern",
                )
            if fp8 and matrix is None:
                raise UsageError(
                    f"{reason}: {stored} is no matrix that FP8 could hold: its shape is "
                    f"{list(whole.shape)}",
                    hint="leave it out with a narrower pattern",
                )
            shape = matrix.tensor.shape if matrix is not None else whole.shape
            decisions.append(Decision(module, stored, shape, matrix, fp8, reason))
    for patterns in wanted.values():
        for pattern in patterns:
            pattern.check_used(d.module for d in decisions)
    _refuse_unclaimed(unclaimed)
    _check_groups(decisions, config)
    return Choice(
        tuple(decisions),
        tuple(not_converted(tensors, {d.module for d in decisions if d.fp8}, config)),
        tuple(_shapes(decisions)),
    )


class _Pattern:
    """A glob of the user's."""

    def __init__(self, option: str, glob: str) -> None:
        self.option, self.glob = option, glob
        self.text = f"{option} {glob}"
        self.used = False
        expression = any_of([glob])
        self._matches = cache(lambda name: expression.match(name) is not None)

    def matches(self, module: str) -> bool:
        """Whether it names the module, or one that this lies in."""
        at = len(module)
        while at > 0:
            if self._matches(module[:at]):
                self.used = True
                return True
            at = module.rfind(".", 0, at)
        return False

    def check_used(self, modules: Iterable[str]) -> None:
        if not self.used:
            raise UsageError(
                f"{self.text}: no module has such a name, nor one around it",
                hint=nearest(self.glob, {_alike(m) for m in modules})
                or "patterns are globs on names such as model.layers.0.self_attn.q_proj",
            )


def _asked(module: str, wanted: Mapping[str, Sequence[_Pattern]]) -> tuple[bool, str] | None:
    found = {o: [p for p in patterns if p.matches(module)] for o, patterns in wanted.items()}
    kept, quantized = found["--keep"], found["--quantize"]
    if kept and quantized:
        raise UsageError(
            f"{module}: {kept[0].text} and {quantized[0].text} contradict each other",
            hint="leave it out of one of them with a narrower pattern",
        )
    return (bool(quantized), (kept or quantized)[0].text) if kept or quantized else None


def _claims(
    keep: Sequence[Entry], quantize: Sequence[Entry]
) -> Callable[[str], tuple[bool, Entry] | None]:
    """A function that finds the entry of a module; names that differ in numbers are asked once."""
    entries = [*((False, e) for e in keep), *((True, e) for e in quantize)]

    @cache
    def claim(alike: str) -> tuple[bool, Entry] | None:
        return next((e for e in entries if e[1].pattern.match(alike)), None)

    return lambda module: claim(_NUMBERED.sub("0", module))


def _alike(module: str) -> str:
    """The name for people, with * for each number."""
    return _NUMBERED.sub("*", module)


def _refuse_unclaimed(unclaimed: Sequence[tuple[str, Tensor]]) -> None:
    if not unclaimed:
        return
    name, tensor = unclaimed[0]
    kinds = Counter(_alike(module) for module, _ in unclaimed)
    others = f" and {len(unclaimed) - 1} others" if len(unclaimed) > 1 else ""
    raise ModelError(
        f"{tensor.file}: no rule knows {name}, of shape {list(tensor.shape)}{others}",
        hint=f"say what it is to become: --keep or --quantize {' '.join(map(repr, kinds))}",
    )


def _check_groups(decisions: Sequence[Decision], config: Mapping[str, Any]) -> None:
    parents: dict[str, dict[str, Decision]] = defaultdict(dict)
    experts: dict[str, dict[tuple[int, str], Decision]] = defaultdict(dict)
    for d in decisions:
        parent, _, last = d.module.rpartition(".")
        parents[parent][last] = d
        if (expert := expert_of(d.module)) is not None:
            experts[expert[0]][expert[1:]] = d
    for container, members in experts.items():
        _check_together(members.values(), f"the experts of {container}")
        if next(iter(members.values())).fp8:
            _check_experts(container, members, config)
    for parent, there in parents.items():
        for group in groups():
            members_here = [there[m] for m in group.members if m in there]
            if members_here and not any(m in there for m in group.unless):
                _check_together(members_here, f"{group.name} of {parent}")
                if members_here[0].fp8:
                    _check_complete(parent, group, there)


def _check_together(members: Iterable[Decision], what: str) -> None:
    members = list(members)
    other = next((m for m in members if m.fp8 != members[0].fp8), None)
    if other is not None:
        fp8, plain = (members[0], other) if members[0].fp8 else (other, members[0])
        raise UsageError(
            f"{what} run as one: all in FP8 or none; {fp8.module} would be FP8 ({fp8.reason}), "
            f"{plain.module} not ({plain.reason})",
            hint="widen the pattern to all of them",
        )


def _check_complete(parent: str, group: Group, there: Mapping[str, Decision]) -> None:
    gone = [m for m in group.members if m not in there]
    if gone:
        has = ", ".join(m for m in group.members if m in there)
        raise ModelError(
            f"{parent}: has {has}, but no {', '.join(gone)}: engines run them as one {group.name}",
            hint="the checkpoint is not complete: download it again, or --keep what is there",
        )


def _check_experts(
    container: str, members: Mapping[tuple[int, str], Decision], config: Mapping[str, Any]
) -> None:
    parts = sorted({part for _, part in members})
    numbers = {number for number, _ in members}
    stated = [
        part[key]
        for part in (config, config.get("text_config"))
        if isinstance(part, Mapping)
        for key in _EXPERTS
        if isinstance(part.get(key), int)
    ]
    n = max(stated[0] if stated else 0, max(numbers) + 1)
    for number in range(n):
        for part in parts:
            if (number, part) not in members:
                raise ModelError(
                    f"{container}: expected {n} experts with {', '.join(parts)} each, "
                    f"{container}.{number}.{part} is not there",
                    hint="the checkpoint is not complete: download it again",
                )


def not_converted(
    tensors: Mapping[str, Tensor], fp8: Collection[str], config: Mapping[str, Any]
) -> list[str]:
    """modules_to_not_convert: the modules with weights of two or more dimensions that are not FP8.
    Of experts that of what holds them: transformers knows no other, vLLM and SGLang look for it in
    every name.

    tensors  by stored name
    fp8      names of the modules that are
    """
    left: set[str] = set()
    has_head = False
    for stored, parts in matrices(tensors):
        modules = [m.module for m in parts]
        if not modules and stored.endswith(WEIGHT):
            modules = [module_of(stored)]
        for module in modules:
            has_head |= module.endswith("lm_head")
            if module not in fp8:
                expert = expert_of(module)
                left.add(expert[0] if expert is not None else module)
    kinds = config.get("architectures")
    kind = str(kinds[0]) if isinstance(kinds, list) and kinds else ""
    if not has_head and kind.endswith(("ForCausalLM", "ForConditionalGeneration")):
        left.add("lm_head")  # tied: there is no weight of its own, but a module
    return sorted(left, key=_natural)


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(p), "") if p.isdigit() else (-1, p) for p in name.split(".")]


def _shapes(decisions: Sequence[Decision]) -> Iterator[str]:
    """Sentences on FP8 weights that not every loader takes."""
    uneven: Counter[tuple[str, tuple[int, ...]]] = Counter()
    merged: Counter[tuple[str, tuple[int, ...]]] = Counter()
    firsts = {m for group in groups() for m in group.members[:-1]}
    for d in decisions:
        if not d.fp8:
            continue
        kind = _alike(d.module), d.shape
        if any(n > BLOCK and n % BLOCK for n in d.shape):
            uneven[kind] += 1
        expert = expert_of(d.module)
        part = d.module.rpartition(".")[2]
        rows = d.shape[0]
        if rows % BLOCK and (part in firsts or (expert is not None and part == "up_proj")):
            merged[kind] += 1
    for (name, (rows, cols)), n in uneven.items():
        yield (
            f"{name} ({rows} x {cols}, {n} in all): transformers 5.23 without a GPU reads shapes "
            f"off {BLOCK} wrongly or not at all; engines and compressed-tensors read them right"
        )
    for (name, (rows, cols)), n in merged.items():
        yield (
            f"{name} ({rows} x {cols}, {n} in all): vLLM and SGLang refuse rows off {BLOCK} in "
            "what they run as one with another module"
        )
