-- Send payloads on the channel, in order.
--
-- $1 payloads text[]
SELECT pg_notify({channel}, payload)
FROM unnest($1::text[]) AS payload
