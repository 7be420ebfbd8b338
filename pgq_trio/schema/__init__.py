"""The objects in the database: declared, created, changed and compared; knows nothing of jobs."""

from pgq_trio.schema.grants import Duty, grant_statements
from pgq_trio.schema.postgres import PostgresSchema
from pgq_trio.schema.restate import upgrade_statements
from pgq_trio.schema.script import plan_script, script
from pgq_trio.schema.statements import install_statements, uninstall_statements
from pgq_trio.schema.tuning import autovacuum_statements, durability_statements

__all__ = [
    "Duty",
    "PostgresSchema",
    "autovacuum_statements",
    "durability_statements",
    "grant_statements",
    "install_statements",
    "plan_script",
    "script",
    "uninstall_statements",
    "upgrade_statements",
]
