"""Tools of structured concurrency on AnyIO alone; nothing here knows jobs or databases."""
