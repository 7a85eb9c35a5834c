"""Columns of the manifest that are carried along: their names in the table, and whether it can hold them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa

from latentsync_ray.errors import ConfigError, InputNotFound
from latentsync_ray.layout import metadata_folder
from latentsync_ray.records.files import encoded, read_all
from latentsync_ray.records.schema import RECORD_SCHEMA, carried_name

__all__ = ["check_together", "named"]


def named(extra: pa.Table) -> pa.Table:
    """The columns to carry, under the names they have in the table.

    Raises ConfigError when two get the same, and for types that the table cannot hold.
    """
    names = [name if name == "clip_id" else carried_name(name) for name in extra.column_names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(
            f"the manifest has a column {twice!r}, the name its column {twice.partition('_')[2]!r} is carried under: rename one"
        )
    extra = extra.rename_columns(names)
    for name in names:
        _check_type(extra.select([name]).slice(0, 1))
    return extra


def _check_type(one: pa.Table) -> None:
    """Do with one row of one column what is done with all: take it, and write it."""
    try:
        encoded(one.take(list(range(len(one)))))
    except pa.ArrowException as error:
        (column,) = one.schema
        raise ConfigError(
            f"the manifest's column {column.name!r} is {column.type}, which the table cannot hold ({error}); "
            "leave it out or give it another type, such as text"
        ) from error


def check_together(extra: pa.Table | None, files: dict[str, pa.Schema], output: str) -> None:
    """Raise ConfigError unless the columns go together with those of the table's ``files``, in type and value.

    A file's column is read only where its type has to become another.
    """
    mine = [] if extra is None else [extra.schema]
    try:
        whole = pa.unify_schemas([RECORD_SCHEMA, *mine, *files.values()], promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise _refusal(output, str(error)) from error
    for column in () if extra is None else _to_become_another(extra, whole, files, output):
        (name,) = column.column_names
        try:
            pa.concat_tables([whole.empty_table().select([name]), column], promote_options="permissive")
        except (pa.ArrowTypeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise _refusal(output, f"{name!r} as {whole.field(name).type}: {error}") from error


def _refusal(output: str, why: str) -> ConfigError:
    return ConfigError(
        f"the manifest's extra columns do not go together with those in {metadata_folder(output)}: {why}; "
        "rename the column or choose another output folder"
    )


def _to_become_another(extra: pa.Table, whole: pa.Schema, files: dict[str, pa.Schema], output: str) -> Iterator[pa.Table]:
    """One column at a time."""
    for name in extra.column_names:
        if _differs(extra.schema, whole, name):
            yield extra.select([name])
        for uri, schema in files.items():
            if _differs(schema, whole, name):
                with suppress(InputNotFound):  # a run that is at work has merged it
                    for table in read_all([uri], output, columns=[name])[0].values():
                        yield table.replace_schema_metadata(None)


def _differs(schema: pa.Schema, whole: pa.Schema, name: str) -> bool:
    """Whether a column is in there, with values, and of another type."""
    place = schema.get_field_index(name)
    return place >= 0 and schema.field(place).type not in (whole.field(name).type, pa.null())
