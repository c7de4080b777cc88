"""Whether a file is what its source was, as far as its types go.

`verdict` judges the errors of one tensor by its type's band, `of_plan` those of all that a convert
has measured, `sentences` says what is wrong with which and what to do.
"""

# SPDX-License-Identifier: MIT

from .bands import Band, band, bands
from .findings import Parts, Report, Tested, of_plan, sentences
from .judging import Grade, Verdict, percent, share, verdict

__all__ = [
    "Band",
    "Grade",
    "Parts",
    "Report",
    "Tested",
    "Verdict",
    "band",
    "bands",
    "of_plan",
    "percent",
    "sentences",
    "share",
    "verdict",
]
