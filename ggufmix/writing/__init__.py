"""Writing files whose every byte has its place before the first one is written.

A `Part` is one file: a path, a header, the size. A `Job` makes what belongs into a few fixed ranges
of one file or of several, such as the blocks of one tensor, or FP8 weights and their scales. What
it does is its own affair; this package knows threads, disks and order:

- A job lists its bands, ranges of rows in rising order. `make(start, stop)` makes one band, in any
  thread, several at a time, in any order: it must depend on nothing but its arguments. It returns
  a `Made`: pieces of data with their place, and what was found while making them.
- The pieces are written where they belong by the thread that made them. Then bands are handed in in
  order: the first of the first job first, whatever the number of threads. Only there things are
  added up: what was found, with `+`. So sums of floats do not depend on threads either.
- Pieces of a job fill each of its ranges from front to back, band after band.
- A file is opened when something is put into it, and closed when all of its jobs are done.
- At most twice as many bands as threads are under way, made but not yet handed in, and no more than
  fit into `UNDER_WAY_BYTES`: a job may say what its bands take (`Weighing`).
- In that order each range gets its checksum (XXH64), and when all data are there the headers are
  sealed: written with the checksums in them, where they have a place for them.
- A file is `OUT.part`, locked, until every byte of every part is on disk; then all are renamed.
- A run that is `Resumable` keeps a journal beside it: see `keeping` for what is written when. When
  it is continued, what the journal claims is read again, and jobs whose checksums are not right are
  done again. So are jobs that were under way.

`encoding` has the jobs of a GGUF plan. Others may bring their own.
"""

# SPDX-License-Identifier: MIT

from .jobs import Extent, Found, Job, Made, Nothing, Part, Piece, Sums, Written
from .keeping import Resumable, left, naming
from .places import check_place
from .running import Elsewhere, Ended, Progress, run, thread_count
from .whole import write

__all__ = [
    "Elsewhere",
    "Ended",
    "Extent",
    "Found",
    "Job",
    "Made",
    "Nothing",
    "Part",
    "Piece",
    "Progress",
    "Resumable",
    "Sums",
    "Written",
    "check_place",
    "left",
    "naming",
    "run",
    "thread_count",
    "write",
]
