"""What a run writes where: files of its plans, in one process or in many."""

# SPDX-License-Identifier: MIT

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from . import naming, reusing, rules, splitting
from .errors import UsageError, WriteError
from .options import Options
from .placing import Placement
from .planning import Plan
from .preparing import Forced, prepared_each

Place = tuple[str, str | None]
"""Path of an output, and the folder of its parts where there are several."""


@dataclass(frozen=True)
class Work:
    """A run, told so that another process can make the same parts of it. Arguments as `convert`.

    places  of each output
    asked   options of each output; they differ in nothing but recipes
    forced  for each output what a scan has decided, which is not repeated
    digest  SHA-256 of the headers, which say all but the data
    reuse   files that have some of the data already, and `picks` which
    """

    src: str
    places: tuple[Place, ...]
    asked: tuple[Options, ...]
    split: splitting.Limits | None
    keep_split: bool
    verify: bool
    forced: tuple[Forced, ...] = ()
    digest: str = ""
    reuse: tuple[str, ...] = ()
    picks: tuple[reusing.Pick, ...] = ()

    def only(self, kept: Sequence[int]) -> Work:
        """The same for some of the outputs."""
        return replace(
            self,
            places=tuple(self.places[n] for n in kept),
            asked=tuple(self.asked[n] for n in kept),
        )

    def told(self, plans: Sequence[Plan], layout: splitting.Layout) -> Work:
        """The same for elsewhere: with whole paths, and with what was found out."""
        scanned = self.asked[0].scans or self.asked[0].on_inexact == "f32"
        forced = [[(t.name, t.encoder.name, t.reason) for t in made.tensors] for made in plans]
        return replace(
            self,
            src=self.src if "://" in self.src else os.path.abspath(self.src),
            places=tuple(
                (os.path.abspath(path), os.path.abspath(folder) if folder is not None else None)
                for path, folder in self.places
            ),
            asked=tuple(one.absolute() for one in self.asked),
            forced=tuple(map(tuple, forced)) if scanned else (),
            digest=_digest(layout),
            reuse=tuple(p if "://" in p else os.path.abspath(p) for p in self.reuse),
        )


@contextmanager
def worked(work: Work) -> Iterator[splitting.Layout]:
    """What a run that was begun elsewhere writes, open as long as the block lasts.

    Raises WriteError where it would be something else here, and what `plan` raises.
    """
    with (
        reusing.opened(work.reuse) as olds,
        prepared_each(work.src, work.asked, forced=work.forced) as (plans, model),
    ):
        layout = laid_out(work, plans, model)
        if _digest(layout) != work.digest:
            raise WriteError(
                f"{work.places[0][0]}: on another machine the same plan came out otherwise",
                hint="they need the same ggufmix, and the same source under the same path",
            )
        yield reusing.picked(layout, olds, work.picks)


def place(src: str, template: str, options: Options, made: Plan) -> Place:
    """Path of an output, and the folder for its parts: one of its own, unless the user says how
    folders are called or what one file is called.
    """
    if not naming.is_template(template):
        return template, None
    auto = options.recipe.lower() == rules.AUTO
    tag = rules.tag(rules.recipe(made.recipe if auto else options.recipe))
    words = naming.fields(made, tag, src, options.component)
    path = naming.filled(template, words)
    own = not naming.is_template(os.path.dirname(template))
    return str(path), str(path.parent / words["tag"]) if own else None


def laid_out(work: Work, plans: Sequence[Plan], model: Placement) -> splitting.Layout:
    """Files and jobs of a run. Raises UsageError where two files would have one path."""
    homes = _homes(work.src, model) if work.keep_split else ()
    layout = splitting.laid_out(
        [
            splitting.Output(made, Path(path), work.split, homes, Path(folder) if folder else None)
            for made, (path, folder) in zip(plans, work.places, strict=True)
        ],
        measuring=work.verify,
    )
    real = {folder: os.path.realpath(folder) for folder in {p.path.parent for p in layout.parts}}
    seen: set[tuple[str, str]] = set()
    for part in layout.parts:
        where = real[part.path.parent], part.path.name
        if where in seen:
            raise UsageError(
                f"{part.path}: two of the recipes would be written there",
                hint="{tag} or {recipe} in the template tells them apart if anything does",
            )
        seen.add(where)
    return layout


@contextmanager
def folders(layout: splitting.Layout, *, fresh: bool) -> Iterator[None]:
    """The folders of the files, as long as nothing goes wrong; afterwards those that were made for
    something that did not come are gone.

    fresh  they may be made
    """
    wanted = dict.fromkeys(part.path.parent for part in layout.parts) if fresh else {}
    missing = {p for folder in wanted for p in (folder, *folder.parents) if not os.path.exists(p)}
    made: list[Path] = []
    try:
        try:
            for folder in sorted(missing, key=lambda p: len(p.parts)):
                with suppress(FileExistsError):  # by now; whether it is a folder is looked at later
                    folder.mkdir()
                    made.append(folder)
        except OSError as error:
            raise WriteError(f"{error.filename}: {error.strerror}") from error
        yield
    except BaseException:
        for folder in reversed(made):
            with suppress(OSError):  # it has what can be continued
                folder.rmdir()
        raise


def _digest(layout: splitting.Layout) -> str:
    return hashlib.sha256(b"".join(part.header for part in layout.parts)).hexdigest()


def _homes(src: str | os.PathLike[str], model: Placement) -> list[str]:
    """Names of the parts of a GGUF source."""
    names = [file.name for file in model.files]
    if len(names) < 2 or not all(name.endswith(".gguf") for name in names):
        raise UsageError(f"{src}: --keep-split is for a GGUF file in parts, and this is none")
    return names
