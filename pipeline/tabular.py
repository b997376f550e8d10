"""What is a table for Arrow's tools: one interface for whatever knows how to make its table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


_HABITS: Final = {
    "columns": "to_arrow().column_names",
    "df": "to_pandas()",
    "to_csv": "to_pandas().to_csv",
    "to_df": "to_pandas()",
    "to_parquet": "to_pandas().to_parquet",
    "to_polars": "polars.DataFrame(x)",
}


class Tabular:
    """A table by the Arrow PyCapsule interface, for classes that have `to_arrow`.

    https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html: Polars, DuckDB,
    pandas and pyarrow take such an object wherever they take a table or a frame.
    """

    __slots__ = ()

    def to_arrow(self) -> pa.Table:
        """The table, as a `pyarrow.Table`."""
        raise NotImplementedError

    def to_pandas(self) -> pd.DataFrame:
        """The table as a frame; needs pandas."""
        return self.to_arrow().to_pandas()

    if not TYPE_CHECKING:  # or a type checker would take any name

        def __getattr__(self, name: str) -> Any:
            """Say what other libraries' names for a table, and its columns, are called here."""
            found = _HABITS.get(name, "")
            if not found and not name.startswith("_") and name in self.to_arrow().schema.names:
                found = f'to_arrow()["{name}"]'
            hint = f"; write {found}" if found else ""
            raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}{hint}")

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """The table as a stream of record batches."""
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """The table as one record batch: the schema and a struct array of all rows."""
        import pyarrow as pa

        table = self.to_arrow().combine_chunks()
        batches = table.to_batches() or [pa.RecordBatch.from_pylist([], table.schema)]
        schema, array = batches[0].__arrow_c_array__(requested_schema)
        return schema, array

    def __arrow_c_schema__(self) -> object:
        """The table's columns."""
        return self.to_arrow().schema.__arrow_c_schema__()


__all__ = ["Tabular"]
