-- Look whether there is anything to fold or to delete.
--
-- $1 everything up to this id is folded   $2 ages in seconds   $3 for each age, up to which id of
-- the log everything that old is gone   $4 age of statistics in seconds or NULL
--
-- One statement for an idle queue. The log is nearly in the order of time: if none of the first
-- rows behind a mark is old enough, none is. A hundred, since a stray one may have a time from a
-- clock that was wrong.
SELECT
    EXISTS (
        SELECT FROM {queue_table_log} entry WHERE NOT entry.aggregated AND entry.id > $1::bigint
    ),
    EXISTS (
        SELECT
        FROM unnest($2::float8[], $3::bigint[]) AS mark(age, id)
        CROSS JOIN LATERAL (
            SELECT entry.created
            FROM {queue_table_log} entry
            WHERE entry.id > mark.id
            ORDER BY entry.id
            LIMIT 100
        ) head
        WHERE head.created < now() - make_interval(secs => mark.age)
    ) OR EXISTS (
        SELECT
        FROM (SELECT created FROM {statistics_table} ORDER BY id LIMIT 100) head
        WHERE head.created < now() - make_interval(secs => $4::float8)
    ),
    coalesce((SELECT max(id) FROM {queue_table_log}), 0),
    pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint,
    pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint
