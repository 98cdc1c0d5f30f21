"""What a notebook or a report does with a view of schema ml_bi: find it, read its columns, and query it with typed values.

The environment names the database: DATABASE_URL, or the PG* variables. Argument: the name of the model. Prints tab-separated lines.
"""

import datetime
import os
import sys

import psycopg
from psycopg import sql

COLUMNS = """
    SELECT column_name, data_type, col_description(format('%%I.%%I', table_schema, table_name)::regclass, ordinal_position)
    FROM information_schema.columns WHERE table_schema = 'ml_bi' AND table_name = %s ORDER BY ordinal_position
"""


def main(model: str) -> None:
    with psycopg.connect(os.environ.get("DATABASE_URL", "")) as connection:
        for row in connection.execute("SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema = 'ml_bi' AND table_type = 'VIEW'"):
            print("view", *row, sep="\t")
        for row in connection.execute(COLUMNS, [model]):
            print("column", *row, sep="\t")
        query = sql.SQL("SELECT * FROM ml_bi.{} WHERE predicted_at > %s AND version = %s ORDER BY key").format(sql.Identifier(model))
        since = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(hours=1)
        cursor = connection.cursor(binary=True)
        for row in cursor.execute(query, [since, 1]):
            print("row", *("null" if v is None else f"{type(v).__name__}:{v}" for v in row), sep="\t")


main(sys.argv[1])
