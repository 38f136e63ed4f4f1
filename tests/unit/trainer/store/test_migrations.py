# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: ANN202 - inner functions are pieces of work for the store
import sqlite3

import pytest
from finetree_trainer.store import schema
from finetree_trainer.store.database import Store
from finetree_trainer.store.migrations import MIGRATIONS, SchemaTooNewError
from sqlalchemy import MetaData, inspect


def test_the_migrations_make_the_tables_that_the_queries_name(store):
    def compare(connection):
        found = inspect(connection)
        for table in schema.metadata.sorted_tables:
            columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            assert set(columns) == {column.name for column in table.columns}, table.name
            keys = found.get_pk_constraint(table.name)["constrained_columns"]
            assert keys == [column.name for column in table.primary_key.columns], table.name
            assert {index["name"] for index in found.get_indexes(table.name)} >= {i.name for i in table.indexes}
        reflected = MetaData()
        reflected.reflect(connection)
        assert set(reflected.tables) == set(schema.metadata.tables)

    store.read_now(compare)


def test_a_database_is_migrated_once_and_keeps_its_epoch(tmp_path):
    first = Store(tmp_path / "a.db")
    epoch = first.log_epoch
    first.close()
    again = Store(tmp_path / "a.db")
    assert (again.log_epoch, again.schema_version) == (epoch, len(MIGRATIONS))
    again.close()
    other = Store(tmp_path / "b.db")
    assert other.log_epoch != epoch
    other.close()


def test_a_database_of_a_newer_version_is_refused(tmp_path):
    Store(tmp_path / "a.db").close()
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE key = 'schema_version'")
    connection.close()
    with pytest.raises(SchemaTooNewError):
        Store(tmp_path / "a.db")
