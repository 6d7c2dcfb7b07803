"""Rows of a reader, before their numbers are checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from prefect_mymsp.rejected_rows import RejectedRow


@dataclass(frozen=True)
class ParsedRows:
    """A stretch of a source's rows, as text.

    Attributes:
        rows: Line or position of each row, int64 of n.
        table: The cells: n rows of string columns without nulls, named and ordered as the source's columns.
        rejected_rows: Rows of the same stretch that could not be parsed, by row.
    """

    rows: npt.NDArray[np.int64]
    table: pa.Table
    rejected_rows: list[RejectedRow]
