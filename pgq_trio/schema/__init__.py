"""The objects in the database: declared, created, dropped and compared; knows nothing of jobs."""

from pgq_trio.schema.postgres import PostgresSchema
from pgq_trio.schema.statements import install_statements, uninstall_statements

__all__ = ["PostgresSchema", "install_statements", "uninstall_statements"]
