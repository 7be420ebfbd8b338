-- Send payloads on any channel, in order.
--
-- $1 channel   $2 payloads text[]
SELECT pg_notify($1::text, payload)
FROM unnest($2::text[]) AS payload
