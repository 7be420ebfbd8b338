"""Installations as earlier releases left them, made by taking a present one back."""

from __future__ import annotations

from tests.schema import pgqueuers

_UTC = "(created AT TIME ZONE 'UTC')"

#: What each release of PgQueuer lacks of 1.6, or has in another spelling; older ones lack the rest
#: too. What they really install was looked up in databases that they made.
_TAKE_BACK: dict[str, list[str]] = {
    "1.6": [],
    "1.5": ["DROP INDEX pgqueuer_picked_heartbeat_idx"],
    "1.4": [
        (
            "ALTER TABLE pgqueuer_statistics ALTER created"
            " SET DEFAULT date_trunc('sec', now() AT TIME ZONE 'UTC')"
        ),
        "DROP INDEX pgqueuer_statistics_unique_count",
        (
            "CREATE UNIQUE INDEX pgqueuer_statistics_unique_count ON pgqueuer_statistics"
            f" (priority, date_trunc('sec', {_UTC}), status, entrypoint)"
        ),
    ],
    "1.3": ["ALTER TABLE pgqueuer DROP COLUMN slot"],
    # Before 1.0, where an upgrade did not reach; in no order that anybody knows.
    "ancient": [
        "ALTER TABLE pgqueuer ALTER id TYPE integer",
        "ALTER SEQUENCE pgqueuer_id_seq AS integer",
        "ALTER TABLE pgqueuer_schedules ALTER id TYPE integer",  # and its sequence is wide
        "ALTER SEQUENCE pgqueuer_statistics_id_seq AS integer",  # and its column is wide
        "ALTER TABLE pgqueuer_log ALTER job_id TYPE integer, ALTER id TYPE integer",
        (
            "ALTER TABLE pgqueuer DROP COLUMN headers, DROP COLUMN attempts,"
            " DROP COLUMN execute_after, DROP COLUMN dedupe_key, DROP COLUMN heartbeat"
        ),
        "ALTER TABLE pgqueuer_log DROP COLUMN traceback, DROP COLUMN aggregated",
        "ALTER TABLE pgqueuer ALTER updated DROP NOT NULL, ALTER updated DROP DEFAULT",
        (
            "ALTER TABLE pgqueuer_schedules DROP CONSTRAINT pgqueuer_schedules_pkey,"
            " DROP CONSTRAINT pgqueuer_schedules_expression_entrypoint_key"
        ),
        "DROP FUNCTION fn_pgqueuer_changed CASCADE",
    ],
}

VERSIONS = list(_TAKE_BACK)


def take_back(dsn: str, version: str) -> None:
    """Turn a present installation into one of an older release."""
    releases = VERSIONS[: VERSIONS.index(version) + 1]
    statements = [statement for release in releases for statement in _TAKE_BACK[release]]
    if statements:
        pgqueuers.fetch(dsn, "; ".join(statements))


def fill(dsn: str) -> None:
    """Put rows into the columns that every release has."""
    for statement in (
        (
            "INSERT INTO pgqueuer (priority, status, entrypoint, payload, created, updated)"
            " SELECT n, 'queued', 'e', convert_to(n::text, 'UTF8'), '2024-01-01Z', '2024-01-02Z'"
            " FROM generate_series(1, 20) n"
        ),
        (
            "INSERT INTO pgqueuer_log (job_id, status, priority, entrypoint)"
            " SELECT n, 'queued', n, 'e' FROM generate_series(1, 20) n"
        ),
        (
            "INSERT INTO pgqueuer_statistics (count, priority, status, entrypoint)"
            " SELECT n, n, 'queued', 'e' FROM generate_series(1, 20) n"
        ),
        "INSERT INTO pgqueuer_schedules (expression, entrypoint) VALUES ('* * * * *', 's')",
    ):
        pgqueuers.fetch(dsn, statement)


def rows(dsn: str) -> list[tuple[object, ...]]:
    """Everything `fill` has put in, with the ids it got."""
    return [
        *pgqueuers.fetch(
            dsn,
            "SELECT id, priority, status, entrypoint, payload, created FROM pgqueuer ORDER BY 1",
        ),
        *pgqueuers.fetch(dsn, "SELECT id, created, job_id, status FROM pgqueuer_log ORDER BY 1"),
        *pgqueuers.fetch(dsn, "SELECT id, created, count FROM pgqueuer_statistics ORDER BY 1"),
        *pgqueuers.fetch(dsn, "SELECT id, expression, created FROM pgqueuer_schedules ORDER BY 1"),
    ]
