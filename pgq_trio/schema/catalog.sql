-- What the catalog holds of the queue's objects: kind, name and definition of each.
--
-- $1 the status type   $2 the tables, in the order of the declaration   $3 the function
-- $4 the trigger; names as SQL text, resolved by the search path where they have no schema
--
-- `{status}` in a definition stands for the status type, however this session spells it.
WITH wanted AS (
    SELECT to_regtype($1::text) AS status_type, to_regprocedure($3::text || '()') AS function
),
relation AS (
    SELECT to_regclass(name) AS oid, place, to_regclass(name)::oid = main.oid AS is_queue
    FROM unnest($2::text[]) WITH ORDINALITY AS t(name, place)
    CROSS JOIN (SELECT to_regclass(($2::text[])[1])::oid AS oid) main
    WHERE to_regclass(name) IS NOT NULL
)
SELECT 'type' AS kind, '' AS name, (
        SELECT string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder)
        FROM pg_catalog.pg_enum e
        WHERE e.enumtypid = status_type
    ) AS definition
FROM wanted
WHERE status_type IS NOT NULL
UNION ALL
SELECT 'table', place::text, CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' ELSE 'LOGGED' END
FROM relation
JOIN pg_catalog.pg_class c ON c.oid = relation.oid
UNION ALL
SELECT 'column', place || '.' || a.attname,
    CASE WHEN a.atttypid = status_type THEN '{status}'
        ELSE format_type(a.atttypid, a.atttypmod) END
    || CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END
    || CASE
        -- Of serial and of identity columns. The type of the sequence bounds the ids as well.
        WHEN q.seqtypid IS NOT NULL THEN ' GENERATED'
            || CASE WHEN q.seqtypid = 'bigint'::regtype THEN ''
                ELSE ' AS ' || format_type(q.seqtypid, NULL) END
        WHEN d.adbin IS NOT NULL THEN ' DEFAULT ' || replace(
            pg_get_expr(d.adbin, d.adrelid), '::' || coalesce(status_type::text, ''), '::{status}')
        ELSE ''
    END
FROM wanted
CROSS JOIN relation
JOIN pg_catalog.pg_attribute a ON a.attrelid = relation.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
LEFT JOIN pg_catalog.pg_sequence q
    ON q.seqrelid = pg_get_serial_sequence(relation.oid::regclass::text, a.attname)::regclass
UNION ALL
SELECT 'constraint', place || ' ' || pg_get_constraintdef(k.oid), ''
FROM relation
JOIN pg_catalog.pg_constraint k ON k.conrelid = relation.oid AND k.contype IN ('p', 'u')
UNION ALL
SELECT 'index', i.relname,
    CASE WHEN x.indisunique THEN 'UNIQUE ' ELSE '' END
    || CASE WHEN x.indisvalid THEN '' ELSE 'INVALID ' END
    -- Greedy, and after the type is out of the way: names may hold anything.
    || coalesce(
        substring(
            replace(
                pg_get_indexdef(x.indexrelid), '::' || coalesce(status_type::text, ''), '::{status}'
            )
            FROM '.*( USING btree .*)$'),
        ' USING another method')
FROM wanted
CROSS JOIN relation
JOIN pg_catalog.pg_index x ON x.indrelid = relation.oid
JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid
UNION ALL
SELECT 'function', '', p.prosrc
FROM wanted
JOIN pg_catalog.pg_proc p ON p.oid = wanted.function
UNION ALL
-- Bits of tgtype: 1 for each row, 4 on INSERT.
SELECT 'trigger', '', CASE
        WHEN t.tgenabled = 'D' THEN 'disabled'
        WHEN t.tgtype & 1 = 1 OR t.tgtype & 4 = 0 THEN 'not for each INSERT statement'
        WHEN t.tgfoid IS DISTINCT FROM wanted.function::oid THEN 'calls another function'
        ELSE 'AFTER INSERT'
    END
FROM wanted
CROSS JOIN relation
JOIN pg_catalog.pg_trigger t ON t.tgrelid = relation.oid AND t.tgname = $4::text
WHERE relation.is_queue
