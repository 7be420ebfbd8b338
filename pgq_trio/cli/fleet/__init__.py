"""`run` in several processes: a parent that owns them, starts them again and passes signals on."""
