"""The stores: one contract (`pgq_trio.abc`), kept on PostgreSQL and in memory."""
